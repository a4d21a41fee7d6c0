package signer

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"

	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/tuf"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Files of the role's directory for the metadata of fleets.
const (
	TrustKeyFile    = "trust.key"    // the seed from which the keys of all fleets are derived
	TrustMemoryFile = "trust-signed" // what was signed last, by fleet
)

const (
	trustKeyName    = "trust key"
	trustGeneration = "1" // part of what keys are derived from
	maxTrustKeys    = 4096
)

// Longest lives of what is signed here. A day more is for clocks, and some minutes for those of commands.
const (
	lifeOfOnline = 7 * 24 * time.Hour // snapshot, timestamp, director
	lifeOfBin    = 90 * 24 * time.Hour
	lifeOfRoot   = 2 * 365 * 24 * time.Hour // and targets
	lifeOfOrder  = time.Hour                // commands: a device asks anew for what takes longer
	lifeSlack    = 24 * time.Hour
	trustSkew    = 5 * time.Minute
	// trustAhead is how far versions may be ahead of the clock: each is a second more, and several may be signed in one.
	trustAhead = 24 * time.Hour
)

// NewTrustKey writes a fresh seed, and an empty memory of what was signed. The parent calls it once, before the role first starts.
func NewTrustKey(file string) error {
	if err := newMemory(filepath.Join(filepath.Dir(file), TrustMemoryFile)); err != nil {
		return err
	}
	return newEd25519Key(file, trustKeyName)
}

var (
	fleetUUID  = pattern.New(`^[0-9a-f]{32}$`)
	trustNonce = pattern.New(`^[A-Za-z0-9_.=+/-]{16,64}$`)
)

// truster signs metadata of fleets, statements to devices, commands, and the log of all that.
type truster struct {
	seed   []byte
	site   api.Site
	mine   []api.StatementKey // with which statements of provenance are signed
	memory *memory
	log    *logger
	now    func() time.Time

	mu   sync.Mutex // covers keys
	keys map[string]tuf.Ed25519Signer
}

func openTruster(dir string, site api.Site, statements ed25519.PrivateKey) (*truster, error) {
	key, err := loadEd25519Key(filepath.Join(dir, TrustKeyFile), trustKeyName)
	if err != nil {
		return nil, err
	}
	t := &truster{seed: key.Seed(), site: site, now: time.Now, keys: map[string]tuf.Ed25519Signer{}}
	t.mine = []api.StatementKey{provenance.Key(statements.Public().(ed25519.PublicKey))}
	if t.memory, err = openMemory(filepath.Join(dir, TrustMemoryFile)); err != nil {
		return nil, err
	}
	log, err := t.key("", "log")
	if err != nil {
		return nil, err
	}
	if t.log, err = openLogger(dir, site.Domain+"/trust", ed25519.PrivateKey(log)); err != nil {
		return nil, err
	}
	return t, nil
}

// key derives the key of a role of a fleet.
func (t *truster) key(fleet, role string) (tuf.Ed25519Signer, error) {
	name := fleet + " " + role
	t.mu.Lock()
	defer t.mu.Unlock()
	if k, ok := t.keys[name]; ok {
		return k, nil
	}
	seed, err := hkdf.Key(sha256.New, t.seed, nil, strings.Join([]string{"roadstead trust", trustGeneration, role, fleet}, "\x00"), ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("trust: derive key: %w", err)
	}
	k := tuf.Ed25519Signer(ed25519.NewKeyFromSeed(seed))
	if len(t.keys) >= maxTrustKeys {
		clear(t.keys)
	}
	t.keys[name] = k
	return k, nil
}

// roleOfKey is whose key signs a role's file: the bins are the builder's.
func roleOfKey(role string) string {
	if strings.HasPrefix(role, api.TrustBuilder+"-") {
		return api.TrustBuilder
	}
	return role
}

func checkFleet(fleet string) error {
	if !fleetUUID.MatchString(fleet) {
		return api.Errorf(api.Invalid, "fleet: %.60q is no fleet's uuid", fleet)
	}
	return nil
}

// trustKeys is POST /v1/trust/keys.
func (s *Server) trustKeys(w http.ResponseWriter, r *http.Request) error {
	var ask api.TrustKeysAsk
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	if err := checkFleet(ask.Fleet); err != nil {
		return err
	}
	m := s.trust.memory.of(ask.Fleet)
	out := api.TrustFleetKeys{Version: m.version, Counter: m.counter, RootVersion: m.root, TargetsVersion: m.targets, Owned: m.owned}
	out.Log = api.TrustLogKey{Origin: s.trust.log.origin, Key: s.trust.log.verifier}
	for role, to := range map[string]*json.RawMessage{
		api.TrustBuilder: &out.Builder, api.TrustDirector: &out.Director, api.TrustSnapshot: &out.Snapshot,
		api.TrustTimestamp: &out.Timestamp, api.TrustRoot: &out.Root, api.TrustTargets: &out.Targets,
	} {
		key, err := s.trust.key(ask.Fleet, role)
		if err != nil {
			return err
		}
		if *to, err = json.Marshal(key.Public()); err != nil {
			return fmt.Errorf("trust: %w", err)
		}
	}
	return web.WriteJSON(w, http.StatusOK, out)
}

// trustDirector is POST /v1/trust/director.
func (s *Server) trustDirector(w http.ResponseWriter, r *http.Request) error {
	return signList(s, w, r, "statements", s.trust.direct, nil)
}

// trustCommand is POST /v1/trust/command.
func (s *Server) trustCommand(w http.ResponseWriter, r *http.Request) error {
	return signList(s, w, r, "commands", s.trust.command, func(c api.TrustCommand) []any {
		return []any{"fleet", c.Fleet, "device", c.Device, "verb", c.Verb, "expires", c.Expires.UTC().Format(time.RFC3339)}
	})
}

// signList signs each of a list that may be signed. What is described leaves a line of its own: the api role, which asks, may be a thief's.
func signList[T any](s *Server, w http.ResponseWriter, r *http.Request, what string, sign func(T) ([]byte, error), describe func(T) []any) error {
	var list []T
	if err := decodeLarge(r, maxTrustLogBody, &list); err != nil {
		return err
	}
	if len(list) > api.MaxTrustBatch {
		return api.Errorf(api.Invalid, "at most %d %s are signed at once", api.MaxTrustBatch, what)
	}
	out, refused := make([]api.TrustSigned, len(list)), 0
	for i, ask := range list {
		data, err := sign(ask)
		out[i].Data = data
		if err != nil {
			refused++
			s.log.WarnContext(r.Context(), "not signed", "what", what, "request", web.RequestID(r.Context()), "error", err)
			out[i].Refused = api.AsError(err).Text
		} else if describe != nil {
			s.log.InfoContext(r.Context(), "signed", append(describe(ask), "what", what, "request", web.RequestID(r.Context()))...)
		}
	}
	s.log.InfoContext(r.Context(), "signed", "for", pki.PeerRole(r), "what", what, "many", len(list)-refused, "request", web.RequestID(r.Context()))
	return web.WriteJSON(w, http.StatusOK, out)
}

// direct says to a device what it should run, as the api role decides it: the device believes it only of what its fleet's bins list.
func (t *truster) direct(ask api.TrustDirect) ([]byte, error) {
	if err := checkFleet(ask.Fleet); err != nil {
		return nil, err
	}
	switch {
	case !ask.Device.Valid():
		return nil, api.Errorf(api.Invalid, "device: %.70q is no device's uuid", ask.Device)
	case !trustNonce.MatchString(ask.Nonce):
		return nil, api.Errorf(api.Invalid, "nonce: %.80q is none", ask.Nonce)
	}
	key, err := t.key(ask.Fleet, api.TrustDirector)
	if err != nil {
		return nil, err
	}
	now := t.now().UTC().Truncate(time.Second)
	d := tuf.Director{Version: now.Unix(), Expires: now.Add(lifeOfOnline), Mark: api.TrustMark{
		Fleet: ask.Fleet, SignedAt: now, Device: ask.Device, Nonce: ask.Nonce, Channel: ask.Channel,
	}}
	if rel := ask.Release; rel != nil {
		if _, err = tuf.ReleasePath(rel.Commit); err != nil {
			return nil, api.Errorf(api.Invalid, "release: %v", err)
		}
		if rel.Length <= 0 || rel.Counter <= 0 || !hexDigest.MatchString(rel.SHA256) {
			return nil, api.Errorf(api.Invalid, "release: length, digest and counter are needed")
		}
		d.Commit, d.Release = rel.Commit, &tuf.Listed{Length: rel.Length, SHA256: rel.SHA256, Counter: rel.Counter}
	}
	return d.Make(key)
}

var hexDigest = pattern.New(`^[0-9a-f]{64}$`)

// command signs something that a device is told to do.
func (t *truster) command(c api.TrustCommand) ([]byte, error) {
	if err := checkFleet(c.Fleet); err != nil {
		return nil, err
	}
	now := t.now()
	switch {
	case c.Type != "command":
		return nil, api.Errorf(api.Invalid, "_type: %.20q is no command", c.Type)
	case !c.Device.Valid():
		return nil, api.Errorf(api.Invalid, "device: %.70q is no device's uuid", c.Device)
	case !knownVerb(c.Verb):
		return nil, api.Errorf(api.Invalid, "verb: %.40q is none", c.Verb)
	case len(c.Service) > maxSubject:
		return nil, api.Errorf(api.Invalid, "service: longer than %d bytes", maxSubject)
	case (c.Verb == api.ActHostConfig) != hexDigest.MatchString(c.Digest) || c.Verb != api.ActHostConfig && c.Digest != "":
		return nil, api.Errorf(api.Invalid, "digest: that of what %s sets, and none of anything else", api.ActHostConfig)
	case !trustNonce.MatchString(c.Nonce):
		return nil, api.Errorf(api.Invalid, "nonce: %.80q is none", c.Nonce)
	case !c.Expires.After(now) || c.Expires.After(now.Add(lifeOfOrder+trustSkew)):
		return nil, api.Errorf(api.Invalid, "expires: %s is over, or too far", c.Expires.UTC().Format(time.RFC3339))
	}
	key, err := t.key(c.Fleet, api.TrustDirector)
	if err != nil {
		return nil, err
	}
	return tuf.SignCommand(c, key)
}

func knownVerb(v api.ActionVerb) bool {
	for _, known := range api.ActionVerbs() {
		if v == known {
			return true
		}
	}
	return false
}
