package fleet

import (
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// Resources declares everything that this package serves.
func (f *Fleets) Resources() []*odata.Resource {
	return []*odata.Resource{
		cpuArchitecture(), deviceManufacturer(), deviceFamily(), deviceType(), deviceTypeAlias(), applicationType(),
		f.application(), directAccess(),
		service(), applicationEnvVar(), applicationConfigVar(), buildEnvVar(), serviceEnvVar(), serviceLabel(), applicationTag(),
	}
}

func id() odata.Column { return odata.Column{Name: "id", Type: odata.Integer} }

func created() odata.Column { return odata.Column{Name: "created_at", Type: odata.Date} }

func cpuArchitecture() *odata.Resource {
	return &odata.Resource{
		Name:    "cpu_architecture",
		Columns: []odata.Column{id(), {Name: "slug", Type: odata.String}},
		Keys:    [][]string{{"slug"}},
		Rules:   readable(),
	}
}

func deviceType() *odata.Resource {
	return &odata.Resource{
		Name: "device_type",
		Columns: []odata.Column{
			id(),
			{Name: "slug", Type: odata.String},
			{Name: "name", Type: odata.String},
			{
				Name: "is_of__cpu_architecture", Type: odata.ForeignKey, To: "cpu_architecture",
				Synonyms: []string{"supports__cpu_architecture"}, Reverse: []string{"device_type", "is_supported_by__device_type"},
			},
			{Name: "logo", Type: odata.String, Null: true},
			{Name: "contract", Type: odata.JSON, Null: true},
			{
				Name: "belongs_to__device_family", Type: odata.ForeignKey, To: "device_family", Null: true,
				Reverse: []string{"device_type"},
			},
			{Name: "is_private", Type: odata.Boolean},
		},
		Keys:  [][]string{{"slug"}},
		Rules: readable(),
	}
}

func deviceTypeAlias() *odata.Resource {
	return &odata.Resource{
		Name:     "device_type_alias",
		Synonyms: []string{"device_type__is_referenced_by__alias"},
		Columns: []odata.Column{
			id(),
			{
				Name: "device_type", Type: odata.ForeignKey, To: "device_type",
				Reverse: []string{"device_type_alias", "device_type__is_referenced_by__alias", "is_referenced_by__alias"},
			},
			{Name: "is_referenced_by__alias", Type: odata.String},
		},
		Keys:  [][]string{{"is_referenced_by__alias"}},
		Rules: readable(),
	}
}

func applicationType() *odata.Resource {
	return &odata.Resource{
		Name: "application_type",
		Columns: []odata.Column{
			id(),
			{Name: "name", Type: odata.String},
			{Name: "slug", Type: odata.String},
			{Name: "description", Type: odata.String, Null: true},
			{Name: "supports_web_url", Type: odata.Boolean},
			{Name: "supports_multicontainer", Type: odata.Boolean},
			{Name: "supports_gateway_mode", Type: odata.Boolean},
			{Name: "needs__os_version_range", Type: odata.String, Null: true},
			{Name: "requires_payment", Type: odata.Boolean},
			{Name: "is_legacy", Type: odata.Boolean},
			{Name: "maximum_device_count", Type: odata.Integer, Null: true},
		},
		Keys:  [][]string{{"slug"}},
		Rules: readable(),
	}
}

// forObservers is the SQL of a fleet's column that only those read who observe it, however public the fleet is.
func forObservers(column string) string {
	return "CASE WHEN " + rights.FleetSQL(access.Read) + " THEN {t}." + column + " END"
}

func (f *Fleets) application() *odata.Resource {
	return &odata.Resource{
		Name: "application",
		Columns: append([]odata.Column{
			id(), created(),
			{Name: "actor", Type: odata.ForeignKey, To: "actor", Reverse: []string{"is_of__application"}},
			{Name: "should_track_latest_release", Type: odata.Boolean},
			{Name: "is_of__class", Type: odata.String},
			{
				Name: "organization", Type: odata.ForeignKey, To: "organization",
				Synonyms: []string{"belongs_to__organization"},
				Reverse:  []string{"application", "is_of__application", "owns__application"},
			},
			{Name: "app_name", Type: odata.String, MaxLen: 1000},
			{Name: "slug", Type: odata.String},
			{
				Name: "is_for__device_type", Type: odata.ForeignKey, To: "device_type",
				Reverse: []string{"is_default_for__application"},
			},
			{
				Name: "should_be_running__release", Type: odata.ForeignKey, To: "release", Null: true,
				Reverse: []string{"should_be_running_on__application"},
			},
			{
				Name: "application_type", Type: odata.ForeignKey, To: "application_type",
				Reverse: []string{"is_of__application"},
			},
			{Name: "is_host", Type: odata.Boolean},
			{Name: "is_archived", Type: odata.Boolean},
			{Name: "uuid", Type: odata.String},
			{Name: "is_public", Type: odata.Boolean},
			{
				Name: "is_accessible_by_support_until__date", Type: odata.Date, Null: true,
				Read: forObservers("is_accessible_by_support_until__date"),
			},
			{Name: "is_closed_to_support", Type: odata.Boolean}, // ours: support staff are shut out for good
			{Name: "is_discoverable", Type: odata.Boolean},
			{Name: "allows_tags_from_devices", Type: odata.Boolean},                      // ours: whether a device may give itself tags
			{Name: "git_branch", Type: odata.String, Null: true, MaxLen: maxBranch},      // ours: the branch that builds when it is pushed; null: main and master
			{Name: "is_also_built_for", Type: odata.String, Null: true, MaxLen: maxAlso}, // ours: further CPU architectures, see architecture.go
			{
				Name: "is_stored_at__repository_url", Type: odata.String, Null: true, MaxLen: 2000,
				Read: forObservers("is_stored_at__repository_url"),
			},
		}, rights.FleetColumns()...),
		Keys: [][]string{{"slug"}, {"uuid"}, {"app_name", "organization"}, {"actor"}},
		UniqueText: map[string]string{
			"app_name,organization": `"app_name" and "organization" must be unique.`,
			"slug":                  `"app_name" and "organization" must be unique.`, // it is made of the two
			"uuid":                  `"uuid" must be unique.`,
		},
		Missing: "there is no such fleet", // balena's clients tell a fleet that is gone by the 404
		Rules:   applicationRules(),
		Actions: access.ActsOnFleet(),
		Before:  []odata.Hook{rights.FreshFor("application"), f.beforeApplication},
		After:   []odata.Hook{f.afterApplication},
	}
}

// directAccess is the view behind `is_directly_accessible_by__user/any(dau:1 eq 1)`, by which clients ask for their own fleets
// rather than everybody's public ones.
func directAccess() *odata.Resource {
	return &odata.Resource{
		Name: "user__has_direct_access_to__application", View: true,
		Columns: []odata.Column{
			id(),
			{
				Name: "user", Type: odata.ForeignKey, To: "user",
				Synonyms: []string{"is_directly_accessible_by__user"}, Reverse: []string{"has_direct_access_to__application"},
			},
			{
				Name: "has_direct_access_to__application", Type: odata.ForeignKey, To: "application",
				Synonyms: []string{"application"}, Reverse: []string{"is_directly_accessible_by__user"},
			},
		},
		Rules: map[access.Kind]odata.Rule{
			access.User: {Read: "user eq @user"},
			access.ScopedKey: {
				Read: "user eq @user and " + access.On(access.Read, "has_direct_access_to__application"),
			},
		},
	}
}

func service() *odata.Resource {
	return &odata.Resource{
		Name:     "service",
		Synonyms: []string{"application__has__service_name"},
		Columns: []odata.Column{
			id(), created(),
			{
				Name: "application", Type: odata.ForeignKey, To: "application",
				Reverse: []string{"service", "application__has__service_name"},
			},
			{Name: "service_name", Type: odata.String, MaxLen: maxName},
		},
		Keys:   [][]string{{"application", "service_name"}},
		Rules:  serviceRules(),
		Before: []odata.Hook{StampCreated, validateService},
	}
}

// onFleet is the column that ties a row to its fleet.
func onFleet(reverse ...string) odata.Column {
	return odata.Column{Name: "application", Type: odata.ForeignKey, To: "application", Reverse: reverse}
}

// onService ties a row to its service.
func onService(reverse ...string) odata.Column {
	return odata.Column{
		Name: "service", Type: odata.ForeignKey, To: "service",
		Synonyms: []string{"application__has__service_name"}, Reverse: reverse,
	}
}

func nameValue() []odata.Column {
	return []odata.Column{{Name: "name", Type: odata.String, MaxLen: 1000}, {Name: "value", Type: odata.String}}
}

func applicationEnvVar() *odata.Resource {
	return &odata.Resource{
		Name:     "application_environment_variable",
		Synonyms: []string{"application__has__env_var_name"},
		Columns: append([]odata.Column{
			id(), created(), onFleet("application_environment_variable", "application__has__env_var_name"),
		}, nameValue()...),
		Keys:   [][]string{{"application", "name"}},
		Rules:  owned(access.Settings, onApplication, ownParent, "application", "name", "value"),
		Before: []odata.Hook{StampCreated, ValidateEnvVar},
	}
}

func applicationConfigVar() *odata.Resource {
	return &odata.Resource{
		Name:     "application_config_variable",
		Synonyms: []string{"application__has__config_var_name"},
		Columns: append([]odata.Column{
			id(), onFleet("application_config_variable", "application__has__config_var_name"),
		}, nameValue()...),
		Keys:   [][]string{{"application", "name"}},
		Rules:  owned(access.Settings, onApplication, ownParent, "application", "name", "value"),
		Before: []odata.Hook{ValidateConfigVar},
		After:  []odata.Hook{CheckChannel("application_config_variable")},
	}
}

// buildEnvVar has no rule for devices: what a build was told is not theirs to know.
func buildEnvVar() *odata.Resource {
	return &odata.Resource{
		Name:     "build_environment_variable",
		Synonyms: []string{"application__has__build_var_name"},
		Columns: append([]odata.Column{
			id(), created(), onFleet("build_environment_variable", "application__has__build_var_name"),
		}, nameValue()...),
		Keys:   [][]string{{"application", "name"}},
		Rules:  owned(access.Settings, onApplication, "", "application", "name", "value"),
		Before: []odata.Hook{StampCreated, ValidateEnvVar},
	}
}

func serviceEnvVar() *odata.Resource {
	return &odata.Resource{
		Name:     "service_environment_variable",
		Synonyms: []string{"application__has__service_name__has__name"},
		Columns: append([]odata.Column{
			id(), created(),
			onService("service_environment_variable", "application__has__service_name__has__name", "service__has__name"),
		}, nameValue()...),
		Keys:   [][]string{{"service", "name"}},
		Rules:  owned(access.Settings, throughService, ownService, "service", "name", "value"),
		Before: []odata.Hook{StampCreated, ValidateEnvVar},
	}
}

func serviceLabel() *odata.Resource {
	return &odata.Resource{
		Name:     "service_label",
		Synonyms: []string{"application__has__service_name__has__label_name"},
		Columns: []odata.Column{
			id(), created(),
			onService("service_label", "application__has__service_name__has__label_name", "service__has__label_name"),
			{Name: "label_name", Type: odata.String, MaxLen: 1000},
			{Name: "value", Type: odata.String},
		},
		Keys:   [][]string{{"service", "label_name"}},
		Rules:  owned(access.Settings, throughService, ownService, "service", "label_name", "value"),
		Before: []odata.Hook{StampCreated, ValidateLabel},
	}
}

func applicationTag() *odata.Resource {
	return &odata.Resource{
		Name:     "application_tag",
		Synonyms: []string{"application__has__tag_key"},
		Columns: []odata.Column{
			id(), onFleet("application_tag", "application__has__tag_key"),
			{Name: "tag_key", Type: odata.String, MaxLen: 1000},
			{Name: "value", Type: odata.String},
		},
		Keys:   [][]string{{"application", "tag_key"}},
		Rules:  tagRules(),
		Before: []odata.Hook{ValidateTag},
	}
}
