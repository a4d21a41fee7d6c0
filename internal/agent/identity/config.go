// Package identity is who a device is: what config.json says, the uuid and key that the device makes for itself, how it
// becomes known to the server, and how the provisioning key it was born with is destroyed. Every step is durable before the
// next begins, so that a device that loses power anywhere ends as exactly one device with no provisioning key left.
package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/seal"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// maxConfig bounds the file.
const maxConfig = 1 << 20

// Config is config.json: the keys that we know, and the rest as it stands in the file.
type Config struct {
	api.DeviceConfig
	all map[string]json.RawMessage
}

// LoadConfig reads and checks config.json. An error names the key that is wrong.
func LoadConfig(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	c, err := ParseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ParseConfig checks the content of a config.json.
func ParseConfig(text []byte) (*Config, error) {
	if len(text) > maxConfig {
		return nil, errors.New("is larger than 1 MiB")
	}
	c := &Config{}
	if err := json.Unmarshal(text, &c.all); err != nil {
		return nil, describe(text, err)
	}
	if c.all == nil {
		return nil, errors.New("is not a JSON object")
	}
	for _, k := range c.keys() {
		raw, ok := c.all[k.name]
		if !ok || string(raw) == "null" {
			continue
		}
		if err := k.read(raw); err != nil {
			return nil, fmt.Errorf("%s %w", k.name, err)
		}
	}
	return c, c.check()
}

// describe says where JSON is wrong.
func describe(text []byte, err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		before := text[:min(int(syntax.Offset), len(text))]
		return fmt.Errorf("line %d: %w", 1+bytes.Count(before, []byte("\n")), err)
	}
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return errors.New("is not a JSON object")
	}
	return err
}

type key struct {
	name string
	read func(json.RawMessage) error
}

// keys are the ones whose types matter to a device. Numbers may come as texts, as older tools write them.
func (c *Config) keys() []key {
	d := &c.DeviceConfig
	return []key{
		{"apiEndpoint", text(&d.APIEndpoint)}, {"apiKey", text(&d.APIKey)}, {"deviceApiKey", text(&d.DeviceAPIKey)},
		{"uuid", text((*string)(&d.UUID))}, {"deviceType", text(&d.DeviceType)}, {"applicationId", number(&d.ApplicationID)},
		{"applicationName", text(&d.ApplicationName)}, {"registryEndpoint", text(&d.RegistryEndpoint)},
		{"logsEndpoint", text(&d.LogsEndpoint)}, {"balenaRootCA", text(&d.RootCA)}, {"deviceId", number(&d.DeviceID)},
		{"registered_at", number(&d.RegisteredAt)}, {"appUpdatePollInterval", number(&d.AppUpdatePollInterval)},
		{"initialDeviceName", text(&d.InitialDeviceName)}, {"hostname", text(&d.Hostname)},
		{"developmentMode", flag(&d.DevelopmentMode)}, {"vpnEndpoint", text(&d.VPNEndpoint)}, {"vpnPort", port(&d.VPNPort)},
		{"roadsteadTrust", trust(&d.Trust)}, {"deviceKeyProtection", text(&d.DeviceKeyProtection)}, {"deviceKeyPCRs", registers(&d.DeviceKeyPCRs)},
	}
}

func text(into *string) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		if err := json.Unmarshal(raw, into); err != nil {
			return errors.New("must be a text")
		}
		return nil
	}
}

func number(into *int64) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		s := strings.Trim(string(raw), `"`)
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || f != math.Trunc(f) || f < 0 || f > 1<<53 {
			return errors.New("must be a whole number that is not negative")
		}
		*into = int64(f)
		return nil
	}
}

func trust(into **api.ConfigTrust) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		var given api.ConfigTrust
		if err := json.Unmarshal(raw, &given); err != nil || given.Fleet == "" || len(given.Root) == 0 {
			return errors.New(`must be an object with "fleet", a uuid, and "root", base64 of the fleet's root.json`)
		}
		if !api.DeviceUUID(given.Fleet).Valid() {
			return fmt.Errorf("fleet must be a uuid, not %q", given.Fleet)
		}
		*into = &given
		return nil
	}
}

func registers(into *[]uint) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		if err := json.Unmarshal(raw, into); err != nil {
			return errors.New("must be a list of the numbers of PCRs, such as [7]")
		}
		return seal.CheckPCRs(*into)
	}
}

func port(into *int) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		var n int64
		if err := number(&n)(raw); err != nil || n > 65535 {
			return errors.New("must be the number of a port")
		}
		*into = int(n)
		return nil
	}
}

func flag(into *bool) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		switch strings.ToLower(strings.Trim(string(raw), `"`)) {
		case "true", "1", "on":
			*into = true
		case "false", "0", "off", "":
			*into = false
		default:
			return errors.New("must be true or false")
		}
		return nil
	}
}

func (c *Config) check() error {
	endpoint := func(name, val string) error {
		u, err := url.Parse(val)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("%s must be an https address, not %q", name, val)
		}
		return nil
	}
	if c.APIEndpoint == "" {
		return errors.New("apiEndpoint is missing: without it there is no server to belong to")
	}
	if err := endpoint("apiEndpoint", c.APIEndpoint); err != nil {
		return err
	}
	if c.LogsEndpoint != "" {
		if err := endpoint("logsEndpoint", c.LogsEndpoint); err != nil {
			return err
		}
	}
	if c.UUID != "" && !c.UUID.Valid() {
		return fmt.Errorf("uuid must be 32 or 62 lower-case hexadecimal digits, not %q", c.UUID)
	}
	if strings.ContainsAny(c.RegistryEndpoint, "/ ") {
		return fmt.Errorf("registryEndpoint must be a host, with a port or without, not %q", c.RegistryEndpoint)
	}
	switch c.DeviceKeyProtection {
	case seal.TPM, seal.TPMIfPresent:
	case "", seal.File:
		if len(c.DeviceKeyPCRs) > 0 {
			return fmt.Errorf("deviceKeyPCRs needs deviceKeyProtection %q or %q", seal.TPM, seal.TPMIfPresent)
		}
	default:
		return fmt.Errorf("deviceKeyProtection must be %q, %q or %q, not %q", seal.File, seal.TPM, seal.TPMIfPresent, c.DeviceKeyProtection)
	}
	_, err := c.RootPEM()
	return err
}

// SetHostname writes the host name into config.json; everything else stays as it stands there.
func SetHostname(path, name string) error {
	c, err := LoadConfig(path)
	if err != nil {
		return err
	}
	if c.all["hostname"], err = json.Marshal(name); err != nil {
		return err
	}
	text, err := json.MarshalIndent(c.all, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteSecret(path, append(text, '\n'), 0o600)
}

// RootPEM is the root certificate to trust, nil without one.
func (c *Config) RootPEM() ([]byte, error) {
	if c.RootCA == "" {
		return nil, nil
	}
	root, err := base64.StdEncoding.DecodeString(strings.TrimSpace(c.RootCA))
	if err != nil {
		return nil, errors.New("balenaRootCA must be base64 of a certificate in PEM")
	}
	block, _ := pem.Decode(root)
	if block == nil {
		return nil, errors.New("balenaRootCA must be base64 of a certificate in PEM")
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("balenaRootCA must be base64 of a certificate in PEM: %w", err)
	}
	return root, nil
}
