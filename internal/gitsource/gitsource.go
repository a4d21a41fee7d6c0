// Package gitsource owns the repositories elsewhere that fleets are built from: where they are, whose right their builds are made with,
// what came to their webhooks, and which builds are owed for it. Fetching and building is the git role's; see [Sources.Next].
package gitsource

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/seal"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the tables of this package, numbered 0250 to 0259; see [db.DB.Migrate].
func Migrations() fs.FS { return db.Folder(migrations) }

// maxSources bounds those of one fleet.
const maxSources = 20

// Config is what the package works with.
type Config struct {
	DB       *db.DB
	Accounts *account.Accounts
	Site     api.Site
	Secret   []byte // never in the database; the key that seals secrets is made of it
}

// Sources are all of them.
type Sources struct {
	cfg  Config
	key  seal.Key
	none string // a secret that nobody has: what is sent to a webhook that is not there is held against it
}

// New checks the configuration; it starts nothing.
func New(cfg Config) (*Sources, error) {
	key, err := seal.Derive(cfg.Secret, "build sources v1")
	if err != nil {
		return nil, fmt.Errorf("sources: %w", err)
	}
	return &Sources{cfg: cfg, key: key, none: rand.Text()}, nil
}

// seal encrypts a secret of a source, for one use of that source alone: hook is what its webhook is called, which never changes.
func (s *Sources) seal(hook, use, text string) string {
	return base64.StdEncoding.EncodeToString(s.key.Seal([]byte(text), use+" "+hook))
}

func (s *Sources) open(hook, use, sealed string) (string, error) {
	data, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil {
		return "", errors.New("a secret of a source is not what was written")
	}
	text, err := s.key.Open(data, use+" "+hook)
	if err != nil {
		return "", fmt.Errorf("open a secret of a source (was the pepper changed?): %w", err)
	}
	return string(text), nil
}

// What is sealed.
const (
	useSecret      = "secret"
	useCredentials = "credentials"
)

// source is a row.
type source struct {
	api.BuildSource
	fleet       int64
	madeBy      sql.NullInt64
	hook        string
	secret      string         // sealed
	credentials sql.NullString // sealed
}

const selectSource = `SELECT s.id, s.created_at, s.application, s.made_by, s.url, s.form, s.branch, s.tags, s.is_draft, s.hook, s.secret, s.username,
		s.credentials, s.public_key, s.host_key, coalesce(s.stopped, ''), s.refused, s.refused_at, a.slug, coalesce(u.username, '')
	FROM build_source s JOIN application a ON a.id = s.application LEFT JOIN "user" u ON u.id = s.made_by `

func (s *Sources) find(ctx context.Context, tx *db.Tx, which string, args ...any) ([]source, error) {
	rows, err := tx.QueryContext(ctx, selectSource+which, args...)
	if err != nil {
		return nil, fmt.Errorf("sources: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var list []source
	for rows.Next() {
		var o source
		var made string
		var refused sql.NullString
		if err := rows.Scan(&o.ID, &made, &o.fleet, &o.madeBy, &o.URL, &o.Form, &o.Branch, &o.Tags, &o.Draft, &o.hook, &o.secret, &o.Username,
			&o.credentials, &o.PublicKey, &o.HostKey, &o.Stopped, &o.Refused, &refused, &o.Fleet, &o.OnBehalfOf); err != nil {
			return nil, fmt.Errorf("sources: %w", err)
		}
		if o.CreatedAt, err = db.ParseTime(made); err != nil {
			return nil, err
		}
		if refused.Valid {
			at, err := db.ParseTime(refused.String)
			if err != nil {
				return nil, err
			}
			o.RefusedAt = &at
		}
		o.Password = o.credentials.Valid && o.PublicKey == ""
		o.Webhook = s.cfg.Site.URL("api") + "/hooks/v1/" + o.hook
		list = append(list, o)
	}
	return list, rows.Err()
}

// one finds a source of a fleet of which the caller may make releases. To those who may not see the fleet there is none.
func (s *Sources) one(ctx context.Context, tx *db.Tx, by access.Caller, id int64) (source, error) {
	missing := api.Errorf(api.NotFound, "There is no source %d.", id)
	list, err := s.find(ctx, tx, `WHERE s.id = ?`, id)
	if err != nil {
		return source{}, err
	}
	if len(list) == 0 {
		return source{}, missing
	}
	err = rights.Require(ctx, tx, by, list[0].fleet, access.Releases)
	if errors.Is(err, api.ErrNotFound) {
		return source{}, missing
	}
	return list[0], err
}

// List gives the sources of a fleet.
func (s *Sources) List(ctx context.Context, tx *db.Tx, by access.Caller, slug string) ([]api.BuildSource, error) {
	fl, err := s.fleet(ctx, tx, by, slug)
	if err != nil {
		return nil, err
	}
	found, err := s.find(ctx, tx, `WHERE s.application = ? ORDER BY s.id`, fl.ID)
	list := make([]api.BuildSource, 0, len(found))
	for _, o := range found {
		list = append(list, o.BuildSource)
	}
	return list, err
}

func (s *Sources) fleet(ctx context.Context, tx *db.Tx, by access.Caller, slug string) (*fleet.Fleet, error) {
	if slug == "" {
		return nil, api.Errorf(api.Invalid, "fleet: not given")
	}
	fl, err := fleet.FindBySlug(ctx, tx, by, slug)
	if err != nil {
		return nil, err
	}
	return fl, rights.Require(ctx, tx, by, fl.ID, access.Releases)
}

// Get gives one.
func (s *Sources) Get(ctx context.Context, tx *db.Tx, by access.Caller, id int64) (api.BuildSource, error) {
	o, err := s.one(ctx, tx, by, id)
	if err != nil {
		return api.BuildSource{}, err
	}
	return o.BuildSource, nil
}

// Add makes a source. The secret of its webhook is in the answer, and nowhere else any more.
func (s *Sources) Add(ctx context.Context, tx *db.Tx, by access.Caller, want api.NewBuildSource) (out api.BuildSourceSecret, err error) {
	if by.Kind != access.User {
		return out, api.Errorf(api.Forbidden, "A source goes on by itself: it is made in a session, or with a key that is not limited.")
	}
	fl, err := s.fleet(ctx, tx, by, want.Fleet)
	if err != nil {
		return out, err
	}
	if err := check(&want); err != nil {
		return out, err
	}
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM build_source WHERE application = ?`, fl.ID).Scan(&n); err != nil {
		return out, fmt.Errorf("add a source: %w", err)
	}
	if n >= maxSources {
		return out, api.Errorf(api.TooLarge, "The fleet has %d sources; remove one first.", n)
	}
	hook := newHook()
	secret := newSecret(want.Form)
	private, public, err := credentialsOf(want)
	if err != nil {
		return out, err
	}
	var sealed any
	if private != "" {
		sealed = s.seal(hook, useCredentials, private)
	}
	var id int64
	err = tx.QueryRowContext(ctx, `INSERT INTO build_source (created_at, application, made_by, url, form, branch, tags, is_draft, hook, secret, username,
			credentials, public_key, host_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
		tx.NowText(), fl.ID, by.User, want.URL, want.Form, want.Branch, want.Tags, want.Draft, hook, s.seal(hook, useSecret, secret), want.Username,
		sealed, public, want.HostKey).Scan(&id)
	if err != nil {
		return out, fmt.Errorf("add a source: %w", err)
	}
	made, err := s.one(ctx, tx, by, id)
	if err != nil {
		return out, err
	}
	out = api.BuildSourceSecret{BuildSource: made.BuildSource, Secret: secret}
	return out, s.record(ctx, tx, by, made, "source.add", nil)
}

// check completes what is wanted, and names the field that is wrong.
func check(want *api.NewBuildSource) error {
	u, err := parseURL(want.URL)
	if err != nil {
		return err
	}
	want.URL = u.String()
	switch want.Form {
	case api.FormGitHub, api.FormGitLab, api.FormGitea:
	default:
		return api.Errorf(api.Invalid, "form: %.50q is none of github, gitlab and gitea", want.Form)
	}
	switch {
	case want.Branch != "" && want.Tags != "":
		return api.Errorf(api.Invalid, "tags: a source builds a branch or tags; make a second one for the other")
	case want.Tags != "":
		if err := checkTags(want.Tags); err != nil {
			return err
		}
	default:
		if want.Branch == "" {
			want.Branch = "main"
		}
		if err := checkRef("branch", want.Branch); err != nil {
			return err
		}
	}
	if u.Scheme == "ssh" {
		if want.Username != "" || want.Password != "" {
			return api.Errorf(api.Invalid, "password: a source over ssh has a deploy key, which the server makes")
		}
		want.HostKey, err = parseHostKey(want.HostKey)
		return err
	}
	switch {
	case want.HostKey != "":
		return api.Errorf(api.Invalid, "host_key: only a source over ssh has one")
	case want.Username != "" && want.Password == "":
		return api.Errorf(api.Invalid, "password: not given, though there is a username")
	case len(want.Username) > maxName || strings.ContainsFunc(want.Username, unprintable) || strings.Contains(want.Username, ":"):
		return api.Errorf(api.Invalid, "username: it is too long, or has characters that no user name has")
	case len(want.Password) > maxSecret || strings.ContainsFunc(want.Password, unprintable):
		return api.Errorf(api.Invalid, "password: it is too long, or has characters that no password has")
	}
	return nil
}

func unprintable(r rune) bool { return r < ' ' || r == 0x7f }

// credentialsOf are the password of a source over https, or a new deploy key of one over ssh: what is kept, and what may be shown.
func credentialsOf(want api.NewBuildSource) (private, public string, err error) {
	if !strings.HasPrefix(want.URL, "ssh:") {
		return want.Password, "", nil
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("make a deploy key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return "", "", fmt.Errorf("make a deploy key: %w", err)
	}
	shown, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", "", fmt.Errorf("make a deploy key: %w", err)
	}
	return string(pem.EncodeToMemory(block)), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(shown))) + " roadstead", nil
}

// newHook is what a webhook is called: a name that nobody guesses.
func newHook() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

// newSecret is a secret with 256 bits. GitLab's takes the form of a signing token, and does as a plain one as well.
func newSecret(form string) string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	if form == api.FormGitLab {
		return "whsec_" + base64.StdEncoding.EncodeToString(b)
	}
	return hex.EncodeToString(b)
}

// Rotate gives the webhook of a source another secret, and the source to the caller: with their right it builds from now on.
func (s *Sources) Rotate(ctx context.Context, tx *db.Tx, by access.Caller, id int64) (out api.BuildSourceSecret, err error) {
	if by.Kind != access.User {
		return out, api.Errorf(api.Forbidden, "A source goes on by itself: it is taken over in a session, or with a key that is not limited.")
	}
	o, err := s.one(ctx, tx, by, id)
	if err != nil {
		return out, err
	}
	secret := newSecret(o.Form)
	if _, err := tx.ExecContext(ctx, `UPDATE build_source SET secret = ?, made_by = ?, stopped = NULL, refused = 0, refused_at = NULL WHERE id = ?`,
		s.seal(o.hook, useSecret, secret), by.User, id); err != nil {
		return out, fmt.Errorf("rotate the secret of source %d: %w", id, err)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM build_source_seen WHERE source = ?`, id); err != nil {
		return out, fmt.Errorf("rotate the secret of source %d: %w", id, err)
	}
	was := o.OnBehalfOf
	if o, err = s.one(ctx, tx, by, id); err != nil {
		return out, err
	}
	out = api.BuildSourceSecret{BuildSource: o.BuildSource, Secret: secret}
	return out, s.record(ctx, tx, by, o, "source.rotate", map[string]any{"was_on_behalf_of": was})
}

// Remove removes a source. What waits for its turn is not built any more, and what is at work ends.
func (s *Sources) Remove(ctx context.Context, tx *db.Tx, by access.Caller, id int64) error {
	o, err := s.one(ctx, tx, by, id)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM build_source WHERE id = ?`, id); err != nil {
		return fmt.Errorf("remove source %d: %w", id, err)
	}
	return s.record(ctx, tx, by, o, "source.remove", nil)
}

// FleetHandedOver removes the sources of a fleet that goes to another organization: their credentials are not the new owner's.
func FleetHandedOver(ctx context.Context, tx *db.Tx, id int64) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM build_source WHERE application = ?`, id); err != nil {
		return fmt.Errorf("remove the sources of fleet %d: %w", id, err)
	}
	return nil
}

// record writes down what was done with a source.
func (s *Sources) record(ctx context.Context, tx *db.Tx, by access.Caller, o source, act string, detail map[string]any) error {
	owners, err := fleet.Organizations(ctx, tx, []int64{o.fleet})
	if err != nil {
		return err
	}
	if detail == nil {
		detail = map[string]any{}
	}
	detail["form"] = o.Form
	return audit.Record(ctx, tx, by, audit.Entry{Act: act, Kind: "build_source", ID: o.ID, Name: o.URL, Fleet: o.fleet, Organization: owners[o.fleet], Detail: detail})
}

// standing says whom a source builds for now, or why it does not. Its changes are written down.
func (s *Sources) standing(ctx context.Context, tx *db.Tx, o source) (by access.Caller, why string, err error) {
	if by, why, err = s.maker(ctx, tx, o); err != nil || why == o.Stopped {
		return by, why, err
	}
	var stopped any
	if why != "" {
		stopped = why
	}
	if _, err := tx.ExecContext(ctx, `UPDATE build_source SET stopped = ? WHERE id = ?`, stopped, o.ID); err != nil {
		return by, why, fmt.Errorf("source %d: %w", o.ID, err)
	}
	if why != "" {
		err = s.record(ctx, tx, access.Itself(), o, "source.stop", map[string]any{"reason": why})
	}
	return by, why, err
}

// maker is whom a source builds for, if they may still make releases of the fleet.
func (s *Sources) maker(ctx context.Context, tx *db.Tx, o source) (by access.Caller, why string, err error) {
	const over = "; somebody who may make releases of the fleet takes the source over by rotating its secret"
	if !o.madeBy.Valid {
		return access.Nobody(), "whoever set the source up is gone" + over, nil
	}
	by, err = s.cfg.Accounts.OnBehalf(ctx, tx, o.madeBy.Int64)
	if errors.Is(err, api.ErrUnauthorized) {
		return access.Nobody(), o.OnBehalfOf + ", who set the source up, is not let in any more" + over, nil
	}
	if err != nil {
		return by, "", err
	}
	verbs, err := rights.FleetVerbs(ctx, tx, by, o.fleet)
	if err != nil {
		return by, "", err
	}
	if !verbs.Has(access.Releases) {
		return access.Nobody(), o.OnBehalfOf + ", who set the source up, may not make releases of the fleet any more" + over, nil
	}
	return by, "", nil
}

// jobCredentials are what the git role fetches with.
func (s *Sources) jobCredentials(o source, job *api.SourceJob) error {
	if !o.credentials.Valid {
		return nil
	}
	text, err := s.open(o.hook, useCredentials, o.credentials.String)
	if err != nil {
		return fmt.Errorf("source %d: %w", o.ID, err)
	}
	if o.PublicKey != "" {
		job.Key = text
		return nil
	}
	job.Username, job.Password = o.Username, text
	return nil
}

// answer is what a forge is told of a delivery.
type answer struct {
	Delivery int64  `json:"delivery,omitempty"`
	State    string `json:"state"`
	Reason   string `json:"reason,omitempty"`
	Repeated bool   `json:"repeated,omitempty"` // it came before; nothing was done
}

func (a answer) json() json.RawMessage {
	data, err := json.Marshal(a)
	if err != nil {
		panic(err) // texts and numbers always marshal
	}
	return data
}

func timeOrNil(text sql.NullString) (*time.Time, error) {
	if !text.Valid {
		return nil, nil //nolint:nilnil // no time is an answer
	}
	t, err := db.ParseTime(text.String)
	return &t, err
}
