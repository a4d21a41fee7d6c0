package fleet

import (
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/internal/pattern"
)

// One hw.device-type contract a file, named by its slug.
//
//go:embed contracts/*.json
var contracts embed.FS

const (
	maxContract  = 256 << 10 // bytes of one
	maxContracts = 1000
)

// architectures are all that a device type may name.
var architectures = []string{"aarch64", "amd64", "armv5e", "armv7hf", "i386", "i386-nlp", "rpi"}

var contractSlug = pattern.New(`^[a-z0-9]+(?:-[a-z0-9]+)*$`)

// Contract is what a device type's contract says. Fields that we do not read are kept in the raw text, which the API serves.
type Contract struct {
	Slug    string   `json:"slug"`
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Aliases []string `json:"aliases"`
	Assets  struct {
		Logo struct {
			URL string `json:"url"`
		} `json:"logo"`
	} `json:"assets"`
	Data struct {
		Arch         string `json:"arch"`
		Family       string `json:"family"`
		Manufacturer string `json:"manufacturer"`
		Storage      struct {
			Internal bool `json:"internal"`
		} `json:"storage"`
		FlashProtocol string `json:"flashProtocol"`
		Media         struct {
			DefaultBoot string `json:"defaultBoot"`
		} `json:"media"`
		IsPrivate bool `json:"is_private"`
	} `json:"data"`
	raw []byte
}

// family is what is said of a family of boards in the program.
type family struct{ name, manufacturer, manufacturerName string }

var families = map[string]family{
	"asus-tinker":          {"Tinker Board", "asus", "ASUS"},
	"beagleboard-ti":       {"BeagleBone", "beagleboard", "BeagleBoard.org"},
	"generic-arm":          {"Generic ARM", "", ""},
	"generic-x86":          {"Generic x86", "", ""},
	"google-coral":         {"Coral", "google", "Google"},
	"intel-nuc":            {"NUC", "intel", "Intel"},
	"nvidia-jetson":        {"Jetson", "nvidia", "NVIDIA"},
	"pine64-rockchip":      {"ROCKPro", "pine64", "PINE64"},
	"qemu":                 {"QEMU", "", ""},
	"radxa-amlogic":        {"Radxa Zero", "radxa", "Radxa"},
	"radxa-rockchip":       {"ROCK Pi", "radxa", "Radxa"},
	"raspberrypi-broadcom": {"Raspberry Pi", "raspberry-pi", "Raspberry Pi"},
	"surface":              {"Surface", "microsoft", "Microsoft"},
	"up-board":             {"UP", "aaeon", "AAEON"},
}

// family says which family a contract's boards are of; one that the program does not know is called as the contract calls it.
func (c *Contract) family() family {
	f, known := families[c.Data.Family]
	if !known {
		f = family{name: c.Data.Family}
	}
	if m := c.Data.Manufacturer; m != "" {
		f.manufacturer, f.manufacturerName = m, m
	}
	return f
}

// catalogue reads the contracts in the program and the operator's, in the order of their slugs. The operator's replace ours.
func catalogue(own fs.FS) ([]Contract, error) {
	builtIn, err := fs.Sub(contracts, "contracts")
	if err != nil {
		return nil, fmt.Errorf("fleet: contracts: %w", err)
	}
	bySlug := map[string]Contract{}
	for _, source := range []fs.FS{builtIn, own} {
		if source == nil {
			continue
		}
		found, err := readContracts(source)
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			bySlug[c.Slug] = c
		}
	}
	all := make([]Contract, 0, len(bySlug))
	for _, c := range bySlug {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b Contract) int { return cmp.Compare(a.Slug, b.Slug) })
	return all, checkAliases(all)
}

// readContracts reads every contract of a folder. All that is wrong with any of them is said at once.
func readContracts(source fs.FS) ([]Contract, error) {
	names, err := fs.Glob(source, "*.json")
	if err != nil {
		return nil, fmt.Errorf("fleet: contracts: %w", err)
	}
	if len(names) > maxContracts {
		return nil, fmt.Errorf("fleet: contracts: there are %d files; at most %d are read", len(names), maxContracts)
	}
	var all []Contract
	var errs []error
	for _, name := range names {
		c, err := readContract(source, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("fleet: contract %s: %w", name, err))
			continue
		}
		all = append(all, c)
	}
	return all, errors.Join(errs...)
}

func readContract(source fs.FS, name string) (Contract, error) {
	f, err := source.Open(name)
	if err != nil {
		return Contract{}, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxContract+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return Contract{}, err
	}
	if len(raw) > maxContract {
		return Contract{}, fmt.Errorf("it is larger than %d bytes", maxContract)
	}
	c, err := ParseContract(raw)
	if err == nil && c.Slug+".json" != name {
		err = fmt.Errorf("slug: the file of %q must be named %s.json", c.Slug, c.Slug)
	}
	return c, err
}

// ParseContract reads one hw.device-type contract. Its errors name the field that is wrong.
func ParseContract(raw []byte) (Contract, error) {
	var c Contract
	if err := json.Unmarshal(raw, &c); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) && kind.Field != "" {
			return c, fmt.Errorf("%s: must be a %s, not a %s", kind.Field, kind.Type, kind.Value)
		}
		return c, fmt.Errorf("it is not a JSON object: %w", err)
	}
	c.raw = raw
	return c, c.check()
}

func (c *Contract) check() error {
	var errs []error
	wrong := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf(field+": "+format, args...))
	}
	slug := func(field, value string) {
		if !contractSlug.MatchString(value) || len(value) > maxName {
			wrong(field, "%q is not made of lower-case letters and digits with single hyphens between", value)
		}
	}
	slug("slug", c.Slug)
	for i, alias := range c.Aliases {
		slug(fmt.Sprintf("aliases[%d]", i), alias)
	}
	if c.Type != "hw.device-type" {
		wrong("type", "%q must be hw.device-type", c.Type)
	}
	if c.Name == "" || len(c.Name) > maxName {
		wrong("name", "must have 1 to %d bytes", maxName)
	}
	if !slices.Contains(architectures, c.Data.Arch) {
		wrong("data.arch", "%q is none of %s", c.Data.Arch, strings.Join(architectures, ", "))
	}
	if c.Data.Family != "" {
		slug("data.family", c.Data.Family)
	}
	if c.Data.Manufacturer != "" {
		slug("data.manufacturer", c.Data.Manufacturer)
	}
	if _, err := c.logo(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// logo is an address of a picture, or nothing: a file beside the contract is nothing that a client could fetch.
func (c *Contract) logo() (string, error) {
	u, err := url.Parse(c.Assets.Logo.URL)
	if err != nil || len(c.Assets.Logo.URL) > 64<<10 {
		return "", errors.New("assets.logo.url: is not an address")
	}
	switch u.Scheme {
	case "https", "data":
		return c.Assets.Logo.URL, nil
	case "":
		return "", nil
	}
	return "", fmt.Errorf("assets.logo.url: begins with %q, neither with https: nor with data: as it must", u.Scheme+":")
}

// checkAliases makes sure that a name means one type.
func checkAliases(all []Contract) error {
	owner := map[string]string{}
	for _, c := range all {
		owner[c.Slug] = c.Slug
	}
	var errs []error
	for _, c := range all {
		for i, alias := range c.Aliases {
			if other, taken := owner[alias]; taken && other != c.Slug {
				errs = append(errs, fmt.Errorf("fleet: contract %s.json: aliases[%d]: %q is a name of %s", c.Slug, i, alias, other))
			}
			owner[alias] = c.Slug
		}
	}
	return errors.Join(errs...)
}
