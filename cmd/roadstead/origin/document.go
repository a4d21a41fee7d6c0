package origin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/provenance"
)

// Document prints what a release's document gives to devices beyond the one before; nil: there is none. Privileges that are gained come first, and are given. It
// is for whoever is asked whether to sign: it goes where the question goes, in whatever form results are printed, and nothing of it is cut.
func Document(app *cmdline.App, before, after *api.ReleaseDocument) (gained []string, err error) {
	var sides [2]map[string]service
	for i, d := range []*api.ReleaseDocument{before, after} {
		if sides[i], err = servicesIn(d); err != nil {
			return nil, err
		}
	}
	v := diffView{After: releaseName{Commit: after.Commit}, Services: compare(sides[0], sides[1])}
	if before != nil {
		v.Before.Commit = before.Commit
	}
	v.Same = len(v.Services) == 0
	for _, s := range v.Services {
		for _, p := range s.Gained {
			gained = append(gained, "service "+s.Service+" gains "+p)
		}
	}
	asked := *app.Terminal
	asked.Out = asked.Err
	shown := *app
	shown.Terminal = &asked
	origin{&shown}.tell(v, true)
	return gained, nil
}

const (
	maxDocument = 4 << 20 // bytes
	maxName     = 255
)

var (
	digestForm   = pattern.New(`^sha256:[0-9a-f]{64}$`)
	platformForm = pattern.New(`^[a-z0-9]*(/[a-z0-9]+){0,2}$`)
)

// ReadDocument reads a release's document strictly: what this program does not know, or cannot show as it is, is not signed by it.
func ReadDocument(fleet, commit string, data []byte) (*api.ReleaseDocument, error) {
	if len(data) > maxDocument {
		return nil, fmt.Errorf("its document is larger than %d bytes", maxDocument)
	}
	d := &api.ReleaseDocument{}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(d)
	if err == nil && len(bytes.TrimSpace(data[dec.InputOffset():])) != 0 {
		err = errors.New("there are bytes after its end")
	}
	if err == nil {
		err = checkDocument(d)
	}
	if err != nil {
		return nil, fmt.Errorf("its document cannot be read, so that it is not shown and not signed: %w", err)
	}
	if d.Fleet != fleet {
		return nil, fmt.Errorf("its document is about the fleet %s, not %s", d.Fleet, fleet)
	}
	if d.Commit != commit {
		return nil, fmt.Errorf("its document is about the release %s", d.Commit)
	}
	return d, nil
}

// checkDocument refuses names that a terminal would not show as they are: a line's end, or what turns or hides the rest of a line.
func checkDocument(d *api.ReleaseDocument) error {
	for name, s := range d.Services {
		if err := checkName("service", name); err != nil {
			return err
		}
		for _, i := range s.Images {
			if !digestForm.MatchString(i.Digest) || !platformForm.MatchString(i.Platform) || i.Size < 0 {
				return fmt.Errorf("service %s: %.80q for %.40q is no image", name, i.Digest, i.Platform)
			}
		}
		for label := range s.Labels {
			if err := checkName("label", label); err != nil {
				return err
			}
		}
	}
	for name := range d.Networks {
		if err := checkName("network", name); err != nil {
			return err
		}
	}
	for name := range d.Volumes {
		if err := checkName("volume", name); err != nil {
			return err
		}
	}
	return nil
}

func checkName(what, name string) error {
	if name == "" || len(name) > maxName || name != terminal.Printable(name) {
		return fmt.Errorf("%s %.80q: that is no name", what, name)
	}
	return nil
}

// servicesIn are the services of a document as they are compared.
func servicesIn(d *api.ReleaseDocument) (map[string]service, error) {
	out := map[string]service{}
	if d == nil {
		return out, nil
	}
	for name, s := range d.Services {
		var block map[string]any
		if len(s.Composition) > 0 {
			if err := json.Unmarshal(s.Composition, &block); err != nil {
				return nil, fmt.Errorf("the composition of service %s cannot be read: %w", name, err)
			}
		}
		sv := composed(block, s.Labels)
		sv.settings = map[string]string{}
		for k, value := range block {
			if k != "environment" && k != "ports" && k != "volumes" && k != "labels" {
				sv.settings[k] = text(value)
			}
		}
		if len(s.Contract) > 0 {
			sv.settings["contract"] = string(s.Contract)
		}
		sv.unknown = "see `release diff`"
		if len(s.Images) > 0 {
			sv.digest, sv.size = s.Images[0].Digest, s.Images[0].Size
		}
		out[name] = sv
	}
	for kind, list := range map[string]map[string]json.RawMessage{"network": d.Networks, "volume": d.Volumes} {
		if len(list) > 0 {
			sv := service{settings: map[string]string{}}
			for name, v := range list {
				sv.settings[kind+" "+name] = string(v)
			}
			out["("+kind+"s)"] = sv // no service is called so
		}
	}
	return out, nil
}

// Evidence is what a server has of where a release comes from: the signed statement (nil: none), the public keys by which it says to verify it, and the bills of
// materials that the statement names, by digest. Nothing of it is verified.
func Evidence(ctx context.Context, c *client.Client, commit string) (statement json.RawMessage, keys []api.StatementKey, sboms map[string][]byte, err error) {
	r, err := find(ctx, c, commit)
	if err != nil {
		return nil, nil, nil, err
	}
	if len(r.Statements) == 0 {
		return nil, nil, nil, nil
	}
	if keys, err = c.StatementKeys(ctx); err != nil {
		return nil, nil, nil, err
	}
	statement = json.RawMessage(r.Statements[0].Envelope)
	s, _, err := provenance.Open(statement, keys)
	if err != nil {
		return statement, keys, nil, nil // whoever verifies it says why
	}
	list, err := bills(ctx, c, r, &verified{Statement: s})
	if err != nil {
		return nil, nil, nil, err
	}
	sboms = map[string][]byte{}
	for _, b := range list {
		if b.Digest != "" {
			sboms[b.Digest] = b.Document
		}
	}
	return statement, keys, sboms, nil
}
