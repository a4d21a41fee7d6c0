package access_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
)

func TestVerbs(t *testing.T) {
	for i, l := range access.Levels() {
		if got := l.Verbs().Level(); got != l {
			t.Errorf("the verbs of %s are those of %s", l, got)
		}
		if i > 0 && !l.Verbs().Has(access.Levels()[i-1].Verbs()) {
			t.Errorf("%s has not all that the level below has", l)
		}
	}
	for _, v := range []access.Verbs{access.Read, access.Given, access.Support, access.AllVerbs, access.Read | access.Shell} {
		if got, err := access.ParseVerbs(v.Names()); err != nil || got != v {
			t.Errorf("%s: got %s, %v", v, got, err)
		}
	}
	if got, err := access.ParseVerbs([]string{"shell"}); err != nil || got != access.Read|access.Shell {
		t.Errorf("a set without read: %s, %v", got, err)
	}
	for _, wrong := range []string{"", "READ", "read ", "may_read", "administrator"} {
		if _, err := access.ParseVerbs([]string{wrong}); err == nil {
			t.Errorf("%q is taken for a verb", wrong)
		}
	}
	if access.Given.Has(access.Members) || access.Given.Has(access.Ownership) || access.Support.Has(access.Keys) {
		t.Error("a role or a grant gives what only administrators have")
	}
	if got := access.On(access.Devices|access.Read, "device", "belongs_to__application"); got !=
		"device/any(a:a/belongs_to__application/any(b:b/may_read and b/may_devices))" {
		t.Errorf("On: %s", got)
	}
}

func TestComes(t *testing.T) {
	nets, err := access.ParseNetworks([]string{"192.0.2.9/24", "2001:db8::1", "::ffff:198.51.100.0/120", "192.0.2.0/24"})
	if err != nil || nets != "192.0.2.0/24 198.51.100.0/24 2001:db8::1/128" {
		t.Fatalf("networks: %q, %v", nets, err)
	}
	for _, wrong := range []string{"", "192.0.2.0/33", "192.0.2.0/-1", "example.com", "192.0.2", "fe80::1%eth0", "::ffff:0:0/90", "192.0.2.0/24 10.0.0.0/8"} {
		if got, err := access.ParseNetworks([]string{wrong}); err == nil {
			t.Errorf("%q is taken for the network %q", wrong, got)
		}
	}
	key := access.Caller{Networks: nets, Channels: access.API | access.Git}
	for _, tt := range []struct {
		ch      access.Channels
		address string
		want    error
	}{
		{access.API, "192.0.2.1", nil}, {access.Git, "::ffff:192.0.2.1", nil}, {access.API, "2001:db8::1", nil}, {access.API, "198.51.100.7", nil},
		{access.API, "192.0.3.1", api.ErrUnauthorized}, {access.API, "2001:db8::2", api.ErrUnauthorized}, {access.API, "", api.ErrUnauthorized},
		{access.Registry, "192.0.2.1", api.ErrForbidden}, {access.Tunnel, "192.0.2.1", api.ErrForbidden},
		{access.Tunnel, "192.0.3.1", api.ErrUnauthorized}, // the wrong place learns nothing of the key
	} {
		if err := key.Comes(tt.ch, tt.address); !errors.Is(err, tt.want) {
			t.Errorf("by %s from %q: got %v, want %v", tt.ch, tt.address, err, tt.want)
		}
	}
	if err := (access.Caller{}).Comes(access.Tunnel, "nonsense"); err != nil {
		t.Errorf("who is not limited: %v", err)
	}
}

func FuzzNetworks(f *testing.F) {
	f.Add("192.0.2.0/24")
	f.Add("::ffff:192.0.2.1/96")
	f.Add("2001:db8::/32")
	f.Fuzz(func(t *testing.T, text string) {
		nets, err := access.ParseNetworks([]string{text})
		if err != nil {
			return
		}
		if again, err := access.ParseNetworks(strings.Fields(nets)); err != nil || again != nets {
			t.Errorf("%q: %q is read again as %q, %v", text, nets, again, err)
		}
		prefix, err := netip.ParsePrefix(nets)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if err := (access.Caller{Networks: nets}).Comes(access.API, prefix.Addr().String()); err != nil {
			t.Errorf("%q: the first address of %s is refused", text, nets)
		}
	})
}
