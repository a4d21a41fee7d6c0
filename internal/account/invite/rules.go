package invite

import (
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// users is a rule for users, and for none of their scoped keys.
func users(r odata.Rule) map[access.Kind]odata.Rule {
	return map[access.Kind]odata.Rule{access.User: r}
}

func organizationInviteRules() map[access.Kind]odata.Rule {
	may := account.AdministratorOf("is_invited_to__organization")
	return users(odata.Rule{
		Read: may, Create: may, Delete: may,
		Write: []string{"invitee", "is_invited_to__organization", "organization_membership_role", "message"},
	})
}

func fleetInviteRules() map[access.Kind]odata.Rule {
	may := access.On(access.Members, "is_invited_to__application")
	return users(odata.Rule{
		Read: may, Create: may, Delete: may,
		Write: []string{"invitee", "is_invited_to__application", "application_membership_role", "message"},
	})
}

// inviteeRules: an e-mail address is seen by those who may see an invitation of it.
func inviteeRules() map[access.Kind]odata.Rule {
	return users(odata.Rule{
		Read: `organization_invite/any(i:i/` + account.AdministratorOf("is_invited_to__organization") + `)` +
			` or application_invite/any(i:i/` + access.On(access.Members, "is_invited_to__application") + `)`,
	})
}
