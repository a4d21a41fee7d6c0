package bench_test

import (
	"crypto/ed25519"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
)

var (
	revokeTries = setting("ROADSTEAD_BENCH_TRIES", "100") // of each channel
	revokeSQL   = setting("ROADSTEAD_BENCH_REVOKE", "sqlite,postgres")
)

// probes are how many connections ask whether a right still holds; with several processes they are at all of them.
const probes = 4

// yard is a server on which rights are given and taken away.
type yard struct {
	*world
	s       *server
	session string // of the administrator
	probe   []*http.Client
	n       int
	someone person
	staff   bool // someone gives support
}

// A channel is one way in which a right is used. open gives it and shows that it works; what it returns takes it away, and waits until it
// is of no use. The time counts from the answer to the taking.
type channel struct {
	name string
	open func(y *yard) (take func(), gone func())
}

// BenchmarkRevocation prints how long a right is of use after it was taken away: the median and the 99th per cent of 100 tries on every
// channel, with one process of the api role on SQLite and with three on PostgreSQL. Budget: 2 s.
func BenchmarkRevocation(b *testing.B) {
	tries, err := strconv.Atoi(revokeTries)
	if err != nil {
		b.Fatal(err)
	}
	fmt.Printf("\n%s\n| channel | database, api processes | p50 ms | p99 ms | slowest ms |\n|---|---|---|---|---|\n", machine())
	for sql := range strings.SplitSeq(revokeSQL, ",") {
		var args []string
		name := "SQLite, 1"
		if sql == "postgres" {
			args, name = []string{"--sql", startPostgres(b).database(b), "--api-processes", "3"}, "PostgreSQL, 3"
		}
		dir := publicDir(b)
		s, _ := start(b, dir, args...)
		y := &yard{world: s.newWorld(b, 1), s: s}
		id, err := pki.LoadIdentity(filepath.Join(s.dir, "roles", api.RoleAdmin))
		y.must(err)
		s.peers[api.RoleAdmin] = id.Client(api.RoleAPI, strings.TrimPrefix(s.peers[api.RoleBuilder].URL, "https://"))
		for range probes {
			tr := s.http.Transport.(*http.Transport).Clone()
			tr.ForceAttemptHTTP2 = false
			tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
			y.probe = append(y.probe, &http.Client{Transport: tr})
		}
		for _, c := range channels {
			if !strings.Contains(c.name, only) {
				continue
			}
			var took []time.Duration
			y.session = y.login(y.admin.Username, y.admin.Password) // keys are made by who logged in lately
			for range tries {
				y.n++
				take, gone := c.open(y)
				take()
				began := time.Now()
				gone()
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			at := func(p int) float64 { return float64(took[(len(took)-1)*p/100].Microseconds()) / 1000 }
			fmt.Printf("| %s | %s | %.1f | %.1f | %.1f |\n", c.name, name, at(50), at(99), at(100))
			if at(99) > 2000 {
				b.Errorf("%s: p99 is %.0f ms, more than 2 s", c.name, at(99))
			}
		}
		s.stop()
	}
	b.ReportMetric(0, "ns/op")
}

func (y *yard) login(name, password string) string {
	return string(y.do(api.RoleEdge, "POST", "/login_", "", api.Login{Username: name, Password: password}, 200).body)
}

type person struct{ name, session string }

// member is somebody who is in the administrator's organization and in no fleet.
func (y *yard) member() person {
	if y.someone.session != "" {
		return y.someone
	}
	var made api.NewUser
	y.into(y.do(api.RoleAdmin, "POST", "/internal/v1/users", "", api.NewUser{Email: "member@example.com"}, 201), &made)
	p := person{made.Username, y.login(made.Email, made.Password)}
	var invite struct{ ID int64 }
	org := y.row("/v7/organization?$top=1&$select=id&$orderby=id asc")
	y.into(y.do(api.RoleEdge, "POST", "/v7/organization_invite", y.session, map[string]any{"invitee": made.Email, "is_invited_to__organization": org["id"]}, 201), &invite)
	var link api.Invitation
	y.into(y.do(api.RoleEdge, "POST", fmt.Sprintf("/org/v1/invitations/%d/link", invite.ID), y.session, nil, 200), &link)
	y.do(api.RoleEdge, "POST", "/org/v1/invitation/"+link.Token, p.session, nil, 200)
	y.someone = p
	return p
}

// status is what one connection is answered.
func (y *yard) status(probe int, method, path, token string) int {
	req, err := http.NewRequest(method, y.s.base+strings.ReplaceAll(path, " ", "%20"), nil)
	y.must(err)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := y.probe[probe].Do(req)
	y.must(err)
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return res.StatusCode
}

// works wants every connection to be let in, so that every process remembers who asks.
func (y *yard) works(path, token string) {
	y.tb.Helper()
	for p := range y.probe {
		if got := y.status(p, "GET", path, token); got != http.StatusOK {
			y.tb.Fatalf("GET %s: got %d", path, got)
		}
	}
}

// refused asks on every connection until none is let in.
func (y *yard) refused(path, token string) func() {
	return func() {
		for p := range y.probe {
			for y.status(p, "GET", path, token) == http.StatusOK {
			}
		}
	}
}

func (y *yard) key() (key string, take func()) {
	name := fmt.Sprintf("key %d", y.n)
	y.into(y.do(api.RoleEdge, "POST", "/api-key/user/full", y.session, api.NewKey{Name: name}, 200), &key)
	return key, func() {
		y.do(api.RoleEdge, "DELETE", "/v7/api_key?$filter=name eq '"+name+"'", y.session, nil, 200)
	}
}

func (y *yard) device() (d api.Registered, take func()) {
	r := y.register(1_000_000 + y.n)
	a, err := y.try(api.RoleEdge, r, 201)
	y.must(err)
	y.into(a, &d)
	return d, func() { y.do(api.RoleEdge, "DELETE", fmt.Sprintf("/v7/device(%d)", d.ID), y.session, nil, 200) }
}

// follow opens the log of a device.
func (y *yard) follow(token string, device api.DeviceUUID) io.ReadCloser {
	req, err := http.NewRequest("GET", y.s.base+"/device/v2/"+string(device)+"/logs?stream=1", nil)
	y.must(err)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := y.probe[y.n%probes].Do(req)
	y.must(err)
	if res.StatusCode != http.StatusOK {
		y.tb.Fatalf("follow: got %d", res.StatusCode)
	}
	return res.Body
}

const whoami = "/user/v1/whoami"

var only = setting("ROADSTEAD_BENCH_CHANNEL", "")

var channels = []channel{
	{"requests of a session", func(y *yard) (func(), func()) {
		token := y.login(y.admin.Username, y.admin.Password)
		y.works(whoami, token)
		return func() { y.do(api.RoleEdge, "POST", "/user/v1/logout", token, nil, 200) }, y.refused(whoami, token)
	}},
	{"requests of a key", func(y *yard) (func(), func()) {
		key, take := y.key()
		y.works(whoami, key)
		return take, y.refused(whoami, key)
	}},
	{"polls of a device", func(y *yard) (func(), func()) {
		d, take := y.device()
		path := "/device/v3/" + string(d.UUID) + "/state"
		y.works(path, d.APIKey)
		return take, y.refused(path, d.APIKey)
	}},
	{"a fleet that a member sees", func(y *yard) (func(), func()) {
		member := y.member()
		y.do(api.RoleEdge, "POST", "/v7/user_application_membership", y.session, map[string]any{"username": member.name,
			"is_member_of__application": y.fleets[0], "application_membership_role": 1}, 201)
		path := "/device/v2/" + string(y.devices[0].UUID) + "/logs"
		y.works(path, member.session)
		return func() {
			y.do(api.RoleEdge, "DELETE", "/v7/user_application_membership?$filter=id gt 0", y.session, nil, 200)
		}, y.refused(path, member.session)
	}},
	{"the SSH keys that a device lets in", func(y *yard) (func(), func()) {
		me := y.row("/v7/user?$filter=username eq '" + y.admin.Username + "'")
		public, _, err := ed25519.GenerateKey(nil)
		y.must(err)
		key, err := ssh.NewPublicKey(public)
		y.must(err)
		var made struct{ ID int64 }
		y.into(y.do(api.RoleEdge, "POST", "/v7/user__has__public_key", y.session, map[string]any{
			"user": me["id"], "title": fmt.Sprint(y.n), "public_key": string(ssh.MarshalAuthorizedKey(key)),
		}, 201), &made)
		path, device := "/auth/v1/public-keys/"+y.admin.Username, y.devices[0].APIKey
		return func() {
				y.do(api.RoleEdge, "DELETE", fmt.Sprintf("/v7/user__has__public_key(%d)", made.ID), y.session, nil, 200)
			}, func() {
				for len(y.do(api.RoleEdge, "GET", path, device, nil, 200).body) > 0 {
				}
			}
	}},
	{"a log that is followed", func(y *yard) (func(), func()) {
		key, take := y.key()
		follow := y.follow(key, y.devices[0].UUID)
		return take, func() { _, _ = io.Copy(io.Discard, follow); _ = follow.Close() }
	}},
	{"a log that support follows", func(y *yard) (func(), func()) {
		helper, device := y.member(), fmt.Sprintf("/v7/device(%d)", y.devices[0].ID)
		until := func(at any) {
			y.do(api.RoleEdge, "PATCH", device, y.session, map[string]any{"is_accessible_by_support_until__date": at}, 200)
		}
		if !y.staff {
			y.do(api.RoleAdmin, "POST", "/internal/v1/users/support", "", api.SupportStaff{User: helper.name, Support: true}, 200)
			y.staff = true
		}
		until(time.Now().Add(time.Hour).UnixMilli())
		path := "/device/v2/" + string(y.devices[0].UUID) + "/logs"
		for y.status(y.n%probes, "GET", path, helper.session) != http.StatusOK { // another process hears of the staff a moment later
		}
		follow := y.follow(helper.session, y.devices[0].UUID)
		return func() { until(nil) }, func() { _, _ = io.Copy(io.Discard, follow); _ = follow.Close() }
	}},
	{"a log that is written", func(y *yard) (func(), func()) {
		d, take := y.device()
		r, w := io.Pipe()
		req, err := http.NewRequest("POST", y.s.base+"/device/v2/"+string(d.UUID)+"/log-stream", r)
		y.must(err)
		req.Header.Set("Authorization", "Bearer "+d.APIKey)
		req.Header.Set("Content-Type", "application/x-ndjson")
		done := make(chan struct{})
		go func() {
			defer close(done)
			if res, err := y.probe[y.n%probes].Do(req); err == nil {
				_ = res.Body.Close()
			}
		}()
		_, err = w.Write([]byte(`{"message":"hello","timestamp":1}` + "\n"))
		y.must(err)
		for len(y.do(api.RoleEdge, "GET", "/device/v2/"+string(d.UUID)+"/logs", y.session, nil, 200).body) < 10 {
		}
		return take, func() {
			for { // until the server has closed the connection: what is written has nowhere to go
				if _, err := w.Write([]byte("\n")); err != nil {
					break
				}
				select {
				case <-done:
					_ = w.Close()
					return
				case <-time.After(time.Millisecond):
				}
			}
		}
	}},
	{"a build, asked for once a second", func(y *yard) (func(), func()) {
		key, take := y.key()
		slug := y.row(fmt.Sprintf("/v7/application(%d)?$select=slug", y.fleets[0]))["slug"]
		var build api.Build
		y.into(y.do(api.RoleBuilder, "POST", "/internal/v1/builds", key, api.BuildRequest{Slug: fmt.Sprint(slug)}, 201), &build)
		beat := time.NewTicker(time.Second) // as the builder does
		return take, func() {
			defer beat.Stop()
			for range beat.C {
				var now api.Build
				y.into(y.do(api.RoleBuilder, "POST", fmt.Sprintf("/internal/v1/builds/%d/heartbeat", build.ID), "", struct{}{}, 200), &now)
				if now.Status == api.StatusCancelled {
					return
				}
			}
		}
	}},
}
