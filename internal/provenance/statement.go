package provenance

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// The types that stand in a statement.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://slsa.dev/provenance/v1"
	BuildType     = "https://github.com/roadstead-io/roadstead/blob/main/docs/provenance.md#build-type-1"
)

// Statement is an in-toto statement with a SLSA provenance predicate.
type Statement struct {
	Type          string     `json:"_type"`
	Subject       []Resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     Predicate  `json:"predicate"`
}

// Resource is in-toto's resource descriptor, as far as we use it.
type Resource struct {
	Name        string            `json:"name,omitempty"`
	URI         string            `json:"uri,omitempty"`
	Digest      map[string]string `json:"digest,omitempty"`
	MediaType   string            `json:"mediaType,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Predicate is SLSA's provenance.
type Predicate struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition says what went in.
type BuildDefinition struct {
	BuildType            string             `json:"buildType"`
	ExternalParameters   ExternalParameters `json:"externalParameters"`
	InternalParameters   InternalParameters `json:"internalParameters"`
	ResolvedDependencies []Resource         `json:"resolvedDependencies"`
}

// ExternalParameters are what the pusher chose.
type ExternalParameters struct {
	Fleet    string                       `json:"fleet"` // <organization>/<fleet>
	Commit   string                       `json:"commit"`
	Source   map[string]string            `json:"source,omitempty"` // digests
	Options  api.BuildParameters          `json:"options"`
	Services map[string]ServiceParameters `json:"services"`
	// Composition is the digest of how services run, see [Composed]; "" in statements from before it was said.
	Composition string `json:"composition,omitempty"`
}

// ServiceParameters say how one service was built.
type ServiceParameters struct {
	Origin           string   `json:"origin"`
	BuiltElsewhere   bool     `json:"builtElsewhere"`
	Dockerfile       string   `json:"dockerfile,omitempty"`
	DockerfileDigest string   `json:"dockerfileDigest,omitempty"`
	Target           string   `json:"target,omitempty"`
	Arguments        []string `json:"arguments,omitempty"` // names only
	// Labels are those of the image that say something to devices, with the digest of each value.
	Labels map[string]string `json:"labels,omitempty"`
	// Platforms are of a service that is an index: what the image of each platform was built from.
	Platforms map[string]PlatformParameters `json:"platforms,omitempty"`
}

// PlatformParameters say how one image of an index was built.
type PlatformParameters struct {
	Dockerfile       string `json:"dockerfile,omitempty"`
	DockerfileDigest string `json:"dockerfileDigest,omitempty"`
}

// InternalParameters are what the server chose.
type InternalParameters struct {
	Release    int64  `json:"release"`
	FleetUUID  string `json:"fleetUuid"`
	DeviceType string `json:"deviceType"`
	Arch       string `json:"arch"`
	// AlsoFor are further architectures that the fleet was built for.
	AlsoFor []string `json:"alsoFor,omitempty"`
}

// RunDetails say who ran the build, and when.
type RunDetails struct {
	Builder    Builder    `json:"builder"`
	Metadata   Metadata   `json:"metadata"`
	Byproducts []Resource `json:"byproducts,omitempty"`
}

// Builder names a builder: that of a server.
type Builder struct {
	ID string `json:"id"`
}

// Metadata is of one run.
type Metadata struct {
	InvocationID string `json:"invocationId"`
	StartedOn    string `json:"startedOn"`
	FinishedOn   string `json:"finishedOn"`
}

// Limits of what is put into a statement.
const (
	maxImages    = 100
	maxBases     = 200
	maxArguments = 200
	maxWord      = 1024
	maxPlatforms = 10 // of an index
)

var (
	digestForm = pattern.New(`^sha256:[0-9a-f]{64}$`)
	anyDigest  = pattern.New(`^(sha256:[0-9a-f]{64}|sha1:[0-9a-f]{40})?$`)
	hexForm    = pattern.New(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
)

// Invocation is the id of a release's build on a server.
func Invocation(site api.Site, release int64) string {
	return site.URL("api") + "/v7/release(" + strconv.FormatInt(release, 10) + ")"
}

// New makes the statement of a build: of what the builder says, and of what the api role says of the build. What the two do not
// agree on is refused.
func New(site api.Site, build api.Build, ask api.StatementRequest) (*Statement, error) {
	if build.ID != ask.Build || build.Fleet == nil {
		return nil, fmt.Errorf("build %d is not the one that was asked about", build.ID)
	}
	if err := check(build, ask); err != nil {
		return nil, api.Errorf(api.Invalid, "%v", err)
	}
	s := &Statement{Type: StatementType, PredicateType: PredicateType, Predicate: Predicate{
		BuildDefinition: BuildDefinition{
			BuildType: BuildType,
			ExternalParameters: ExternalParameters{
				Fleet: build.Fleet.Slug, Commit: build.Commit, Source: ask.Source, Options: ask.Parameters,
				Services: map[string]ServiceParameters{}, Composition: ask.Composition,
			},
			InternalParameters: InternalParameters{
				Release: build.ID, FleetUUID: build.Fleet.UUID, DeviceType: build.Fleet.DeviceType, Arch: build.Fleet.Arch,
			},
			ResolvedDependencies: dependencies(site, build, ask),
		},
		RunDetails: RunDetails{
			Builder:  Builder{ID: site.URL("builder")},
			Metadata: Metadata{InvocationID: Invocation(site, build.ID), StartedOn: ask.StartedAt, FinishedOn: ask.FinishedAt},
		},
	}}
	for _, i := range ask.Images {
		s.add(site.Host("registry2")+"/"+i.Repository, i)
	}
	for _, a := range build.Fleet.Also {
		s.Predicate.BuildDefinition.InternalParameters.AlsoFor = append(s.Predicate.BuildDefinition.InternalParameters.AlsoFor, a.Arch)
	}
	return s, nil
}

// platformNote is the annotation of what is about one image of an index, in subjects and byproducts.
const platformNote = "platform"

// add puts in what is known of one service. Of an index, it and each of its images are subjects, and each image has a bill of materials.
func (s *Statement) add(location string, i api.StatementImage) {
	s.Subject = append(s.Subject, Resource{Name: location, Digest: digestSet(i.Digest), Annotations: map[string]string{"service": i.Service}})
	how := ServiceParameters{
		Origin: i.Origin, BuiltElsewhere: i.Elsewhere, Dockerfile: i.Dockerfile, DockerfileDigest: i.DockerSum, Target: i.Target,
		Arguments: i.Arguments, Labels: i.Labels,
	}
	run := &s.Predicate.RunDetails
	if len(i.Platforms) == 0 {
		run.Byproducts = append(run.Byproducts, byproduct(location, i.Service, i.Digest, i.SBOM))
	}
	for _, p := range i.Platforms {
		if how.Platforms == nil {
			how.Platforms = map[string]PlatformParameters{}
		}
		how.Platforms[p.Platform] = PlatformParameters{Dockerfile: p.Dockerfile, DockerfileDigest: p.DockerSum}
		s.Subject = append(s.Subject, Resource{Name: location, Digest: digestSet(p.Digest),
			Annotations: map[string]string{"service": i.Service, platformNote: p.Platform}})
		bill := byproduct(location, i.Service, p.Digest, p.SBOM)
		bill.Annotations[platformNote] = p.Platform
		run.Byproducts = append(run.Byproducts, bill)
	}
	s.Predicate.BuildDefinition.ExternalParameters.Services[i.Service] = how
}

// byproduct is the bill of materials of an image, or the word that there is none.
func byproduct(location, service, image string, sbom *api.ImageSBOM) Resource {
	r := Resource{Name: "sbom", URI: location, MediaType: api.SBOMType, Annotations: map[string]string{"service": service, "image": image}}
	if sbom == nil || sbom.Digest == "" {
		r.Annotations["missing"] = "it was not made"
		if sbom != nil && sbom.Missing != "" {
			r.Annotations["missing"] = sbom.Missing
		}
		return r
	}
	r.Digest = digestSet(sbom.Digest)
	r.Annotations["packages"] = strconv.FormatInt(sbom.Packages, 10)
	return r
}

// dependencies are the source and everything that the images were built from; what several were built from stands there once.
func dependencies(site api.Site, build api.Build, ask api.StatementRequest) []Resource {
	list := []Resource{}
	if len(ask.Source) > 0 {
		list = append(list, Resource{Name: "source", Digest: ask.Source})
	}
	if ask.Git != nil {
		list = append(list, Resource{
			Name: "git", URI: gitURI(site, build, ask.Git),
			Digest: map[string]string{"gitCommit": ask.Git.Commit},
		})
	}
	services := map[api.ImageBase][]string{}
	for _, i := range ask.Images {
		for _, b := range i.Bases {
			if !slices.Contains(services[b], i.Service) {
				services[b] = append(services[b], i.Service)
			}
		}
	}
	for _, b := range slices.SortedFunc(maps.Keys(services), func(a, b api.ImageBase) int {
		return strings.Compare(a.Name+" "+a.Digest, b.Name+" "+b.Digest)
	}) {
		slices.Sort(services[b])
		list = append(list, Resource{Name: b.Name, URI: b.Name, Digest: digestSet(b.Digest),
			Annotations: map[string]string{"services": strings.Join(services[b], " ")}})
	}
	return list
}

// gitURI says where a commit was: in the repository of the fleet, or in one that it was fetched from.
func gitURI(site api.Site, build api.Build, git *api.GitSource) string {
	if git.Repository != "" {
		return "git+" + git.Repository + "@" + git.Ref
	}
	return fmt.Sprintf("git+ssh://%s/%s.git@%s", site.Host("git"), build.Fleet.Slug, git.Ref)
}

// repositoryForm is what the address of a repository looks like in a statement: it holds no password.
var repositoryForm = pattern.New(`^(https://|ssh://([A-Za-z0-9_.-]+@)?)[^/@?#]+/[^@?#]+$`)

// digestSet is in-toto's form of "sha256:…".
func digestSet(digest string) map[string]string {
	algorithm, value, ok := strings.Cut(digest, ":")
	if !ok {
		return nil
	}
	return map[string]string{algorithm: value}
}

// check refuses what must not stand in a statement.
func check(build api.Build, ask api.StatementRequest) error {
	if len(ask.Images) == 0 || len(ask.Images) > maxImages {
		return fmt.Errorf("images: a statement is about 1 to %d", maxImages)
	}
	if len(ask.Images) != len(build.Repositories) {
		return fmt.Errorf("images: build %d has %d, not %d", build.ID, len(build.Repositories), len(ask.Images))
	}
	for name, value := range ask.Source {
		if !word(name) || !hexForm.MatchString(value) {
			return fmt.Errorf("source: %q is no digest", name)
		}
	}
	if ask.Composition != "" && !digestForm.MatchString(ask.Composition) {
		return fmt.Errorf("composition: %.80q is no digest", ask.Composition)
	}
	if ask.Git != nil && (!hexForm.MatchString(ask.Git.Commit) || !word(ask.Git.Ref)) {
		return fmt.Errorf("git: no commit and name")
	}
	if ask.Git != nil && ask.Git.Repository != "" && (!repositoryForm.MatchString(ask.Git.Repository) || !word(ask.Git.Repository)) {
		return fmt.Errorf("git: %.100q is no address of a repository", ask.Git.Repository)
	}
	if !word(ask.StartedAt) || !word(ask.FinishedAt) || !word(ask.Parameters.Dockerfile) {
		return fmt.Errorf("started_at, finished_at or dockerfile: too long, or with strange characters")
	}
	services, repositories := map[string]bool{}, map[string]bool{}
	for _, i := range ask.Images {
		if err := checkImage(i); err != nil {
			return fmt.Errorf("image of service %q: %w", i.Service, err)
		}
		if services[i.Service] || repositories[i.Repository] {
			return fmt.Errorf("image of service %q: it is there twice", i.Service)
		}
		services[i.Service], repositories[i.Repository] = true, true
		if !slices.Contains(build.Repositories, i.Repository) {
			return fmt.Errorf("image of service %q: build %d has no repository %s", i.Service, build.ID, i.Repository)
		}
	}
	return nil
}

func checkImage(i api.StatementImage) error {
	if i.Service == "" || !word(i.Service) {
		return fmt.Errorf("that is no name")
	}
	if !digestForm.MatchString(i.Digest) {
		return fmt.Errorf("digest: %q is none", i.Digest)
	}
	if i.DockerSum != "" && !digestForm.MatchString(i.DockerSum) {
		return fmt.Errorf("dockerfile_digest: %q is none", i.DockerSum)
	}
	if len(i.Bases) > maxBases || len(i.Arguments) > maxArguments {
		return fmt.Errorf("it has more than %d bases or %d arguments", maxBases, maxArguments)
	}
	for _, w := range append([]string{i.Origin, i.Dockerfile, i.Target}, i.Arguments...) {
		if !word(w) {
			return fmt.Errorf("%q is too long, or has strange characters", w)
		}
	}
	if len(i.Labels) > maxLabels {
		return fmt.Errorf("labels: it has more than %d", maxLabels)
	}
	for name, value := range i.Labels {
		if !word(name) || !digestForm.MatchString(value) {
			return fmt.Errorf("labels: %.80q is no name, or has no digest", name)
		}
	}
	for _, b := range i.Bases {
		if b.Name == "" || !word(b.Name) || !anyDigest.MatchString(b.Digest) {
			return fmt.Errorf("base %q: no name and digest", b.Name)
		}
	}
	if err := checkSBOM(i.SBOM); err != nil {
		return err
	}
	return checkPlatforms(i)
}

func checkSBOM(b *api.ImageSBOM) error {
	if b != nil && (!word(b.Missing) || (b.Digest != "" && !digestForm.MatchString(b.Digest))) {
		return fmt.Errorf("sbom: no digest, and no word why")
	}
	return nil
}

var platformForm = pattern.New(`^linux/[a-z0-9]{1,20}(/[a-z0-9]{1,10})?$`)

// checkPlatforms checks the images of an index.
func checkPlatforms(i api.StatementImage) error {
	if len(i.Platforms) > maxPlatforms || (len(i.Platforms) > 0 && i.SBOM != nil) {
		return fmt.Errorf("platforms: more than %d, or a bill of materials of all together", maxPlatforms)
	}
	seen := map[string]bool{i.Digest: true}
	for _, p := range i.Platforms {
		switch {
		case !platformForm.MatchString(p.Platform) || seen[p.Platform]:
			return fmt.Errorf("platforms: %q is none, or there twice", p.Platform)
		case !digestForm.MatchString(p.Digest) || seen[p.Digest]:
			return fmt.Errorf("platforms: digest %q is none, or there twice", p.Digest)
		case p.DockerSum != "" && !digestForm.MatchString(p.DockerSum) || !word(p.Dockerfile):
			return fmt.Errorf("platforms: %s: dockerfile: no path and digest", p.Platform)
		}
		if err := checkSBOM(p.SBOM); err != nil {
			return fmt.Errorf("platforms: %s: %w", p.Platform, err)
		}
		seen[p.Platform], seen[p.Digest] = true, true
	}
	return nil
}

// word reports whether a text can stand in a statement, and on a screen, as it is.
func word(s string) bool {
	if len(s) > maxWord || !utf8.ValidString(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Word makes of any text one that may stand in a statement.
func Word(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	for len(s) > maxWord {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

// Sum is the digest of a resource in our form, "" when it has none.
func (r Resource) Sum() string {
	for _, algorithm := range []string{"sha256", "sha1"} {
		if hex := r.Digest[algorithm]; hex != "" {
			return algorithm + ":" + hex
		}
	}
	return ""
}
