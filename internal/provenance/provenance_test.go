package provenance_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/provenance"
)

var (
	site   = api.Site{Domain: "roadstead.test", Port: 443}
	key    = ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", ed25519.SeedSize)))
	thief  = ed25519.NewKeyFromSeed([]byte(strings.Repeat("t", ed25519.SeedSize)))
	public = []api.StatementKey{provenance.Key(key.Public().(ed25519.PublicKey))}
	sum    = "sha256:" + strings.Repeat("1", 64)
	other  = "sha256:" + strings.Repeat("2", 64)
)

const (
	repository = "v2/0123456789abcdef0123456789abcdef"
	location   = "registry2.roadstead.test/" + repository
)

func made(t *testing.T) *provenance.Statement {
	t.Helper()
	s, err := provenance.New(site, api.Build{ID: 7, Commit: "abc", Status: api.StatusRunning, Repositories: []string{repository},
		Fleet: &api.BuildFleet{Slug: "acme/hello"}}, api.StatementRequest{
		Build: 7, Git: &api.GitSource{Commit: strings.Repeat("b", 40), Ref: "refs/heads/main"},
		Images: []api.StatementImage{{Service: "web", Repository: repository, Digest: sum,
			SBOM: &api.ImageSBOM{Digest: other, Packages: 3}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sealed(t *testing.T, s *provenance.Statement, k ed25519.PrivateKey) []byte {
	t.Helper()
	e, err := provenance.Sign(s, k)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The bytes that are signed are those of DSSE, so that other programs verify them: https://github.com/secure-systems-lab/dsse.
func TestTheSignatureIsDSSE(t *testing.T) {
	var e api.Envelope
	if err := json.Unmarshal(sealed(t, made(t), key), &e); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	if err != nil {
		t.Fatal(err)
	}
	pae := "DSSEv1 28 application/vnd.in-toto+json " + itoa(len(payload)) + " " + string(payload)
	if !ed25519.Verify(key.Public().(ed25519.PublicKey), []byte(pae), sig) {
		t.Error("the signature is not over DSSE's encoding")
	}
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

func TestWhatWasChangedIsNotOpened(t *testing.T) {
	good := sealed(t, made(t), key)
	if s, by, err := provenance.Open(good, public); err != nil || by != public[0].ID || s.Subject[0].Name != location {
		t.Fatalf("%v %s %+v", err, by, s)
	}
	change := func(f func(*api.Envelope)) []byte {
		var e api.Envelope
		if err := json.Unmarshal(good, &e); err != nil {
			t.Fatal(err)
		}
		f(&e)
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	payload := func(old, with string) func(*api.Envelope) {
		return func(e *api.Envelope) {
			data, err := base64.StdEncoding.DecodeString(e.Payload)
			if err != nil || !strings.Contains(string(data), old) {
				t.Fatalf("%v: %q is not in %s", err, old, data)
			}
			e.Payload = base64.StdEncoding.EncodeToString([]byte(strings.ReplaceAll(string(data), old, with)))
		}
	}
	for _, tt := range []struct {
		name string
		data []byte
		want error // nil: any
	}{
		{"another digest", change(payload(sum[7:], other[7:])), provenance.ErrSignature},
		{"another fleet", change(payload("acme/hello", "evil/hello")), provenance.ErrSignature},
		{"another type", change(func(e *api.Envelope) { e.PayloadType = "text/plain" }), nil},
		{"another key", sealed(t, made(t), thief), provenance.ErrUnknownKey},
		{"another key under our id", change(func(e *api.Envelope) {
			var stolen api.Envelope
			_ = json.Unmarshal(sealed(t, made(t), thief), &stolen)
			e.Signatures[0].Sig = stolen.Signatures[0].Sig
		}), provenance.ErrSignature},
		{"a good signature beside a wrong one of ours", change(func(e *api.Envelope) {
			e.Signatures = append(e.Signatures, api.EnvelopeSignature{KeyID: public[0].ID, Sig: "AAAA"})
		}), provenance.ErrSignature},
		{"no signature", change(func(e *api.Envelope) { e.Signatures = nil }), provenance.ErrUnknownKey},
		{"many signatures", change(func(e *api.Envelope) { e.Signatures = make([]api.EnvelopeSignature, 100) }), nil},
		{"no base64", change(func(e *api.Envelope) { e.Payload = "%" }), nil},
		{"no JSON", []byte("{"), nil},
		{"too large", []byte(strings.Repeat(" ", provenance.MaxEnvelope+1)), nil},
		{"signed, and of another kind", sealed(t, &provenance.Statement{Type: "x"}, key), nil},
	} {
		_, _, err := provenance.Open(tt.data, public)
		if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	// A key whose id is another's is none.
	forged := []api.StatementKey{{ID: public[0].ID, Public: provenance.Key(thief.Public().(ed25519.PublicKey)).Public}}
	if _, _, err := provenance.Open(good, forged); err == nil {
		t.Error("a key under another's id was believed")
	}
}

// A statement that is signed well says nothing about a release that it is not about.
func TestAStatementIsAboutOneRelease(t *testing.T) {
	s := made(t)
	images := func(f func(*provenance.Image)) []provenance.Image {
		i := provenance.Image{Service: "web", Location: location, Digest: sum}
		f(&i)
		return []provenance.Image{i}
	}
	same := images(func(*provenance.Image) {})
	if err := s.About(site, 7, "abc", same); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"another release":         s.About(site, 8, "abc", same),
		"another commit":          s.About(site, 7, "abd", same),
		"another server":          s.About(api.Site{Domain: "evil.test"}, 7, "abc", same),
		"an image was replaced":   s.About(site, 7, "abc", images(func(i *provenance.Image) { i.Digest = other })),
		"an image has no digest":  s.About(site, 7, "abc", images(func(i *provenance.Image) { i.Digest = "" })),
		"an image from elsewhere": s.About(site, 7, "abc", images(func(i *provenance.Image) { i.Location += "0" })),
		"services were swapped":   s.About(site, 7, "abc", images(func(i *provenance.Image) { i.Service = "db" })),
		"an image less":           s.About(site, 7, "abc", nil),
	} {
		if err == nil {
			t.Errorf("%s: taken for the release's", name)
		}
	}
	if got := s.SBOM(location); got.Digest != other || got.Packages != 3 {
		t.Errorf("bill %+v", got)
	}
	if got := s.SBOM("elsewhere"); got.Missing == "" {
		t.Errorf("bill of another image: %+v", got)
	}
}

func TestWordsAreMadeHarmless(t *testing.T) {
	for in, want := range map[string]string{"plain": "plain", "a\x1b[31m\nb": "a?[31m?b", "\xff\u202e": "??", strings.Repeat("é", 2000): strings.Repeat("é", 512)} {
		if got := provenance.Word(in); got != want {
			t.Errorf("Word(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"keyid":"x","sig":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, _, err := provenance.Open(data, public); err == nil {
			t.Errorf("opened %+v", s)
		}
	})
}
