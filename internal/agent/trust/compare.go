package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// compare checks a release of a target state against the document that was signed: the same services, and of each the same image by digest,
// composition, contract and labels; the same networks and volumes.
func compare(doc *api.ReleaseDocument, rel *api.ReleaseTarget) error {
	want, got := slices.Sorted(maps.Keys(doc.Services)), slices.Sorted(maps.Keys(rel.Services))
	if !slices.Equal(want, got) {
		return tuf.Refuse("services", reasonComposition, "", strings.Join(want, ", "), strings.Join(got, ", "))
	}
	for _, name := range want {
		t, signed := rel.Services[name], doc.Services[name]
		if t == nil {
			return tuf.Refuse("service "+name, reasonComposition, "", "a service", "null")
		}
		_, digest, _ := strings.Cut(t.Image, "@")
		if !slices.ContainsFunc(signed.Images, func(i api.ReleaseImage) bool { return i.Platform == "" && i.Digest == digest }) {
			return tuf.Refuse("image of service "+name, tuf.ReasonDigest, "", named(signed), t.Image)
		}
		if err := sameJSON("composition of service "+name, signed.Composition, t.Composition); err != nil {
			return err
		}
		if err := sameJSON("contract of service "+name, signed.Contract, t.Contract); err != nil {
			return err
		}
		if err := compareLabels(name, signed.Labels, t.Labels); err != nil {
			return err
		}
	}
	if err := compareBlocks("network", doc.Networks, rel.Networks); err != nil {
		return err
	}
	return compareBlocks("volume", doc.Volumes, rel.Volumes)
}

// named lists the images that a target state may name for a service.
func named(s api.ReleaseService) string {
	var all []string
	for _, i := range s.Images {
		if i.Platform == "" {
			all = append(all, i.Digest)
		}
	}
	return strings.Join(all, ", ")
}

func compareBlocks(kind string, signed, got map[string]json.RawMessage) error {
	want, have := slices.Sorted(maps.Keys(signed)), slices.Sorted(maps.Keys(got))
	if !slices.Equal(want, have) {
		return tuf.Refuse(kind+"s", reasonComposition, "", strings.Join(want, ", "), strings.Join(have, ", "))
	}
	for _, name := range want {
		if err := sameJSON(kind+" "+name, signed[name], got[name]); err != nil {
			return err
		}
	}
	return nil
}

// byVariable are the labels that a server makes of configuration variables: how containers are replaced.
var byVariable = []string{"io.resin.update.strategy", "io.resin.update.handover-timeout"}

// compareLabels lets people add labels, but none by which a service gets at the device.
func compareLabels(service string, signed, got map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(signed)) {
		if have, ok := got[name]; !ok || have != signed[name] {
			if !ok {
				have = "none"
			}
			return tuf.Refuse(fmt.Sprintf("label %s of service %s", name, service), reasonComposition, "", signed[name], have)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := signed[name]; !ok && reserved(name) && !slices.Contains(byVariable, name) {
			return tuf.Refuse(fmt.Sprintf("label %s of service %s", name, service), reasonComposition, "", "none", got[name])
		}
	}
	return nil
}

func reserved(label string) bool {
	label = strings.ToLower(label)
	return strings.HasPrefix(label, "io.balena.") || strings.HasPrefix(label, "io.resin.") || strings.HasPrefix(label, "io.roadstead.")
}

// sameJSON compares two values. None, null and an empty object are the same: all say nothing.
func sameJSON(what string, signed, got json.RawMessage) error {
	want, err := canonical(signed)
	if err != nil {
		return tuf.Refuse(what, tuf.ReasonMalformed, "", "JSON", err.Error())
	}
	have, err := canonical(got)
	if err != nil {
		return tuf.Refuse(what, tuf.ReasonMalformed, "", "JSON", err.Error())
	}
	if !bytes.Equal(want, have) {
		path, a, b := difference(what, want, have)
		return tuf.Refuse(path, reasonComposition, "", a, b)
	}
	return nil
}

// canonical writes a value with sorted members and its numbers as they stand.
func canonical(raw json.RawMessage) ([]byte, error) {
	if len(raw) == 0 {
		return []byte("{}"), nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := value(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something after the value")
	}
	if v == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(v)
}

// maxDepth bounds the nesting of what is compared.
const maxDepth = 64

// value reads one value. A member that stands twice is an error: not everybody takes the same of the two.
func value(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, errors.New("too deep")
	}
	switch token {
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := value(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = d.Token()
		return list, err
	case json.Delim('{'):
		object := map[string]any{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			member, ok := name.(string)
			if _, twice := object[member]; !ok || twice {
				return nil, fmt.Errorf("the member %v stands twice", name)
			}
			if object[member], err = value(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = d.Token()
		return object, err
	}
	return token, nil
}

// difference finds the first member in which two canonical values differ, so that it can be said by name.
func difference(what string, want, have []byte) (path, a, b string) {
	var x, y map[string]json.RawMessage
	if json.Unmarshal(want, &x) != nil || json.Unmarshal(have, &y) != nil {
		return what, string(want), string(have)
	}
	names := map[string]bool{}
	for name := range x {
		names[name] = true
	}
	for name := range y {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if bytes.Equal(x[name], y[name]) {
			continue
		}
		at := fmt.Sprintf("%s of %s", name, what)
		switch {
		case x[name] == nil:
			return at, "none", string(y[name])
		case y[name] == nil:
			return at, string(x[name]), "none"
		}
		return difference(at, x[name], y[name])
	}
	return what, string(want), string(have)
}
