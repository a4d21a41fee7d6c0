// Package debtest serves a Debian archive that a test makes, signed with keys that it makes, over TLS.
package debtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/roadstead-io/roadstead/internal/builder/debian"
	"github.com/roadstead-io/roadstead/internal/builder/fetch"
)

// Now is the time that tests live in.
var Now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// Archive is what the mirror serves.
type Archive struct {
	URL   string
	Roots *x509.CertPool
	Key   *openpgp.Entity

	mu     sync.Mutex // covers Files
	Files  map[string][]byte
	Asked  []string
	server *httptest.Server

	// What the Release file says.
	Codename   string
	Date       time.Time
	ValidUntil time.Time // zero: nothing
	// Fields is put in its place, when it is not empty, of the digests.
	Digests func(name string, text []byte) string
	// Packages of each architecture.
	Packages map[string][]Deb
}

// Deb is one package.
type Deb struct {
	Name, Version, Arch, Depends, Provides string
	Essential                              bool
	Files                                  []tar.Header // with the content in Xattrs-free PAXRecords["content"]
	Content                                map[string]string
	Time                                   time.Time
}

// New starts an archive with a key of its own; it serves nothing until Publish.
func New(t *testing.T) *Archive {
	t.Helper()
	key, err := openpgp.NewEntity("archive", "", "archive@example.com", &packet.Config{
		Time: func() time.Time { return Now.AddDate(-1, 0, 0) }, Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	a := &Archive{Key: key, Files: map[string][]byte{}, Codename: "test", Date: Now.AddDate(0, 0, -1), ValidUntil: Now.AddDate(0, 0, 6),
		Packages: map[string][]Deb{}}
	a.server = httptest.NewUnstartedServer(http.HandlerFunc(a.serve))
	a.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	a.server.StartTLS()
	t.Cleanup(a.server.Close)
	a.URL, a.Roots = a.server.URL, x509.NewCertPool()
	a.Roots.AddCert(a.server.Certificate())
	return a
}

func (a *Archive) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Asked = append(a.Asked, r.URL.Path)
	text, ok := a.Files[strings.TrimPrefix(r.URL.Path, "/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(text)
}

// Set serves other bytes under a name.
func (a *Archive) Set(name string, text []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Files[name] = text
}

// Get is what is served under a name.
func (a *Archive) Get(name string) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return bytes.Clone(a.Files[name])
}

// Suite is the archive's only one.
func (a *Archive) Suite() debian.Suite {
	return debian.Suite{Codename: "test", Directory: "test", Components: []string{"main"}, Mirror: a.URL, SignedBy: []string{Fingerprint(a.Key)},
		Expires: true}
}

// Fingerprint of a key.
func Fingerprint(e *openpgp.Entity) string { return fmt.Sprintf("%X", e.PrimaryKey.Fingerprint) }

// Armour is a key as keyrings have it.
func Armour(t *testing.T, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var text bytes.Buffer
	for _, k := range keys {
		w, err := armor.Encode(&text, "PGP PUBLIC KEY BLOCK", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Serialize(w); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		text.WriteByte('\n')
	}
	return text.Bytes()
}

// Fetcher is one that trusts the mirror's certificate, with a cache of its own.
func (a *Archive) Fetcher(t *testing.T) *fetch.Fetcher {
	t.Helper()
	f, err := fetch.New(fetch.Config{Cache: t.TempDir(), Allow: []string{"127.0.0.1"}, Roots: a.Roots, Timeout: 5 * time.Second,
		Now: func() time.Time { return Now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// Publish makes packages, lists and the signed Release file.
func (a *Archive) Publish(t *testing.T) {
	t.Helper()
	var digests []string
	for arch, list := range a.Packages {
		var text strings.Builder
		for _, d := range list {
			deb := d.Bytes(t)
			at := "pool/main/" + d.Name + "_" + strings.ReplaceAll(d.Version, ":", "%3a") + "_" + d.Arch + ".deb"
			a.Set(at, deb)
			fmt.Fprintf(&text, "%sFilename: %s\nSize: %d\nMD5sum: 00000000000000000000000000000000\nSHA256: %s\n\n", d.control(), at, len(deb), Sum(deb))
		}
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, _ = io.WriteString(z, text.String())
		_ = z.Close()
		name := "main/binary-" + arch + "/Packages.gz"
		a.Set("dists/test/"+name, packed.Bytes())
		digests = append(digests, fmt.Sprintf(" %s %d %s", Sum(packed.Bytes()), packed.Len(), name))
	}
	sort.Strings(digests)
	var r strings.Builder
	fmt.Fprintf(&r, "Origin: Test\nCodename: %s\nDate: %s\n", a.Codename, a.Date.Format("Mon, 02 Jan 2006 15:04:05 UTC"))
	if !a.ValidUntil.IsZero() {
		fmt.Fprintf(&r, "Valid-Until: %s\n", a.ValidUntil.Format("Mon, 02 Jan 2006 15:04:05 UTC"))
	}
	r.WriteString("SHA256:\n" + strings.Join(digests, "\n") + "\n")
	a.Sign(t, a.Key, r.String())
}

// Sign serves a Release file as a key signs it.
func (a *Archive) Sign(t *testing.T, key *openpgp.Entity, release string) {
	t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key.PrivateKey, &packet.Config{Time: func() time.Time { return Now.Add(-time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, release)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	a.Set("dists/test/InRelease", b.Bytes())
}

// Release is the text of the Release file that is served.
func (a *Archive) Release() string {
	block, _ := clearsign.Decode(a.Get("dists/test/InRelease"))
	return string(block.Plaintext)
}

// Sum is the SHA-256 of a text.
func Sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

func (d Deb) control() string {
	text := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\n", d.Name, d.Version, d.Arch)
	for name, value := range map[string]string{"Depends": d.Depends, "Provides": d.Provides} {
		if value != "" {
			text += name + ": " + value + "\n"
		}
	}
	if d.Essential {
		text += "Essential: yes\n"
	}
	return text
}

// Bytes is the package as a file. Two calls give the same.
func (d Deb) Bytes(t *testing.T) []byte {
	t.Helper()
	control := targz(t, d.Time, map[string]string{"./control": d.control()}, nil)
	return Pack([]Member{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", control}, {"data.tar.gz", targz(t, d.Time, d.Content, d.Files)}})
}

// Member is one part of a package.
type Member struct {
	Name string
	Text []byte
}

// Pack makes the outer form of a package.
func Pack(members []Member) []byte {
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range members {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.Name, 0, 0, 0, "100644", len(m.Text))
		b.Write(m.Text)
		if len(m.Text)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func targz(t *testing.T, at time.Time, content map[string]string, raw []tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	if at.IsZero() {
		at = Now.AddDate(0, -1, 0)
	}
	write := func(h tar.Header, text string) {
		h.ModTime = at
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, text)
	}
	var names []string
	for name := range content {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		write(tar.Header{Typeflag: tar.TypeReg, Name: "./" + strings.TrimPrefix(path.Clean(name), "./"), Mode: 0o644, Size: int64(len(content[name]))}, content[name])
	}
	for _, h := range raw {
		write(h, strings.Repeat("x", int(h.Size)))
	}
	_ = w.Close()
	_ = z.Close()
	return b.Bytes()
}
