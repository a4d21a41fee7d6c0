package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Whose says what kind of actor a key is for.
type Whose string

// The kinds of actors, as they are named on the wire.
const (
	OfUser   Whose = "user"        // a named key: acts as the user
	OfFleet  Whose = "application" // a provisioning key: registers devices into the fleet; or a key that reads the fleet
	OfDevice Whose = "device"      // a device's own key
)

// KeySpec describes a key to be made.
type KeySpec struct {
	Of          Whose
	ID          int64  // of the user, fleet or device
	Name        string // "" for none
	Description string
	Expiry      *time.Time // nil: never
	MaxUses     int        // provisioning keys only; 0 means no bound
	Token       string     // device keys only: the key that the device brings; "" for a new one
	Reader      bool       // fleet keys only: reads the fleet instead of registering devices into it

	// What a user's key is limited to. The zero values are no limit.
	Level    access.Level    // the same as its verbs
	Verbs    access.Verbs    // at most these
	Fleets   []string        // slugs: only in these …
	Tags     []string        // … and in those that carry a tag: "key", or "key=value"
	Devices  []string        // only devices that carry one of these tags
	Channels access.Channels // only on these
	Networks []string        // only from these: 192.0.2.0/24
}

// verbs is what is left of the user's verbs.
func (s KeySpec) verbs() access.Verbs {
	switch {
	case s.Verbs != access.NoVerbs:
		return s.Verbs | access.Read
	case s.Level != access.NoLevel:
		return s.Level.Verbs()
	case len(s.Devices) > 0:
		return ofDevices
	}
	return access.AllVerbs
}

// ofDevices is what can be done with a device without touching others of its fleet; a key for some devices has at most this.
const ofDevices = access.Read | access.Devices | access.Actions | access.Shell

// limited reports whether something is said that only a user's key can be limited to.
func (s KeySpec) limited() bool {
	return s.Level != access.NoLevel || s.Verbs != access.NoVerbs || len(s.Fleets)+len(s.Tags)+len(s.Devices)+len(s.Networks) > 0 || s.Channels != 0
}

const (
	maxKeyName        = 100
	maxKeyDescription = 1000
	maxKeyFleets      = 100
	maxKeyOfKey       = 24 * time.Hour // how long a key lives at most that was made with a scoped key
)

// CreateKey makes a key and returns it, this once. Named keys of users can be made by the user in a session with a fresh login
// only; keys of fleets and devices by everybody who has the verbs for it by right of their own, with a named key too. A scoped key may make
// such keys for a day at most: what a leaked key makes must not long outlive it. What is made with a key comes on its channels and from its
// networks only.
func (a *Accounts) CreateKey(ctx context.Context, tx *db.Tx, by access.Caller, spec KeySpec) (string, error) {
	if by.Kind != access.User && by.Kind != access.ScopedKey && by.Kind != access.System {
		return "", api.Errorf(api.Forbidden, "only a user may make API keys")
	}
	if err := spec.check(tx.Now); err != nil {
		return "", err
	}
	if by.Kind == access.ScopedKey && (spec.Expiry == nil || spec.Expiry.After(tx.Now.Add(maxKeyOfKey))) {
		return "", api.Errorf(api.Forbidden, "a scoped key makes keys for a day at most; give an expiry date")
	}
	actor, err := a.actorFor(ctx, tx, by, spec)
	if err != nil {
		return "", fmt.Errorf("create key: %w", err)
	}
	k := newKey{kindUser, token.User, actor}
	switch {
	case spec.Of == OfDevice:
		k = newKey{kindDevice, token.Device, actor}
	case spec.Of == OfFleet && spec.Reader:
		k = newKey{kindFleet, token.Fleet, actor}
	case spec.Of == OfFleet:
		k = newKey{kindProvisioning, token.Provisioning, actor}
	}
	return a.addKey(ctx, tx, by, k, spec)
}

// newKey is what addKey must know beside the description.
type newKey struct {
	kind, prefix string
	actor        int64
}

func (s KeySpec) check(now time.Time) error {
	switch {
	case s.Of != OfUser && s.Of != OfFleet && s.Of != OfDevice:
		return api.Errorf(api.Invalid, "a key is for a user, an application or a device, not for %q", s.Of)
	case len(s.Name) > maxKeyName:
		return api.Errorf(api.Invalid, "a key's name has at most %d characters", maxKeyName)
	case len(s.Description) > maxKeyDescription:
		return api.Errorf(api.Invalid, "a key's description has at most %d characters", maxKeyDescription)
	case strings.ContainsFunc(s.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return api.Errorf(api.Invalid, "a key's name has no control characters")
	case s.Expiry != nil && !s.Expiry.After(now):
		return api.Errorf(api.Invalid, "the expiry date lies in the past")
	case s.MaxUses < 0:
		return api.Errorf(api.Invalid, "maxUses must be at least 1")
	case s.MaxUses > 0 && (s.Of != OfFleet || s.Reader):
		return api.Errorf(api.Invalid, "only a provisioning key has a number of uses")
	case s.Reader && s.Of != OfFleet:
		return api.Errorf(api.Invalid, "only a fleet has a key that reads it")
	case s.limited() && s.Of != OfUser:
		return api.Errorf(api.Invalid, "only a user's key is limited to verbs, a level, fleets, tags, channels or networks")
	case s.Level != access.NoLevel && s.Verbs != access.NoVerbs:
		return api.Errorf(api.Invalid, "a key has verbs or a level, not both")
	case s.Level == access.Administrator:
		return api.Errorf(api.Invalid, "a key that is limited to the level administrator is not limited; leave level out")
	case len(s.Devices) > 0 && !ofDevices.Has(s.verbs()):
		return api.Errorf(api.Invalid, "deviceTags: a key for some devices has at most the verbs %s, not %s", ofDevices, s.verbs()&^ofDevices)
	case len(s.Fleets) > maxKeyFleets, len(s.Tags) > maxKeyFleets, len(s.Devices) > maxKeyFleets, len(s.Networks) > maxKeyFleets:
		return api.Errorf(api.Invalid, "a key is limited to at most %d fleets, tags and networks each", maxKeyFleets)
	case s.Token != "" && s.Of != OfDevice:
		return api.Errorf(api.Invalid, "only a device brings a key of its own")
	case s.Token != "":
		return checkBroughtKey(s.Token)
	}
	return nil
}

// checkBroughtKey refuses keys that could be guessed, that look like a session token, or that do not fit into a header.
func checkBroughtKey(text string) error {
	if len(text) < 32 || len(text) > 128 {
		return api.Errorf(api.Invalid, "a device's key has 32 to 128 characters")
	}
	for _, c := range []byte(text) {
		if !strings.ContainsRune(token.Base62+"_-", rune(c)) {
			return api.Errorf(api.Invalid, "a device's key has only letters, digits, _ and -")
		}
	}
	if token.Forged(text) {
		return api.Errorf(api.Invalid, "a device's key that looks like one of the server's has a checksum that is not right")
	}
	return nil
}

// actorFor finds the actor that a key is for, if the caller may make one for it.
func (a *Accounts) actorFor(ctx context.Context, tx *db.Tx, by access.Caller, spec KeySpec) (int64, error) {
	var actor int64
	var err error
	switch spec.Of {
	case OfUser:
		if by.Kind != access.System && spec.ID != by.User {
			if err := rights.RequireService(ctx, tx, by, spec.ID); err != nil {
				return 0, err
			}
		}
		if by.Kind != access.System {
			if err := rights.RequireFresh(ctx, tx, by); err != nil {
				return 0, err
			}
		}
		err = tx.QueryRowContext(ctx, `SELECT actor FROM "user" WHERE id = ?`, spec.ID).Scan(&actor)
		if err == nil && by.Kind != access.System {
			err = checkLife(ctx, tx, []int64{actor}, spec.Expiry)
		}
	case OfFleet:
		kind := kindProvisioning
		if spec.Reader {
			kind = kindFleet
		}
		actor, err = actorOfThing(ctx, tx, by, kind, `SELECT f.actor, f.id FROM application f WHERE f.id = ?`, spec.ID)
	default:
		actor, err = actorOfThing(ctx, tx, by, kindDevice, `SELECT d.actor, d.belongs_to__application FROM device d WHERE d.id = ?`, spec.ID)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return 0, api.Errorf(api.NotFound, "there is no such %s", spec.Of)
	}
	return actor, err
}

// The kinds of keys, as they are stored.
const (
	kindUser         = "user"
	kindProvisioning = "provisioning" // registers devices into a fleet
	kindFleet        = "fleet"        // reads a fleet
	kindDevice       = "device"
)

// makerNeeds is what somebody has on a fleet who makes a key of this kind: to make keys, and what the key itself can do. A support
// grant does not give it: a key would outlive it.
func makerNeeds(kind string) access.Verbs {
	if kind == kindFleet {
		return access.Keys | access.Read
	}
	return access.Keys | access.Devices | access.Read
}

// actorOfThing runs a query for the actor of a fleet or a device and for the fleet in which the caller must have what it takes to make
// the key. For everybody else it is not there.
func actorOfThing(ctx context.Context, tx *db.Tx, by access.Caller, kind, query string, id int64) (actor int64, err error) {
	var fleet int64
	if err := tx.QueryRowContext(ctx, query, id).Scan(&actor, &fleet); err != nil {
		return 0, err
	}
	have, err := rights.FleetVerbs(ctx, tx, by, fleet)
	if err != nil {
		return 0, err
	}
	if !have.Has(makerNeeds(kind)) {
		return 0, sql.ErrNoRows
	}
	return actor, nil
}

func (a *Accounts) addKey(ctx context.Context, tx *db.Tx, by access.Caller, k newKey, spec KeySpec) (string, error) {
	text := spec.Token
	if text == "" {
		text = token.New(k.prefix)
	}
	var expiry any
	if spec.Expiry != nil {
		expiry = db.FormatTime(*spec.Expiry)
	}
	networks, err := access.ParseNetworks(spec.Networks)
	if err != nil {
		return "", api.Errorf(api.Invalid, "networks: %v", err)
	}
	channels := spec.Channels
	if by.Key != 0 { // a limit that what is made does not have is none
		channels, networks = by.Channels, by.Networks
	}
	if channels == 0 {
		channels = access.AllChannels
	}
	var id int64
	err = tx.QueryRowContext(ctx, `INSERT INTO api_key (created_at, kind, key_hash, is_of__actor, name, description, expiry_date, max_uses,
			verbs, is_for_some_fleets, is_for_some_devices, channels, networks, is_created_by__user)
		VALUES (?, ?, ?, ?, NULLIF(?, ''), NULLIF(?, ''), ?, NULLIF(?, 0), ?, ?, ?, ?, NULLIF(?, ''), NULLIF(?, 0))
		ON CONFLICT (key_hash) DO NOTHING RETURNING id`,
		tx.NowText(), k.kind, a.hash.Token(text), k.actor, spec.Name, spec.Description, expiry, spec.MaxUses,
		int(spec.verbs()), len(spec.Fleets)+len(spec.Tags) > 0, len(spec.Devices) > 0, int(channels), networks, by.User).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		// The same device repeating its exchange is fine; anybody else's key is not.
		holds, err := a.KeyHolds(ctx, tx, k.actor, text)
		if err != nil {
			return "", err
		}
		if holds {
			return text, nil
		}
		return "", api.Errorf(api.Conflict, `"key" must be unique.`)
	}
	if err != nil {
		return "", fmt.Errorf("create key: %w", err)
	}
	if err := limitKey(ctx, tx, by, id, spec); err != nil {
		return "", err
	}
	if spec.Of == OfUser && spec.ID == by.User { // a key of a service account is no way into somebody's own
		if err := a.Warn(ctx, tx, by.User, "key created", by, map[string]string{"key": spec.Name}); err != nil {
			return "", err
		}
	}
	return text, recordKey(ctx, tx, by, id, k, spec)
}

// recordKey tells of a new key. That a device is given its own, which happens with every device, is told with the device.
func recordKey(ctx context.Context, tx *db.Tx, by access.Caller, id int64, k newKey, spec KeySpec) error {
	e := audit.Entry{Act: "key.create", Kind: "api_key", ID: id, Name: spec.Name, Detail: map[string]any{"kind": k.kind}}
	switch spec.Of {
	case OfUser:
		e.User = spec.ID
		e.Detail["verbs"] = spec.verbs().Names()
		if len(spec.Fleets)+len(spec.Tags) > 0 {
			e.Detail["fleets"], e.Detail["tags"] = spec.Fleets, spec.Tags
		}
		if len(spec.Devices) > 0 {
			e.Detail["device_tags"] = spec.Devices
		}
	case OfDevice:
		e.Detail["device"] = spec.ID
	}
	// Whose administrators read of it: those of the fleet that it is for, or of the service account's organization.
	err := tx.QueryRowContext(ctx, `SELECT coalesce(f.id, g.id, 0), coalesce(f.organization, g.organization, u.is_service_account_of__organization, 0)
		FROM actor a LEFT JOIN application f ON f.actor = a.id LEFT JOIN device d ON d.actor = a.id
			LEFT JOIN application g ON g.id = d.belongs_to__application LEFT JOIN "user" u ON u.actor = a.id WHERE a.id = ?`, k.actor).
		Scan(&e.Fleet, &e.Organization)
	if err != nil {
		return fmt.Errorf("whose key: %w", err)
	}
	return audit.Record(ctx, tx, by, e)
}

// DeviceKey is the first key of a device.
type DeviceKey struct {
	Actor int64
	Token string // the key that the device brings; "" for a new one
}

// Check refuses a key that a device may not bring.
func (k DeviceKey) Check() error {
	if k.Token == "" {
		return nil
	}
	return checkBroughtKey(k.Token)
}

// SetDeviceKeys gives new devices their keys, and makes those that are not brought. It checks no right: the caller is the
// registration, which did. A key that somebody has already is a conflict, and then nothing that was written may stay.
func (a *Accounts) SetDeviceKeys(ctx context.Context, tx *db.Tx, keys []DeviceKey) error {
	args := make([]any, 0, 3*len(keys))
	for i := range keys {
		if err := keys[i].Check(); err != nil {
			return err
		}
		if keys[i].Token == "" {
			keys[i].Token = token.New(token.Device)
		}
		args = append(args, tx.NowText(), a.hash.Token(keys[i].Token), keys[i].Actor)
	}
	given, err := db.Column[int64](ctx, tx, `INSERT INTO api_key (created_at, kind, key_hash, is_of__actor)
		VALUES `+db.Rows(`(?, 'device', ?, ?)`, len(keys))+` ON CONFLICT (key_hash) DO NOTHING RETURNING id`, args...)
	if err != nil {
		return fmt.Errorf("create keys: %w", err)
	}
	if len(given) != len(keys) {
		return api.Errorf(api.Conflict, `"key" must be unique.`)
	}
	return nil
}

// KeyHolds reports whether a token is a live device key of an actor: proof that a repeated registration comes from the
// device that made the first.
func (a *Accounts) KeyHolds(ctx context.Context, tx *db.Tx, actor int64, token string) (bool, error) {
	var n int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM api_key WHERE key_hash = ? AND is_of__actor = ? AND kind = 'device'
		AND (expiry_date IS NULL OR expiry_date > ?)`, a.hash.Token(token), actor, tx.NowText()).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("check key: %w", err)
	}
	return n == 1, nil
}

var errUsedUp = api.Errorf(api.Unauthorized, "the provisioning key is used up or expired")

// UseProvisioningKey counts one registration against a provisioning key and refuses it when the key has none left or has
// expired. Authentication lets a used-up key in, so that a device whose first answer got lost can repeat its registration:
// only this call, in the transaction that makes the device, decides.
func UseProvisioningKey(ctx context.Context, tx *db.Tx, key int64) error {
	res, err := tx.ExecContext(ctx, `UPDATE api_key SET uses = uses + 1 WHERE id = ? AND kind = 'provisioning'
		AND (max_uses IS NULL OR uses < max_uses) AND (expiry_date IS NULL OR expiry_date > ?)`, key, tx.NowText())
	if err != nil {
		return fmt.Errorf("use provisioning key: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("use provisioning key: %w", err)
	}
	if n == 0 {
		return errUsedUp
	}
	return nil
}

// UseProvisioningKeys is the same for several registrations in one transaction, each of which sees the ones before it: refused
// holds the errors of those that found their key used up or expired.
func UseProvisioningKeys(ctx context.Context, tx *db.Tx, keys []int64) (refused map[int]error, err error) {
	refused = map[int]error{}
	uses := map[int64]int{}
	for _, key := range keys {
		uses[key]++
	}
	args := make([]any, 0, 2*len(uses)+1)
	for _, key := range slices.Sorted(maps.Keys(uses)) { // in one order always: two processes never wait in a circle
		args = append(args, key, uses[key])
	}
	whole, err := db.Column[int64](ctx, tx, `UPDATE api_key SET uses = uses + b.column2
		FROM (VALUES `+db.Rows(`(CAST(? AS BIGINT), CAST(? AS BIGINT))`, len(uses))+`) AS b
		WHERE api_key.id = b.column1 AND kind = 'provisioning' AND (max_uses IS NULL OR uses + b.column2 <= max_uses)
			AND (expiry_date IS NULL OR expiry_date > ?) RETURNING id`, append(args, tx.NowText())...)
	if err != nil {
		return nil, fmt.Errorf("use provisioning keys: %w", err)
	}
	for i, key := range keys {
		if slices.Contains(whole, key) {
			continue
		}
		err := errUsedUp
		if uses[key] > 1 { // it may have some left
			err = UseProvisioningKey(ctx, tx, key)
		}
		if err != nil && !errors.Is(err, api.ErrUnauthorized) {
			return nil, err
		}
		if err != nil {
			refused[i] = err
		}
	}
	return refused, nil
}
