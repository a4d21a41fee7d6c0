package fleet

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Answers are what a client answered to the questions of a device type (see configQuestions), and what else it gave to
// /download-config, in the body or the query. Values are what JSON makes of them, or texts.
type Answers map[string]any

const (
	listenPort     = 48484
	maxAnswer      = 4096                // bytes of one answer
	maxAnswers     = 64                  // how many of them are passed on
	longestPolling = 31 * 24 * time.Hour // between two polls
)

// text gives an answer as a text; numbers and booleans as they would be written.
func (a Answers) text(name string) (string, error) {
	var s string
	switch v := a[name].(type) {
	case nil:
		return "", nil
	case string:
		s = v
	case float64:
		s = strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		s = strconv.FormatBool(v)
	default:
		return "", api.Errorf(api.Invalid, "%q must be a text, a number or a boolean.", name)
	}
	if len(s) > maxAnswer {
		return "", api.Errorf(api.TooLarge, "%q is longer than %d bytes.", name, maxAnswer)
	}
	return s, nil
}

func (a Answers) flag(names ...string) (bool, error) {
	for _, name := range names {
		s, err := a.text(name)
		if err != nil {
			return false, err
		}
		switch s {
		case "", "false", "0":
		case "true", "1":
			return true, nil
		default:
			return false, api.Errorf(api.Invalid, "%q must be true or false.", name)
		}
	}
	return false, nil
}

// number reads a number above zero; without an answer it gives 0.
func (a Answers) number(name string, limit float64) (float64, error) {
	s, err := a.text(name)
	if err != nil || s == "" {
		return 0, err
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(n) || n <= 0 || n > limit {
		return 0, api.Errorf(api.Invalid, "%q must be a number above 0 and at most %g.", name, limit)
	}
	return n, nil
}

func (a Answers) integer(name string, limit int64) (int64, error) {
	n, err := a.number(name, float64(limit))
	if err == nil && n != math.Trunc(n) {
		return 0, api.Errorf(api.Invalid, "%q must be a whole number.", name)
	}
	return int64(n), err
}

// time reads ISO text, a date or milliseconds since 1970.
func (a Answers) time(name string) (*time.Time, error) {
	s, err := a.text(name)
	if err != nil || s == "" {
		return nil, err
	}
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil {
		t := time.UnixMilli(ms)
		return &t, nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return &t, nil
		}
	}
	return nil, api.Errorf(api.Invalid, "%q must be a date.", name)
}

// consumed are the answers that do not go into config.json under their own name.
var consumed = map[string]bool{
	"appId": true, "secureBoot": true, "secureboot": true, "apikey": true, "network": true,
	"provisioningKeyName": true, "provisioningKeyDescription": true, "provisioningKeyExpiryDate": true,
	"provisioningKeyMaxUses": true,
}

// never are keys that no answer sets: the server's, and what a device makes itself.
var never = map[string]bool{
	"uuid": true, "deviceApiKey": true, "deviceId": true, "registered_at": true, "developmentMode": true, "balenaRootCA": true, "roadsteadTrust": true,
}

// Fleet is the fleet that a config.json is asked for; 0: none is named.
func (a Answers) Fleet() (int64, error) { return a.integer("appId", math.MaxInt32) }

// DeviceConfig makes the config.json of a device that shall join a fleet, with a provisioning key made for it.
func (f *Fleets) DeviceConfig(ctx context.Context, tx *db.Tx, by access.Caller, ask Answers) (map[string]any, error) {
	appID, err := ask.Fleet()
	if err != nil {
		return nil, err
	}
	if appID == 0 {
		return nil, api.Errorf(api.Invalid, "An appId is required.")
	}
	version, err := checkOSVersion(ask)
	if err != nil {
		return nil, err
	}
	fl, err := Find(ctx, tx, by, appID)
	if err != nil {
		return nil, err
	}
	cfg := api.DeviceConfig{
		ApplicationID: fl.ID, ApplicationName: fl.Name, Version: version, UserID: by.User, Username: by.Name,
		ListenPort:  listenPort,
		APIEndpoint: f.cfg.Site.URL("api"), RegistryEndpoint: f.cfg.Site.Host("registry2"), DeltaEndpoint: f.cfg.Site.URL("delta"),
		VPNEndpoint: "vpn." + f.cfg.Site.Domain, VPNPort: f.cfg.Site.Port,
	}
	if f.cfg.Channel.On() {
		cfg.VPNEndpoint, cfg.VPNPort = f.cfg.Channel.Host, f.cfg.Channel.Port
	}
	if len(f.cfg.RootCA) > 0 {
		cfg.RootCA = base64.StdEncoding.EncodeToString(f.cfg.RootCA)
	}
	if cfg.DeviceType, err = chooseType(ctx, tx, fl, ask); err != nil {
		return nil, err
	}
	if cfg.AppUpdatePollInterval, err = f.pollInterval(ask); err != nil {
		return nil, err
	}
	if cfg.DevelopmentMode, err = ask.flag("developmentMode"); err != nil {
		return nil, err
	}
	if cfg.APIKey, err = f.provisioningKey(ctx, tx, by, fl, ask); err != nil {
		return nil, err
	}
	return merge(cfg, ask)
}

// checkOSVersion refuses systems that are older than the way of provisioning we serve.
func checkOSVersion(ask Answers) (string, error) {
	version, err := ask.text("version")
	if err != nil {
		return "", err
	}
	if version == "" {
		return "", api.Errorf(api.Invalid, "A version is required.")
	}
	core, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), "+")
	core, _, _ = strings.Cut(core, "-")
	parts := strings.Split(core, ".")
	var n [3]int
	for i := 0; i < len(n) && i < len(parts); i++ {
		if n[i], err = strconv.Atoi(parts[i]); err != nil || n[i] < 0 {
			return "", api.Errorf(api.Invalid, "%q is not a version of an operating system.", version)
		}
	}
	if n[0] < 1 || n[0] == 1 && (n[1] < 2 || n[1] == 2 && n[2] == 0) {
		return "", api.Errorf(api.Invalid, "balenaOS versions <= 1.2.0 are no longer supported, please update")
	}
	return version, nil
}

// chooseType takes the fleet's device type unless another was asked for that runs what the fleet is built for.
func chooseType(ctx context.Context, tx *db.Tx, fl *Fleet, ask Answers) (string, error) {
	name, err := ask.text("deviceType")
	if err != nil || name == "" {
		return fl.DeviceType, err
	}
	t, err := FindDeviceType(ctx, tx, name)
	if errors.Is(err, api.ErrNotFound) {
		return "", api.Errorf(api.Invalid, "Unknown device type %q", name)
	}
	if err != nil {
		return "", err
	}
	if !RunsAny(t.Arch, fl.Builds()) {
		return "", api.Errorf(api.Invalid, "A %s (%s) cannot run what is built for the fleet %s (%s).",
			t.Slug, t.Arch, fl.Slug, strings.Join(fl.Builds(), ", "))
	}
	return t.Slug, nil
}

// pollInterval gives milliseconds; people are asked for minutes.
func (f *Fleets) pollInterval(ask Answers) (int64, error) {
	minutes, err := ask.number("appUpdatePollInterval", longestPolling.Minutes())
	if err != nil {
		return 0, err
	}
	if minutes == 0 {
		return f.cfg.PollInterval.Milliseconds(), nil
	}
	return int64(minutes * 60_000), nil
}

func (f *Fleets) provisioningKey(ctx context.Context, tx *db.Tx, by access.Caller, fl *Fleet, ask Answers) (string, error) {
	name, err := ask.text("provisioningKeyName")
	if err != nil {
		return "", err
	}
	if name == "" {
		name = "Automatically generated provisioning key"
	}
	description, err := ask.text("provisioningKeyDescription")
	if err != nil {
		return "", err
	}
	expiry, err := ask.time("provisioningKeyExpiryDate")
	if err != nil {
		return "", err
	}
	uses, err := ask.integer("provisioningKeyMaxUses", math.MaxInt32)
	if err != nil {
		return "", err
	}
	return f.cfg.Accounts.CreateKey(ctx, tx, by, account.KeySpec{
		Of: account.OfFleet, ID: fl.ID, Name: name, Description: description, Expiry: expiry, MaxUses: int(uses),
	})
}

// merge adds the other answers under their own names. They never replace what the server decides.
func merge(cfg api.DeviceConfig, ask Answers) (map[string]any, error) {
	data, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	var all map[string]any
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	all["mixpanelToken"] = "" // clients and devices look for it; nothing here reports to it
	added := 0
	for name, value := range ask {
		if _, taken := all[name]; taken || consumed[name] || never[name] || value == nil {
			continue
		}
		if _, err := ask.text(name); err != nil {
			return nil, err
		}
		if added++; added > maxAnswers {
			return nil, api.Errorf(api.TooLarge, "There are more than %d answers.", maxAnswers)
		}
		all[name] = value
	}
	secure, err := ask.flag("secureBoot", "secureboot")
	if err != nil {
		return nil, err
	}
	if secure {
		all["installer"] = map[string]any{"secureboot": true}
	}
	return all, nil
}
