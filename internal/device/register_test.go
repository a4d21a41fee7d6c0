package device_test

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
)

const ownKey = "0123456789abcdef0123456789abcdef"

func TestRegister(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	made, err := w.register(w.provisioning(w.alice, f, 0), api.Register{
		Application: f, UUID: uuidOf(1), DeviceType: "generic-amd64", APIKey: ownKey, OSVersion: "balenaOS 6.6.0+rev1", OSVariant: "strange",
		SupervisorVersion: "19.0.5", MACAddress: strings.Repeat("AA:BB:CC:DD:EE:FF ", 100),
	})
	w.Must(err)
	if made.UUID != uuidOf(1) || made.APIKey != ownKey || made.ID == 0 {
		t.Errorf("Register: got %+v", made)
	}
	row := w.one(w.alice, "device?$select=device_name,os_version,os_variant,supervisor_version,api_heartbeat_state,is_online,is_active,"+
		"overall_status,last_connectivity_event,belongs_to__user")
	name, _ := row["device_name"].(string)
	if !strings.Contains(name, "-") || row["os_variant"] != nil || row["supervisor_version"] != "19.0.5" || row["is_online"] != false ||
		row["api_heartbeat_state"] != "unknown" || row["overall_status"] != "inactive" || row["last_connectivity_event"] != nil {
		t.Errorf("the new device: %v", row)
	}
	by := w.Caller(ownKey)
	if by.Kind != access.Device || by.Device != made.ID || by.Fleet != f {
		t.Errorf("the key is that of %+v", by)
	}
	// The key exchange of a supervisor begins so; what it finds ends it.
	if got := w.one(by, "device?$select=id&$filter=uuid eq '"+string(uuidOf(1))+"'"); got["id"] != float64(made.ID) {
		t.Errorf("a device looks for itself: %v", got)
	}
	none, err := w.register(w.provisioning(w.alice, f, 0), api.Register{Application: f, UUID: uuidOf(2)})
	if err != nil || !strings.HasPrefix(none.APIKey, "rsd_") {
		t.Errorf("without a key of its own: %+v, %v", none, err)
	}
	_, err = w.register(w.provisioning(w.alice, f, 0), api.Register{Application: f, UUID: uuidOf(3), DeviceName: "on the roof"})
	w.Must(err)
	if got := w.one(w.alice, "device?$select=id&$filter=device_name eq 'on the roof'"); got["id"] == nil {
		t.Error("the name that a device was given before its first boot is lost")
	}
}

func TestRegisterRefusals(t *testing.T) {
	w := newWorld(t)
	f, other := w.Fleet(w.alice, "harbour"), w.Fleet(w.bob, "elsewhere")
	key := w.provisioning(w.alice, f, 0)
	first, err := w.register(key, api.Register{Application: f, UUID: uuidOf(1), APIKey: ownKey})
	w.Must(err)
	stranger := strings.Repeat("x", 32)
	for _, test := range []struct {
		what string
		req  api.Register
		code api.Code
		text string
	}{
		{"no fleet", api.Register{UUID: uuidOf(2)}, api.Invalid, ""},
		{"no uuid", api.Register{Application: f}, api.Invalid, ""},
		{"odd uuid", api.Register{Application: f, UUID: "ABC"}, api.Invalid, "Device UUID must be a 32 or 62 character long lower case hex string."},
		{"unknown type", api.Register{Application: f, UUID: uuidOf(2), DeviceType: "toaster"}, api.Invalid, "toaster"},
		{"other architecture", api.Register{Application: f, UUID: uuidOf(2), DeviceType: "generic-aarch64"}, api.Invalid, "aarch64"},
		{"other fleet", api.Register{Application: other, UUID: uuidOf(2)}, api.Forbidden, ""},
		{"taken uuid", api.Register{Application: f, UUID: uuidOf(1), APIKey: stranger}, api.Conflict, `"uuid" must be unique.`},
		{"taken uuid, no key", api.Register{Application: f, UUID: uuidOf(1)}, api.Conflict, `"uuid" must be unique.`},
		{"taken key", api.Register{Application: f, UUID: uuidOf(2), APIKey: ownKey}, api.Conflict, `"key" must be unique.`},
		{"name of two lines", api.Register{Application: f, UUID: uuidOf(2), DeviceName: "two\nlines"}, api.Invalid, "newline"},
		{"name that clears the screen", api.Register{Application: f, UUID: uuidOf(2), DeviceName: "x\x1b[2J"}, api.Invalid, "control"},
		{"name that reads backwards", api.Register{Application: f, UUID: uuidOf(2), DeviceName: "x\u202ey"}, api.Invalid, "control"},
		{"endless name", api.Register{Application: f, UUID: uuidOf(2), DeviceName: strings.Repeat("x", 256)}, api.Invalid, "device_name"},
		{"short key", api.Register{Application: f, UUID: uuidOf(2), APIKey: "short"}, api.Invalid, ""},
	} {
		_, err := w.register(key, test.req)
		if e := api.AsError(err); err == nil || e.Code != test.code || !strings.Contains(e.Text, test.text) {
			t.Errorf("%s: got %v, want %s %q", test.what, err, test.code, test.text)
		}
	}
	if by := w.Caller(first.APIKey); by.Device != first.ID {
		t.Error("the first device's key no longer works")
	}
	if _, err := w.register(first.APIKey, api.Register{Application: f, UUID: uuidOf(2)}); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("a device registers another: %v", err)
	}
	if rows := w.rows(w.alice, "device?$select=id"); len(rows) != 1 {
		t.Errorf("%d devices after refusals, want 1", len(rows))
	}
}

func TestProvisioningKeyOfAnyAge(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	key := w.provisioning(w.alice, f, 1)
	req := api.Register{Application: f, UUID: uuidOf(1), APIKey: ownKey}
	first, err := w.register(key, req)
	w.Must(err)
	again, err := w.register(key, req) // the answer got lost; the key is used up by now
	if err != nil || again != first {
		t.Errorf("repeat: %+v, %v; want %+v", again, err, first)
	}
	if _, err := w.register(key, api.Register{Application: f, UUID: uuidOf(2)}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a second device with a used-up key: %v", err)
	}
	if again, err = w.register(key, req); err != nil || again != first {
		t.Errorf("repeat after a refusal: %+v, %v", again, err)
	}
	soon := w.Now().Add(time.Hour)
	w.Write(func(tx *db.Tx) (err error) {
		key, err = w.Accounts.CreateKey(w.Context(), tx, w.alice, account.KeySpec{Of: account.OfFleet, ID: f, Expiry: &soon})
		return err
	})
	w.Pass(2 * time.Hour)
	if _, err := w.register(key, api.Register{Application: f, UUID: uuidOf(3)}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("an expired key: %v", err)
	}
	for _, path := range []string{"device?$select=id", "application?$select=id", "device_environment_variable?$select=id"} {
		w.Want(access.Caller{Kind: access.Provisioning, Fleet: f, Name: "f"}, "GET", path, nil, 401, "")
	}
}

func TestUserRegisters(t *testing.T) {
	w := newWorld(t)
	f, other := w.Fleet(w.alice, "harbour"), w.Fleet(w.bob, "elsewhere")
	for fleetID, want := range map[int64]error{f: nil, other: api.ErrNotFound} {
		_, err := w.Devices.Register(w.Context(), w.alice, api.Register{Application: fleetID, UUID: uuidOf(7), DeviceType: "generic-amd64"})
		if !errors.Is(err, want) {
			t.Errorf("fleet %d: got %v, want %v", fleetID, err, want)
		}
	}
	if row := w.one(w.alice, "device?$select=belongs_to__user"); row["belongs_to__user"] == nil {
		t.Error("who registered the device is not known")
	}
}

func TestManyRegisterAtOnce(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	key := w.provisioning(w.alice, f, 5)
	var mu sync.Mutex // covers counts
	made, refused := 0, 0
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			_, err := w.register(key, api.Register{Application: f, UUID: uuidOf(n)})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				made++
			case errors.Is(err, api.ErrUnauthorized):
				refused++
			default:
				t.Errorf("device %d: %v", n, err)
			}
		})
	}
	all.Wait()
	if rows := w.rows(w.alice, "device?$select=id"); made != 5 || refused != 15 || len(rows) != 5 {
		t.Errorf("%d registered, %d refused, %d rows; want 5, 15, 5", made, refused, len(rows))
	}
}

func TestTwoAgentsWithOneConfig(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	key := w.provisioning(w.alice, f, 0)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, err := w.register(key, api.Register{Application: f, UUID: uuidOf(1), APIKey: ownKey}); err != nil {
				t.Errorf("the same device again: %v", err)
			}
		})
	}
	all.Wait()
	if rows := w.rows(w.alice, "device?$select=id"); len(rows) != 1 {
		t.Errorf("%d devices, want 1", len(rows))
	}
}

// In one batch each registration sees the ones before it, and what is refused to one costs the others nothing.
func TestRegistrationsTogether(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	taken, other := strings.Repeat("x", 32), strings.Repeat("y", 32)
	_, err := w.register(w.provisioning(w.alice, f, 0), api.Register{Application: f, UUID: uuidOf(1), APIKey: taken})
	w.Must(err)
	two := w.Caller(w.provisioning(w.alice, f, 2))
	list := []struct {
		by   access.Caller
		req  api.Register
		want error
	}{
		{two, api.Register{UUID: uuidOf(2), DeviceType: "toaster"}, api.ErrInvalid}, // counts no use
		{two, api.Register{UUID: uuidOf(3), APIKey: ownKey, OSVersion: "1.2.3"}, nil},
		{two, api.Register{UUID: uuidOf(3), APIKey: ownKey, OSVersion: "1.2.3"}, nil}, // the repeat of the one before
		{two, api.Register{UUID: uuidOf(3), APIKey: other}, api.ErrConflict},
		{two, api.Register{UUID: uuidOf(1), APIKey: other}, api.ErrConflict},
		{two, api.Register{UUID: uuidOf(4)}, nil}, // the last use
		{two, api.Register{UUID: uuidOf(5)}, api.ErrUnauthorized},
		{two, api.Register{UUID: uuidOf(6), Application: f + 1000}, api.ErrForbidden},
		{w.bob, api.Register{UUID: uuidOf(7)}, api.ErrNotFound},
		{w.alice, api.Register{UUID: uuidOf(8)}, nil},
		{w.alice, api.Register{UUID: uuidOf(9), APIKey: "short"}, api.ErrInvalid},
	}
	var by []access.Caller
	var reqs []api.Register
	for _, e := range list {
		e.req.DeviceType = cmp.Or(e.req.DeviceType, "generic-amd64")
		e.req.Application = cmp.Or(e.req.Application, f)
		by, reqs = append(by, e.by), append(reqs, e.req)
	}
	made, refused, err := w.Devices.RegisterTogether(w.Context(), by, reqs)
	w.Must(err)
	for i, e := range list {
		if !errors.Is(refused[i], e.want) || (e.want == nil) != (made[i].ID != 0) {
			t.Errorf("%d: got %+v, %v; want %v", i, made[i], refused[i], e.want)
		}
	}
	if made[1] != made[2] {
		t.Errorf("the repeat got %+v, the first %+v", made[2], made[1])
	}
	rows := w.rows(w.alice, "device?$select=uuid,os_version&$expand=device_history($select=is_created_by__actor),service_install($select=id)&$orderby=uuid asc")
	if len(rows) != 4 {
		t.Errorf("%d devices, want 4: %v", len(rows), rows)
	}
	for _, row := range rows {
		if len(row["device_history"].([]any)) != 1 {
			t.Errorf("the history of a new device: %v", row)
		}
	}
	// A key that somebody has breaks the transaction: nothing of it stays, the devices that were in it neither.
	reqs = []api.Register{{UUID: uuidOf(10)}, {UUID: uuidOf(11), APIKey: taken}}
	for i := range reqs {
		reqs[i].Application, reqs[i].DeviceType = f, "generic-amd64"
	}
	if _, _, err := w.Devices.RegisterTogether(w.Context(), []access.Caller{w.alice, w.alice}, reqs); !errors.Is(err, api.ErrConflict) {
		t.Errorf("a key that is taken: %v", err)
	}
	if rows := w.rows(w.alice, "device?$select=id"); len(rows) != 4 {
		t.Errorf("%d devices after a batch that broke, want 4", len(rows))
	}
}

// Of many that come at once, one that breaks the transaction of all fails alone.
func TestOneOfManyRegistrationsFails(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	key := w.provisioning(w.alice, f, 0)
	_, err := w.register(key, api.Register{Application: f, UUID: uuidOf(100), APIKey: ownKey})
	w.Must(err)
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			req := api.Register{Application: f, UUID: uuidOf(n)}
			if n%5 == 0 {
				req.APIKey = ownKey
			}
			made, err := w.register(key, req)
			if n%5 == 0 && !errors.Is(err, api.ErrConflict) {
				t.Errorf("device %d with the key of another: %+v, %v", n, made, err)
			}
			if n%5 != 0 && err != nil {
				t.Errorf("device %d: %v", n, err)
			}
		})
	}
	all.Wait()
	if rows := w.rows(w.alice, "device?$select=id"); len(rows) != 17 {
		t.Errorf("%d devices, want 17", len(rows))
	}
}

// A registration that nobody waits for any more is left out.
func TestRegistrationOfOneWhoLeft(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	ctx, cancel := context.WithCancel(w.Context())
	cancel()
	_, err := w.Devices.Register(ctx, w.alice, api.Register{Application: f, UUID: uuidOf(1), DeviceType: "generic-amd64"})
	if !errors.Is(err, context.Canceled) && !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	_, err = w.Devices.Register(w.Context(), w.alice, api.Register{Application: f, UUID: uuidOf(2), DeviceType: "generic-amd64"})
	w.Must(err) // whatever came before it has had its turn
	if rows := w.rows(w.alice, "device?$select=id"); len(rows) != 1 {
		t.Errorf("%d devices, want 1", len(rows))
	}
}
