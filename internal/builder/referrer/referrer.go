// Package referrer hangs documents on what a builder pushed: bills of materials and statements.
package referrer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/roadstead-io/roadstead/api"
)

// Artifacts hangs documents on an image: each is a manifest that refers to the image, and one index under the tag that the
// distribution specification names for registries without a list of referrers. It writes them by itself, for the library that
// pushes images would write that tag again with every document, and tags are not overwritten.
type Artifacts struct {
	Way        http.RoundTripper // with the push token, to the registry role
	Host       string
	Repository string
}

// errRegistry is what the registry says when it does not take something.
type errRegistry struct {
	status int
	text   string
}

func (e *errRegistry) Error() string {
	return fmt.Sprintf("the registry answered %d: %s", e.status, e.text)
}

// Failed words an error of the registry's for people.
func (a *Artifacts) Failed(err error) error {
	var coded *api.Error
	if err == nil || errors.As(err, &coded) || errors.Is(err, context.Canceled) {
		return err
	}
	return errors.Join(api.Errorf(api.Unavailable, "where the image comes from could not be stored in the registry: %v", err), err)
}

// do sends a request and gives the headers of the answer.
func (a *Artifacts) do(ctx context.Context, method, target, contentType string, body []byte) (http.Header, error) {
	head, _, err := a.ask(ctx, method, target, contentType, body)
	return head, err
}

// ask sends a request and gives the answer.
func (a *Artifacts) ask(ctx context.Context, method, target, contentType string, body []byte) (http.Header, []byte, error) {
	base := &url.URL{Scheme: "https", Host: a.Host, Path: "/v2/" + a.Repository + "/"}
	u, err := base.Parse(target)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageIndex)
	res, err := a.Way.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxIndex))
	if err != nil {
		return nil, nil, err
	}
	if res.StatusCode >= 300 {
		return nil, nil, &errRegistry{res.StatusCode, strings.TrimSpace(string(text))}
	}
	return res.Header, text, nil
}

// maxIndex bounds an answer of the registry's.
const maxIndex = 1 << 20

// blob uploads bytes.
func (a *Artifacts) blob(ctx context.Context, mediaType string, data []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	head, err := a.do(ctx, http.MethodPost, "blobs/uploads/", "", nil)
	if err != nil {
		return d, err
	}
	to, err := url.Parse(head.Get("Location"))
	if err != nil || to.Path == "" {
		return d, fmt.Errorf("the registry named no place for an upload: %q", head.Get("Location"))
	}
	q := to.Query()
	q.Set("digest", d.Digest.String())
	to.RawQuery = q.Encode()
	_, err = a.do(ctx, http.MethodPut, to.RequestURI(), "application/octet-stream", data)
	return d, err
}

// manifest puts a manifest or an index, under its digest when tag is "".
func (a *Artifacts) manifest(ctx context.Context, tag, mediaType string, content any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(content)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if tag == "" {
		tag = d.Digest.String()
	}
	// "./" keeps the colon of a digest from being taken for a scheme.
	_, err = a.do(ctx, http.MethodPut, "./manifests/"+tag, mediaType, data)
	return d, err
}

// Hang puts a document into the repository with a manifest that refers to the image.
func (a *Artifacts) Hang(ctx context.Context, subject ocispec.Descriptor, kind string, document []byte, notes map[string]string) (ocispec.Descriptor, error) {
	layer, err := a.blob(ctx, kind, document)
	if err != nil {
		return layer, err
	}
	empty := ocispec.DescriptorEmptyJSON
	if _, err := a.blob(ctx, empty.MediaType, empty.Data); err != nil {
		return layer, err
	}
	empty.Data = nil
	d, err := a.manifest(ctx, "", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind,
		Config: empty, Layers: []ocispec.Descriptor{layer}, Subject: &subject, Annotations: notes,
	})
	d.ArtifactType, d.Annotations = kind, notes
	return d, err
}

// List writes the index of what hangs on an image. It is the last that is written to a repository. What hangs there already, because
// this was done before and its answer got lost, stays in it: the registry lets the index grow and do nothing else.
func (a *Artifacts) List(ctx context.Context, subject ocispec.Descriptor, hung []ocispec.Descriptor) error {
	tag := strings.ReplaceAll(subject.Digest.String(), ":", "-")
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: hung}
	_, err := a.manifest(ctx, tag, ocispec.MediaTypeImageIndex, index)
	var refused *errRegistry
	if !errors.As(err, &refused) || refused.status >= http.StatusInternalServerError {
		return err
	}
	_, text, readErr := a.ask(ctx, http.MethodGet, "./manifests/"+tag, "", nil)
	if readErr != nil {
		return err // that it was refused says more
	}
	var old ocispec.Index
	if err := json.Unmarshal(text, &old); err != nil {
		return fmt.Errorf("read the index of what hangs on %s: %w", subject.Digest, err)
	}
	index.Manifests = old.Manifests
	for _, d := range hung {
		if !slices.ContainsFunc(old.Manifests, func(o ocispec.Descriptor) bool { return o.Digest == d.Digest }) {
			index.Manifests = append(index.Manifests, d)
		}
	}
	_, err = a.manifest(ctx, tag, ocispec.MediaTypeImageIndex, index)
	return err
}
