// Package origin holds what the command line says of where releases come from: the signed statement and the bills of materials,
// both verified before they are shown, and what two releases differ in.
package origin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/sbom"
)

// origin adds its commands to what they stand on.
type origin struct{ *cmdline.App }

const (
	releaseFields = "id,commit,status,raw_version,composition"
	releaseExpand = "belongs_to__application($select=id,slug),release_statement($select=key_id,envelope)," +
		"release_image($select=id;$expand=image_label($select=label_name,value)," +
		"image($select=id,status,is_stored_at__image_location,content_hash,image_size;$expand=is_a_build_of__service($select=id,service_name)))"
)

// row is a release with all that is compared and verified.
type row struct {
	ID          int64                    `json:"id"`
	Commit      string                   `json:"commit"`
	Status      string                   `json:"status"`
	Version     string                   `json:"raw_version"`
	Composition json.RawMessage          `json:"composition"`
	Fleet       client.Ref[client.Fleet] `json:"belongs_to__application"`
	Statements  []client.StatementRow    `json:"release_statement"`
	Images      []struct {
		Image  client.Ref[client.Image] `json:"image"`
		Labels []struct {
			Name  string `json:"label_name"`
			Value string `json:"value"`
		} `json:"image_label"`
	} `json:"release_image"`
}

// find reads a release by any of its names.
func find(ctx context.Context, c *client.Client, ref string) (*row, error) {
	r, err := c.FindRelease(ctx, ref, client.Query{Select: "id,commit"})
	if err != nil {
		return nil, err
	}
	return client.One[row](ctx, c, client.ID("release", r.ID), client.Query{Select: releaseFields, Expand: releaseExpand})
}

// images are those of a release, by service.
func (r *row) images() []provenance.Image {
	list := make([]provenance.Image, 0, len(r.Images))
	for _, ri := range r.Images {
		i := ri.Image.Get()
		list = append(list, provenance.Image{Service: i.Service.Get().Name, Location: i.Location, Digest: i.ContentHash})
	}
	slices.SortFunc(list, func(a, b provenance.Image) int { return strings.Compare(a.Service, b.Service) })
	return list
}

// verified is a statement that was verified against the release that it is about.
type verified struct {
	*provenance.Statement
	key      string
	envelope json.RawMessage
}

// errNone is of a release without a statement.
var errNone = errors.New("the release has no statement of where it comes from: it was made before this server wrote any, or did not succeed")

// verify checks the statement of a release: the signature, by a key of the server or of the file, and that it is about exactly the
// images that the release has now.
func verify(ctx context.Context, c *client.Client, r *row, keyFile string) (*verified, error) {
	if len(r.Statements) == 0 {
		return nil, errNone
	}
	keys, err := keysOf(ctx, c, keyFile)
	if err != nil {
		return nil, err
	}
	envelope := json.RawMessage(r.Statements[0].Envelope)
	s, key, err := provenance.Open(envelope, keys)
	if err == nil {
		var site api.Site
		if site, err = siteOf(c.URL()); err == nil {
			err = s.About(site, r.ID, r.Commit, r.images())
		}
	}
	if err != nil {
		return nil, api.Errorf(api.Invalid, "release %s does NOT verify, and nothing of its origin is shown: %v", terminal.Short(r.Commit), err)
	}
	return &verified{Statement: s, key: key, envelope: envelope}, nil
}

// keysOf are the keys to believe: those of a file, or those that the server tells.
func keysOf(ctx context.Context, c *client.Client, file string) ([]api.StatementKey, error) {
	if file == "" {
		return c.StatementKeys(ctx)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	keys, err := provenance.ParseKeys(data)
	if err != nil || len(keys) == 0 {
		return nil, cmdline.Usagef("--key %s: it is no list of keys as `roadstead api /provenance/v1/keys` prints it", file)
	}
	return keys, nil
}

// siteOf is the server that an address of its API belongs to.
func siteOf(address string) (api.Site, error) {
	u, err := url.Parse(address)
	if err != nil {
		return api.Site{}, err
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		return api.Site{Domain: strings.TrimPrefix(u.Host, "api."), Port: 443}, nil
	}
	n, err := strconv.Atoi(port)
	return api.Site{Domain: strings.TrimPrefix(host, "api."), Port: n}, err
}

// bill is the bill of materials of one image.
type bill struct {
	Service  string          `json:"service"`
	Platform string          `json:"platform,omitempty"` // of an index: linux/arm64
	Image    string          `json:"image"`              // digest
	Digest   string          `json:"digest,omitempty"`
	Missing  string          `json:"missing,omitempty"` // why there is none
	Notes    []string        `json:"incomplete,omitempty"`
	Document json.RawMessage `json:"document,omitempty"`
	packages []sbom.Package
}

// bills reads the bills of materials that a statement names. A bill that is not the one that was signed is an error.
func bills(ctx context.Context, c *client.Client, r *row, s *verified) ([]bill, error) {
	var list []bill
	for _, i := range r.images() {
		for _, said := range s.SBOMs(i.Location) {
			b := bill{Service: i.Service, Platform: said.Platform, Image: cmp.Or(said.Image, i.Digest), Digest: said.Digest, Missing: said.Missing}
			if b.Digest != "" {
				var err error
				if b.Document, err = c.RegistryBlob(ctx, i.Location, b.Digest, sbom.MaxDocument); err != nil {
					return nil, fmt.Errorf("the bill of materials of %s: %w", b.of(), err)
				}
				if b.packages, b.Notes, err = sbom.Read(b.Document); err != nil {
					return nil, fmt.Errorf("%s: %w", b.of(), err)
				}
			}
			list = append(list, b)
		}
	}
	return list, nil
}

// of names the image for people.
func (b bill) of() string {
	if b.Platform == "" {
		return "service " + b.Service
	}
	return "service " + b.Service + " for " + b.Platform
}
