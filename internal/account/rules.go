package account

import (
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// The rules of this package, and what those of higher ones say about organizations.
const (
	memberOf = `organization_membership/any(mine:mine/user eq @user and mine/is_lasting)`
	adminOf  = `organization_membership/any(mine:mine/user eq @user and mine/organization_membership_role eq 1 and mine/is_lasting)`

	// Keys of fleets and devices are for those who have that verb there. Support never has.
	keyOfThings = `is_of__actor/any(a:a/is_of__application/any(f:f/may_keys) or a/is_of__device/any(d:d/may_keys))`
	// A session may manage every key of its user; a named key only itself, so that a leaked one cannot lock its owner out.
	ownKey = `is_of__actor eq @actor and (@key eq 0 or id eq @key)`
	// The keys of a service account are for the administrators of its organization, in a session.
	keyOfService = `is_of__actor/any(a:a/is_of__user/any(u:u/is_service_account_of__organization/any(o:o/` + adminOf + `)))`
)

// MemberOf is the rule "the caller is a member of the organization behind these navigations".
func MemberOf(path ...string) string { return access.Along("{}"+memberOf, path...) }

// AdministratorOf is the rule "the caller administers the organization behind these navigations".
func AdministratorOf(path ...string) string { return access.Along("{}"+adminOf, path...) }

// people is the same rule for users and their scoped keys.
func people(r odata.Rule) map[access.Kind]odata.Rule {
	return map[access.Kind]odata.Rule{access.User: r, access.ScopedKey: r}
}

// UsersOnly is a rule for users, of which their scoped keys may only read, if there is a filter for them.
func UsersOnly(r odata.Rule, scopedRead string) map[access.Kind]odata.Rule {
	rules := map[access.Kind]odata.Rule{access.User: r}
	if scopedRead != "" {
		rules[access.ScopedKey] = odata.Rule{Read: scopedRead}
	}
	return rules
}

func actorRules() map[access.Kind]odata.Rule {
	const observed = `is_of__application/any(f:f/may_read) or is_of__device/any(d:d/may_read)`
	return map[access.Kind]odata.Rule{
		access.User: {Read: `is_of__user/any(u:u/id eq @user) or ` + observed +
			` or is_of__user/any(u:u/is_service_account_of__organization/any(o:o/` + adminOf + `))`},
		access.ScopedKey: {Read: observed},
		access.Device:    {Read: `id eq @actor`},
		access.FleetKey:  {Read: `id eq @actor`},
	}
}

// userRules: people know those with whom they share an organization or a fleet.
func userRules() map[access.Kind]odata.Rule {
	return UsersOnly(odata.Rule{
		Read: `id eq @user or organization_membership/any(theirs:theirs/is_member_of__organization/any(o:o/` + memberOf + `))` +
			` or user_application_membership/any(theirs:theirs/is_member_of__application/any(f:f/may_read))` +
			` or is_service_account_of__organization/any(o:o/` + memberOf + `)`,
		Update: `id eq @user`,
		Ignore: []string{"has_been_sent_verification_email"}, // addresses are not verified by mail
	}, `id eq @user`)
}

// organizationRules: whoever sees a fleet knows whose it is.
func organizationRules() map[access.Kind]odata.Rule {
	const ofMyFleets = `owns__application/any(f:f/may_read)`
	return UsersOnly(odata.Rule{
		Read: memberOf + ` or ` + ofMyFleets, Create: "true", Update: adminOf, Delete: adminOf,
		Write: []string{"name", "handle", "company_name", "industry", "website", "logo_image", "is_forbidding_passwords", "is_requiring_two_factor", "max_key_days"},
	}, ofMyFleets)
}

func membershipRules() map[access.Kind]odata.Rule {
	administers := AdministratorOf("is_member_of__organization")
	return UsersOnly(odata.Rule{
		Read:   MemberOf("is_member_of__organization"),
		Create: administers, Update: administers, Delete: administers + ` or user eq @user`,
		Write: []string{"user", "username", "is_member_of__organization", "organization_membership_role", "end_date"},
		// Asked before the row is there: a new administrator would be let in by their own row.
		Refs: map[string]string{"is_member_of__organization": adminOf},
	}, `user eq @user`)
}

func keyRules() map[access.Kind]odata.Rule {
	return map[access.Kind]odata.Rule{
		access.User: {
			Read:   `is_of__actor eq @actor or ` + keyOfThings + ` or ` + keyOfService,
			Update: `(is_of__actor eq @actor and @key eq 0) or ` + keyOfThings + ` or (` + keyOfService + ` and @key eq 0)`,
			Delete: `(` + ownKey + `) or ` + keyOfThings + ` or (` + keyOfService + ` and @key eq 0)`,
			Write:  []string{"name", "description", "expiry_date"},
		},
		// A scoped key knows itself and may end itself.
		access.ScopedKey: {Read: `id eq @key`, Delete: `id eq @key`},
	}
}
