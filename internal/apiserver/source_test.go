package apiserver_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
)

const (
	commitA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	commitB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	commitC = "cccccccccccccccccccccccccccccccccccccccc"
)

// hookAnswer is what a forge is answered.
type hookAnswer struct {
	Delivery int64
	State    string
	Reason   string
	Repeated bool
}

// source makes one.
func (s *server) source(token string, want api.NewBuildSource) (made api.BuildSourceSecret) {
	s.Helper()
	if want.URL == "" {
		want.URL = "https://git.example.com/team/app.git"
	}
	if want.Form == "" {
		want.Form = api.FormGitHub
	}
	s.do(token, "POST", "/build-source/v1", want).want(http.StatusCreated).into(&made)
	return made
}

// signed sends something to a webhook as GitHub does.
func (s *server) signed(to api.BuildSourceSecret, event, guid, body string, from ...string) *answer {
	s.Helper()
	m := hmac.New(sha256.New, []byte(to.Secret))
	m.Write([]byte(body))
	address := "192.0.2.1"
	if len(from) > 0 {
		address = from[0]
	}
	_, path, _ := strings.Cut(to.Webhook, "roadstead.test")
	return s.role(api.RoleEdge, "POST", path, body, "X-Hub-Signature-256: sha256="+hex.EncodeToString(m.Sum(nil)), "X-GitHub-Event: "+event,
		"X-GitHub-Delivery: "+guid, "X-Forwarded-For: "+address)
}

func pushOf(ref, commit string) string {
	return fmt.Sprintf(`{"ref":%q,"after":%q,"repository":{"full_name":"team/app"}}`, ref, commit)
}

// pushed tells a webhook of a push.
func (s *server) pushed(to api.BuildSourceSecret, guid, ref, commit string) (out hookAnswer) {
	s.Helper()
	s.signed(to, "push", guid, pushOf(ref, commit)).want(http.StatusAccepted).into(&out)
	return out
}

// nextJob is what the git role is given.
func (s *server) nextJob() (job api.SourceJob) {
	s.Helper()
	s.role(api.RoleGit, "POST", "/internal/v1/sources/next", struct{}{}).want(http.StatusOK).into(&job)
	return job
}

func (s *server) noJob() {
	s.Helper()
	if n := s.number(`SELECT count(*) FROM build_delivery WHERE state = 'waiting'`); n != 0 {
		s.Errorf("%d deliveries wait", n)
	}
}

func (s *server) finish(result api.SourceResult) {
	s.Helper()
	s.role(api.RoleGit, "POST", "/internal/v1/sources/finish", result).want(http.StatusOK)
}

func (s *server) deliveries(token string, id int64) (list []api.Delivery) {
	s.Helper()
	s.do(token, "GET", fmt.Sprintf("/build-source/v1/%d/deliveries", id), nil).want(http.StatusOK).into(&list)
	return list
}

// opened opens the build of a job, as the builder does with the git role's ticket.
func (s *server) opened(job api.SourceJob) *answer {
	s.Helper()
	return s.role(api.RoleBuilder, "POST", "/internal/v1/builds", api.BuildRequest{Slug: job.Open.Fleet.Slug}, "Authorization: Ticket "+job.Open.Ticket)
}

func states(list []api.Delivery) string {
	var all []string
	for _, d := range list {
		all = append(all, d.State)
	}
	return strings.Join(all, " ")
}

// A push to the branch becomes one job, with what is needed to fetch exactly what was pushed; the rest is listed with its reason.
func TestAWebhookStartsABuild(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	s.fleet(alice, "hello")
	made := s.source(alice, api.NewBuildSource{Fleet: "alice/hello", Username: "reader", Password: "hunter2-token", Draft: true})
	if made.Secret == "" || made.Branch != "main" || !made.Password || made.OnBehalfOf != "alice" || strings.Contains(fmt.Sprintf("%+v", made), "hunter2") {
		t.Errorf("made %+v", made)
	}
	var ping hookAnswer
	s.signed(made, "ping", "g0", `{"zen":"x"}`).want(http.StatusAccepted).into(&ping)
	if ping.State != api.DeliverySkipped || !strings.Contains(ping.Reason, "works") {
		t.Errorf("a ping: %+v", ping)
	}
	for ref, reason := range map[string]string{"refs/heads/other": "the branch other is not built; main is", "refs/tags/v1": "no branch", "refs/notes/x": "no branch"} {
		if got := s.pushed(made, "g-"+ref, ref, commitA); got.State != api.DeliverySkipped || !strings.Contains(got.Reason, reason) {
			t.Errorf("%s: %+v, want %q", ref, got, reason)
		}
	}
	var gone hookAnswer
	s.signed(made, "push", "g2", `{"ref":"refs/heads/main","after":"0000000000000000000000000000000000000000","deleted":true}`).want(http.StatusAccepted).into(&gone)
	if gone.State != api.DeliverySkipped || !strings.Contains(gone.Reason, "deleted") {
		t.Errorf("a deletion: %+v", gone)
	}
	s.signed(made, "push", "g3", `{"ref":`).want(http.StatusBadRequest)
	s.noJob()
	got := s.pushed(made, "g4", "refs/heads/main", commitA)
	if got.State != api.DeliveryWaiting || got.Delivery == 0 {
		t.Fatalf("a push: %+v", got)
	}
	job := s.nextJob()
	want := api.SourceJob{Delivery: got.Delivery, Claim: job.Claim, Open: job.Open, URL: "https://git.example.com/team/app.git", Ref: "refs/heads/main", Commit: commitA,
		Draft: true, Username: "reader", Password: "hunter2-token"}
	if gocmp.Diff(want, job) != "" || job.Open.Fleet.Slug != "alice/hello" || job.Open.User != "alice" {
		t.Errorf("the job is %+v", job)
	}
	var build api.Build
	s.opened(job).want(http.StatusCreated).into(&build)
	if n := s.number(`SELECT count(*) FROM audit_entry WHERE act = 'source.run' AND thing_id = ?`, made.ID); n != 1 {
		t.Errorf("%d entries say that it built", n)
	}
	s.exec(`UPDATE "release" SET status = 'success' WHERE id = ?`, build.ID)
	s.finish(api.SourceResult{Claim: job.Claim, Commit: commitA})
	if d := s.deliveries(alice, made.ID)[0]; d.State != api.DeliveryBuilt || d.Release != build.ID || d.Commit != commitA || d.Foreign != "g4" || d.EndedAt == nil {
		t.Errorf("the delivery is %+v", d)
	}
	s.opened(job).want(http.StatusUnauthorized) // the ticket has ended with it
	for _, secret := range []string{made.Secret, "hunter2-token"} {
		if n := s.number(`SELECT count(*) FROM build_source WHERE secret LIKE ? OR credentials LIKE ?`, "%"+secret+"%", "%"+secret+"%"); n != 0 {
			t.Errorf("%s is in the database", secret)
		}
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("%s is in the log", secret)
		}
	}
	if n := s.number(`SELECT count(*) FROM audit_entry WHERE act = 'source.add' AND by_name = 'alice'`); n != 1 {
		t.Errorf("%d entries about the source", n)
	}
	if strings.Contains(s.log.String(), made.Webhook[len(made.Webhook)-32:]) {
		t.Error("the name of the webhook is in the log")
	}
}

// A stranger learns nothing: not whether a webhook is there, nor what it is for.
func TestWebhooksWithoutASignature(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	s.fleet(alice, "hello")
	made := s.source(alice, api.NewBuildSource{Fleet: "alice/hello"})
	wrong, absent := made, made
	wrong.Secret = "wrong"
	absent.Webhook = "https://api.roadstead.test/hooks/v1/" + strings.Repeat("0", 32)
	body := pushOf("refs/heads/main", commitA)
	a, b := s.signed(wrong, "push", "g1", body).want(http.StatusUnauthorized), s.signed(absent, "push", "g1", body).want(http.StatusUnauthorized)
	if a.body != b.body {
		t.Errorf("a wrong signature: %s; no such webhook: %s", a.body, b.body)
	}
	s.signed(wrong, "push", "g1", "{").want(http.StatusUnauthorized) // nothing is read before
	absent.Webhook = "https://api.roadstead.test/hooks/v1/x"
	s.signed(absent, "ping", "g1", body).want(http.StatusUnauthorized)
	s.noJob()
	var now api.BuildSource
	s.do(alice, "GET", fmt.Sprintf("/build-source/v1/%d", made.ID), nil).want(http.StatusOK).into(&now)
	if now.Refused != 2 || now.RefusedAt == nil {
		t.Errorf("refused: %+v, want two", now)
	}
	s.pushed(made, "g1", "refs/heads/main", commitA) // was not used up
	now = api.BuildSource{}
	s.do(alice, "GET", fmt.Sprintf("/build-source/v1/%d", made.ID), nil).want(http.StatusOK).into(&now)
	if now.RefusedAt != nil || now.Refused != 0 {
		t.Errorf("still refused: %+v", now)
	}
	s.signed(made, "push", "big", `{"x":"`+strings.Repeat("x", 2<<20)+`"}`).want(http.StatusRequestEntityTooLarge)
	again := api.BuildSourceSecret{}
	s.do(alice, "POST", fmt.Sprintf("/build-source/v1/%d/rotate", made.ID), nil).want(http.StatusOK).into(&again)
	if again.Secret == made.Secret || again.Webhook != made.Webhook {
		t.Errorf("rotated: %+v", again)
	}
	s.signed(made, "push", "g2", body).want(http.StatusUnauthorized)
	s.signed(again, "push", "g2", body).want(http.StatusAccepted)
}

// What came once does nothing when it comes again, at the same time or under another id.
func TestADeliveryThatComesAgain(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	s.fleet(alice, "hello")
	made := s.source(alice, api.NewBuildSource{Fleet: "alice/hello"})
	var all sync.WaitGroup
	answers := make([]*answer, 8)
	for i := range answers {
		all.Go(func() {
			answers[i] = s.signed(made, "push", "same", pushOf("refs/heads/main", commitA), fmt.Sprintf("198.51.%d.1", i))
		})
	}
	all.Wait()
	first := 0
	for _, a := range answers {
		var got hookAnswer
		a.want(http.StatusAccepted).into(&got)
		if !got.Repeated {
			first++
		}
	}
	if n := s.number(`SELECT count(*) FROM build_delivery`); n != 1 || first != 1 {
		t.Errorf("%d deliveries, %d answers that are no repetition", n, first)
	}
	if got := s.pushed(made, "another", "refs/heads/main", commitA); !got.Repeated { // somebody who has seen one request
		t.Errorf("the same bytes under another id: %+v", got)
	}
	if got := s.pushed(made, "same", "refs/heads/main", commitB); !got.Repeated {
		t.Errorf("another body under the same id: %+v", got)
	}
	if got := s.pushed(made, "third", "refs/heads/main", commitB); got.Repeated || got.State != api.DeliveryWaiting {
		t.Errorf("another push: %+v", got)
	}
}

// The newest push wins over those that have not been begun; one that is at work goes on, and nothing else of the source beside it.
func TestPushesInARow(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	s.fleet(alice, "hello")
	made := s.source(alice, api.NewBuildSource{Fleet: "alice/hello"})
	tagged := s.source(alice, api.NewBuildSource{Fleet: "alice/hello", Tags: "v*"})
	s.pushed(made, "1", "refs/heads/main", commitA)
	running := s.nextJob()
	s.pushed(made, "2", "refs/heads/main", commitB)
	third := s.pushed(made, "3", "refs/heads/main", commitC)
	if got := states(s.deliveries(alice, made.ID)); got != "waiting superseded running" {
		t.Errorf("three pushes: %s", got)
	}
	if d := s.deliveries(alice, made.ID)[1]; !strings.Contains(d.Reason, fmt.Sprintf("delivery %d came", third.Delivery)) {
		t.Errorf("superseded: %q", d.Reason)
	}
	s.pushed(tagged, "1", "refs/tags/v1", commitA) // each tag is a release of its own
	s.pushed(tagged, "2", "refs/tags/v2", commitB)
	s.pushed(tagged, "3", "refs/tags/x1", commitB)
	if got := states(s.deliveries(alice, tagged.ID)); got != "skipped waiting waiting" {
		t.Errorf("three tags: %s", got)
	}
	if job := s.nextJob(); job.Ref != "refs/tags/v1" {
		t.Errorf("beside the first comes %+v, want the other source's", job)
	}
	s.finish(api.SourceResult{Claim: running.Claim, Error: "it does not build"})
	if job := s.nextJob(); job.Commit != commitC {
		t.Errorf("after the first comes %+v, want the third", job)
	}
	if got := states(s.deliveries(alice, made.ID)); got != "running superseded failed" {
		t.Errorf("in the end: %s", got)
	}
}

// However many sources an organization has, it keeps no other one waiting.
func TestSourcesOfOneOrganizationAreBounded(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	s.fleet(alice, "hello")
	s.fleet(alice, "other")
	s.fleet(bob, "harbour")
	var first api.SourceJob
	for i, fleet := range []string{"alice/hello", "alice/hello", "alice/other"} {
		s.pushed(s.source(alice, api.NewBuildSource{Fleet: fleet}), fmt.Sprint(i), "refs/heads/main", commitA)
		if i == 0 {
			first = s.nextJob()
		}
	}
	s.pushed(s.source(bob, api.NewBuildSource{Fleet: "bob/harbour"}), "1", "refs/heads/main", commitB)
	if job := s.nextJob(); job.Open.User != "alice" {
		t.Errorf("the second job is %+v", job)
	}
	if job := s.nextJob(); job.Open.User != "bob" {
		t.Errorf("the third job is %+v, want the other organization's", job)
	}
	s.finish(api.SourceResult{Claim: first.Claim, Error: "x"})
	if job := s.nextJob(); job.Open.Fleet.Slug != "alice/other" {
		t.Errorf("the fourth job is %+v", job)
	}
}

// A role that dies in the middle leaves a claim that ends. What it had reached counts: a build that was made is not made again.
func TestAJobThatNobodyFinishes(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	s.fleet(alice, "hello")
	made := s.source(alice, api.NewBuildSource{Fleet: "alice/hello"})
	lapse := func() {
		s.exec(`UPDATE build_delivery SET claimed_until = '2026-01-01T00:00:00.000Z' WHERE state IN ('running', 'waiting')`)
	}
	s.pushed(made, "1", "refs/heads/main", commitA)
	s.stop() // killed between the answer and the build
	s.start()
	first := s.nextJob()
	lapse()
	second := s.nextJob()
	if second.Delivery != first.Delivery || second.Claim == first.Claim {
		t.Fatalf("first %+v, then %+v", first, second)
	}
	s.opened(first).want(http.StatusUnauthorized) // whoever comes late
	s.finish(api.SourceResult{Claim: first.Claim})
	var held api.SourceClaims
	s.role(api.RoleGit, "POST", "/internal/v1/sources/renew", api.SourceClaims{Claims: []string{first.Claim, second.Claim}}).want(http.StatusOK).into(&held)
	if len(held.Claims) != 1 || held.Claims[0] != second.Claim {
		t.Errorf("held: %v", held.Claims)
	}
	var build api.Build
	s.opened(second).want(http.StatusCreated).into(&build)
	s.opened(second).want(http.StatusConflict) // one build
	lapse()
	s.exec(`UPDATE build_delivery SET claimed_until = '2099-01-01T00:00:00.000Z' WHERE "release" <> ?`, build.ID)
	s.exec(`UPDATE "release" SET status = 'cancelled' WHERE id = ?`, build.ID) // the builder lost its connection
	third := s.nextJob()
	var another api.Build
	s.opened(third).want(http.StatusCreated).into(&another)
	s.exec(`UPDATE "release" SET status = 'success' WHERE id = ?`, another.ID)
	lapse() // the role dies after the build and before it could say so
	s.pushed(made, "2", "refs/heads/main", commitB)
	if job := s.nextJob(); job.Commit != commitB {
		t.Errorf("the next job is %+v", job)
	}
	if d := s.deliveries(alice, made.ID)[1]; d.State != api.DeliveryBuilt || d.Release != another.ID {
		t.Errorf("the delivery is %+v", d)
	}
}

// What is not the source's fault is tried again, later and not for ever.
func TestAJobThatIsPutOff(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	s.fleet(alice, "hello")
	made := s.source(alice, api.NewBuildSource{Fleet: "alice/hello"})
	s.pushed(made, "1", "refs/heads/main", commitA)
	for i := range 8 {
		job := s.nextJob()
		if job.Delivery == 0 {
			t.Fatalf("no job the %d. time", i+1)
		}
		s.finish(api.SourceResult{Claim: job.Claim, Error: "the builder does not answer", Again: true})
		if n := s.number(`SELECT count(*) FROM build_delivery WHERE state = 'waiting' AND claimed_until > created_at`); n != 1 && i < 7 {
			t.Errorf("%d wait for later", n)
		}
		s.exec(`UPDATE build_delivery SET claimed_until = '2026-01-01T00:00:00.000Z' WHERE state = 'waiting'`)
	}
	if d := s.deliveries(alice, made.ID)[0]; d.State != api.DeliveryFailed || !strings.Contains(d.Reason, "given up after 8 times") {
		t.Errorf("in the end: %+v", d)
	}
}

// A source builds with the right of whoever set it up, and with nobody's when they lost it, until somebody else takes it over.
func TestWhoeverSetASourceUpLosesTheRight(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	fleet := s.fleet(alice, "hello")
	role := s.id(alice, "application_membership_role(name='developer')?$select=id")
	org := s.id(alice, "organization?$select=id")
	s.invite(alice, bob, "bob@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org})
	membership := s.made(alice, "user_application_membership", map[string]any{"username": "bob", "is_member_of__application": fleet, "application_membership_role": role})
	made := s.source(bob, api.NewBuildSource{Fleet: "alice/hello"})
	s.pushed(made, "1", "refs/heads/main", commitA)
	job := s.nextJob()
	s.pushed(made, "2", "refs/heads/main", commitB)
	s.do(alice, "DELETE", fmt.Sprintf("/v7/user_application_membership(%d)", membership), nil).want(http.StatusOK)
	s.opened(job).want(http.StatusUnauthorized)
	var tickets api.GitTickets
	s.role(api.RoleGit, "POST", "/internal/v1/git/tickets", api.GitTickets{Tickets: []string{job.Open.Ticket}}).want(http.StatusOK).into(&tickets)
	if tickets.Tickets[0] != "" {
		t.Error("the ticket is renewed")
	}
	s.finish(api.SourceResult{Claim: job.Claim, Error: "your right to use this repository has ended"})
	if got := s.pushed(made, "3", "refs/heads/main", commitC); got.State != api.DeliveryRefused || !strings.Contains(got.Reason, "bob, who set the source up, may not make releases") {
		t.Errorf("a push: %+v", got)
	}
	s.role(api.RoleGit, "POST", "/internal/v1/sources/next", struct{}{}).want(http.StatusOK) // looks at the second one, too
	if got := states(s.deliveries(alice, made.ID)); got != "refused refused failed" {
		t.Errorf("the deliveries: %s", got)
	}
	if n := s.number(`SELECT count(*) FROM audit_entry WHERE act = 'source.stop'`); n != 1 {
		t.Errorf("%d entries say that it stopped, want one", n)
	}
	s.do(bob, "GET", fmt.Sprintf("/build-source/v1/%d", made.ID), nil).want(http.StatusNotFound)
	var asked api.Delivery
	s.do(alice, "POST", fmt.Sprintf("/build-source/v1/%d/build", made.ID), nil).want(http.StatusAccepted).into(&asked)
	if asked.State != api.DeliveryRefused {
		t.Errorf("asked for a build: %+v", asked)
	}
	var taken api.BuildSourceSecret
	s.do(alice, "POST", fmt.Sprintf("/build-source/v1/%d/rotate", made.ID), nil).want(http.StatusOK).into(&taken)
	if taken.OnBehalfOf != "alice" || taken.Stopped != "" {
		t.Errorf("taken over: %+v", taken)
	}
	if got := s.pushed(taken, "4", "refs/heads/main", commitC); got.State != api.DeliveryWaiting {
		t.Errorf("a push after that: %+v", got)
	}
	s.do(alice, "DELETE", fmt.Sprintf("/build-source/v1/%d", made.ID), nil).want(http.StatusOK)
	s.noJob()
	s.signed(taken, "push", "5", pushOf("refs/heads/main", commitA)).want(http.StatusUnauthorized)
}

// Every field says what is wrong with it.
func TestSourcesThatAreRefused(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	s.fleet(alice, "hello")
	key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
	good := api.NewBuildSource{Fleet: "alice/hello", URL: "https://git.example.com/app.git", Form: api.FormGitLab}
	with := func(change func(n *api.NewBuildSource)) api.NewBuildSource {
		n := good
		change(&n)
		return n
	}
	at := func(address string) api.NewBuildSource { return with(func(n *api.NewBuildSource) { n.URL = address }) }
	for what, tt := range map[string]struct {
		want  api.NewBuildSource
		words string
	}{
		"no fleet":             {with(func(n *api.NewBuildSource) { n.Fleet = "" }), "fleet: not given"},
		"a form":               {with(func(n *api.NewBuildSource) { n.Form = "svn" }), "form: "},
		"both":                 {with(func(n *api.NewBuildSource) { n.Branch, n.Tags = "a", "b" }), "tags: "},
		"a branch":             {with(func(n *api.NewBuildSource) { n.Branch = "--upload-pack=x" }), "branch: "},
		"dots":                 {with(func(n *api.NewBuildSource) { n.Branch = "a..b" }), "branch: "},
		"a tag":                {with(func(n *api.NewBuildSource) { n.Tags = "v[" }), "tags: "},
		"no pass":              {with(func(n *api.NewBuildSource) { n.Username = "ann" }), "password: "},
		"a line":               {with(func(n *api.NewBuildSource) { n.Password = "a\nb" }), "password: "},
		"a host key for https": {with(func(n *api.NewBuildSource) { n.HostKey = key }), "host_key: "},
		"no host key":          {at("ssh://git@git.example.com/app.git"), "host_key: not given"},
		"two host keys":        {with(func(n *api.NewBuildSource) { n.URL, n.HostKey = "ssh://git@git.example.com/app.git", key+"\n"+key }), "host_key: "},
		"no key":               {with(func(n *api.NewBuildSource) { n.URL, n.HostKey = "ssh://git@git.example.com/app.git", "SHA256:abc" }), "host_key: "},
		"a password for ssh": {with(func(n *api.NewBuildSource) {
			n.URL, n.HostKey, n.Password = "ssh://git@git.example.com/app.git", key, "x"
		}), "password: "},
		"file":                  {at("file:///etc/passwd"), "url: "},
		"git":                   {at("git://git.example.com/app.git"), "url: "},
		"http":                  {at("http://git.example.com/app.git"), "url: "},
		"ext":                   {at("ext::sh -c touch% /tmp/x"), "url: "},
		"a path":                {at("/srv/app.git"), "url: "},
		"scp":                   {at("git@git.example.com:team/app.git"), "url: write it as ssh://git@git.example.com/team/app.git"},
		"credentials":           {at("https://ann:secret@git.example.com/app.git"), "url: an address holds no credentials"},
		"a token as user":       {at("https://ghp_x@git.example.com/app.git"), "url: an address holds no credentials"},
		"an option as host":     {at("ssh://-oProxyCommand=touch/app.git"), "url: "},
		"an option as user":     {at("ssh://-oProxyCommand=x@git.example.com/app.git"), "url: "},
		"an option after slash": {at("ssh://git.example.com/-oProxyCommand=x"), "url: "},
		"a quote":               {at("ssh://git.example.com/a'b.git"), "url: "},
		"a command":             {at("ssh://git.example.com/a;touch x"), "url: "},
		"an escape":             {at("https://git.example.com/a%27b.git"), "url: "},
		"up":                    {at("https://git.example.com/../x.git"), "url: "},
		"a query":               {at("https://git.example.com/x.git?service=x"), "url: "},
		"a fragment":            {at("https://git.example.com/x.git#y"), "url: "},
		"no path":               {at("https://git.example.com"), "url: "},
		"a port":                {at("https://git.example.com:0/x.git"), "url: "},
		"an odd host":           {at("https://git_.example.com/x.git"), "url: "},
		"nothing":               {at(""), "url: "},
	} {
		if a := s.do(alice, "POST", "/build-source/v1", tt.want); a.status != http.StatusBadRequest || !strings.Contains(a.body, tt.words) {
			t.Errorf("%s: got %d %s, want %q", what, a.status, a.body, tt.words)
		}
	}
	s.do(bob, "POST", "/build-source/v1", good).want(http.StatusNotFound)
	var limited string
	s.do(alice, "POST", "/api-key/user/full", api.NewKey{Name: "less", Level: "developer"}).want(http.StatusOK).into(&limited)
	s.do(limited, "POST", "/build-source/v1", good).want(http.StatusForbidden)
	over := s.source(alice, with(func(n *api.NewBuildSource) {
		n.URL, n.HostKey = "ssh://GIT.example.com:2222/team/app.git/", "git.example.com "+key+" root@git"
	}))
	if over.URL != "ssh://git@git.example.com:2222/team/app.git" || over.HostKey != key || !strings.HasPrefix(over.PublicKey, "ssh-ed25519 ") || over.Password {
		t.Errorf("over ssh: %+v", over)
	}
	s.do(limited, "POST", fmt.Sprintf("/build-source/v1/%d/build", over.ID), api.SourceBuild{Tag: "v1"}).want(http.StatusBadRequest)
	s.do(limited, "POST", fmt.Sprintf("/build-source/v1/%d/build", over.ID), nil).want(http.StatusAccepted)
	if job := s.nextJob(); !strings.Contains(job.Key, "PRIVATE KEY") || job.HostKey != key || job.Commit != "" || job.Ref != "refs/heads/main" {
		t.Errorf("the job is %+v", job)
	}
	for range 18 {
		s.source(alice, good)
	}
	s.source(alice, good)
	s.do(alice, "POST", "/build-source/v1", good).want(http.StatusRequestEntityTooLarge)
	var list []api.BuildSource
	s.do(alice, "GET", "/build-source/v1?fleet="+url.QueryEscape("alice/hello"), nil).want(http.StatusOK).into(&list)
	if len(list) != 20 {
		t.Errorf("%d sources", len(list))
	}
}

// A fleet that goes to another organization leaves its sources behind: their credentials are not the new owner's.
func TestSourcesDoNotGoWithAFleet(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	s.fleet(alice, "hello")
	s.source(alice, api.NewBuildSource{Fleet: "alice/hello", Password: "x"})
	var offer api.Transfer
	s.do(alice, "POST", "/transfer/v1", api.NewTransfer{Fleet: "alice/hello", Organization: "bob"}).want(http.StatusCreated).into(&offer)
	s.do(bob, "POST", fmt.Sprintf("/transfer/v1/%d/accept", offer.ID), nil).want(http.StatusOK)
	if n := s.number(`SELECT count(*) FROM build_source`); n != 0 {
		t.Errorf("%d sources are left", n)
	}
}

// However much comes to a webhook, others are not kept waiting.
func TestWebhooksAreBounded(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	s.fleet(alice, "hello")
	made, other := s.source(alice, api.NewBuildSource{Fleet: "alice/hello"}), s.source(alice, api.NewBuildSource{Fleet: "alice/hello"})
	limited := 0
	for i := range 70 {
		if a := s.signed(made, "ping", fmt.Sprint(i), `{}`, fmt.Sprintf("198.51.%d.1", i)); a.status == http.StatusTooManyRequests {
			limited++
			if a.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		}
	}
	if limited != 10 {
		t.Errorf("%d of 70 to one webhook were refused, want 10", limited)
	}
	s.signed(other, "ping", "x", `{}`).want(http.StatusAccepted)
}
