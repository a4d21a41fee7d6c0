package channel_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Attack: whoever knocks with something wrong is told the same, whatever it is, and gets no address.
func TestWhoIsNotLetIn(t *testing.T) {
	w := newWorld(t)
	plain, certified, other := w.device(w.hers), w.certified(w.device(w.hers)), w.certified(w.device(w.his))
	deleted, revoked, frozen, off := w.device(w.hers), w.device(w.hers), w.device(w.hers), w.device(w.hers)
	w.remove(w.alice, "device", deleted.ID)
	w.Exec(`DELETE FROM api_key WHERE id = ?`, revoked.by.Key)
	w.Exec(`UPDATE device SET is_frozen = 1 WHERE id = ?`, frozen.ID)
	w.Write(func(tx *db.Tx) error {
		return w.SwitchDevice(t.Context(), tx, w.alice, string(off.UUID), api.ChannelSwitch{Mode: api.ChannelOff})
	})
	old := w.certified(w.device(w.hers))
	w.Exec(`UPDATE channel_certificate SET expires_at = ? WHERE sha256 = ?`, db.FormatTime(time.Now().Add(-time.Minute)), old.cert)
	lost := w.certified(w.device(w.hers))
	past := lost.cert
	w.Write(func(tx *db.Tx) error { return w.Reset(t.Context(), tx, w.alice, string(lost.UUID)) })
	w.certified(lost)

	type asked struct {
		of     *known
		change func(*api.ChannelLogin)
	}
	key := func(k string) func(*api.ChannelLogin) { return func(l *api.ChannelLogin) { l.Key = k } }
	cert := func(c string) func(*api.ChannelLogin) { return func(l *api.ChannelLogin) { l.Certificate = c } }
	name := func(n string) func(*api.ChannelLogin) { return func(l *api.ChannelLogin) { l.UUID = n } }
	for what, a := range map[string]asked{
		"a wrong key":                      {plain, key("wrong")},
		"no key":                           {plain, key("")},
		"a key of 10 KB":                   {plain, key(strings.Repeat("k", 10<<10))},
		"a key with quotes":                {plain, key(`' OR '1'='1" --`)},
		"a key with a newline and zero":    {plain, key(plain.APIKey + "\n\x00")},
		"a key that is no text":            {plain, key("\xff\xfe")},
		"another device's key":             {plain, key(other.APIKey)},
		"a provisioning key":               {plain, key(w.Key(account.OfFleet, w.hers))},
		"a key of its owner":               {plain, key(w.Key(account.OfUser, w.alice.User))},
		"no uuid":                          {plain, name("")},
		"a path for a uuid":                {plain, name("../" + string(plain.UUID))},
		"quotes in the uuid":               {plain, name(string(plain.UUID) + `'"`)},
		"a newline in the uuid":            {plain, name(string(plain.UUID) + "\n")},
		"a uuid of 10 KB":                  {plain, name(strings.Repeat("a", 10<<10))},
		"a uuid in capitals":               {plain, name(strings.ToUpper("abcdef" + string(plain.UUID)[6:]))},
		"a device that never was":          {plain, name(strings.Repeat("f", 32))},
		"a deleted device":                 {deleted, func(*api.ChannelLogin) {}},
		"a revoked key":                    {revoked, func(*api.ChannelLogin) {}},
		"a frozen device":                  {frozen, func(*api.ChannelLogin) {}},
		"a channel that is switched off":   {off, func(*api.ChannelLogin) {}},
		"a certified device by its key":    {certified, cert("")},
		"a certificate of another device":  {certified, cert(other.cert)},
		"and by one that has none":         {plain, cert(other.cert)},
		"the other's name with its own":    {certified, func(l *api.ChannelLogin) { l.UUID, l.Key = string(other.UUID), other.APIKey }},
		"the other's name and certificate": {certified, func(l *api.ChannelLogin) { l.UUID, l.Certificate = string(other.UUID), other.cert }},
		"a certificate that nobody gave":   {certified, cert(strings.Repeat("a", 64))},
		"a certificate that has ended":     {old, func(*api.ChannelLogin) {}},
		"a certificate of before a reset":  {lost, cert(past)},
		"no certificate at all":            {certified, cert("unknown")},
		"a certificate of 20 KB":           {certified, cert(certified.cert + strings.Repeat("\n", 20<<10))},
	} {
		ask := a.of.knock()
		ask.From = netip.AddrFrom4([4]byte{198, 51, byte(len(what)), what[len(what)-1]}).String() // each from elsewhere: nobody waits for another
		a.change(&ask)
		made, err := w.Login(t.Context(), ask, "")
		if !errors.Is(err, api.ErrUnauthorized) || api.AsError(err).Text != "not let in" || made.Address != "" {
			t.Errorf("%s: got %+v, %v", what, made, err)
		}
	}
	for what, d := range map[string]*known{api.IdentityKey: plain, api.IdentityCertificate: certified} {
		made, err := w.Login(t.Context(), d.knock(), "")
		if err != nil || made.Identity != what || made.Device != d.ID || made.Key != d.by.Key {
			t.Errorf("the device itself: got %+v, %v", made, err)
		}
	}
	if n := w.acts("channel.open"); n == 0 || n > 40 {
		t.Errorf("%d refusals are in the audit log", n)
	}
}

// Attack: guessing at a device from one place. It makes that place wait, with the right key too; nobody else.
func TestWhoGuessesWaits(t *testing.T) {
	w := newWorld(t)
	d, neighbour := w.device(w.hers), w.device(w.hers)
	guess := d.knock()
	guess.From, guess.Key = "192.0.2.66", "guess"
	right := guess
	right.Key = d.APIKey
	try := func(ask api.ChannelLogin) error {
		w.n++
		c := w.Channel
		if w.n%2 == 0 {
			c = w.other
		}
		_, err := c.Login(t.Context(), ask, "")
		return err
	}
	near := neighbour.knock()
	near.From = guess.From
	w.Must(try(near)) // known there
	for range 60 {
		if err := try(guess); !errors.Is(err, api.ErrUnauthorized) {
			t.Fatal(err)
		}
	}
	if err := try(right); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("the right key after many wrong ones: got %v", err)
	}
	w.Must(try(near))
	w.Must(try(d.knock()))
	var failures int
	w.Scan(`SELECT max(failures) FROM channel_refusal WHERE counter = 'pair'`, nil, &failures)
	if failures > 10 {
		t.Errorf("%d guesses were looked at", failures)
	}
	if n := w.acts("channel.open"); n != 1 {
		t.Errorf("the audit log has %d entries of it, want 1", n)
	}
	// It is remembered for a time.
	w.Pass(20 * time.Minute)
	w.Must(try(right))
	if w.Scan(`SELECT count(*) FROM channel_refusal WHERE counter = 'pair'`, nil, &failures); failures != 0 {
		t.Error("what was refused before is held against a device that was let in")
	}
	// Guessing at names that nobody has makes a place wait as a whole, but for those that were let in from it.
	guess.UUID = strings.Repeat("e", 32)
	for range 60 {
		_ = try(guess)
	}
	first := w.device(w.hers).knock()
	first.From = guess.From
	if err := try(first); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a device that comes from there for the first time: got %v", err)
	}
	w.Must(try(near))
}

func TestADeviceKeepsItsAddress(t *testing.T) {
	w := newWorld(t)
	seen := map[string]bool{}
	first := w.device(w.hers)
	was, err := w.Login(t.Context(), first.knock(), "")
	w.Must(err)
	small := netip.MustParsePrefix("10.9.8.0/28") // room for 13
	var last *known
	for range 12 {
		last = w.device(w.hers)
		ask := last.knock()
		ask.Network = small.String()
		made, err := w.other.Login(t.Context(), ask, "")
		w.Must(err)
		if a := netip.MustParseAddr(made.Address); seen[made.Address] || !small.Contains(a) || a.As4()[3] < 2 || a.As4()[3] > 14 {
			t.Errorf("address %s: given twice, or not a device's", a)
		}
		seen[made.Address] = true
	}
	full := w.device(w.hers).knock()
	full.Network = small.String()
	if _, err := w.Login(t.Context(), full, ""); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a full network: got %v", err)
	}
	w.remove(w.alice, "device", last.ID)
	if _, err := w.Login(t.Context(), full, ""); err != nil {
		t.Errorf("a place that is free again: %v", err)
	}
	again, err := w.other.Login(t.Context(), first.knock(), "")
	if w.Must(err); again.Address != was.Address || was.Address != "10.240.0.2" {
		t.Errorf("its address was %s, is %s", was.Address, again.Address)
	}
	for _, network := range []string{"", "10.0.0.0/33", "fd00::/64", "10.0.0.0/30"} {
		ask := first.knock()
		ask.Network = network
		if _, err := w.Login(t.Context(), ask, ""); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("network %q: got %v", network, err)
		}
	}
}

// Attack: whoever stole a device's API key has a key of their own certified, and is the device from then on.
func TestACertifiedDeviceHasOneKey(t *testing.T) {
	w := newWorld(t)
	d := w.certified(w.device(w.hers))
	w.certified(d) // again, with the same key
	thief := api.ChannelCertify{PublicKey: newKey(t)}
	if _, err := w.other.Certify(t.Context(), d.by, d.UUID, thief); !errors.Is(err, api.ErrConflict) {
		t.Errorf("another key: got %v, want a conflict", err)
	}
	reset := func(by access.Caller) error {
		return w.DB.Write(t.Context(), func(tx *db.Tx) error { return w.Reset(t.Context(), tx, by, string(d.UUID)) })
	}
	if err := reset(w.bob); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a stranger's reset: got %v", err)
	}
	if err := reset(d.by); err == nil {
		t.Error("a device resets itself")
	}
	alone := d.knock()
	alone.Certificate = ""
	for range 10 {
		if _, err := w.Login(t.Context(), alone, ""); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("the API key alone: got %v", err)
		}
	}
	w.Must(reset(w.alice)) // and it need not wait
	made, err := w.Login(t.Context(), d.knock(), "")
	if w.Must(err); made.Identity != api.IdentityKey {
		t.Errorf("a certificate of before the reset counts: %+v", made)
	}
	_, err = w.Certify(t.Context(), d.by, d.UUID, thief)
	w.Must(err)
	if n := w.acts("channel.certify"); n != 2 {
		t.Errorf("the audit log has %d entries of keys that were certified, want 2: renewals are none", n)
	}
	if w.acts("channel.reset") != 1 {
		t.Error("the reset is not in the audit log")
	}
	for _, bad := range []string{"", "x", strings.Repeat("x", 5000), strings.ReplaceAll(thief.PublicKey, "PUBLIC", "PRIVATE"),
		"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if _, err := w.Certify(t.Context(), d.by, d.UUID, api.ChannelCertify{PublicKey: bad}); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("public key %.30q: got %v", bad, err)
		}
	}
}
