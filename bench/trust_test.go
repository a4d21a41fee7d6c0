package bench_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/agent/trust"
	"github.com/roadstead-io/roadstead/internal/agent/trust/trusttest"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const (
	trustFleet    = "5f0e8a3c9b1d4e72a6c8f0b2d4e6a8c0"
	trustDevice   = api.DeviceUUID("0123456789abcdef0123456789abcdef")
	trustReleases = 10000
)

// trustCommit names the release of a number.
func trustCommit(n int) string {
	sum := sha256.Sum256([]byte(strconv.Itoa(n)))
	return hex.EncodeToString(sum[:20])
}

// trustTarget is a target state that runs the release of a number: three services.
func trustTarget(n int) *api.DeviceTarget {
	rel := &api.ReleaseTarget{Services: map[string]*api.ServiceTarget{}}
	for i, name := range []string{"web", "worker", "database"} {
		digest := sha256.Sum256(fmt.Appendf(nil, "%d %d", n, i))
		rel.Services[name] = &api.ServiceTarget{
			Image:       "registry2.roadstead.test/v2/" + strings.Repeat(strconv.Itoa(i), 32) + "@sha256:" + hex.EncodeToString(digest[:]),
			Composition: json.RawMessage(`{"ports":["80:80"],"restart":"always","volumes":["data:/data"],"environment":["A=1","B=2"]}`),
			Labels:      map[string]string{"io.balena.features.dbus": "1"},
		}
	}
	return &api.DeviceTarget{Apps: map[string]*api.AppTarget{trustFleet: {Class: "fleet", Releases: map[string]*api.ReleaseTarget{trustCommit(n): rel}}}}
}

// verifier is a device's checks, with a server of metadata that has many releases.
type verifier struct {
	b      *testing.B
	fleet  *trusttest.Fleet
	checks *trust.Trust
	served time.Duration // CPU time that the server took
	raw    int           // bytes of the answers
	packed int           // and as they are sent
}

func newVerifier(b *testing.B, approval api.Approval) *verifier {
	b.Helper()
	v := &verifier{b: b, fleet: trusttest.New(trustFleet)}
	v.fleet.Approval = approval
	v.fleet.Rotate()
	for n := range trustReleases {
		v.release(n)
	}
	v.fleet.Publish()
	dir := b.TempDir()
	who, err := json.Marshal(identity.Identity{UUID: trustDevice, Key: "key", ID: 1})
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "identity.json"), who, 0o600); err != nil {
		b.Fatal(err)
	}
	v.checks, err = trust.Open(trust.Config{
		StateDir: dir, UUID: trustDevice, Given: v.fleet.Given(), Log: slog.New(slog.DiscardHandler),
		Bundle: func(_ context.Context, have api.TrustHave) (api.TrustBundle, error) {
			before := cpu(b)
			answer := v.fleet.Answer(trustDevice, have)
			data, err := json.Marshal(answer)
			if err != nil {
				return answer, err
			}
			var packed bytes.Buffer
			zip := gzip.NewWriter(&packed)
			_, _ = zip.Write(data)
			if err := zip.Close(); err != nil {
				return answer, err
			}
			v.raw, v.packed = len(data), packed.Len()
			v.served += cpu(b) - before
			var arrived api.TrustBundle // decoding is the device's
			err = json.Unmarshal(data, &arrived)
			return arrived, err
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	return v
}

func (v *verifier) release(n int) {
	rel := trustTarget(n).Apps[trustFleet].Releases[trustCommit(n)]
	v.fleet.Build(trustCommit(n), rel)
	if v.fleet.Approval != api.ApprovalBuilder {
		v.fleet.Sign(trustCommit(n))
	}
}

func (v *verifier) check(n int) {
	v.b.Helper()
	if err := v.checks.Check(context.Background(), trustTarget(n)); err != nil {
		v.b.Fatal(err)
	}
}

// BenchmarkVerify is the CPU time that a device's checks take, of a fleet with 10,000 releases: of a target state that it has accepted already, and of one with a
// new release; and what the metadata of a new release weigh. Everything that the server signs is new each time, which is more than a server
// does. Budget: 20 ms, 150 ms and 30 KiB.
func BenchmarkVerify(b *testing.B) {
	for _, approval := range []api.Approval{api.ApprovalBuilder, api.ApprovalBoth} {
		v := newVerifier(b, approval)
		v.check(0)
		b.Run(string(approval)+"/unchanged", func(b *testing.B) {
			before := cpu(b)
			for b.Loop() {
				v.check(0)
			}
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
		next := trustReleases
		b.Run(string(approval)+"/release", func(b *testing.B) {
			var spent time.Duration
			for b.Loop() {
				next++
				v.release(next)
				v.fleet.Publish()
				v.served = 0
				before := cpu(b)
				v.check(next)
				spent += cpu(b) - before - v.served
			}
			b.ReportMetric(float64(spent.Microseconds())/1000/float64(b.N), "cpu-ms/op")
			b.ReportMetric(float64(v.raw)/1024, "KiB-unpacked")
			b.ReportMetric(float64(v.packed)/1024, "KiB-sent")
		})
	}
}

// BenchmarkDirector is how many statements one core signs: the function alone, and the signer's process with everything around it (this benchmark's own
// requests included). Budget: 2,000 a second.
func BenchmarkDirector(b *testing.B) {
	listed := tuf.Listed{Length: 4000, SHA256: tuf.Digest([]byte("document")), Counter: 1764435758}
	key := trusttest.Key("director")
	b.Run("function", func(b *testing.B) {
		before := cpu(b)
		for b.Loop() {
			now := time.Now()
			d := tuf.Director{
				Version: now.Unix(), Expires: now.Add(time.Hour), Commit: trustCommit(1), Release: &listed,
				Mark: api.TrustMark{Fleet: trustFleet, SignedAt: now, Device: trustDevice, Nonce: "0123456789abcdef0123456789abcdef", Channel: &api.TrustChannel{Wanted: true}},
			}
			if _, err := d.Make(key); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/(cpu(b)-before).Seconds(), "statements/core-s")
	})
	b.Run("signer", func(b *testing.B) {
		s := newSigner(b)
		var ask []api.TrustDirect
		for i := range api.MaxTrustBatch {
			ask = append(ask, api.TrustDirect{
				Fleet: trustFleet, Device: api.DeviceUUID(fmt.Sprintf("%032x", i)), Nonce: "0123456789abcdef0123456789abcdef",
				Release: &api.TrustDirected{Commit: trustCommit(1), Length: listed.Length, SHA256: listed.SHA256, Counter: listed.Counter},
				Channel: &api.TrustChannel{Wanted: true},
			})
		}
		body, err := json.Marshal(ask)
		if err != nil {
			b.Fatal(err)
		}
		before, n := cpu(b), 0
		for b.Loop() {
			n += s.direct(b, body)
		}
		b.ReportMetric(float64(n)/(cpu(b)-before).Seconds(), "statements/core-s")
	})
}

// signerRole is a signer alone, asked as the api role asks it.
type signerRole struct{ peer *pki.Peer }

func newSigner(b *testing.B) *signerRole {
	b.Helper()
	dir := b.TempDir()
	in := func(name string) string { return filepath.Join(dir, "signer", name) }
	err := pki.NewTestIdentities(dir, "signer", "api")
	err = errors.Join(err, signer.NewKey(in(signer.KeyFile)), signer.NewAuditKey(in(signer.AuditKeyFile)), signer.NewStatementKey(in(signer.StatementKeyFile)),
		signer.NewTrustKey(in(signer.TrustKeyFile)), signer.NewChannelAuthority(in(signer.ChannelCAFile)))
	if err != nil {
		b.Fatal(err)
	}
	s, err := signer.New(signer.Config{Dir: filepath.Join(dir, "signer"), Site: api.Site{Domain: "roadstead.test", Port: 443}, Peers: map[string]string{"api": "127.0.0.1:1"}}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	serve(b, ln, s.Run)
	id, err := pki.LoadIdentity(filepath.Join(dir, "api"))
	if err != nil {
		b.Fatal(err)
	}
	peer := id.Client(api.RoleSigner, ln.Addr().String())
	b.Cleanup(peer.HTTP.CloseIdleConnections)
	return &signerRole{peer}
}

// direct asks for a batch and gives how many were signed.
func (s *signerRole) direct(b *testing.B, body []byte) int {
	b.Helper()
	res, err := s.peer.HTTP.Post(s.peer.URL+"/v1/trust/director", "application/json", bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	var out []api.TrustSigned
	if err != nil || res.StatusCode != http.StatusOK || json.Unmarshal(data, &out) != nil {
		b.Fatalf("%s %v: %.300s", res.Status, err, data)
	}
	for _, one := range out {
		if len(one.Data) == 0 {
			b.Fatalf("not signed: %s", one.Refused)
		}
	}
	return len(out)
}
