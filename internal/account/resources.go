package account

import (
	"context"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// Resources declares what the API shows of accounts.
func (a *Accounts) Resources() []*odata.Resource {
	return []*odata.Resource{
		actorResource(), userResource(), profileResource(), a.organizationResource(), a.membershipResource(), roleResource(), a.keyResource(),
	}
}

func actorResource() *odata.Resource {
	return &odata.Resource{
		Name:    "actor",
		Columns: []odata.Column{{Name: "id", Type: odata.Integer}},
		Rules:   actorRules(),
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
			{ // ours: whose automation this is; null for a person
				Name: "is_service_account_of__organization", Type: odata.ForeignKey, To: "organization", Null: true,
				Reverse: []string{"owns__service_account"},
			},
		},
		Keys:    [][]string{{"username"}, {"actor"}},
		Rules:   userRules(),
		Actions: access.ActsOnUser(),
	}
}

// profileResource is what clients read beside a user; most of it means nothing here.
func profileResource() *odata.Resource {
	constant := func(name string, t odata.Type, sql string) odata.Column {
		return odata.Column{Name: name, Type: t, SQL: sql, Null: sql == "NULL"}
	}
	return &odata.Resource{
		Name: "user_profile", Table: "user",
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "is_of__user", Type: odata.ForeignKey, To: "user", SQL: "{t}.id", Reverse: []string{"user_profile"}},
			{Name: "email", Type: odata.String, Null: true},
			constant("has_disabled_newsletter", odata.Boolean, "1"),
			constant("is_verified", odata.Boolean, "1"), constant("must_be_verified", odata.Boolean, "0"),
			constant("first_name", odata.String, "NULL"), constant("last_name", odata.String, "NULL"),
			constant("account_type", odata.String, "NULL"), constant("has_password_set", odata.Boolean, "CASE WHEN {t}.password = '' THEN 0 ELSE 1 END"),
			constant("company", odata.String, "NULL"),
		},
		Rules: UsersOnly(odata.Rule{Read: "id eq @user"}, ""),
	}
}

func (a *Accounts) organizationResource() *odata.Resource {
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
			{Name: "is_forbidding_passwords", Type: odata.Boolean},  // ours
			{Name: "is_requiring_two_factor", Type: odata.Boolean},  // ours
			{Name: "max_key_days", Type: odata.Integer, Null: true}, // ours: how long new keys of members live at most
		},
		Keys:       [][]string{{"handle"}},
		UniqueText: map[string]string{"handle": `"handle" must be unique.`},
		Rules:      organizationRules(),
		Before:     []odata.Hook{rights.FreshFor("organization"), a.signInRules, a.beforeOrganization},
		After:      []odata.Hook{a.afterOrganization},
	}
}

func (a *Accounts) membershipResource() *odata.Resource {
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
			{Name: "end_date", Type: odata.Date, Null: true}, // ours: from then on the membership gives nothing
			{Name: "is_lasting", Type: odata.Boolean, SQL: rights.Lasting("{t}"), Hidden: true},
		},
		Keys:       [][]string{{"user", "is_member_of__organization"}},
		UniqueText: map[string]string{"user,is_member_of__organization": `"user" and "is_member_of__organization" must be unique.`},
		Rules:      membershipRules(),
		Virtual:    []string{"username"},
		Before: []odata.Hook{
			rights.FreshFor("organization_membership"), Fixed("user", "is_member_of__organization"), UserByName, a.beforeMembership,
		},
		After: []odata.Hook{a.newMember, a.MembersChanged},
	}
}

func roleResource() *odata.Resource {
	return &odata.Resource{
		Name:    "organization_membership_role",
		Columns: []odata.Column{{Name: "id", Type: odata.Integer}, {Name: "name", Type: odata.String}},
		Keys:    [][]string{{"name"}},
		Rules:   people(odata.Rule{Read: "true"}),
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
			{Name: "last_used_from", Type: odata.String, Null: true},
			{Name: "max_level", Type: odata.Integer, SQL: keyLevel},
			{Name: "is_for_some_fleets", Type: odata.Boolean},
			{Name: "is_for_some_devices", Type: odata.Boolean},
			{Name: "verbs", Type: odata.JSON, SQL: bitNames("{t}.verbs", access.AllVerbs.Names())},
			{Name: "channels", Type: odata.JSON, SQL: bitNames("{t}.channels", access.AllChannels.Names())},
			{Name: "networks", Type: odata.String, Null: true},
			{Name: "is_created_by__user", Type: odata.ForeignKey, To: "user", Null: true, Reverse: []string{"creates__api_key"}},
		},
		Rules:  keyRules(),
		Before: []odata.Hook{a.beforeKey},
	}
}

// bitNames is the JSON list of the names of the bits that a column holds.
func bitNames(column string, names []string) string {
	var list []string
	for i, name := range names {
		list = append(list, fmt.Sprintf(`CASE WHEN (%s & %d) <> 0 THEN '"%s",' ELSE '' END`, column, 1<<i, name))
	}
	return `('[' || rtrim(` + strings.Join(list, " || ") + `, ',') || ']')`
}

// keyLevel is the highest level of which a key has every verb.
var keyLevel = func() string {
	sql := "0"
	for _, l := range access.Levels() {
		v := fmt.Sprint(int(l.Verbs()))
		sql = "CASE WHEN ({t}.verbs & " + v + ") = " + v + " THEN " + fmt.Sprint(int(l)) + " ELSE " + sql + " END"
	}
	return "(" + sql + ")"
}()

// beforeKey keeps names printable and tells whoever holds connections open that a key is about to end.
func (a *Accounts) beforeKey(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if name, ok := c.Values["name"].(string); ok && strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return api.Errorf(api.Invalid, "a key's name has no control characters")
	}
	_, expires := c.Values["expiry_date"]
	if expires && c.Op == odata.Update {
		if err := checkNewEnd(ctx, tx, c); err != nil {
			return err
		}
	}
	if c.Op == odata.Delete || expires {
		a.Revoked(tx, "key", c.IDs...)
	}
	return nil
}
