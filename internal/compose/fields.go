package compose

// Support says what becomes of a field of a compose file.
type Support string

// The three fates of a field. None is silent: an ignored one is named in the build log, a refused one ends the build.
const (
	Kept    Support = "supported"
	Ignored Support = "ignored"
	Refused Support = "refused"
)

// Field is one row of the table that both the builder and docs/composition.md go by.
type Field struct {
	Name    string
	Support Support
	Note    string // what is special, or why not
}

// Sections of the table, in the order of the manual.
var Sections = []Section{
	{"Top level", topFields},
	{"services.NAME", serviceFields},
	{"services.NAME.build", buildFields},
	{"networks.NAME", networkFields},
	{"volumes.NAME", volumeFields},
}

// Section is the fields of one place in a compose file.
type Section struct {
	Place  string
	Fields []Field
}

const (
	noSwarm    = "belongs to Swarm; a device runs one container of each service"
	noSecrets  = "a release is no place for secrets; use variables of the fleet or device"
	noHooks    = "a device runs containers, not hooks around them"
	noRemote   = "what a build takes must be in the pushed source"
	onlyFor    = "among those that the fleet is built for; every device of the fleet must run one of them. Not sent to devices"
	perService = "the operator of the device sets this, not a release"
)

var topFields = []Field{
	{"version", Ignored, "versions 2 and 3 of the format are read alike"},
	{"name", Ignored, "the fleet has a name"},
	{"services", Kept, ""},
	{"networks", Kept, ""},
	{"volumes", Kept, ""},
	{"secrets", Refused, noSecrets},
	{"configs", Refused, "copy the file into the image, or use a variable"},
	{"include", Refused, "one file describes a release"},
	{"models", Refused, "the engine of a device has no models"},
	{"jobs", Refused, "a device runs services"},
}

var serviceFields = []Field{
	{"annotations", Ignored, "labels reach the container"},
	{"attach", Ignored, "it is about a terminal that devices do not have"},
	{"blkio_config", Refused, perService},
	{"build", Kept, "see below; never sent to devices"},
	{"cap_add", Kept, ""},
	{"cap_drop", Kept, ""},
	{"cgroup", Refused, perService},
	{"cgroup_parent", Kept, ""},
	{"command", Kept, "a string is split into words"},
	{"configs", Refused, "copy the file into the image, or use a variable"},
	{"container_name", Ignored, "the agent names containers"},
	{"cpu_count", Refused, "it is for Windows"},
	{"cpu_percent", Refused, "it is for Windows"},
	{"cpu_period", Refused, "use cpus"},
	{"cpu_quota", Kept, ""},
	{"cpu_rt_period", Refused, perService},
	{"cpu_rt_runtime", Refused, perService},
	{"cpu_shares", Kept, ""},
	{"cpus", Kept, ""},
	{"cpuset", Kept, ""},
	{"credential_spec", Refused, "it is for Windows"},
	{"depends_on", Kept, "service_started and service_healthy; no other condition"},
	{"deploy", Refused, noSwarm},
	{"develop", Refused, "it is about a developer's machine"},
	{"device_cgroup_rules", Refused, "use devices or privileged"},
	{"devices", Kept, ""},
	{"dns", Kept, ""},
	{"dns_opt", Kept, ""},
	{"dns_search", Kept, ""},
	{"domainname", Kept, ""},
	{"entrypoint", Kept, "an empty list removes the image's"},
	{"env_file", Kept, "read at build time from the source, into environment"},
	{"environment", Kept, "a name without a value is left out: the builder has no environment to take it from"},
	{"expose", Ignored, "it only informs"},
	{"extends", Kept, "from the same file only"},
	{"external_links", Refused, "use networks"},
	{"extra_hosts", Kept, ""},
	{"gpus", Refused, "use the label io.balena.features.gpu"},
	{"group_add", Kept, ""},
	{"healthcheck", Kept, ""},
	{"hostname", Kept, ""},
	{"image", Kept, "beside build it is ignored: the registry names images"},
	{"init", Kept, ""},
	{"ipc", Kept, "not the one of another service"},
	{"isolation", Refused, "it is for Windows"},
	{"label_file", Refused, "write labels into the compose file"},
	{"labels", Kept, ""},
	{"links", Refused, "use networks: a service's name is its address"},
	{"logging", Refused, "the agent collects logs"},
	{"mac_address", Kept, ""},
	{"mem_limit", Kept, ""},
	{"mem_reservation", Kept, ""},
	{"mem_swappiness", Refused, perService},
	{"memswap_limit", Refused, perService},
	{"models", Refused, "the engine of a device has no models"},
	{"network_mode", Kept, "not the one of another container"},
	{"networks", Kept, "aliases and addresses"},
	{"oom_kill_disable", Kept, ""},
	{"oom_score_adj", Kept, ""},
	{"pid", Kept, "not the one of another service"},
	{"pids_limit", Kept, ""},
	{"platform", Kept, onlyFor},
	{"ports", Kept, ""},
	{"post_start", Refused, noHooks},
	{"pre_start", Refused, noHooks},
	{"pre_stop", Refused, noHooks},
	{"privileged", Kept, ""},
	{"profiles", Refused, "a device runs every service of its release; make two fleets"},
	{"provider", Refused, "a service is a container"},
	{"pull_policy", Ignored, "devices pull by digest"},
	{"pull_refresh_after", Ignored, "devices pull by digest"},
	{"read_only", Kept, ""},
	{"restart", Kept, "always when not given"},
	{"runtime", Refused, perService},
	{"scale", Refused, noSwarm},
	{"secrets", Refused, noSecrets},
	{"security_opt", Kept, "no-new-privileges only"},
	{"shm_size", Kept, ""},
	{"stdin_open", Refused, "nobody sits at a device's standard input"},
	{"stop_grace_period", Kept, ""},
	{"stop_signal", Kept, ""},
	{"storage_opt", Refused, "the engine's storage decides"},
	{"sysctls", Kept, ""},
	{"tmpfs", Kept, ""},
	{"tty", Kept, ""},
	{"ulimits", Kept, ""},
	{"umask", Refused, "set it in the service's own start script"},
	{"use_api_socket", Refused, "use the label io.balena.features.balena-socket"},
	{"user", Kept, ""},
	{"userns_mode", Kept, ""},
	{"uts", Refused, perService},
	{"volumes", Kept, "named volumes and tmpfs; a bind mount only where a feature label stands for it, which it then becomes"},
	{"volumes_from", Refused, "name the volumes"},
	{"working_dir", Kept, ""},
}

var buildFields = []Field{
	{"additional_contexts", Refused, noRemote},
	{"args", Kept, "a name without a value is left out"},
	{"cache_from", Ignored, "the builder keeps its own cache"},
	{"cache_to", Ignored, "the builder keeps its own cache"},
	{"context", Kept, "a directory of the source"},
	{"dockerfile", Kept, ""},
	{"dockerfile_inline", Kept, ""},
	{"entitlements", Refused, "builds run unprivileged"},
	{"extra_hosts", Kept, ""},
	{"isolation", Refused, "it is for Windows"},
	{"labels", Kept, "they become labels of the image"},
	{"network", Refused, "every build has the same network"},
	{"no_cache", Kept, ""},
	{"no_cache_filter", Refused, "use no_cache"},
	{"platforms", Kept, onlyFor},
	{"privileged", Refused, "builds run unprivileged"},
	{"provenance", Ignored, "the platform decides what it records"},
	{"pull", Ignored, "a tag is looked up again for every build"},
	{"sbom", Ignored, "the platform decides what it records"},
	{"secrets", Refused, "the push gives them: --secret, or .balena/secrets"},
	{"shm_size", Kept, ""},
	{"ssh", Refused, "give a key as a secret"},
	{"tags", Ignored, "the registry names images"},
	{"target", Kept, ""},
	{"ulimits", Refused, perService},
}

var networkFields = []Field{
	{"attachable", Ignored, noSwarm},
	{"driver", Kept, "bridge"},
	{"driver_opts", Kept, ""},
	{"enable_ipv4", Refused, "networks of a device have IPv4"},
	{"enable_ipv6", Kept, ""},
	{"external", Refused, "a device has only the networks of its release"},
	{"internal", Kept, ""},
	{"ipam", Kept, ""},
	{"labels", Kept, ""},
	{"name", Ignored, "the agent names networks"},
}

var volumeFields = []Field{
	{"driver", Kept, "local"},
	{"driver_opts", Refused, "they can mount any directory of the device"},
	{"external", Refused, "a device has only the volumes of its release"},
	{"labels", Kept, ""},
	{"name", Ignored, "the agent names volumes"},
}

// features are the directories and sockets of a device that a release may use, each by the label that stands for it. A bind
// mount of one of them becomes the label; the agent mounts it where the label says.
var features = map[string]string{
	"/var/run/docker.sock":        "io.balena.features.balena-socket",
	"/var/run/balena-engine.sock": "io.balena.features.balena-socket",
	"/run/dbus":                   "io.balena.features.dbus",
	"/sys":                        "io.balena.features.sysfs",
	"/proc":                       "io.balena.features.procfs",
	"/lib/modules":                "io.balena.features.kernel-modules",
	"/lib/firmware":               "io.balena.features.firmware",
	"/var/log/journal":            "io.balena.features.journal-logs",
	"/run/log/journal":            "io.balena.features.journal-logs",
	"/etc/machine-id":             "io.balena.features.journal-logs",
}
