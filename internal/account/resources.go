package account

import (
	"context"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// Filters of the rules below. Users see the organizations that they are a member of, and what hangs on them.
const (
	// Keys of fleets and devices are for those who work on the devices.
	keyOfThings = `is_of__actor/any(a:a/is_of__application/any(f:f/is_entrusted) or a/is_of__device/any(d:d/is_entrusted))`
	// A session may manage every key of its user; a named key only itself, so that a leaked one cannot lock its owner out.
	ownKey = `is_of__actor eq @actor and (@key eq 0 or id eq @key)`
)

// Resources declares what the API shows of accounts.
func (a *Accounts) Resources() []*odata.Resource {
	return []*odata.Resource{actorResource(), userResource(), a.organizationResource(), a.membershipResource(), roleResource(), a.keyResource(), publicKeyResource()}
}

func actorResource() *odata.Resource {
	const observed = `is_of__application/any(f:f/is_observed) or is_of__device/any(d:d/is_observed)`
	return &odata.Resource{
		Name:    "actor",
		Columns: []odata.Column{{Name: "id", Type: odata.Integer}},
		Rules: map[access.Kind]odata.Rule{
			access.User:      {Read: `is_of__user/any(u:u/id eq @user) or ` + observed},
			access.ScopedKey: {Read: observed},
			access.Device:    {Read: `id eq @actor`},
			access.FleetKey:  {Read: `id eq @actor`},
		},
	}
}

func userResource() *odata.Resource {
	return &odata.Resource{
		Name: "user",
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{Name: "actor", Type: odata.ForeignKey, To: "actor", Reverse: []string{"is_of__user"}},
			{Name: "username", Type: odata.String},
			{
				Name: "has_legacy_link_to__organization", Type: odata.ForeignKey, To: "organization", Null: true,
				Reverse: []string{"includes_legacy_link_to__user"},
			},
		},
		Keys: [][]string{{"username"}, {"actor"}},
		Rules: map[access.Kind]odata.Rule{
			access.User: {Read: `id eq @user or organization_membership/any(theirs:theirs/is_member_of__organization/any(o:o/` + memberOf + `))`},
		},
	}
}

func (a *Accounts) organizationResource() *odata.Resource {
	writable := []string{"name", "handle", "company_name", "industry", "website"}
	return &odata.Resource{
		Name: "organization",
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{Name: "name", Type: odata.String, MaxLen: 255},
			{Name: "handle", Type: odata.String, MaxLen: maxHandle},
			{Name: "company_name", Type: odata.String, Null: true, MaxLen: 255},
			{Name: "billing_account_code", Type: odata.String, SQL: "NULL", Null: true},
			{Name: "has_past_due_invoice_since__date", Type: odata.Date, SQL: "NULL", Null: true},
			{Name: "is_frozen", Type: odata.Boolean},
			{Name: "industry", Type: odata.String, Null: true, MaxLen: 255},
			{Name: "website", Type: odata.String, Null: true, MaxLen: 255},
			{Name: "logo_image", Type: odata.WebResource, Null: true},
			{Name: "is_using__billing_version", Type: odata.String, SQL: "NULL", Null: true},
			{Name: "is_enforcing_saml_login", Type: odata.Boolean},
		},
		Keys:       [][]string{{"handle"}},
		UniqueText: map[string]string{"handle": `"handle" must be unique.`},
		Rules: map[access.Kind]odata.Rule{
			access.User: {Read: memberOf, Create: "true", Update: adminOf, Delete: adminOf, Write: writable},
		},
		Before: []odata.Hook{a.beforeOrganization},
		After:  []odata.Hook{a.afterOrganization},
	}
}

func (a *Accounts) membershipResource() *odata.Resource {
	administers := `is_member_of__organization/any(o:o/` + adminOf + `)`
	return &odata.Resource{
		Name:     "organization_membership",
		Synonyms: []string{"user__is_member_of__organization"},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{
				Name: "user", Type: odata.ForeignKey, To: "user", Synonyms: []string{"includes__user"},
				Reverse: []string{
					"organization_membership", "user__is_member_of__organization", "is_member_of__organization",
					"is_of__user__is_member_of__organization", "is_of__organization_membership",
					"includes__user__is_member_of__organization", "includes__organization_membership",
				},
			},
			{
				Name: "is_member_of__organization", Type: odata.ForeignKey, To: "organization", Synonyms: []string{"organization"},
				Reverse: []string{
					"organization_membership", "user__is_member_of__organization", "includes__user",
					"includes__user__is_member_of__organization", "includes__organization_membership",
				},
			},
			{
				Name: "organization_membership_role", Type: odata.ForeignKey, To: "organization_membership_role",
				Reverse: []string{"is_of__organization_membership", "is_of__user__is_member_of__organization"},
			},
			{
				Name: "effective_seat_role", Type: odata.String,
				SQL: "(SELECT r.name FROM organization_membership_role r WHERE r.id = {t}.organization_membership_role)",
			},
		},
		Keys:       [][]string{{"user", "is_member_of__organization"}},
		UniqueText: map[string]string{"user,is_member_of__organization": `"user" and "is_member_of__organization" must be unique.`},
		Rules: map[access.Kind]odata.Rule{
			access.User: {
				Read:   `is_member_of__organization/any(o:o/` + memberOf + `)`,
				Create: administers, Update: administers, Delete: administers + ` or user eq @user`,
				Write: []string{"user", "is_member_of__organization", "organization_membership_role"},
			},
		},
		Before: []odata.Hook{a.beforeMembership},
		After:  []odata.Hook{a.afterMembership},
	}
}

func roleResource() *odata.Resource {
	return &odata.Resource{
		Name:    "organization_membership_role",
		Columns: []odata.Column{{Name: "id", Type: odata.Integer}, {Name: "name", Type: odata.String}},
		Keys:    [][]string{{"name"}},
		Rules:   map[access.Kind]odata.Rule{access.User: {Read: "true"}},
	}
}

// keyResource shows everything of a key but the key: only its hash is stored, and that column is not declared.
func (a *Accounts) keyResource() *odata.Resource {
	return &odata.Resource{
		Name: "api_key",
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{Name: "is_of__actor", Type: odata.ForeignKey, To: "actor", Reverse: []string{"api_key"}},
			{Name: "name", Type: odata.String, Null: true, MaxLen: maxKeyName},
			{Name: "description", Type: odata.String, Null: true, MaxLen: maxKeyDescription},
			{Name: "expiry_date", Type: odata.Date, Null: true},
			{Name: "kind", Type: odata.String}, // ours: user, provisioning or device
			{Name: "max_uses", Type: odata.Integer, Null: true},
			{Name: "uses", Type: odata.Integer},
			{Name: "last_used_at", Type: odata.Date, Null: true},
		},
		Rules: map[access.Kind]odata.Rule{
			access.User: {
				Read:   `is_of__actor eq @actor or ` + keyOfThings,
				Update: `(is_of__actor eq @actor and @key eq 0) or ` + keyOfThings,
				Delete: `(` + ownKey + `) or ` + keyOfThings,
				Write:  []string{"name", "description", "expiry_date"},
			},
		},
		Before: []odata.Hook{a.beforeKey},
	}
}

// beforeKey keeps names printable and tells whoever holds connections open that a key is about to end.
func (a *Accounts) beforeKey(_ context.Context, tx *db.Tx, c *odata.Change) error {
	if name, ok := c.Values["name"].(string); ok && strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return api.Errorf(api.Invalid, "a key's name has no control characters")
	}
	_, expires := c.Values["expiry_date"]
	if c.Op == odata.Delete || expires {
		a.revoked(tx, "key", c.IDs...)
	}
	return nil
}
