package e2e_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// TestBalenaCLIWhole runs every command of the real balena CLI, unmodified, that asks something of the API and needs no image
// tool: each with its success and with its named failure. One file of testdata/balena is one noun; see README there.
func TestBalenaCLIWhole(t *testing.T) {
	cli := os.Getenv("ROADSTEAD_BALENA_CLI")
	if cli == "" {
		t.Skip("ROADSTEAD_BALENA_CLI names no balena CLI; make test installs it")
	}
	who := folk(t)
	hostReleases(t)
	s := &cliStory{ctx: t.Context(), cli: cli, people: who}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/balena",
		Deadline:            time.Now().Add(20 * time.Minute), // minutes on a machine of its own
		RequireExplicitExec: true,
		Setup:               s.setup,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"balena": s.balena, "exits": s.exits, "user": s.user, "api": s.api, "row": s.row, "field": fleettest.Field, "uuid": cliUUID,
			"device": s.device, "release": s.release, "report": s.report, "poll": s.poll, "says": s.says, "large": cliLarge,
			"take-in": s.takeIn, "role": s.role, "tail": s.tail, "text": cliText,
			"enrolled": s.enrolled, "typed": s.typed,
		},
	})
}

// cliStory holds what the scripts of balena's CLI share.
type cliStory struct {
	ctx    context.Context // of the whole test: the scripts run in parallel, each on its own
	cli    string
	people map[string]person
}

func (s *cliStory) setup(env *testscript.Env) error {
	for _, kv := range p.environment()[len(os.Environ()):] {
		k, v, _ := strings.Cut(kv, "=")
		env.Setenv(k, v)
	}
	home := filepath.Join(env.WorkDir, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		return err
	}
	env.Setenv("HOME", home)
	env.Setenv("TZ", "UTC")
	unique := "c" + strconv.FormatUint(rand.Uint64()%1e9, 36)
	env.Setenv("UNIQUE", unique)
	env.Setenv("FLEET", "fleet-"+unique)
	env.Setenv("ORG", s.people["admin"].Username)
	env.Setenv("DOMAIN", p.domain)
	for name, who := range s.people {
		key := strings.ToUpper(name)
		env.Setenv(key+"_EMAIL", who.Email)
		env.Setenv(key+"_USER", who.Username)
		env.Setenv(key+"_PASSWORD", who.Password)
		env.Setenv(key+"_TOKEN", who.session)
	}
	return s.become(env.WorkDir, "admin", env.Setenv)
}

// become gives the scripts a session of somebody: a data directory of the CLI's with the token in it.
func (s *cliStory) become(work, name string, setenv func(k, v string)) error {
	who, ok := s.people[name]
	if !ok && name != "nobody" {
		return fmt.Errorf("there is no user %q", name)
	}
	dir := filepath.Join(work, "balena-"+name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if ok {
		if err := os.WriteFile(filepath.Join(dir, "token"), []byte(who.session), 0o600); err != nil {
			return err
		}
	}
	setenv("BALENARC_DATA_DIRECTORY", dir)
	setenv("TOKEN", who.session)
	return nil
}

// user goes on as somebody else: user admin|member|stranger|nobody.
func (s *cliStory) user(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: user NAME")
	}
	ts.Check(s.become(ts.Getenv("WORK"), args[0], ts.Setenv))
}

// balena runs the CLI: it must end with 0, or with ! before it with 1, which is what it says for everything that failed.
func (s *cliStory) balena(ts *testscript.TestScript, neg bool, args []string) {
	want := 0
	if neg {
		want = 1
	}
	s.run(ts, want, args)
}

// exits runs the CLI, which must end with another code: exits CODE ARGS…
func (s *cliStory) exits(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: exits CODE ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	s.run(ts, want, args[1:])
}

func (s *cliStory) run(ts *testscript.TestScript, want int, args []string) {
	err := ts.Exec(s.cli, args...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("balena %s: exit code %d, want %d", strings.Join(args, " "), code, want)
	}
}

// api makes a request that no command makes: api METHOD PATH [JSON]. The answer's body goes to the file answer.
func (s *cliStory) api(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: [!] api METHOD PATH [JSON]")
	}
	var body any
	if len(args) == 3 {
		body = json.RawMessage(args[2])
	}
	got, err := p.ask(s.ctx, args[0], "api", args[1], ts.Getenv("TOKEN"), body)
	ts.Check(err)
	if (got.status >= 400) != neg {
		ts.Fatalf("%s %s: %d %s", args[0], args[1], got.status, got.body)
	}
	ts.Check(os.WriteFile(ts.MkAbs("answer"), []byte(got.body), 0o600))
}

// row looks for the one row that a filter finds: row NAME RESOURCE FILTER [EXPAND], with texts in double quotes. Its id goes to
// NAME, the row to the file answer.
func (s *cliStory) row(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 || len(args) > 4 || neg {
		ts.Fatalf("usage: row NAME RESOURCE FILTER [EXPAND]")
	}
	query := url.Values{"$filter": {strings.ReplaceAll(args[2], `"`, "'")}}
	if len(args) == 4 {
		query.Set("$expand", args[3])
	}
	row, err := p.row(s.ctx, http.MethodGet, "/v7/"+args[1]+"?"+query.Encode(), ts.Getenv("TOKEN"), nil)
	ts.Check(err)
	data, err := json.Marshal(row)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("answer"), data, 0o600))
	ts.Setenv(args[0], fmt.Sprintf("%.0f", row["id"]))
}

// device registers a device: device NAME FLEET sets NAME_UUID, NAME_ID and NAME_KEY.
func (s *cliStory) device(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: device NAME FLEET")
	}
	token := s.people["admin"].session
	slug := args[1]
	if !strings.Contains(slug, "/") {
		slug = ts.Getenv("ORG") + "/" + slug
	}
	path := "/v7/application?$expand=is_for__device_type($select=slug)&$filter=" + url.PathEscape("slug eq '"+slug+"'")
	fleet, err := p.row(s.ctx, http.MethodGet, path, token, nil)
	ts.Check(err)
	got, err := p.ask(s.ctx, http.MethodPost, "api", "/api-key/v2/", token, map[string]any{
		"actorType": "application", "actorTypeId": fleet["id"], "roles": []string{"provisioning-api-key"}, "expiryDate": nil,
	})
	ts.Check(err)
	var key string
	ts.Check(json.Unmarshal([]byte(got.body), &key))
	uuid := randomHex()
	types, _ := fleet["is_for__device_type"].([]any)
	kind, _ := types[0].(map[string]any)
	made, err := p.row(s.ctx, http.MethodPost, "/device/register", key, map[string]any{
		"application": fleet["id"], "uuid": uuid, "device_type": kind["slug"],
	})
	ts.Check(err)
	ts.Setenv(args[0]+"_UUID", uuid)
	ts.Setenv(args[0]+"_ID", fmt.Sprintf("%.0f", made["id"]))
	ts.Setenv(args[0]+"_KEY", made["api_key"].(string))
}

// release makes a release out of small images: release NAME FLEET [--draft] SERVICE… sets NAME_COMMIT and NAME_ID.
func (s *cliStory) release(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 || neg {
		ts.Fatalf("usage: release NAME FLEET [--draft] SERVICE…")
	}
	project := ts.MkAbs("release-" + args[0])
	ts.Check(os.MkdirAll(project, 0o755))
	deploy := []string{"deploy", args[1], project}
	for _, arg := range args[2:] {
		if strings.HasPrefix(arg, "--") {
			deploy = append(deploy, arg)
			continue
		}
		image := ts.MkAbs(args[0] + "-" + arg + ".tar")
		ts.Check(saveImage(image))
		deploy = append(deploy, "--archive", arg+"="+image)
	}
	_, err := said(p.command("roadstead", deploy...))
	ts.Check(err)
	path := "/v7/release?$top=1&$orderby=id%20desc&$filter=" + url.PathEscape("belongs_to__application/any(a:a/app_name eq '"+args[1]+"')")
	row, err := p.row(s.ctx, http.MethodGet, path, s.people["admin"].session, nil)
	ts.Check(err)
	ts.Setenv(args[0]+"_COMMIT", row["commit"].(string))
	ts.Setenv(args[0]+"_ID", fmt.Sprintf("%.0f", row["id"]))
}

// report is a device's report of its state: report NAME JSON.
func (s *cliStory) report(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: report NAME JSON")
	}
	state := map[string]json.RawMessage{ts.Getenv(args[0] + "_UUID"): json.RawMessage(args[1])}
	got, err := p.ask(s.ctx, http.MethodPatch, "api", "/device/v3/state", ts.Getenv(args[0]+"_KEY"), state)
	ts.Check(err)
	if got.status != http.StatusOK {
		ts.Fatalf("report of %s: %d %s", args[0], got.status, got.body)
	}
}

// poll asks for a device's target state as the device does, and writes it to the file answer: poll NAME.
func (s *cliStory) poll(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: poll NAME")
	}
	got, err := p.ask(s.ctx, http.MethodGet, "api", "/device/v3/"+ts.Getenv(args[0]+"_UUID")+"/state", ts.Getenv(args[0]+"_KEY"), nil)
	ts.Check(err)
	if got.status != http.StatusOK {
		ts.Fatalf("state of %s: %d %s", args[0], got.status, got.body)
	}
	ts.Check(os.WriteFile(ts.MkAbs("answer"), []byte(got.body), 0o600))
}

// says sends a line of a device's log: says NAME TEXT [SERVICE ID]; without a service it is the system's.
func (s *cliStory) says(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args) > 3 || neg {
		ts.Fatalf("usage: says NAME TEXT [SERVICE ID]")
	}
	line := map[string]any{"message": args[1], "timestamp": time.Now().UnixMilli(), "isSystem": len(args) == 2}
	if len(args) == 3 {
		id, err := strconv.Atoi(args[2])
		ts.Check(err)
		line["serviceId"] = id
	}
	path := "/device/v2/" + ts.Getenv(args[0]+"_UUID") + "/logs"
	got, err := p.ask(s.ctx, http.MethodPost, "api", path, ts.Getenv(args[0]+"_KEY"), []any{line})
	ts.Check(err)
	if got.status != http.StatusCreated {
		ts.Fatalf("log of %s: %d %s", args[0], got.status, got.body)
	}
}

// takeIn makes somebody a member of the first user's organization, if they are none: take-in NAME.
func (s *cliStory) takeIn(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: take-in NAME")
	}
	admin, who := s.people["admin"].session, s.people[args[0]]
	org := "/v7/organization(handle='" + ts.Getenv("ORG") + "')"
	if _, err := p.row(s.ctx, http.MethodGet, org, who.session, nil); err == nil {
		return
	}
	row, err := p.row(s.ctx, http.MethodGet, org, admin, nil)
	ts.Check(err)
	invite, err := p.row(s.ctx, http.MethodPost, "/v7/organization_invite", admin, map[string]any{
		"invitee": who.Email, "is_invited_to__organization": row["id"],
	})
	ts.Check(err)
	link, err := p.row(s.ctx, http.MethodPost, "/org/v1/invitations/"+number(invite["id"])+"/link", admin, nil)
	ts.Check(err)
	got, err := p.ask(s.ctx, http.MethodPost, "api", fmt.Sprintf("/org/v1/invitation/%v", link["token"]), who.session, nil)
	ts.Check(err)
	if got.status != http.StatusOK {
		ts.Fatalf("take %s in: %d %s", args[0], got.status, got.body)
	}
}

// role says what a member is in a fleet: role NAME observer|operator|developer|nothing FLEET.
func (s *cliStory) role(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 || neg {
		ts.Fatalf("usage: role NAME ROLE FLEET")
	}
	admin, who := s.people["admin"].session, s.people[args[0]]
	fleet, err := p.row(s.ctx, http.MethodGet, "/v7/application?$filter="+url.PathEscape("app_name eq '"+args[2]+"'"), admin, nil)
	ts.Check(err)
	path := "/v7/user_application_membership?$filter=" +
		url.PathEscape("user/any(u:u/username eq '"+who.Username+"') and is_member_of__application eq "+number(fleet["id"]))
	got, err := p.ask(s.ctx, http.MethodDelete, "api", path, admin, nil)
	ts.Check(err)
	if got.status != http.StatusOK {
		ts.Fatalf("take the role of %s: %d %s", args[0], got.status, got.body)
	}
	if args[1] == "nothing" {
		return
	}
	role, err := p.row(s.ctx, http.MethodGet, "/v7/application_membership_role(name='"+args[1]+"')", admin, nil)
	ts.Check(err)
	_, err = p.row(s.ctx, http.MethodPost, "/v7/user_application_membership", admin, map[string]any{
		"username": who.Username, "is_member_of__application": fleet["id"], "application_membership_role": role["id"],
	})
	ts.Check(err)
}

// tail follows a device's log with the CLI until a line is there: tail NAME TEXT.
func (s *cliStory) tail(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: tail NAME TEXT")
	}
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.cli, "device", "logs", ts.Getenv(args[0]+"_UUID"), "--tail")
	for _, name := range []string{"HOME", "PATH", "BALENARC_BALENA_URL", "BALENARC_DATA_DIRECTORY", "NODE_EXTRA_CA_CERTS",
		"BALENARC_NO_ANALYTICS", "BALENARC_NO_SENTRY", "BALENARC_UNSUPPORTED"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	lines := bufio.NewScanner(out)
	seen := ""
	for lines.Scan() && !strings.Contains(seen, args[1]) {
		seen += lines.Text() + "\n"
		if !strings.Contains(seen, args[1]) {
			s.says(ts, false, args) // one line after the other, until one comes through
		}
	}
	cancel()
	_ = cmd.Wait() // it was ended from here
	if !strings.Contains(seen, args[1]) {
		ts.Fatalf("device logs --tail: got %q", seen)
	}
}

// cliText reads a text in JSON, such as a new key: text NAME FILE.
func cliText(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: text NAME FILE")
	}
	var text string
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &text))
	ts.Setenv(args[0], text)
}

// cliUUID makes up a device's uuid: uuid NAME.
func cliUUID(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: uuid NAME")
	}
	ts.Setenv(args[0], randomHex())
}

// cliLarge writes a file of a size that is told in MiB: large FILE SIZE.
func cliLarge(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: large FILE MIB")
	}
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	data := make([]byte, size<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

func randomHex() string {
	b := make([]byte, 16)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return hex.EncodeToString(b)
}
