package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// osVersion is what a device's configuration is asked for when no system image is meant: the wire insists on a version, and
// the server picks the form of the provisioning key by it. Every current form is newer than this one's.
const osVersion = "6.0.0"

type initFlags struct {
	file, deviceType, name, keyName, expires, osVersion string
	deviceKey                                           string
	uses                                                int
	poll                                                time.Duration
	force                                               bool
}

func (a *app) deviceInitCommand() *cobra.Command {
	f := initFlags{}
	cmd := &cobra.Command{
		Use: "init [FLEET]", Short: "Write the config.json with which a new device joins a fleet",
		Long: `Make a provisioning key for the fleet and write it, with all that a device must know of the server, as the config.json of a
new device. The key can register devices into this fleet and do nothing else; the device destroys it once it is registered.

The file is written readable by its owner alone. "-o -" writes it to the standard output.`,
		Example: `  roadstead device init hello --uses 1 --expires 1h
  roadstead device init hello --name kitchen -o /media/boot/config.json
  roadstead device init hello -o - | ssh root@device 'cat > /boot/config.json'`,
		Args: cmdline.Args(0, 1), ValidArgsFunction: cmdline.First(a.Fleets()),
		RunE: func(cmd *cobra.Command, args []string) error {
			fleet := cmdline.FleetOr("")
			if len(args) == 1 {
				fleet = args[0]
			}
			if fleet == "" {
				return cmdline.Usagef("name the fleet that the device shall join")
			}
			return a.deviceInit(cmd.Context(), fleet, f)
		},
	}
	cmd.Flags().StringVarP(&f.file, "output", "o", "config.json", `the file to write; "-" is the standard output, and so is "json"`)
	cmd.Flags().BoolVar(&f.force, "force", false, "overwrite the file")
	cmd.Flags().StringVar(&f.name, "name", "", "the device's first name")
	cmd.Flags().StringVar(&f.deviceType, "type", "", "device type, when it is not the fleet's")
	cmd.Flags().StringVar(&f.keyName, "key-name", "", "name of the provisioning key")
	cmd.Flags().StringVar(&f.expires, "expires", "", "when the provisioning key ends: 1h, 30d, 2027-01-31")
	cmd.Flags().IntVar(&f.uses, "uses", 0, "how many devices the provisioning key may register (0: no bound)")
	cmd.Flags().DurationVar(&f.poll, "poll", 0, "how often the device asks for updates until it hears otherwise (10s, 15m)")
	cmd.Flags().StringVar(&f.osVersion, "os-version", osVersion, "version of the system on the device")
	cmd.Flags().StringVar(&f.deviceKey, "device-key", "", "how the device keeps its keys: file, tpm (sealed) or tpm-if-present")
	_ = cmd.RegisterFlagCompletionFunc("type", a.DeviceTypes()) // fails only for a flag that is not there
	return cmd
}

func (a *app) deviceInit(ctx context.Context, fleet string, f initFlags) error {
	expires, err := cmdline.Expiry(f.expires, time.Now())
	if err != nil {
		return err
	}
	if f.uses < 0 {
		return cmdline.Usagef("--uses %d is no number of devices", f.uses)
	}
	if f.poll != 0 && f.poll < time.Second {
		return cmdline.Usagef("--poll %s is too often; a second is the least", f.poll)
	}
	if f.deviceKey != "" && !slices.Contains([]string{"file", "tpm", "tpm-if-present"}, f.deviceKey) {
		return cmdline.Usagef("--device-key must be file, tpm or tpm-if-present, not %q", f.deviceKey)
	}
	toFile := f.file != "-" && f.file != "json"
	if toFile { // looked at before the server makes a key that would have nowhere to go
		if st, err := os.Stat(filepath.Dir(f.file)); err != nil || !st.IsDir() {
			return cmdline.Usagef("there is no directory %s to write %s into", filepath.Dir(f.file), filepath.Base(f.file))
		}
	}
	if toFile && !f.force {
		if _, err := os.Lstat(f.file); !errors.Is(err, fs.ErrNotExist) {
			return cmdline.Usagef("%s exists already; choose another file with -o, or add --force", f.file)
		}
	}
	c, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	row, err := c.FindFleet(ctx, fleet, client.Query{})
	if err != nil {
		return err
	}
	config, err := c.DownloadConfig(ctx, client.NewConfig{
		Fleet: row.ID, Version: f.osVersion, DeviceType: f.deviceType, KeyName: f.keyName, KeyExpiry: expires, KeyMaxUses: f.uses,
	})
	if err != nil {
		return err
	}
	if config, err = amend(config, row.UUID, f); err != nil {
		return err
	}
	if !toFile {
		_, err := a.Out.Write(config)
		return err
	}
	if err := durable.WriteFile(f.file, config, 0o600); err != nil {
		return err
	}
	a.Say("Wrote %s for a device of %s. Keep it as you would a key: whoever has it can add a device.", f.file, row.Slug)
	return nil
}

// amend adds to a configuration what the server does not know, and checks its root of trust. Keys that this program does not know stay.
func amend(config json.RawMessage, fleet string, f initFlags) (json.RawMessage, error) {
	keys := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &keys); err != nil {
		return nil, fmt.Errorf("the server's configuration is not an object: %w", err)
	}
	if len(keys["apiKey"]) == 0 || string(keys["apiKey"]) == `""` {
		return nil, api.Errorf(api.Internal, "the server made a configuration without a key")
	}
	if err := kept.Vouch(fleet, keys); err != nil {
		return nil, err
	}
	set := func(key string, value any) error {
		data, err := json.Marshal(value)
		keys[key] = data
		return err
	}
	if f.name != "" {
		if err := set("initialDeviceName", f.name); err != nil {
			return nil, err
		}
	}
	if f.poll != 0 {
		if err := set("appUpdatePollInterval", f.poll.Milliseconds()); err != nil {
			return nil, err
		}
	}
	if f.deviceKey != "" {
		if err := set("deviceKeyProtection", f.deviceKey); err != nil {
			return nil, err
		}
	}
	out, err := json.MarshalIndent(keys, "", "  ")
	return append(out, '\n'), err
}
