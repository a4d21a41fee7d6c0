package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/ledger"
	"github.com/roadstead-io/roadstead/internal/roletest"
	signerrole "github.com/roadstead-io/roadstead/internal/signer"
)

// entries are what somebody reads of the audit log, oldest first.
func (s *server) entries(token, filter string) []map[string]any {
	s.Helper()
	query := "/v7/audit_entry?$orderby=id%20asc"
	if filter != "" {
		query += "&$filter=" + strings.NewReplacer(" ", "%20", "'", "%27").Replace(filter)
	}
	return s.do(token, "GET", query, nil).want(http.StatusOK).rows()
}

// acts are the acts of entries, without repeats of the same after each other.
func acts(entries []map[string]any) []string {
	var out []string
	for _, e := range entries {
		out = append(out, fmt.Sprint(e["act"]))
	}
	return slices.Compact(out)
}

// export is what somebody gets of the whole log.
func (s *server) export(token string) (*ledger.Report, string) {
	s.Helper()
	a := s.do(token, "GET", "/audit/v1/export", nil).want(http.StatusOK)
	r, err := ledger.Verify(strings.NewReader(a.body), nil)
	s.must(err)
	return r, a.body
}

// until polls for a condition.
func (s *server) until(what string, ok func() bool) {
	s.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			s.Fatalf("it did not come to pass: %s", what)
		}
	}
}

// What people do to resources is in the log, with who, from where, and what it was before; values that may be secrets are not.
func TestWritesOfPeopleAreRecorded(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	fleet := s.fleet(alice, "hello")
	s.do(alice, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"is_public": true}).want(http.StatusOK)
	s.do(alice, "POST", "/v7/application_environment_variable", map[string]any{"application": fleet, "name": "PASSWORD", "value": "hunter2secret"}).
		want(http.StatusCreated)
	s.do(alice, "POST", "/v7/application_tag", map[string]any{"application": fleet, "tag_key": "site", "value": "north"}).want(http.StatusCreated)
	s.do(alice, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"is_public": false}).want(http.StatusOK)
	s.do(alice, "DELETE", fmt.Sprintf("/v7/application(%d)", fleet), nil).want(http.StatusOK)
	list := s.entries(alice, fmt.Sprintf("application eq %d", fleet))
	want := []string{"application.create", "application.update", "application_environment_variable.create", "application_tag.create", "application.update", "application.delete"}
	if got := acts(list); !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	all := fmt.Sprint(list)
	for _, s := range []string{"hunter2secret"} {
		if strings.Contains(all, s) {
			t.Errorf("the log holds %q", s)
		}
	}
	for _, s := range []string{"PASSWORD", "north"} {
		if !strings.Contains(all, s) {
			t.Errorf("the log does not hold %q", s)
		}
	}
	update := list[4]
	if update["by_name"] != "alice" || update["address"] == "" || update["request"] == "" || update["thing_name"] != "alice/hello" || update["result"] != "done" ||
		fmt.Sprint(update["detail"]) != "map[after:map[is_public:false] before:map[is_public:true]]" {
		t.Errorf("%v", update)
	}
	if list[5]["organization"] == float64(0) {
		t.Errorf("the fleet is gone, and with it whose it was: %v", list[5])
	}
}

// Nobody reads what others did: not another tenant, not a key below a whole one, no device.
func TestTheLogIsForItsOwn(t *testing.T) {
	s := newServer(t)
	all := s.principals()
	mallory := s.user("mallory")
	s.fleet(mallory, "theirs")
	for _, p := range all {
		a := s.do(p.token, "GET", "/v7/audit_entry?$select=id,by_name,about_user,thing_name", nil)
		switch p.name {
		case "session", "named key":
			if rows := a.want(http.StatusOK).rows(); len(rows) == 0 || strings.Contains(fmt.Sprint(rows), "mallory") {
				t.Errorf("%s: %v", p.name, rows)
			}
		case "support staff":
			for _, r := range a.want(http.StatusOK).rows() {
				if r["thing_name"] != "sue" && r["by_name"] != "sue" {
					t.Errorf("%s reads %v", p.name, r)
				}
			}
		default:
			if p.kind == "user" { // members below administrators: only what they did, and what was done to them
				for _, r := range a.want(http.StatusOK).rows() {
					if r["thing_name"] != map[string]string{"member of level 1": "olga", "member of level 2": "otto", "member of level 3": "dora"}[p.name] {
						t.Errorf("%s reads %v", p.name, r)
					}
				}
				continue
			}
			if a.status == http.StatusOK {
				t.Errorf("%s: %d %s", p.name, a.status, a.body)
			}
		}
	}
	for _, write := range []struct{ method, path string }{
		{"POST", "/v7/audit_entry"}, {"PATCH", "/v7/audit_entry(1)"}, {"DELETE", "/v7/audit_entry(1)"}, {"DELETE", "/v7/audit_entry?$filter=id%20gt%200"},
	} {
		if a := s.do(all[1].token, write.method, write.path, map[string]any{"act": "x"}); a.status != http.StatusForbidden {
			t.Errorf("%s %s: %d %s", write.method, write.path, a.status, a.body)
		}
	}
	s.until("all is sealed", func() bool {
		r, body := s.export(mallory)
		if !r.Whole() {
			t.Fatalf("%v", r.Problems)
		}
		for _, secret := range []string{"alice", "olga", "otto", "hello"} {
			if strings.Contains(body, secret) {
				t.Fatalf("another tenant's export says %q", secret)
			}
		}
		return r.Links > 0 && strings.Contains(body, "theirs")
	})
}

// A privileged act that cannot be recorded does not happen.
func TestWhatCannotBeRecordedDoesNotHappen(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	fleet := s.fleet(alice, "hello")
	dev := s.device(alice, fleet, api.DeviceUUID(strings.Repeat("a", 32)))
	var key, provisioning string
	s.do(alice, "POST", "/api-key/user/full", api.NewKey{Name: "ci"}).want(http.StatusOK).into(&key)
	s.do(alice, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", fleet), api.NewKey{}).want(http.StatusOK).into(&provisioning)
	s.exec(s.refuseEntries())
	device := fmt.Sprintf("/v7/device(%d)", dev.ID)
	for _, act := range []struct {
		token, method, path string
		body                any
	}{
		{alice, "POST", "/v7/application", map[string]any{"app_name": "more", "organization": 2, "is_for__device_type": s.deviceType("generic-amd64")}},
		{alice, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"is_public": true}},
		{alice, "DELETE", fmt.Sprintf("/v7/application(%d)", fleet), nil},
		{key, "PATCH", device, map[string]any{"is_accessible_by_support_until__date": time.Now().Add(time.Hour).UnixMilli()}},
		{key, "DELETE", device, nil},
		{alice, "POST", "/v7/device_environment_variable", map[string]any{"device": dev.ID, "name": "A", "value": "b"}},
		{alice, "POST", "/v7/team", map[string]any{"belongs_to__organization": 2, "name": "crew"}},
		{provisioning, "POST", "/device/register", api.Register{Application: fleet, UUID: api.DeviceUUID(strings.Repeat("b", 32)), DeviceType: "generic-amd64"}},
		{alice, "POST", "/download-config", map[string]any{"appId": fleet, "version": "6.0.0", "deviceType": "generic-amd64"}},
	} {
		if a := s.do(act.token, act.method, act.path, act.body); a.status < 500 || strings.Contains(a.body, "recorded nowhere") {
			t.Errorf("%s %s: %d %s", act.method, act.path, a.status, a.body)
		}
	}
	if a := s.role(api.RoleAdmin, "POST", "/internal/v1/users/support", api.SupportStaff{User: "alice", Support: true}); a.status < 500 {
		t.Errorf("support staff was appointed: %d %s", a.status, a.body)
	}
	if a := s.role(api.RoleAdmin, "POST", "/internal/v1/backup", nil); s.sql == "" && a.status < 500 {
		t.Errorf("a backup was made: %d", a.status)
	}
	s.exec(s.allowEntries())
	if rows := s.do(alice, "GET", "/v7/application?$select=id,is_public&$filter=organization/any(o:o/id%20ne%200)%20and%20is_of__class%20eq%20'fleet'", nil).rows(); len(rows) != 1 || rows[0]["is_public"] != false {
		t.Errorf("fleets: %v", rows)
	}
	if rows := s.do(alice, "GET", "/v7/device?$select=uuid,is_accessible_by_support_until__date", nil).rows(); len(rows) != 1 || rows[0]["is_accessible_by_support_until__date"] != nil {
		t.Errorf("devices: %v", rows)
	}
	for _, resource := range []string{"team", "device_environment_variable"} {
		if rows := s.do(alice, "GET", "/v7/"+resource+"?$select=id", nil).rows(); len(rows) != 0 {
			t.Errorf("%s: %v", resource, rows)
		}
	}
	// A device's own reports and polls need no entry, and go on all the while.
	s.exec(s.refuseEntries())
	s.do(dev.APIKey, "GET", "/device/v3/"+string(dev.UUID)+"/state", nil).want(http.StatusOK)
	s.do(dev.APIKey, "PATCH", "/device/v3/state", map[string]any{string(dev.UUID): map[string]any{"cpu_usage": 5}}).want(http.StatusOK)
}

// refuseEntries makes the table of entries take nothing, and allowEntries lets it again.
func (s *server) refuseEntries() string {
	if s.sql != "" {
		return `ALTER TABLE audit_entry ADD CONSTRAINT audit_none CHECK (act = 'nothing') NOT VALID`
	}
	return `CREATE TRIGGER audit_none BEFORE INSERT ON audit_entry BEGIN SELECT RAISE(ABORT, 'recorded nowhere'); END`
}

func (s *server) allowEntries() string {
	if s.sql != "" {
		return `ALTER TABLE audit_entry DROP CONSTRAINT audit_none`
	}
	return `DROP TRIGGER audit_none`
}

// One write of many rows is few entries.
func TestAWriteOfManyRowsIsOneEntry(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	fleet := s.fleet(alice, "hello")
	for i := range 25 {
		s.do(alice, "POST", "/v7/device", map[string]any{"belongs_to__application": fleet, "is_of__device_type": s.deviceType("generic-amd64"),
			"uuid": fmt.Sprintf("%032x", i+1)}).want(http.StatusCreated)
	}
	s.do(alice, "PATCH", "/v7/device?$filter=id%20gt%200", map[string]any{"note": "private words"}).want(http.StatusOK)
	list := s.entries(alice, "act eq 'device.update'")
	if len(list) != 1 || !strings.Contains(fmt.Sprint(list[0]["detail"]), "rows:25") || !strings.Contains(fmt.Sprint(list[0]["detail"]), "columns:[note]") ||
		strings.Contains(fmt.Sprint(list), "private words") {
		t.Errorf("%v", list)
	}
}

// Whoever floods the server with writes that are refused fills no table.
func TestRefusedWritesAreRecordedAndBounded(t *testing.T) {
	s := newServer(t)
	alice, mallory := s.user("alice"), s.user("mallory")
	s.fleet(alice, "hello")
	s.exec(`UPDATE application SET is_public = 1`)
	for i := range 300 {
		a := s.do(mallory, "DELETE", "/v7/release?$filter=id%20eq%20"+itoa(i), nil)
		_ = a
		s.do(mallory, "POST", "/v7/audit_entry", map[string]any{"act": "x"}).want(http.StatusForbidden)
	}
	s.until("a refusal is recorded", func() bool { return len(s.entries(mallory, "result eq 'refused'")) > 0 })
	s.stop()
	s.start()
	list := s.entries(mallory, "result eq 'refused'")
	if len(list) > 4 || list[0]["act"] != "request.refuse" || !strings.Contains(fmt.Sprint(list[0]["thing_name"]), "POST /v7/audit_entry") {
		t.Errorf("%d entries: %v", len(list), list)
	}
	if rows := s.entries(alice, "result eq 'refused'"); len(rows) != 0 {
		t.Errorf("another tenant reads of it: %v", rows)
	}
}

// The customer sees what support staff looked at and did, and the grant ends by itself, for open streams too.
func TestSupportIsSeenAndEnds(t *testing.T) {
	s := newServer(t)
	alice, sue := s.user("alice"), s.user("sue")
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/support", api.SupportStaff{User: "sue", Support: true}).want(http.StatusOK)
	var staff []api.User
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/support/list", nil).want(http.StatusOK).into(&staff)
	if len(staff) != 1 || staff[0].Username != "sue" {
		t.Errorf("staff: %v", staff)
	}
	fleet := s.fleet(alice, "hello")
	dev := s.device(alice, fleet, api.DeviceUUID(strings.Repeat("a", 32)))
	other := s.device(alice, fleet, api.DeviceUUID(strings.Repeat("b", 32)))
	device := fmt.Sprintf("/v7/device(%d)", dev.ID)
	grant := func(d time.Duration) any {
		return map[string]any{"is_accessible_by_support_until__date": time.Now().Add(d).UnixMilli()}
	}
	s.do(alice, "PATCH", device, grant(31*24*time.Hour)).want(http.StatusBadRequest)
	s.do(alice, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), grant(31*24*time.Hour)).want(http.StatusBadRequest)
	s.do(sue, "GET", "/v7/device?$select=id", nil).want(http.StatusOK)
	if rows := s.entries(alice, "is_support eq true"); len(rows) != 0 {
		t.Errorf("before there is a grant: %v", rows)
	}
	s.do(alice, "PATCH", device, grant(30*24*time.Hour)).want(http.StatusOK)
	for range 5 { // one entry, not five
		if rows := s.do(sue, "GET", device+"?$select=id,device_name", nil).want(http.StatusOK).rows(); len(rows) != 1 {
			t.Fatalf("the grant gives nothing: %v", rows)
		}
	}
	s.do(sue, "GET", "/v7/device?$select=id", nil).want(http.StatusOK)
	s.do(sue, "GET", fmt.Sprintf("/v7/device(%d)?$select=id", other.ID), nil).want(http.StatusOK) // sees nothing there
	s.do(sue, "PATCH", device, map[string]any{"note": "checked"}).want(http.StatusOK)
	s.do(sue, "DELETE", fmt.Sprintf("/v7/device(%d)", other.ID), nil)
	s.until("looks are recorded", func() bool { return len(s.entries(alice, "is_support eq true")) >= 3 })
	list := s.entries(alice, "is_support eq true")
	got := acts(list)
	slices.Sort(got)
	if len(list) != 3 || !slices.Equal(got, []string{"device.update", "support.list", "support.look"}) {
		t.Errorf("%v", list)
	}
	for _, e := range list {
		if e["by_name"] != "sue" || e["thing"] != "device" || e["thing_id"] != float64(dev.ID) || e["address"] == "" {
			t.Errorf("%v", e)
		}
	}
	if got := acts(s.entries(alice, "act eq 'support.enable'")); len(got) != 1 {
		t.Errorf("the grant itself is not in the log: %v", got)
	}

	// A stream that is open when the time is over ends within two seconds.
	s.do(alice, "PATCH", device, grant(1500*time.Millisecond)).want(http.StatusOK)
	began := time.Now()
	s.do(sue, "GET", "/device/v2/"+string(dev.UUID)+"/logs?stream=1", nil)
	if took := time.Since(began); took < time.Second || took > 4*time.Second {
		t.Errorf("the stream ended after %s, the grant after 1.5 s", took)
	}
	if rows := s.do(sue, "GET", device+"?$select=id", nil).rows(); len(rows) != 0 {
		t.Errorf("after the end: %v", rows)
	}
	// The customer ends it.
	s.do(alice, "PATCH", device, grant(time.Hour)).want(http.StatusOK)
	ended := make(chan time.Time, 1)
	go func() {
		s.do(sue, "GET", "/device/v2/"+string(dev.UUID)+"/logs?stream=1", nil)
		ended <- time.Now()
	}()
	s.until("the stream is seen", func() bool { return len(s.entries(alice, "act eq 'support.look'")) >= 1 })
	s.do(alice, "PATCH", device, map[string]any{"is_accessible_by_support_until__date": nil}).want(http.StatusOK)
	closed := time.Now()
	select {
	case at := <-ended:
		if at.Sub(closed) > 2*time.Second {
			t.Errorf("the stream ended %s after the grant", at.Sub(closed))
		}
	case <-time.After(5 * time.Second):
		t.Error("the stream goes on without a grant")
	}
	if got := s.entries(alice, "act eq 'support.disable'"); len(got) != 1 {
		t.Errorf("the end is not in the log: %v", got)
	}
}

// withSigner gives a server a signer of its own.
func (s *server) withSigner() (dir string) {
	s.Helper()
	dir = filepath.Join(s.dir, api.RoleSigner)
	s.must(signerrole.NewKey(filepath.Join(dir, signerrole.KeyFile)))
	s.must(signerrole.NewAuditKey(filepath.Join(dir, signerrole.AuditKeyFile)))
	s.must(signerrole.NewStatementKey(filepath.Join(dir, signerrole.StatementKeyFile)))
	s.must(signerrole.NewTrustKey(filepath.Join(dir, signerrole.TrustKeyFile)))
	s.must(signerrole.NewChannelAuthority(filepath.Join(dir, signerrole.ChannelCAFile)))
	role, err := signerrole.New(signerrole.Config{Dir: dir, Site: api.Site{Domain: "roadstead.test"}, Peers: map[string]string{api.RoleAPI: s.addr}},
		(&roletest.Log{}).Logger())
	s.must(err)
	ln := roletest.Listen(s.TB)
	roletest.Run(s.TB, func(ctx context.Context) error { return role.Run(ctx, ln) })
	s.stop()
	s.peers = map[string]string{api.RoleSigner: ln.Addr().String()}
	s.start()
	return dir
}

// Who has the database, and makes all of the chain fit what they changed, is given away by the signer, who does not go on from there.
func TestTheSignerGivesARewrittenLogAway(t *testing.T) {
	s := newServer(t)
	dir := s.withSigner()
	alice := s.user("alice")
	s.fleet(alice, "hello")
	s.role(api.RoleAdmin, "POST", "/internal/v1/audit/checkpoint", nil).want(http.StatusOK)
	var keys []api.AuditKey
	s.do("", "GET", "/audit/v1/keys", nil).want(http.StatusOK).into(&keys)
	own, err := signerrole.AuditKey(filepath.Join(dir, signerrole.AuditKeyFile))
	if err != nil || len(keys) != 1 || keys[0] != own {
		t.Fatalf("keys: %v, want %v, %v", keys, own, err)
	}
	whole := s.role(api.RoleAdmin, "POST", "/internal/v1/audit/export", nil).want(http.StatusOK).body
	r, err := ledger.Verify(strings.NewReader(whole), keys)
	if err != nil || !r.Whole() || r.Signed != r.Last || r.Links != 0 || r.Last < 2 {
		t.Fatalf("%+v %v", r, err)
	}
	last, err := signerrole.LastAudit(filepath.Join(dir, signerrole.AuditFile))
	s.must(err)

	// The thief drops the triggers and the checkpoints, and seals everything anew with another story.
	for trigger, table := range map[string]string{"audit_entry_update": "audit_entry", "audit_entry_place": "audit_entry", "audit_chain_update": "audit_chain", "audit_checkpoint_delete": "audit_checkpoint"} {
		query := `DROP TRIGGER ` + trigger
		if s.sql != "" {
			query += ` ON ` + table
		}
		s.exec(query)
	}
	s.exec(`UPDATE audit_entry SET by_name = 'somebody else' WHERE act = 'application.create'`)
	s.exec(`DELETE FROM audit_checkpoint`)
	s.reseal(whole)
	r, err = ledger.Verify(strings.NewReader(s.role(api.RoleAdmin, "POST", "/internal/v1/audit/export", nil).body), keys)
	if err != nil || !r.Whole() || r.Signed != 0 {
		t.Fatalf("the chain does not fit: %+v %v", r, err)
	}
	s.fleet(alice, "another")
	if a := s.role(api.RoleAdmin, "POST", "/internal/v1/audit/checkpoint", nil); a.status < 500 {
		t.Errorf("the signer signed a rewritten log: %d %s", a.status, a.body)
	}
	body := s.role(api.RoleAdmin, "POST", "/internal/v1/audit/export", nil).body
	r, err = ledger.Verify(strings.NewReader(body), keys, *last)
	if err != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Text, "is not the one that was signed") {
		t.Errorf("%+v %v", r, err)
	}
	s.stop()
	if !strings.Contains(s.log.String(), "the signer refuses") {
		t.Error("nothing is said in the server's log")
	}
}

// reseal gives all entries a chain that fits what they say now. It begins anew when the server seals an entry in between: the export is one itself.
func (s *server) reseal(export string) {
	s.Helper()
	s.until("everything is sealed anew", func() (done bool) {
		body := s.role(api.RoleAdmin, "POST", "/internal/v1/audit/export", nil).body
		if body == export {
			s.Fatal("nothing was changed")
		}
		lines, hash := resealed(s.TB, body)
		s.must(s.running.WriteElsewhere(s.Context(), func(tx *db.Tx) error {
			end, err := tx.ExecContext(s.Context(), `UPDATE audit_chain SET hash = ? WHERE seq = ?`, hash.String(), lines[len(lines)-1].Seq)
			if err != nil {
				return err
			}
			n, err := end.RowsAffected()
			if done = n == 1; !done || err != nil {
				return err
			}
			for _, e := range lines {
				if _, err := tx.ExecContext(s.Context(), `UPDATE audit_entry SET hash = ? WHERE seq = ?`, e.Hash, e.Seq); err != nil {
					return err
				}
			}
			return nil
		}))
		return done
	})
}

// resealed are the entries of an export with the hashes that fit what they say, and the last of these.
func resealed(tb testing.TB, export string) (entries []*api.AuditEntry, hash ledger.Hash) {
	tb.Helper()
	for d := json.NewDecoder(strings.NewReader(export)); d.More(); {
		var line api.AuditLine
		if err := d.Decode(&line); err != nil {
			tb.Fatal(err)
		}
		if line.Entry != nil {
			hash = ledger.Next(hash, line.Entry.Seq, ledger.Digest(line.Entry))
			line.Entry.Hash = hash.String()
			entries = append(entries, line.Entry)
		}
	}
	return entries, hash
}

// Whom a device lets into its operating system is in the log, once for a login, and marked when it was by a support grant.
func TestEnteringADeviceIsRecorded(t *testing.T) {
	s := newServer(t)
	alice, sue := s.user("alice"), s.user("sue")
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/support", api.SupportStaff{User: "sue", Support: true}).want(http.StatusOK)
	dev := s.device(alice, s.fleet(alice, "hello"), api.DeviceUUID(strings.Repeat("a", 32)))
	for _, token := range []string{alice, sue} {
		var me struct{ ActorTypeID int64 }
		s.do(token, "GET", "/actor/v1/whoami", nil).want(http.StatusOK).into(&me)
		s.do(token, "POST", "/v7/user__has__public_key", map[string]any{"title": "laptop", "public_key": publicKey(t, "x"), "user": me.ActorTypeID}).
			want(http.StatusCreated)
	}
	ask := func(name string) string {
		return s.do(dev.APIKey, "GET", "/auth/v1/public-keys/"+name, nil).want(http.StatusOK).body
	}
	for range 3 {
		if ask("alice") == "" || ask("sue") != "" {
			t.Fatal("the wrong people are let in")
		}
	}
	s.do(alice, "PATCH", fmt.Sprintf("/v7/device(%d)", dev.ID), map[string]any{"is_accessible_by_support_until__date": time.Now().Add(time.Hour).UnixMilli()}).
		want(http.StatusOK)
	for range 3 {
		if ask("sue") == "" {
			t.Fatal("support is not let in")
		}
	}
	list := s.entries(alice, "act eq 'device.enter'")
	if len(list) != 2 || list[0]["thing_name"] != "alice" || list[0]["is_support"] != false || list[1]["thing_name"] != "sue" || list[1]["is_support"] != true {
		t.Errorf("%v", list)
	}
}

// What is done past the resources is in the log as well, for whoever administers what it was done to: code that is pushed, keys, users.
func TestActsPastTheResourcesAreRecorded(t *testing.T) {
	c := newCrew(t)
	c.join("developer")
	c.begin(c.key)
	c.do(c.worker, "POST", fmt.Sprintf("/api-key/device/%d/device-key", c.dev.ID), api.NewKey{Name: "of the device"}).want(http.StatusOK)
	c.do(c.worker, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", c.fleet), api.NewKey{Name: "of the fleet"}).want(http.StatusOK)
	for act, name := range map[string]string{"release.build": "", "key.create": "of the device", "key.create ": "of the fleet"} {
		filter := fmt.Sprintf("act eq '%s' and organization eq %d and application eq %d and by_name eq 'worker'", strings.TrimSpace(act), c.org, c.fleet)
		if name != "" {
			filter += " and thing_name eq '" + name + "'"
		}
		if list := c.entries(c.owner, filter); len(list) != 1 {
			t.Errorf("%s %s: %v", act, name, list)
		}
	}
	if list := c.entries(c.owner, "act eq 'user.create'"); len(list) != 1 || list[0]["thing_name"] != "owner" {
		t.Errorf("the owner reads of these users that were made: %v", list)
	}
	c.exec(c.refuseEntries())
	if a := c.role(api.RoleBuilder, "POST", "/internal/v1/builds", api.BuildRequest{Slug: "owner/harbour"}, "Authorization: Bearer "+c.key); a.status < 500 {
		t.Errorf("a build that cannot be recorded: %d %s", a.status, a.body)
	}
	if a := c.role(api.RoleAdmin, "POST", "/internal/v1/users", api.NewUser{Email: "new@example.com"}); a.status < 500 {
		t.Errorf("a user that cannot be recorded: %d %s", a.status, a.body)
	}
	c.exec(c.allowEntries())
	if n := c.number(`SELECT count(*) FROM "user" WHERE email = 'new@example.com'`) + c.number(`SELECT count(*) FROM "release" WHERE status = 'running'`); n != 1 {
		t.Errorf("%d users and builds, want the one build", n)
	}
}

// An invitation is a secret that stands in a path: the log says that its use was refused, and not what it was.
func TestTheLogHoldsNoInvitation(t *testing.T) {
	s := newServer(t)
	alice, mallory := s.user("alice"), s.user("mallory")
	id := s.made(alice, "organization_invite", map[string]any{"invitee": "bob@example.com", "is_invited_to__organization": s.id(alice, "organization?$select=id")})
	var link api.Invitation
	s.do(alice, "POST", fmt.Sprintf("/org/v1/invitations/%d/link", id), nil).want(http.StatusOK).into(&link)
	s.do(mallory, "POST", "/org/v1/invitation/"+link.Token, nil).want(http.StatusForbidden)
	s.until("the refusal is recorded", func() bool { return len(s.entries(mallory, "act eq 'request.refuse'")) == 1 })
	if body := s.role(api.RoleAdmin, "POST", "/internal/v1/audit/export", nil).want(http.StatusOK).body; strings.Contains(body, link.Token) {
		t.Error("the log holds the invitation")
	}
}

// What was done in a fleet before it came to an organization is for those of the former one.
func TestTheLogStaysWithTheFormerOrganization(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	fleet := s.fleet(alice, "hello")
	s.do(alice, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"is_public": true}).want(http.StatusOK)
	var offer api.Transfer
	s.do(alice, "POST", "/transfer/v1", api.NewTransfer{Fleet: "alice/hello", Organization: "bob"}).want(http.StatusCreated).into(&offer)
	s.do(bob, "POST", fmt.Sprintf("/transfer/v1/%d/accept", offer.ID), nil).want(http.StatusOK)
	s.do(bob, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"is_public": false}).want(http.StatusOK)
	filter := fmt.Sprintf("application eq %d and act ne 'transfer.accept' and act ne 'transfer.offer'", fleet)
	if list := s.entries(bob, filter); !slices.Equal(acts(list), []string{"application.update"}) || list[0]["by_name"] != "bob" {
		t.Errorf("the new organization reads %v", list)
	}
	if list := s.entries(alice, filter); len(list) < 2 || strings.Contains(fmt.Sprint(list), "bob") {
		t.Errorf("the former one reads %v", list)
	}
}
