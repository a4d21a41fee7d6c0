package trust

import (
	"maps"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/composition"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// LabelVariables is a label of a service by which a release names all variables that may be set for it from outside: names with commas between them, of which
// one that ends with a star stands for all that begin so.
const LabelVariables = "io.roadstead.variables"

// commanding are variables by which the loader, a shell, an interpreter or a common program runs other code than the image has. The list cannot be complete: a
// program may make of any variable what it likes. LabelVariables is for those who want more.
var commanding = []string{
	"LD_*", "GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH", "PATH",
	"BASH_ENV", "BASH_FUNC_*", "BASHOPTS", "PROMPT_COMMAND", "PS4", "SHELLOPTS", "ZDOTDIR",
	"NODE_OPTIONS", "NODE_PATH", "NODE_REPL_EXTERNAL_MODULE", "NPM_CONFIG_*", "npm_config_*", "BUN_OPTIONS",
	"PYTHONBREAKPOINT", "PYTHONEXECUTABLE", "PYTHONHOME", "PYTHONINSPECT", "PYTHONPATH", "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX", "PYTHONSTARTUP", "PYTHONUSERBASE",
	"PYTHONWARNINGS",
	"PERL5DB", "PERL5LIB", "PERL5OPT", "PERL5SHELL", "PERLLIB", "RUBYLIB", "RUBYOPT", "BUNDLE_GEMFILE", "GEM_HOME", "GEM_PATH", "PHPRC", "PHP_INI_SCAN_DIR",
	"LUA_CPATH*", "LUA_INIT*", "LUA_PATH*", "CLASSPATH", "JAVA_OPTS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS",
	"CORECLR_*", "COR_ENABLE_PROFILING", "COR_PROFILER*", "DOTNET_ADDITIONAL_DEPS", "DOTNET_SHARED_STORE", "DOTNET_STARTUP_HOOKS", "ERL_AFLAGS", "ERL_FLAGS", "ERL_ZFLAGS", "ELIXIR_ERL_OPTIONS",
	"R_ENVIRON*", "R_PROFILE*", "GTK_MODULES", "GTK_PATH", "QT_PLUGIN_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH", "QML2_IMPORT_PATH", "GST_PLUGIN_*", "GIO_EXTRA_MODULES",
	"OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES",
	"GIT_ASKPASS", "GIT_CONFIG*", "GIT_EDITOR", "GIT_EXEC_PATH", "GIT_EXTERNAL_DIFF", "GIT_PAGER", "GIT_PROXY_COMMAND", "GIT_SEQUENCE_EDITOR", "GIT_SSH*", "GIT_TEMPLATE_DIR",
	"BROWSER", "EDITOR", "LESSCLOSE", "LESSOPEN", "MANPAGER", "PAGER", "RSYNC_RSH", "SUDO_EDITOR", "VISUAL",
}

// compareVariables refuses variables of a target state that the release does not let anybody set from outside. What the composition sets to the same value is its own.
// Where the release needs the owner's word, so do variables that say what code is run.
func compareVariables(doc *api.ReleaseDocument, rel *api.ReleaseTarget, approval api.Approval) error {
	for _, name := range slices.Sorted(maps.Keys(rel.Services)) {
		given, signed := rel.Services[name].Environment, doc.Services[name]
		allowed, limited := signed.Labels[LabelVariables]
		if !limited && approval == api.ApprovalBuilder || len(given) == 0 {
			continue
		}
		own, err := composition.Environment(signed.Composition)
		if err != nil {
			return tuf.Refuse("composition of service "+name, tuf.ReasonMalformed, "", "an environment", err.Error())
		}
		for _, variable := range slices.Sorted(maps.Keys(given)) {
			what := "variable " + variable + " of service " + name
			value, set := own[variable]
			switch {
			case set && value == given[variable]:
			case limited && !matches(strings.Split(allowed, ","), variable):
				return tuf.Refuse(what, reasonVariable, "", "one that the label "+LabelVariables+" names", variable)
			case !limited && matches(commanding, variable):
				return tuf.Refuse(what, reasonVariable, "", "none, or in the composition or its label "+LabelVariables+", for it says what code is run", variable)
			}
		}
	}
	return nil
}

// matches tells whether a name is in a list, some of which end with a star.
func matches(list []string, name string) bool {
	return slices.ContainsFunc(list, func(entry string) bool {
		entry = strings.TrimSpace(entry)
		if prefix, ok := strings.CutSuffix(entry, "*"); ok {
			return strings.HasPrefix(name, prefix)
		}
		return entry == name
	})
}
