package provenance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// Composed is what of a composition concerns devices: how services run, whatever they were built from. It is what a document that is
// signed has of it.
type Composed struct {
	Services map[string]json.RawMessage `json:"services,omitempty"` // without "build"
	Networks map[string]json.RawMessage `json:"networks,omitempty"`
	Volumes  map[string]json.RawMessage `json:"volumes,omitempty"`
}

// ReadComposition takes from a composition what concerns devices, as the target states of devices have it.
func ReadComposition(text []byte) (c Composed, err error) {
	var whole struct {
		Services map[string]map[string]json.RawMessage `json:"services"`
		Networks map[string]json.RawMessage            `json:"networks"`
		Volumes  map[string]json.RawMessage            `json:"volumes"`
	}
	if err := json.Unmarshal(text, &whole); err != nil {
		return c, fmt.Errorf("composition: %w", err)
	}
	c = Composed{Services: map[string]json.RawMessage{}, Networks: whole.Networks, Volumes: whole.Volumes}
	for name, block := range whole.Services {
		if block == nil {
			continue
		}
		delete(block, "build")
		if c.Services[name], err = json.Marshal(block); err != nil {
			return c, fmt.Errorf("composition: service %s: %w", name, err)
		}
	}
	for _, blocks := range []map[string]json.RawMessage{c.Networks, c.Volumes} {
		for name, block := range blocks {
			if string(bytes.TrimSpace(block)) == "null" {
				blocks[name] = json.RawMessage("{}")
			}
		}
	}
	return c, nil
}

// Sum is its digest, which does not depend on how the JSON is written.
func (c Composed) Sum() (string, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("composition: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var plain any
	if err := d.Decode(&plain); err != nil {
		return "", fmt.Errorf("composition: %w", err)
	}
	if text, err = json.Marshal(plain); err != nil {
		return "", fmt.Errorf("composition: %w", err)
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// CompositionSum is the digest of what of a composition concerns devices.
func CompositionSum(text []byte) (string, error) {
	c, err := ReadComposition(text)
	if err != nil {
		return "", err
	}
	return c.Sum()
}

const maxLabels = 200 // of an image, that are for devices

// Labels are those of an image's labels that say something to devices, each with the digest of its value. Of further ones a document has,
// no device takes notice.
func Labels(all map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range all {
		if forDevices(name) && word(name) && len(out) < maxLabels {
			out[name] = labelSum(value)
		}
	}
	return out
}

func forDevices(label string) bool {
	label = strings.ToLower(label)
	return strings.HasPrefix(label, "io.balena.") || strings.HasPrefix(label, "io.resin.") || strings.HasPrefix(label, "io.roadstead.")
}

func labelSum(value string) string {
	sum := sha256.Sum256([]byte(value))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// composedLabels are those that a service has by its composition, in either form that it may have them in.
func composedLabels(service []byte) map[string]string {
	var block struct {
		Labels json.RawMessage `json:"labels"`
	}
	if json.Unmarshal(service, &block) != nil {
		return nil
	}
	out := map[string]string{}
	var named map[string]any
	if json.Unmarshal(block.Labels, &named) == nil {
		for label, value := range named {
			out[label] = fmt.Sprint(value)
		}
		return out
	}
	var list []string
	if json.Unmarshal(block.Labels, &list) == nil {
		for _, entry := range list {
			label, value, _ := strings.Cut(entry, "=")
			out[label] = value
		}
	}
	return out
}

// Runs checks that services run as was built: with the composition of which the builder gave the digest, and no label for devices
// that its images do not have. A statement from before there was such a digest says nothing of it.
func (s *Statement) Runs(doc *api.ReleaseDocument) error {
	from := s.Predicate.BuildDefinition.ExternalParameters
	if from.Composition == "" {
		return nil
	}
	c := Composed{Services: map[string]json.RawMessage{}, Networks: doc.Networks, Volumes: doc.Volumes}
	for name, service := range doc.Services {
		if len(service.Composition) > 0 {
			c.Services[name] = service.Composition
		}
		composed := composedLabels(service.Composition) // which the digest below is about
		for label, value := range service.Labels {
			if label == "io.balena.image.store" && value == "root" { // all services of a host app have it
				continue
			}
			if own, ok := composed[label]; ok && own == value {
				continue
			}
			if forDevices(label) && from.Services[name].Labels[label] != labelSum(value) {
				return fmt.Errorf("statement: service %s was built without the label %q, or with another value", name, label)
			}
		}
	}
	sum, err := c.Sum()
	if err != nil {
		return err
	}
	if sum != from.Composition {
		return errors.New("statement: services, networks or volumes were composed in another way")
	}
	return nil
}
