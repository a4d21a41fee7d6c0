package device

import (
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// rowResources are the rows that hang on a device. People write variables and tags; a device reads its own.
func (d *Devices) rowResources() []*odata.Resource {
	return []*odata.Resource{
		variableOf("device_environment_variable", "device__has__env_var_name", fleet.ValidateEnvVar),
		variableOf("device_config_variable", "device__has__config_var_name", fleet.ValidateConfigVar),
		tag(), serviceInstall(), serviceVariable(), imageInstall(), history(), serviceInstance(),
	}
}

const maxValue = 64 << 10

func variableOf(name, synonym string, validate odata.Hook) *odata.Resource {
	r := &odata.Resource{
		Name: name, Synonyms: []string{synonym},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "device", Type: odata.ForeignKey, To: "device", Reverse: []string{name, synonym}},
			{Name: "name", Type: odata.String, MaxLen: 255},
			{Name: "value", Type: odata.String, MaxLen: maxValue},
		},
		Keys:       [][]string{{"device", "name"}},
		UniqueText: map[string]string{"device,name": `"device" and "name" must be unique.`},
		Rules:      rowRules(onDevice, "device", "name", "value"),
		Before:     []odata.Hook{validate},
	}
	if name == "device_environment_variable" {
		r.Columns = append(r.Columns, odata.Column{Name: "created_at", Type: odata.Date})
		r.Before = append(r.Before, fleet.StampCreated)
	} else {
		r.After = []odata.Hook{fleet.CheckChannel(name)}
	}
	return r
}

func tag() *odata.Resource {
	const synonym = "device__has__tag_key"
	return &odata.Resource{
		Name: "device_tag", Synonyms: []string{synonym},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "device", Type: odata.ForeignKey, To: "device", Reverse: []string{"device_tag", synonym}},
			{Name: "tag_key", Type: odata.String, MaxLen: 255},
			{Name: "value", Type: odata.String, MaxLen: maxValue},
		},
		Keys:       [][]string{{"device", "tag_key"}},
		UniqueText: map[string]string{"device,tag_key": `"device" and "tag_key" must be unique.`},
		Rules:      tagRules(),
		Before:     []odata.Hook{fleet.ValidateTag},
	}
}

func serviceInstall() *odata.Resource {
	const long, short = "device__installs__application__has__service_name", "device__installs__service"
	return &odata.Resource{
		Name: "service_install", Synonyms: []string{long, short},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{Name: "device", Type: odata.ForeignKey, To: "device", Reverse: []string{"service_install", long, short,
				"installs__application__has__service_name", "installs__service"}},
			{Name: "installs__service", Type: odata.ForeignKey, To: "service",
				Synonyms: []string{"service", "application__has__service_name", "installs__application__has__service_name"},
				Reverse:  []string{"service_install", long, short}},
		},
		Keys:  [][]string{{"device", "installs__service"}},
		Rules: rowRules(onDevice), // made and removed by the server only
	}
}

func serviceVariable() *odata.Resource {
	const long = "device__installs__application__has__service_name__has__name"
	return &odata.Resource{
		Name: "device_service_environment_variable", Synonyms: []string{long, "device__installs__service__has__name"},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{Name: "service_install", Type: odata.ForeignKey, To: "service_install",
				Synonyms: []string{"device__installs__application__has__service_name", "device__installs__service"},
				Reverse: []string{"device_service_environment_variable", long, "device__installs__service__has__name",
					"device__installs__service_environment_variable", "service_install__has__name"}},
			{Name: "name", Type: odata.String, MaxLen: 255},
			{Name: "value", Type: odata.String, MaxLen: maxValue},
		},
		Keys:       [][]string{{"service_install", "name"}},
		UniqueText: map[string]string{"service_install,name": `"service_install" and "name" must be unique.`},
		Rules:      rowRules(throughInstall, "service_install", "name", "value"),
		Before:     []odata.Hook{fleet.ValidateEnvVar, fleet.StampCreated},
	}
}

func imageInstall() *odata.Resource {
	const long = "device__installs__image"
	return &odata.Resource{
		Name: "image_install", Synonyms: []string{long},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{Name: "device", Type: odata.ForeignKey, To: "device", Reverse: []string{"image_install", long, "installs__image"}},
			{Name: "installs__image", Type: odata.ForeignKey, To: "image", Synonyms: []string{"image"},
				Reverse: []string{"image_install", long}},
			{Name: "is_provided_by__release", Type: odata.ForeignKey, To: "release",
				Reverse: []string{"provides__device__installs__image", "provides__image_install"}},
			{Name: "install_date", Type: odata.Date},
			{Name: "download_progress", Type: odata.Integer, Null: true},
			{Name: "status", Type: odata.String},
		},
		Keys:  [][]string{{"device", "installs__image"}},
		Rules: rowRules(onDevice), // written by reports only
	}
}
