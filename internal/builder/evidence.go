package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/util/attestation"
	"github.com/moby/buildkit/util/purl"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/imagestore"
	"github.com/roadstead-io/roadstead/internal/builder/referrer"
	"github.com/roadstead-io/roadstead/internal/builder/source"
	"github.com/roadstead-io/roadstead/internal/builder/target"
	"github.com/roadstead-io/roadstead/internal/provenance"
)

// What is known of a build is gathered here, by this role: what the build service resolved, what lies in the finished image, the
// digest of the source. Nothing that ran inside the build has a say in it. At the end the signer signs it, and it is hung on every
// image in the registry; see docs/provenance.md.

// evidence is what is known of a build whose services are made one by one.
type evidence struct {
	began  time.Time
	source func() (map[string]string, error) // waits for the digests
	images []*proved
	signed json.RawMessage // the envelope

	composition json.RawMessage // of the project
}

// proved is what was pushed of one service, and what hangs on it: on its image, or on an index and each of its images.
type proved struct {
	image    api.StatementImage
	subjects []*subject
	repo     *referrer.Artifacts
}

// subject is a manifest that documents hang on.
type subject struct {
	of   ocispec.Descriptor
	hung []ocispec.Descriptor // manifests that refer to it
}

// sumSource begins to take the digests of the source, beside the build. root must stay open until they are there.
func sumSource(ctx context.Context, root *os.Root) func() (map[string]string, error) {
	type answer struct {
		sums map[string]string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		sums, err := source.Digests(ctx, root)
		done <- answer{sums, err}
	}()
	return sync.OnceValues(func() (map[string]string, error) {
		a := <-done
		return a.sums, a.err
	})
}

// elsewhere reports whether the image was not made here: it came as it is, or is another's under a new name.
func (m *making) elsewhere() bool { return m.kind == kindImage || m.dockerfile == "" }

// prove gathers what is known of what was pushed, and hangs the bills of materials on its images.
func (p *product) prove(ctx context.Context, whole *target.Whole, repo *referrer.Artifacts, bills []*materials, labels map[string]string) error {
	first := p.parts[0]
	out := &proved{
		repo: repo,
		image: api.StatementImage{
			Service: p.svc.Name, Repository: p.image.Repository, Digest: whole.Descriptor.Digest.String(), Origin: first.kind,
			Elsewhere: first.elsewhere(), Dockerfile: provenance.Word(first.file), DockerSum: first.dockerfileSum(),
			Target: provenance.Word(first.opt.Target), Labels: provenance.Labels(labels),
		},
	}
	for _, name := range slices.Sorted(maps.Keys(first.opt.Args)) {
		out.image.Arguments = append(out.image.Arguments, provenance.Word(name))
	}
	several := len(p.parts) > 1
	if several {
		out.subjects = append(out.subjects, &subject{of: whole.Descriptor})
	}
	for i, m := range p.parts {
		for _, base := range m.bases {
			if !slices.Contains(out.image.Bases, base) {
				out.image.Bases = append(out.image.Bases, base)
			}
		}
		at := &subject{of: whole.Parts[i]}
		out.subjects = append(out.subjects, at)
		sbom, err := m.hangBill(ctx, repo, at, bills[i])
		if err != nil {
			return err
		}
		if !several {
			out.image.SBOM = sbom
			break
		}
		out.image.Platforms = append(out.image.Platforms, api.StatementPlatform{Platform: m.target.String(), Digest: at.of.Digest.String(),
			Dockerfile: provenance.Word(m.file), DockerSum: m.dockerfileSum(), SBOM: sbom})
	}
	p.build.resultMu.Lock()
	defer p.build.resultMu.Unlock()
	p.build.proof.images = append(p.build.proof.images, out)
	return nil
}

// dockerfileSum is the digest of the Dockerfile as it was built; "" where nothing was built from one.
func (m *making) dockerfileSum() string {
	if m.elsewhere() {
		return ""
	}
	return digest.FromString(m.dockerfile).String()
}

// hangBill puts the bill of materials into the registry. Where there is none, the release says why.
func (m *making) hangBill(ctx context.Context, repo *referrer.Artifacts, at *subject, bill *materials) (*api.ImageSBOM, error) {
	if bill.missing != "" {
		m.say("Note: no bill of materials could be made of the image: %s", bill.missing)
		return &api.ImageSBOM{Missing: provenance.Word(m.build.log.clean(bill.missing))}, nil
	}
	d, err := repo.Hang(ctx, at.of, api.SBOMType, bill.document, map[string]string{"org.opencontainers.image.title": "sbom.cdx.json"})
	if err != nil {
		return nil, repo.Failed(err)
	}
	at.hung = append(at.hung, d)
	for _, n := range bill.notes {
		m.say("Note: the bill of materials is not complete: %s", n)
	}
	return &api.ImageSBOM{Digest: digest.FromBytes(bill.document).String(), Size: int64(len(bill.document)), Packages: int64(bill.packages)}, nil
}

// Media types of what hangs on an image.
const (
	envelopeType      = "application/vnd.dsse.envelope.v1+json"
	predicateTypeNote = "in-toto.io/predicate-type" // an annotation
)

// attest has the signer sign where the release comes from, and hangs that on every image.
func (b *build) attest() (err error) {
	var sums map[string]string // a release of images alone has no source
	if b.proof.source != nil {
		sums, err = b.proof.source()
	}
	if err != nil {
		if b.ctx.Err() != nil {
			return context.Cause(b.ctx)
		}
		return fmt.Errorf("take the digest of the source: %w", err)
	}
	ask := api.StatementRequest{
		Build: b.info.ID, Source: sums,
		Parameters: api.BuildParameters{Draft: b.opt.draft, NoCache: b.opt.noCache, Dockerfile: provenance.Word(b.opt.dockerfile)},
		StartedAt:  b.proof.began.UTC().Format(time.RFC3339), FinishedAt: time.Now().UTC().Format(time.RFC3339),
	}
	if b.opt.gitCommit != "" {
		ask.Git = &api.GitSource{Commit: b.opt.gitCommit, Ref: b.opt.gitRef, Repository: b.opt.gitURL}
	}
	slices.SortFunc(b.proof.images, func(x, y *proved) int { return strings.Compare(x.image.Service, y.image.Service) })
	for _, p := range b.proof.images {
		ask.Images = append(ask.Images, p.image)
	}
	if ask.Composition, err = provenance.CompositionSum(b.proof.composition); err != nil {
		return err
	}
	envelope, err := b.s.sign(b.ctx, ask)
	if err != nil {
		return fmt.Errorf("sign where the release comes from: %w", err)
	}
	group, ctx := errgroup.WithContext(b.ctx)
	for _, p := range b.proof.images {
		for _, at := range p.subjects {
			group.Go(func() error {
				d, err := p.repo.Hang(ctx, at.of, envelopeType, envelope, map[string]string{predicateTypeNote: provenance.PredicateType})
				if err != nil {
					return p.repo.Failed(err)
				}
				at.hung = append(at.hung, d)
				return p.repo.Failed(p.repo.List(ctx, at.of, at.hung))
			})
		}
	}
	if err := group.Wait(); err != nil {
		if b.ctx.Err() != nil {
			return context.Cause(b.ctx)
		}
		return err
	}
	b.proof.signed = envelope
	return nil
}

// sign asks the signer for the statement.
func (s *Server) sign(ctx context.Context, ask api.StatementRequest) (json.RawMessage, error) {
	var envelope json.RawMessage
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := persist(ctx, func() error { return s.signer.call(ctx, "/v1/statement", behalf{}, ask, &envelope) })
	return envelope, err
}

// taken finds the finished image in what the build service handed over, and what it was built from. The service writes that down
// itself (SLSA provenance, without the values of arguments), beside the image in an index: every image, download and repository, with
// the digest that its name had. It resolves each name once.
func (m *making) taken(handed string, attrs map[string]string) (v1.Hash, error) {
	none := v1.Hash{}
	at, err := v1.NewHash(handed)
	if err != nil {
		return none, fmt.Errorf("the build service named no image: %w", err)
	}
	store := m.build.store()
	text, err := imagestore.Read(store, at)
	if err != nil {
		return none, err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(text))
	if err != nil {
		return none, fmt.Errorf("read what the build service made: %w", err)
	}
	var image, record v1.Hash
	for _, d := range index.Manifests {
		if d.Annotations[attestation.DockerAnnotationReferenceType] == attestation.DockerAnnotationReferenceTypeDefault {
			record = d.Digest
		} else if image == none {
			image = d.Digest
		} else {
			return none, errors.New("the build service made more than one image")
		}
	}
	if image == none || record == none {
		return none, errors.New("the build service did not say what it built the image from")
	}
	if text, err = imagestore.Read(store, record); err != nil {
		return none, err
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(text))
	if err != nil {
		return none, fmt.Errorf("read what the image was built from: %w", err)
	}
	for _, l := range manifest.Layers {
		if !strings.HasPrefix(l.Annotations[predicateTypeNote], "https://slsa.dev/provenance/") {
			continue
		}
		if text, err = imagestore.Read(store, l.Digest); err != nil {
			return none, err
		}
		m.bases, err = basesOf(text, attrs, m.build.upstream.nameOf)
		return image, err
	}
	return none, errors.New("the build service did not say what it built the image from")
}

// basesOf reads the build service's record. Base images of ours come from a store that knows only digests; attrs has their names. nameOf
// has those of images that came through the pull cache.
func basesOf(record []byte, attrs map[string]string, nameOf func(uri, digest string) string) ([]api.ImageBase, error) {
	type material struct {
		URI    string            `json:"uri"`
		Digest map[string]string `json:"digest"`
	}
	var statement struct {
		Predicate struct {
			BuildDefinition struct{ ResolvedDependencies []material }
		}
	}
	if err := json.Unmarshal(record, &statement); err != nil {
		return nil, fmt.Errorf("read the build service's record: %w", err)
	}
	var bases []api.ImageBase
	for _, d := range statement.Predicate.BuildDefinition.ResolvedDependencies {
		base := api.ImageBase{Name: d.URI, Digest: provenance.Resource{Digest: d.Digest}.Sum()}
		if ref, _, err := purl.PURLToRef(d.URI); err == nil {
			base.Name, _, _ = strings.Cut(ref, "@")
		}
		if name := nameOf(d.URI, base.Digest); name != "" {
			base.Name = name
		}
		for name, at := range attrs {
			own, ok := strings.CutPrefix(name, "context:")
			if ok && base.Digest != "" && strings.HasPrefix(d.URI, "pkg:oci/") && strings.HasSuffix(at, "@"+base.Digest) {
				base.Name = own
			}
		}
		if base.Name = provenance.Word(base.Name); !slices.Contains(bases, base) {
			bases = append(bases, base)
		}
	}
	return bases, nil
}
