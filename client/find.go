package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// MyFleets is the filter for the fleets that the caller works on, as against those that are merely public.
const MyFleets = "is_directly_accessible_by__user/any(dau:1 eq 1)"

// ParseTime reads a time of a row; ok is false for an empty or unreadable one.
func ParseTime(s string) (at time.Time, ok bool) {
	at, err := time.Parse(time.RFC3339Nano, s)
	return at, err == nil
}

// FindFleet finds a fleet by slug (organization/name), by name when only one of the caller's fleets has it, or by uuid. The
// query's Select and Expand hold; the id is always selected.
func (c *Client) FindFleet(ctx context.Context, ref string, q Query) (*Fleet, error) {
	if ref == "" {
		return nil, api.Errorf(api.Invalid, "no fleet is named")
	}
	q.Select = with(q.Select, "id,slug,app_name,uuid")
	if strings.Contains(ref, "/") {
		q.Filter = Where("slug eq ?", strings.ToLower(ref))
	} else {
		q.Filter = Where(MyFleets+" and (tolower(app_name) eq ? or uuid eq ?)", strings.ToLower(ref), ref)
	}
	found, err := Get[Fleet](ctx, c, "application", q)
	if err != nil {
		return nil, err
	}
	switch len(found) {
	case 0:
		return nil, api.Errorf(api.NotFound, "no fleet %q, or you may not see it", ref)
	case 1:
		return &found[0], nil
	}
	names := make([]string, len(found))
	for i, f := range found {
		names[i] = f.Slug
	}
	return nil, &AmbiguousError{Kind: "fleet", Ref: ref, Matches: names}
}

// FindDevice finds a device by uuid, by the beginning of one, or by name, when only one of the caller's devices has it.
func (c *Client) FindDevice(ctx context.Context, ref string, q Query) (*Device, error) {
	if ref == "" {
		return nil, api.Errorf(api.Invalid, "no device is named")
	}
	q.Select = with(q.Select, "id,uuid,device_name")
	tries := []string{Where("device_name eq ?", ref)}
	if hex := strings.ToLower(ref); strings.Trim(hex, "0123456789abcdef") == "" && len(hex) <= 62 {
		tries = []string{Where("startswith(uuid,?)", hex), tries[0]}
		if api.DeviceUUID(hex).Valid() {
			tries[0] = Where("uuid eq ?", hex)
		}
	}
	for _, filter := range tries {
		q.Filter = filter
		q.Top = 10
		q.OrderBy = "device_name asc"
		found, err := Get[Device](ctx, c, "device", q)
		if err != nil {
			return nil, err
		}
		switch len(found) {
		case 0:
			continue
		case 1:
			return &found[0], nil
		}
		names := make([]string, len(found))
		for i, d := range found {
			names[i] = fmt.Sprintf("%s (%s)", d.UUID[:min(12, len(d.UUID))], d.Name)
		}
		return nil, &AmbiguousError{Kind: "device", Ref: ref, Matches: names}
	}
	return nil, api.Errorf(api.NotFound, "no device %q, or you may not see it", ref)
}

// FindRelease finds a release by its number, or by its commit or the beginning of one; of several builds of one commit the
// newest. A text of digits is a number first: commits are long enough to be named otherwise.
func (c *Client) FindRelease(ctx context.Context, ref string, q Query) (*Release, error) {
	if ref == "" {
		return nil, api.Errorf(api.Invalid, "no release is named")
	}
	q.Select = with(q.Select, "id,commit")
	unknown := api.Errorf(api.NotFound, "no release %q, or you may not see it", ref)
	if id, err := strconv.ParseInt(ref, 10, 64); err == nil {
		r, err := One[Release](ctx, c, ID("release", id), Query{Select: q.Select, Expand: q.Expand})
		if err == nil || !errors.Is(err, api.ErrNotFound) {
			return r, err
		}
	}
	hex := strings.ToLower(ref)
	if strings.Trim(hex, "0123456789abcdef") != "" {
		return nil, unknown
	}
	q.Filter, q.OrderBy, q.Top = Where("startswith(commit,?)", hex), "created_at desc", 10
	found, err := Get[Release](ctx, c, "release", q)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range found {
		if name := r.Commit[:min(12, len(r.Commit))]; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	switch len(names) {
	case 0:
		return nil, unknown
	case 1:
		return &found[0], nil
	}
	return nil, &AmbiguousError{Kind: "release", Ref: ref, Matches: names}
}

// AmbiguousError says that a name stands for several things. It is api.ErrInvalid.
type AmbiguousError struct {
	Kind, Ref string
	Matches   []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%q could be several %ss: %s", e.Ref, e.Kind, strings.Join(e.Matches, ", "))
}

// Unwrap makes it an invalid request.
func (e *AmbiguousError) Unwrap() error { return api.ErrInvalid }

// with adds fields to a $select that does not have them.
func with(sel, fields string) string {
	have := map[string]bool{}
	var list []string
	for _, f := range append(strings.Split(sel, ","), strings.Split(fields, ",")...) {
		if f = strings.TrimSpace(f); f != "" && !have[f] {
			have[f] = true
			list = append(list, f)
		}
	}
	return strings.Join(list, ",")
}
