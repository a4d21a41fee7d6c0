package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// syncDeviceTypes writes the catalogue to the database. A type that the program no longer knows stays: fleets may use it.
func syncDeviceTypes(ctx context.Context, tx *db.Tx, types []Contract) error {
	for _, arch := range architectures {
		_, err := tx.ExecContext(ctx, `INSERT INTO cpu_architecture (slug) VALUES ($1) ON CONFLICT (slug) DO NOTHING`, arch)
		if err != nil {
			return fmt.Errorf("fleet: architecture %s: %w", arch, err)
		}
	}
	for _, t := range types {
		if err := t.sync(ctx, tx); err != nil {
			return fmt.Errorf("fleet: device type %s: %w", t.Slug, err)
		}
	}
	return nil
}

func (c *Contract) sync(ctx context.Context, tx *db.Tx) error {
	family, err := c.syncFamily(ctx, tx)
	if err != nil {
		return err
	}
	logo, err := c.logo()
	if err != nil {
		return err
	}
	var id int64
	err = tx.QueryRowContext(ctx, `
INSERT INTO device_type (slug, name, is_of__cpu_architecture, contract, is_private, logo, belongs_to__device_family)
VALUES (?, ?, (SELECT id FROM cpu_architecture WHERE slug = ?), ?, ?, NULLIF(?, ''), ?)
ON CONFLICT (slug) DO UPDATE SET name = excluded.name, is_of__cpu_architecture = excluded.is_of__cpu_architecture,
    contract = excluded.contract, is_private = excluded.is_private, logo = excluded.logo,
    belongs_to__device_family = excluded.belongs_to__device_family
RETURNING id`, c.Slug, c.Name, c.Data.Arch, string(c.raw), c.Data.IsPrivate, logo, family).Scan(&id)
	if err != nil {
		return err
	}
	for _, alias := range append([]string{c.Slug}, c.Aliases...) { // clients look types up by alias alone
		if _, err := tx.ExecContext(ctx, `
INSERT INTO device_type_alias (device_type, is_referenced_by__alias) VALUES (?, ?)
ON CONFLICT (is_referenced_by__alias) DO UPDATE SET device_type = excluded.device_type`, id, alias); err != nil {
			return fmt.Errorf("alias %s: %w", alias, err)
		}
	}
	return nil
}

// syncFamily makes the family of a board and who makes it, and gives the family's id; not valid when the contract names none.
func (c *Contract) syncFamily(ctx context.Context, tx *db.Tx) (id sql.NullInt64, err error) {
	if c.Data.Family == "" {
		return id, nil
	}
	f := c.family()
	var maker sql.NullInt64
	if f.manufacturer != "" {
		err := tx.QueryRowContext(ctx, `
INSERT INTO device_manufacturer (slug, name) VALUES (?, ?)
ON CONFLICT (slug) DO UPDATE SET name = excluded.name RETURNING id`, f.manufacturer, f.manufacturerName).Scan(&maker)
		if err != nil {
			return id, fmt.Errorf("manufacturer %s: %w", f.manufacturer, err)
		}
	}
	err = tx.QueryRowContext(ctx, `
INSERT INTO device_family (slug, name, is_manufactured_by__device_manufacturer) VALUES (?, ?, ?)
ON CONFLICT (slug) DO UPDATE SET name = excluded.name,
    is_manufactured_by__device_manufacturer = excluded.is_manufactured_by__device_manufacturer
RETURNING id`, c.Data.Family, f.name, maker).Scan(&id)
	if err != nil {
		return id, fmt.Errorf("family %s: %w", c.Data.Family, err)
	}
	return id, nil
}

// DeviceType is one row of the catalogue.
type DeviceType struct {
	ID   int64
	Slug string
	Arch string
}

// FindDeviceType finds a device type by its slug or one of its aliases.
func FindDeviceType(ctx context.Context, tx *db.Tx, name string) (DeviceType, error) {
	var t DeviceType
	err := tx.QueryRowContext(ctx, `
SELECT t.id, t.slug, c.slug FROM device_type_alias a
JOIN device_type t ON t.id = a.device_type
JOIN cpu_architecture c ON c.id = t.is_of__cpu_architecture
WHERE a.is_referenced_by__alias = $1`, name).Scan(&t.ID, &t.Slug, &t.Arch)
	if errors.Is(err, sql.ErrNoRows) {
		return t, api.Errorf(api.NotFound, "Unknown device type %q", name)
	}
	if err != nil {
		return t, fmt.Errorf("fleet: device type %q: %w", name, err)
	}
	return t, nil
}

// FindDeviceTypes finds several; names that none has are missing from the answer.
func FindDeviceTypes(ctx context.Context, tx *db.Tx, names []string) (map[string]DeviceType, error) {
	list, args := db.In(names)
	rows, err := tx.QueryContext(ctx, `SELECT a.is_referenced_by__alias, t.id, t.slug, c.slug FROM device_type_alias a
		JOIN device_type t ON t.id = a.device_type JOIN cpu_architecture c ON c.id = t.is_of__cpu_architecture
		WHERE a.is_referenced_by__alias IN `+list, args...)
	if err != nil {
		return nil, fmt.Errorf("fleet: device types: %w", err)
	}
	defer func() { _ = rows.Close() }()
	out := map[string]DeviceType{}
	for rows.Next() {
		var name string
		var t DeviceType
		if err := rows.Scan(&name, &t.ID, &t.Slug, &t.Arch); err != nil {
			return nil, fmt.Errorf("fleet: device types: %w", err)
		}
		out[name] = t
	}
	return out, rows.Err()
}

// Organizations says whose fleets are.
func Organizations(ctx context.Context, tx *db.Tx, fleets []int64) (map[int64]int64, error) {
	list, args := db.In(fleets)
	rows, err := tx.QueryContext(ctx, `SELECT id, organization FROM application WHERE id IN `+list, args...)
	if err != nil {
		return nil, fmt.Errorf("fleet: organizations: %w", err)
	}
	defer func() { _ = rows.Close() }()
	out := map[int64]int64{}
	for rows.Next() {
		var id, organization int64
		if err := rows.Scan(&id, &organization); err != nil {
			return nil, fmt.Errorf("fleet: organizations: %w", err)
		}
		out[id] = organization
	}
	return out, rows.Err()
}

// TypeDocument is one device type as GET /device-types/v1 gives it, with the questions that clients ask before they write a
// config.json. Source of the shape: balena-sdk 23, types/device-type-json.
type TypeDocument struct {
	Slug    string        `json:"slug"`
	Name    string        `json:"name"`
	Aliases []string      `json:"aliases"`
	Arch    string        `json:"arch"`
	State   string        `json:"state"`
	Private bool          `json:"private"`
	Family  string        `json:"-"` // of the boards, by its slug
	Options []OptionGroup `json:"options"`
	Yocto   struct {
		Machine         string `json:"machine"`
		Image           string `json:"image"`
		FSType          string `json:"fstype"`
		Version         string `json:"version"`
		DeployArtifact  string `json:"deployArtifact"`
		FlasherArtifact string `json:"deployFlasherArtifact,omitempty"`
		RawArtifact     string `json:"deployRawArtifact,omitempty"`
		Compressed      bool   `json:"compressed"`
	} `json:"yocto"`
	Initialization struct {
		Options    []Option            `json:"options"`
		Operations []map[string]string `json:"operations"`
	} `json:"initialization"`
}

// OptionGroup is a group of questions.
type OptionGroup struct {
	IsGroup       bool     `json:"isGroup"`
	IsCollapsible bool     `json:"isCollapsible,omitempty"`
	Collapsed     bool     `json:"collapsed,omitempty"`
	Name          string   `json:"name"`
	Message       string   `json:"message"`
	Options       []Option `json:"options"`
}

// Option is one question.
type Option struct {
	Name    string            `json:"name"`
	Message string            `json:"message"`
	Type    string            `json:"type"`
	Default any               `json:"default,omitempty"`
	Min     int               `json:"min,omitempty"`
	When    map[string]string `json:"when,omitempty"`
	Choices []string          `json:"choices,omitempty"`
}

// TypeDocuments gives the whole catalogue, in the order of the slugs.
func TypeDocuments(ctx context.Context, tx *db.Tx) ([]TypeDocument, error) {
	rows, err := tx.QueryContext(ctx, `SELECT slug, contract FROM device_type WHERE contract IS NOT NULL ORDER BY slug`)
	if err != nil {
		return nil, fmt.Errorf("fleet: device types: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells what there is to tell
	docs := []TypeDocument{}
	for rows.Next() {
		var slug, raw string
		if err := rows.Scan(&slug, &raw); err != nil {
			return nil, fmt.Errorf("fleet: device types: %w", err)
		}
		c, err := ParseContract([]byte(raw))
		if err != nil {
			return nil, fmt.Errorf("fleet: device type %s: %w", slug, err)
		}
		docs = append(docs, c.document())
	}
	return docs, rows.Err()
}

// FindTypeDocument gives one entry of the catalogue, by slug, name or alias.
func FindTypeDocument(docs []TypeDocument, name string) (TypeDocument, error) {
	i := slices.IndexFunc(docs, func(d TypeDocument) bool { return slices.Contains(d.Aliases, name) || d.Name == name })
	if i < 0 {
		return TypeDocument{}, api.Errorf(api.NotFound, "Unknown device type %q", name)
	}
	return docs[i], nil
}

func (c Contract) document() TypeDocument {
	d := TypeDocument{
		Slug: c.Slug, Name: c.Name, Aliases: append([]string{c.Slug}, c.Aliases...), Arch: c.Data.Arch,
		State: "RELEASED", Private: c.Data.IsPrivate, Family: c.Data.Family, Options: configQuestions(),
	}
	d.Yocto.Machine, d.Yocto.Image, d.Yocto.Compressed = c.Slug, "balena-image", true
	d.Yocto.FSType = "balenaos-img"
	d.Yocto.Version = "yocto"
	d.Yocto.DeployArtifact = artifact(d.Yocto.Image, c.Slug)
	// Such a board is installed by a stick or card that writes the inner disk, unless a program writes it over a cable.
	if c.Data.Storage.Internal && c.Data.FlashProtocol == "" && c.Data.Media.DefaultBoot == "internal" {
		d.Yocto.RawArtifact = d.Yocto.DeployArtifact
		d.Yocto.Image = "balena-image-flasher"
		d.Yocto.FlasherArtifact = artifact(d.Yocto.Image, c.Slug)
		d.Yocto.DeployArtifact = d.Yocto.FlasherArtifact
	}
	d.Initialization.Options = []Option{{Name: "drive", Message: "Select a drive", Type: "drive"}}
	d.Initialization.Operations = []map[string]string{{"command": "burn"}}
	return d
}

// artifact is the name of an image's file.
func artifact(image, slug string) string { return image + "-" + slug + ".balenaos-img" }

func configQuestions() []OptionGroup {
	wifi := map[string]string{"network": "wifi"}
	return []OptionGroup{
		{IsGroup: true, Name: "network", Message: "Network", Options: []Option{
			{Name: "network", Message: "Network Connection", Type: "list", Choices: []string{"ethernet", "wifi"}},
			{Name: "wifiSsid", Message: "Wifi SSID", Type: "text", When: wifi},
			{Name: "wifiKey", Message: "Wifi Passphrase", Type: "password", When: wifi},
		}},
		{IsGroup: true, IsCollapsible: true, Collapsed: true, Name: "advanced", Message: "Advanced", Options: []Option{
			{Name: "appUpdatePollInterval", Message: "check for updates every X minutes", Type: "number", Min: 10, Default: 10},
		}},
	}
}
