package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/channel/when"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// The texts below are matched by balena's clients and their tests.

var (
	appName       = pattern.New(`^[a-zA-Z0-9_-]+$`)
	uuid4         = pattern.New(`^[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}$`)
	envVarName    = pattern.New(`^[A-Za-z_][A-Za-z0-9_]*$`)
	configVarName = pattern.New(`^[A-Za-z_][A-Za-z0-9_:]*$`)
	serviceName   = pattern.New(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
	branchName    = pattern.New(`^[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$`)
	labelName     = pattern.New("^[!#-&(-_a-~]+$") // printable ASCII without space, quotes and backtick
)

const maxName = 255 // what supervisors accept of any name

func checkAppName(name string) error {
	if name != "" && !appName.MatchString(name) {
		return api.Errorf(api.Invalid, "App name may only contain [a-zA-Z0-9_-].")
	}
	if len(name) < 4 || len(name) > 100 {
		return api.Errorf(api.Invalid, "It is necessary that each application has an app name that has a Length (Type) that "+
			"is greater than or equal to 4 and is less than or equal to 100")
	}
	return nil
}

// maxBranch bounds the name of a branch.
const maxBranch = 100

// checkBranch refuses what is no name of a branch, or one that means something else.
func checkBranch(name string) error {
	switch {
	case len(name) > maxBranch || !branchName.MatchString(name) || strings.HasSuffix(name, ".lock") || strings.Contains(name, ".lock/"):
		return api.Errorf(api.Invalid, "git_branch: %q is no name of a branch: letters, digits, _ and -, parts separated by . or /, at most %d characters.", name, maxBranch)
	case name == "balena-nocache" || name == "balena-emulated":
		return api.Errorf(api.Invalid, "git_branch: %q is the name of an option of a push.", name)
	}
	return nil
}

// GitBranch is the branch that builds when it is pushed; "" means main and master. It checks no right.
func GitBranch(ctx context.Context, tx *db.Tx, id int64) (branch string, err error) {
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(git_branch, '') FROM application WHERE id = ?`, id).Scan(&branch); err != nil {
		return "", fmt.Errorf("fleet %d: %w", id, err)
	}
	return branch, nil
}

// There lists those of some fleets that are there. It checks no right.
func There(ctx context.Context, tx *db.Tx, ids []int64) ([]int64, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	in, args := db.In(ids)
	found, err := db.Column[int64](ctx, tx, `SELECT id FROM application WHERE id IN `+in+` ORDER BY id`, args...)
	if err != nil {
		return nil, fmt.Errorf("fleets: %w", err)
	}
	return found, nil
}

// CheckServiceName refuses what cannot be the name of a container on a device.
func CheckServiceName(name string) error {
	if !serviceName.MatchString(name) || len(name) > maxName {
		return api.Errorf(api.Invalid, "Service names may only contain [a-zA-Z0-9_.-] and must begin with a letter or digit.")
	}
	return nil
}

func isReserved(name string) bool { return name == "RESIN" || name == "BALENA" || name == "USER" }

// ours reports whether a configuration variable is one of ours that no supervisor knows.
func ours(name string) bool { return when.Ours(name) || name == SSHRecord || name == TunnelPorts }

// SSHRecord is the configuration variable, "true" or "false", that says whether what SSH sessions on devices show is recorded.
const SSHRecord = "ROADSTEAD_SSH_RECORD"

// TunnelPorts is the configuration variable of a fleet, and of a device, that says which ports tunnels may lead to: "22222, 8000-8099", "all"
// or "none". Where both have one, both must let a port through: who may change a device opens nothing that the fleet closed. Without it, all.
const TunnelPorts = "ROADSTEAD_TUNNEL_PORTS"

func inNamespace(name string) bool {
	return strings.HasPrefix(name, "RESIN_") || strings.HasPrefix(name, "BALENA_")
}

func checkEnvVarName(name string) error {
	switch {
	case isReserved(name):
		return api.Errorf(api.Invalid, "Environment variables RESIN, BALENA, USER are reserved")
	case inNamespace(name):
		return api.Errorf(api.Invalid, "Environment variables beginning with RESIN_, BALENA_ are reserved.")
	case !envVarName.MatchString(name):
		return api.Errorf(api.Invalid, "Environment variable names can only contain alphanumeric characters and underscores.")
	case len(name) > maxName:
		return api.Errorf(api.Invalid, "Environment variable names can be at most %d characters long.", maxName)
	}
	return nil
}

func checkConfigVarName(name string) error {
	switch {
	case isReserved(name):
		return api.Errorf(api.Invalid, "Configuration variables RESIN, BALENA, USER are reserved")
	case !configVarName.MatchString(name):
		return api.Errorf(api.Invalid, "Configuration variable names can only contain alphanumeric characters, underscores or a colon")
	case !inNamespace(name) && !ours(name):
		return api.Errorf(api.Invalid, "Configuration variables must be part of one of the following namespaces: RESIN_, BALENA_")
	case len(name) > maxName:
		return api.Errorf(api.Invalid, "Configuration variable names can be at most %d characters long.", maxName)
	}
	return nil
}

func checkVarValue(value string) error {
	if strings.ContainsAny(value, "\r\n\x00") {
		return api.Errorf(api.Invalid, "Variable values cannot contain line break characters")
	}
	return nil
}

// ValidateEnvVar is a hook for resources of environment variables: columns name and value.
func ValidateEnvVar(_ context.Context, _ *db.Tx, c *odata.Change) error {
	return validateVar(c, checkEnvVarName)
}

// ValidateConfigVar is the same for configuration variables.
func ValidateConfigVar(_ context.Context, _ *db.Tx, c *odata.Change) error {
	return validateVar(c, checkConfigVarName)
}

// CheckChannel is a hook for a resource of configuration variables: those that switch the control channel, and the one that says which ports
// are open to tunnels, have values that are understood, for what is not shuts the channel or the ports.
func CheckChannel(resource string) odata.Hook {
	return func(ctx context.Context, tx *db.Tx, c *odata.Change) error {
		if name, given := c.Values["name"].(string); c.Op == odata.Delete || given && name != TunnelPorts && !slices.Contains(when.Names(), name) {
			return nil
		}
		for _, id := range c.IDs {
			var name, value string
			if err := tx.QueryRowContext(ctx, `SELECT name, value FROM `+resource+` WHERE id = ?`, id).Scan(&name, &value); err != nil {
				return fmt.Errorf("check a configuration variable: %w", err)
			}
			if name == TunnelPorts {
				if _, err := ports(value); err != nil {
					return err
				}
			}
			if err := when.Check(name, value); err != nil {
				return api.Errorf(api.Invalid, "%v", err)
			}
		}
		return nil
	}
}

func validateVar(c *odata.Change, check func(string) error) error {
	if c.Op == odata.Delete {
		return nil
	}
	if err := given(c, "name", check); err != nil {
		return err
	}
	return given(c, "value", checkVarValue)
}

// given checks a text column of a write: one that is missing from a create counts as empty.
func given(c *odata.Change, column string, check func(string) error) error {
	v, ok := c.Values[column]
	if !ok && c.Op != odata.Create {
		return nil
	}
	s, isText := v.(string)
	if ok && !isText {
		return api.Errorf(api.Invalid, "%q is required.", column)
	}
	if !ok && column == "value" {
		return api.Errorf(api.Invalid, "%q is required.", column)
	}
	return check(s)
}

// ValidateTag is a hook for resources of tags: columns tag_key and value.
func ValidateTag(_ context.Context, _ *db.Tx, c *odata.Change) error {
	if c.Op == odata.Delete {
		return nil
	}
	if _, ok := c.Values["value"]; !ok && c.Op == odata.Create {
		c.Values["value"] = ""
	}
	return given(c, "tag_key", CheckTagKey)
}

// CheckTagKey refuses keys that tags may not have.
func CheckTagKey(key string) error {
	switch {
	case key == "":
		return api.Errorf(api.Invalid, "It is necessary that each tag has a tag key that has a Length (Type) that is greater than 0")
	case strings.ContainsFunc(key, unicode.IsSpace):
		return api.Errorf(api.Invalid, "Tag keys cannot contain whitespace.")
	case strings.HasPrefix(key, "io.resin."):
		return api.Errorf(api.Invalid, "Tag keys beginning with io.resin. are reserved.")
	case strings.HasPrefix(key, "io.balena."):
		return api.Errorf(api.Invalid, "Tag keys beginning with io.balena. are reserved.")
	case len(key) > maxName:
		return api.Errorf(api.Invalid, "Tag keys can be at most %d bytes long.", maxName)
	}
	return nil
}

// ValidateLabel is a hook for resources of container labels: columns label_name and value.
func ValidateLabel(_ context.Context, _ *db.Tx, c *odata.Change) error {
	if c.Op == odata.Delete {
		return nil
	}
	if err := given(c, "label_name", CheckLabelName); err != nil {
		return err
	}
	return given(c, "value", func(string) error { return nil })
}

// CheckLabelName refuses label names that a supervisor would refuse the whole target state for.
func CheckLabelName(name string) error {
	if !labelName.MatchString(name) || len(name) > maxName {
		return api.Errorf(api.Invalid,
			"Label names can only contain printable ASCII characters other than spaces, quotes and backticks.")
	}
	return nil
}

// StampCreated is a hook that gives a new row the time of its transaction.
func StampCreated(_ context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op == odata.Create {
		c.Values["created_at"] = tx.NowText()
	}
	return nil
}
