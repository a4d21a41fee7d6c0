package access

// Acts are what `canAccess` answers of the rows of a resource besides read, update and delete, by the names that balena's clients and
// services have for it: act → kind → filter of the rows. A name that ends in * stands for all that begin so.
type Acts = map[string]map[Kind]string

func people(v Verbs) map[Kind]string { return map[Kind]string{User: On(v), ScopedKey: On(v)} }

// ActsOnDevice are those on a device: what the gateway, the control channel and the routes of actions, logs and keys let somebody do.
func ActsOnDevice() Acts {
	const itself = "id eq @device"
	act := people(Actions)
	act[Device] = itself
	return Acts{
		"supervisor-proxy-write": act,
		"ssh-host":               people(Shell),
		"tunnel-*":               people(Shell),
		"tunnel-48484":           people(Shell | Actions), // the agent's own API
		"tunnel-any":             people(Shell | Actions),
		"create-device-api-key":  people(Keys),
		"cloudlink":              {Device: itself},
		"write-log":              {Device: itself},
	}
}

// ActsOnFleet are those on a fleet.
func ActsOnFleet() Acts { return Acts{"create-provisioning-api-key": people(Keys)} }

// ActsOnUser are those on a user: only a session makes keys of its user.
func ActsOnUser() Acts {
	own := map[Kind]string{User: "id eq @user and @key eq 0"}
	return Acts{"create-user-api-key": own, "create-named-user-api-key": own}
}
