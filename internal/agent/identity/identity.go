package identity

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/agent/seal"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// Identity is what the device keeps about itself, in the file identity.json of its state directory. The provisioning key
// never stands there.
type Identity struct {
	UUID          api.DeviceUUID `json:"uuid"`
	Key           string         `json:"device_api_key"` // on the disk it may be sealed, see package seal
	Made          bool           `json:"made"`           // uuid and key are our own invention: they may be thrown away before registration
	ID            int64          `json:"device_id"`      // 0 until registered
	RegisteredAt  int64          `json:"registered_at"`
	APIEndpoint   string         `json:"api_endpoint"`
	ApplicationID int64          `json:"application_id"` // of the fleet that the device was registered into
	Trust         *Mark          `json:"trust,omitempty"`
}

// Mark says that the device verifies what it is told to run, and what it believed last: nothing older is believed any more, whatever
// becomes of the files of that.
type Mark struct {
	Fleet    string    `json:"fleet"`              // uuid
	Sequence int64     `json:"sequence"`           // of the state last stored
	Root     int64     `json:"root"`               // version
	Counter  int64     `json:"counter,omitempty"`  // of the release accepted last
	SHA256   string    `json:"sha256,omitempty"`   // and of its document
	SignedAt time.Time `json:"signed_at,omitzero"` // newest time that was signed
}

// Remember writes the mark into identity.json, as durable.WriteFile does or with something that finds room where that does not; everything else stays as it
// stands there.
func Remember(stateDir string, m Mark, with func(path string, data []byte, perm fs.FileMode) error) error {
	path := filepath.Join(stateDir, fileName)
	who, err := Read(stateDir)
	if err != nil {
		return err
	}
	if who.Trust != nil && *who.Trust == m {
		return nil
	}
	who.Trust = &m
	text, err := json.MarshalIndent(who, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteSecretWith(with, path, text, 0o600)
}

// Read gives what stands in identity.json, with the key as it stands there.
func Read(stateDir string) (who Identity, err error) {
	path := filepath.Join(stateDir, fileName)
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &who)
	}
	if err != nil {
		return who, fmt.Errorf("%s: %w", path, err)
	}
	return who, nil
}

const fileName = "identity.json"

func write(path string, who Identity) error {
	text, err := json.MarshalIndent(who, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteSecret(path, text, 0o600)
}

// Registered reports whether the server knows the device.
func (i Identity) Registered() bool { return i.ID != 0 }

// Provisioner makes a device known to the server.
type Provisioner struct {
	ConfigPath string
	StateDir   string
	Server     Registrar
	About      api.Register // versions, addresses: what to say about the device beside its identity
	Log        *slog.Logger
	Vault      *seal.Vault        // keeps the device key
	Backoff    remote.Backoff     // between attempts; zero: 1 s to 30 s
	Refused    remote.Backoff     // after the server said no; zero: 30 s to 15 min
	Now        func() time.Time   // nil: time.Now
	Step       func(string) error // called after each durable step; an error ends the attempt there, as a loss of power would

	keyLeft bool // config.json has not been rewritten yet
}

// Registrar is the part of the server that a new device needs.
type Registrar interface {
	Register(ctx context.Context, provisioningKey string, device api.Register) (api.Registered, error)
	FindSelf(ctx context.Context, uuid api.DeviceUUID, key string) (int64, error)
}

// errTaken says that the server knows our uuid under another key.
var errTaken = errors.New("another device has this uuid")

// Run answers who the device is, once the server knows it. It tries until then, or until the context ends. An error that
// no repetition can mend is returned at once.
func (p *Provisioner) Run(ctx context.Context) (Identity, error) {
	if p.Step == nil {
		p.Step = func(string) error { return nil }
	}
	if p.Now == nil {
		p.Now = time.Now
	}
	if p.Backoff.Max == 0 {
		p.Backoff = remote.Backoff{Min: time.Second, Max: 30 * time.Second}
	}
	if p.Refused.Max == 0 {
		p.Refused = remote.Backoff{Min: 30 * time.Second, Max: 15 * time.Minute}
	}
	conf, err := LoadConfig(p.ConfigPath)
	if err != nil {
		return Identity{}, err
	}
	who, err := p.load(conf)
	if err != nil {
		return Identity{}, err
	}
	for !who.Registered() {
		if err := p.register(ctx, conf, &who); err != nil {
			if err := p.wait(ctx, err); err != nil {
				return Identity{}, err
			}
			continue
		}
		p.Log.Info("registered", "uuid", who.UUID, "id", who.ID)
	}
	p.keyLeft = conf.APIKey != "" || conf.UUID != who.UUID || conf.DeviceID != who.ID || seal.IsSealed(conf.DeviceAPIKey) != p.Vault.Sealed()
	if err := p.Finish(who); errors.Is(err, ErrStopped) {
		return who, err
	}
	return who, nil
}

// Finish destroys the provisioning key if it is still there, and a device key in plain on a device that seals it. A device whose config.json cannot be written works all the same;
// this says so loudly, and is to be called again now and then.
func (p *Provisioner) Finish(who Identity) error {
	if !p.keyLeft {
		return nil
	}
	who.Key = p.Vault.Protect(seal.ConfigKey, who.Key)
	if err := DestroyProvisioningKey(p.ConfigPath, who, p.Step); err != nil {
		p.Log.Error("A KEY IS STILL IN CONFIG.JSON THAT SHOULD NOT BE THERE; will try again", "error", err)
		return err
	}
	p.keyLeft = false
	p.Log.Info("no key is in config.json that should not be there")
	return nil
}

func (p *Provisioner) path() string { return filepath.Join(p.StateDir, fileName) }

// load reads the identity, or makes one and stores it before anybody hears of it.
func (p *Provisioner) load(conf *Config) (Identity, error) {
	var who Identity
	text, err := os.ReadFile(p.path())
	if err == nil {
		err = json.Unmarshal(text, &who)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p.first(conf)
	case err != nil:
		return who, fmt.Errorf("%s: %w", p.path(), err)
	}
	if who.Key, err = p.Vault.Reveal(seal.DeviceKey, who.Key); err != nil {
		return who, err
	}
	if who.Registered() && conf.APIKey != "" && (who.APIEndpoint != conf.APIEndpoint || who.ApplicationID != conf.ApplicationID) {
		return who, fmt.Errorf("%s is for fleet %d at %s, but this device belongs to fleet %d at %s; to join anew, stop the agent and remove %s",
			p.ConfigPath, conf.ApplicationID, conf.APIEndpoint, who.ApplicationID, who.APIEndpoint, p.path())
	}
	if conf.UUID != "" && conf.UUID != who.UUID {
		if !who.Registered() {
			return p.first(conf) // whoever set up the device has given it a uuid meanwhile
		}
		return who, fmt.Errorf("%s gives the uuid %s, but this device is %s; to take the other identity, stop the agent and remove %s",
			p.ConfigPath, conf.UUID, who.UUID, p.path())
	}
	if !who.Registered() { // the server may have got another address meanwhile, or the card another fleet
		who.APIEndpoint, who.ApplicationID = conf.APIEndpoint, conf.ApplicationID
	}
	return who, nil
}

func (p *Provisioner) first(conf *Config) (Identity, error) {
	key, err := p.Vault.Reveal(seal.ConfigKey, conf.DeviceAPIKey)
	if err != nil {
		return Identity{}, err
	}
	who := Identity{
		UUID: conf.UUID, Key: key, APIEndpoint: conf.APIEndpoint, ApplicationID: conf.ApplicationID,
	}
	if conf.APIKey == "" && conf.DeviceID != 0 && who.UUID != "" && who.Key != "" {
		who.ID, who.RegisteredAt = conf.DeviceID, conf.RegisteredAt // registered before, by us or another agent
	}
	if who.UUID == "" {
		who.UUID, who.Made = api.DeviceUUID(random(16)), true
	}
	if who.Key == "" {
		who.Key = random(32)
	}
	if err := p.store(who); err != nil {
		return who, err
	}
	return who, p.Step("identity stored")
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

func (p *Provisioner) store(who Identity) error {
	who.Key = p.Vault.Protect(seal.DeviceKey, who.Key)
	return write(p.path(), who)
}

// register makes one attempt. The answer may have been lost the last time, so every refusal is followed by the question
// whether the server knows us already.
func (p *Provisioner) register(ctx context.Context, conf *Config, who *Identity) error {
	if err := complete(conf); err != nil {
		return err
	}
	ask := p.About
	ask.Application, ask.DeviceType, ask.UUID, ask.APIKey = conf.ApplicationID, conf.DeviceType, who.UUID, who.Key
	ask.DeviceName = conf.InitialDeviceName
	got, err := p.Server.Register(ctx, conf.APIKey, ask)
	id := got.ID
	if err != nil {
		if status := remote.StatusOf(err); status < 400 || status >= 500 || status == http.StatusTooManyRequests {
			return err
		}
		found, findErr := p.Server.FindSelf(ctx, who.UUID, who.Key)
		switch {
		case findErr != nil:
			return fmt.Errorf("%w (after: %w)", findErr, err) // the server did not decide; neither do we
		case found != 0:
			id = found
		case remote.StatusOf(err) == http.StatusConflict:
			return p.taken(who)
		default:
			return err
		}
	}
	if err := p.Step("registered"); err != nil {
		return err
	}
	who.ID, who.RegisteredAt = id, p.Now().UnixMilli()
	if got.APIKey != "" {
		who.Key = got.APIKey
	}
	if err := p.store(*who); err != nil {
		who.ID = 0
		return err
	}
	return p.Step("answer stored")
}

// complete says what a config.json must have to register with.
func complete(conf *Config) error {
	for _, k := range []struct {
		name    string
		missing bool
	}{
		{"apiKey", conf.APIKey == ""}, {"applicationId", conf.ApplicationID == 0}, {"deviceType", conf.DeviceType == ""},
	} {
		if k.missing {
			return fatal{fmt.Errorf("config.json: %s is missing, and without it this device cannot register", k.name)}
		}
	}
	return nil
}

// taken reacts to a uuid that belongs to another device. One that we made is thrown away; one that was given is kept, because
// whoever gave it must decide.
func (p *Provisioner) taken(who *Identity) error {
	if !who.Made {
		return fmt.Errorf("uuid %s of config.json: %w, with a key that is not this device's; give this device another uuid", who.UUID, errTaken)
	}
	old := who.UUID
	who.UUID, who.Key = api.DeviceUUID(random(16)), random(32)
	if err := p.store(*who); err != nil {
		return err
	}
	p.Log.Error("the uuid is taken by another device; this one makes itself a new one", "taken", old, "new", who.UUID)
	return fmt.Errorf("uuid %s: %w", old, errTaken)
}

// fatal is an error that waiting does not mend.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// wait logs a failure and waits as long as it deserves.
func (p *Provisioner) wait(ctx context.Context, err error) error {
	var f fatal
	if ctx.Err() != nil || errors.As(err, &f) || remote.StatusOf(err) == 0 && errors.Is(err, ErrStopped) {
		return errors.Join(ctx.Err(), err)
	}
	d := p.Backoff.Next()
	if status := remote.StatusOf(err); status >= 400 && status < 500 && status != http.StatusTooManyRequests {
		d = p.Refused.Next()
		p.Log.Error("the server refuses to register this device; it will ask again", "error", err, "again_in", d.Round(time.Second))
	} else {
		p.Log.Warn("could not register; will try again", "error", err, "again_in", d.Round(time.Second))
	}
	return remote.Sleep(ctx, remote.Wait(d, err))
}

// ErrStopped, returned by a Step function, ends Run at once.
var ErrStopped = errors.New("stopped")
