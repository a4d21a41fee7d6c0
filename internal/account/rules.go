package account

import (
	"github.com/roadstead-io/roadstead/internal/access"
)

// The rules of this package, and what those of higher ones say about organizations.
const (
	memberOf = `organization_membership/any(mine:mine/user eq @user)`
	adminOf  = `organization_membership/any(mine:mine/user eq @user and mine/organization_membership_role eq 1)`
)

// MemberOf is the rule "the caller is a member of the organization behind these navigations".
func MemberOf(path ...string) string { return access.Along("{}"+memberOf, path...) }

// AdministratorOf is the rule "the caller administers the organization behind these navigations".
func AdministratorOf(path ...string) string { return access.Along("{}"+adminOf, path...) }
