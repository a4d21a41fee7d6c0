package fleet

import "github.com/roadstead-io/roadstead/internal/odata"

// The families of boards and who makes them, from the contracts of device types.

func deviceFamily() *odata.Resource {
	return &odata.Resource{
		Name: "device_family",
		Columns: []odata.Column{
			id(),
			{Name: "slug", Type: odata.String},
			{Name: "name", Type: odata.String},
			{
				Name: "is_manufactured_by__device_manufacturer", Type: odata.ForeignKey, To: "device_manufacturer", Null: true,
				Reverse: []string{"device_family", "manufactures__device_family"},
			},
		},
		Keys:  [][]string{{"slug"}},
		Rules: readable(),
	}
}

func deviceManufacturer() *odata.Resource {
	return &odata.Resource{
		Name:    "device_manufacturer",
		Columns: []odata.Column{id(), {Name: "slug", Type: odata.String}, {Name: "name", Type: odata.String}},
		Keys:    [][]string{{"slug"}},
		Rules:   readable(),
	}
}
