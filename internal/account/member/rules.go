package member

import (
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/odata"
)

func membershipTagRules() map[access.Kind]odata.Rule {
	path := []string{"organization_membership", "is_member_of__organization"}
	administers := account.AdministratorOf(path...)
	return account.UsersOnly(odata.Rule{
		Read: account.MemberOf(path...), Create: administers, Update: administers, Delete: administers,
		Write: []string{"organization_membership", "tag_key", "value"},
	}, "")
}

// fleetMembershipRules: who sees a fleet sees who else does; members may leave.
func fleetMembershipRules() map[access.Kind]odata.Rule {
	const fleet, own = "is_member_of__application", `user eq @user`
	may := access.On(access.Members, fleet)
	return account.UsersOnly(odata.Rule{
		Read: access.On(access.Read, fleet), Create: may, Update: may, Delete: may + ` or ` + own,
		Write: []string{"user", "username", fleet, "application_membership_role", "end_date"},
	}, access.On(access.Read, fleet))
}

// roleRules: everybody reads the built-in ones, members those of their organization, and its administrators make them.
func roleRules() map[access.Kind]odata.Rule {
	may := account.AdministratorOf("belongs_to__organization")
	const builtIn = `belongs_to__organization eq null`
	return account.UsersOnly(odata.Rule{
		Read: builtIn + ` or ` + account.MemberOf("belongs_to__organization") + ` or ` + roleInUse, Create: may, Update: may, Delete: may,
		Write: []string{"belongs_to__organization", "name", "description", "verbs"},
	}, builtIn+` or `+roleInUse)
}

// roleInUse: who sees a fleet sees the roles that people have in it.
const roleInUse = `is_of__user_application_membership/any(m:m/is_member_of__application/any(f:f/may_read))`

func teamRules() map[access.Kind]odata.Rule {
	may := account.AdministratorOf("belongs_to__organization")
	return account.UsersOnly(odata.Rule{
		Read: account.MemberOf("belongs_to__organization"), Create: may, Update: may, Delete: may,
		Write: []string{"belongs_to__organization", "name", "description"},
	}, "")
}

func teamMembershipRules() map[access.Kind]odata.Rule {
	path := []string{"is_member_of__team", "belongs_to__organization"}
	may := account.AdministratorOf(path...)
	return account.UsersOnly(odata.Rule{
		Read: account.MemberOf(path...), Create: may, Delete: may + ` or user eq @user`,
		Write: []string{"user", "username", "is_member_of__team"},
	}, "")
}

func teamAccessRules() map[access.Kind]odata.Rule {
	path := []string{"team", "belongs_to__organization"}
	may := account.AdministratorOf(path...) + ` and ` + access.On(access.Members, "grants_access_to__application")
	return account.UsersOnly(odata.Rule{
		Read: account.MemberOf(path...), Create: may, Update: may, Delete: may,
		Write: []string{"team", "grants_access_to__application", "application_membership_role", "end_date"},
	}, "")
}
