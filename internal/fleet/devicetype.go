package fleet

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// One hw.device-type contract a file, named by its slug.
//
//go:embed contracts/*.json
var contracts embed.FS

// architectures are all that a device type may name.
var architectures = []string{"aarch64", "amd64", "armv5e", "armv7hf", "i386", "i386-nlp", "rpi"}

// Contract is what a device type's contract says. Fields we do not read are kept in the raw text that the API serves.
type Contract struct {
	Slug    string   `json:"slug"`
	Name    string   `json:"name"`
	Aliases []string `json:"aliases"`
	Data    struct {
		Arch    string `json:"arch"`
		Storage struct {
			Internal bool `json:"internal"`
		} `json:"storage"`
		IsPrivate bool `json:"is_private"`
	} `json:"data"`
	raw []byte
}

// catalogue reads the contracts in the program, in the order of their slugs.
func catalogue() ([]Contract, error) {
	files, err := contracts.ReadDir("contracts")
	if err != nil {
		return nil, fmt.Errorf("fleet: contracts: %w", err)
	}
	var all []Contract
	for _, file := range files {
		raw, err := contracts.ReadFile("contracts/" + file.Name())
		if err != nil {
			return nil, fmt.Errorf("fleet: contracts: %w", err)
		}
		var c Contract
		if err := json.Unmarshal(raw, &c); err != nil {
			return nil, fmt.Errorf("fleet: contract %s: %w", file.Name(), err)
		}
		if c.Slug+".json" != file.Name() || !slices.Contains(architectures, c.Data.Arch) {
			return nil, fmt.Errorf("fleet: contract %s: slug %q, architecture %q", file.Name(), c.Slug, c.Data.Arch)
		}
		c.raw = raw
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b Contract) int { return cmp.Compare(a.Slug, b.Slug) })
	return all, nil
}

// syncDeviceTypes writes the catalogue to the database. A type that the program no longer knows stays: fleets may use it.
func syncDeviceTypes(ctx context.Context, tx *db.Tx, types []Contract) error {
	for _, arch := range architectures {
		_, err := tx.ExecContext(ctx, `INSERT INTO cpu_architecture (slug) VALUES ($1) ON CONFLICT (slug) DO NOTHING`, arch)
		if err != nil {
			return fmt.Errorf("fleet: architecture %s: %w", arch, err)
		}
	}
	for _, t := range types {
		var id int64
		err := tx.QueryRowContext(ctx, `
INSERT INTO device_type (slug, name, is_of__cpu_architecture, contract, is_private)
VALUES ($1, $2, (SELECT id FROM cpu_architecture WHERE slug = $3), $4, $5)
ON CONFLICT (slug) DO UPDATE SET name = excluded.name, contract = excluded.contract, is_private = excluded.is_private
RETURNING id`, t.Slug, t.Name, t.Data.Arch, string(t.raw), t.Data.IsPrivate).Scan(&id)
		if err != nil {
			return fmt.Errorf("fleet: device type %s: %w", t.Slug, err)
		}
		for _, alias := range append([]string{t.Slug}, t.Aliases...) { // clients look types up by alias alone
			if _, err := tx.ExecContext(ctx, `
INSERT INTO device_type_alias (device_type, is_referenced_by__alias) VALUES ($1, $2)
ON CONFLICT (is_referenced_by__alias) DO UPDATE SET device_type = excluded.device_type`, id, alias); err != nil {
				return fmt.Errorf("fleet: device type %s: alias %s: %w", t.Slug, alias, err)
			}
		}
	}
	return nil
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

// Runs reports whether a device of one architecture runs what is built for another, by the rule that balena's clients apply.
func Runs(device, build string) bool {
	switch device {
	case build:
		return true
	case "aarch64":
		return build == "armv7hf" || build == "rpi"
	case "armv7hf":
		return build == "rpi"
	default:
		return false
	}
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
	Options []OptionGroup `json:"options"`
	Yocto   struct {
		Machine        string `json:"machine"`
		Image          string `json:"image"`
		FSType         string `json:"fstype"`
		Version        string `json:"version"`
		DeployArtifact string `json:"deployArtifact"`
		Compressed     bool   `json:"compressed"`
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

// TypeDocuments gives the whole catalogue.
func TypeDocuments() ([]TypeDocument, error) {
	types, err := catalogue()
	if err != nil {
		return nil, err
	}
	docs := make([]TypeDocument, 0, len(types))
	for _, t := range types {
		docs = append(docs, t.document())
	}
	return docs, nil
}

// FindTypeDocument gives one entry of it, by slug or alias.
func FindTypeDocument(name string) (TypeDocument, error) {
	docs, err := TypeDocuments()
	if err != nil {
		return TypeDocument{}, err
	}
	i := slices.IndexFunc(docs, func(d TypeDocument) bool { return slices.Contains(d.Aliases, name) })
	if i < 0 {
		return TypeDocument{}, api.Errorf(api.NotFound, "Unknown device type %q", name)
	}
	return docs[i], nil
}

func (c Contract) document() TypeDocument {
	d := TypeDocument{
		Slug: c.Slug, Name: c.Name, Aliases: append([]string{c.Slug}, c.Aliases...), Arch: c.Data.Arch,
		State: "RELEASED", Private: c.Data.IsPrivate, Options: configQuestions(),
	}
	d.Yocto.Machine, d.Yocto.Image, d.Yocto.Compressed = c.Slug, "balena-image", true
	d.Yocto.FSType = "balenaos-img"
	d.Yocto.Version = "yocto"
	d.Yocto.DeployArtifact = strings.Join([]string{d.Yocto.Image, c.Slug}, "-") + ".balenaos-img"
	if c.Data.Storage.Internal { // such a board is installed by a stick that writes the inner disk
		d.Yocto.Image = "balena-image-flasher"
		d.Yocto.DeployArtifact = strings.Join([]string{d.Yocto.Image, c.Slug}, "-") + ".balenaos-img"
	}
	d.Initialization.Options = []Option{{Name: "drive", Message: "Select a drive", Type: "drive"}}
	d.Initialization.Operations = []map[string]string{{"command": "burn"}}
	return d
}

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
