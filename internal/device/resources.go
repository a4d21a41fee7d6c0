package device

import (
	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/channel/when"
	"github.com/roadstead-io/roadstead/internal/device/report"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// Resources declares what this package owns.
func (d *Devices) Resources() []*odata.Resource {
	return append([]*odata.Resource{d.deviceResource()}, d.rowResources()...)
}

func (d *Devices) deviceResource() *odata.Resource {
	return &odata.Resource{
		Name:       "device",
		Columns:    d.columns(),
		Keys:       [][]string{{"uuid"}, {"actor"}},
		UniqueText: map[string]string{"uuid": `"uuid" must be unique.`},
		Rules:      deviceRules(),
		Actions:    access.ActsOnDevice(),
		Virtual:    []string{"is_online"}, // what a person says of it; see sayOnline
		Before:     []odata.Hook{d.beforeWrite},
		After:      []odata.Hook{d.afterWrite},
	}
}

// heartbeat is the state of a device's heartbeat at @now: the next poll is due twice its interval after the last one, and it
// has 15 s more before it counts as gone.
const heartbeat = `(CASE WHEN {t}.heartbeat_until IS NULL THEN 'unknown' WHEN {t}.heartbeat_due >= @now THEN 'online'
	WHEN {t}.heartbeat_until >= @now THEN 'timeout' ELSE 'offline' END)`

// online is whether a device can be reached, as far as is known: by its heartbeat, its control channel, or the word of a person.
const online = `(coalesce({t}.heartbeat_until >= @now, 1 = 0) OR {t}.said_online = 1 OR {t}.is_connected_to_vpn = 1)`

// lastEvent is when that last changed: the later of what heartbeats and people say.
const (
	lastBeat  = `(CASE WHEN {t}.heartbeat_until >= @now THEN {t}.online_since ELSE {t}.last_seen END)`
	lastEvent = `coalesce((CASE WHEN {t}.said_online_at IS NOT NULL AND {t}.said_online_at >= coalesce(` + lastBeat + `, '')
		THEN {t}.said_online_at ELSE ` + lastBeat + ` END), {t}.last_vpn_event)`
)

const target = `coalesce({t}.is_pinned_on__release,
	(SELECT f.should_be_running__release FROM application f WHERE f.id = {t}.belongs_to__application))`

// downloading are installs that count for a device's progress; overallProgress is the mean over them.
const (
	isDownloading = `EXISTS (SELECT 1 FROM image_install i
		WHERE i.device = {t}.id AND i.status = 'Downloading' AND i.download_progress IS NOT NULL)`
	meanDownload = `(SELECT CAST(round(avg(coalesce(i.download_progress, 100))) AS BIGINT) FROM image_install i
		WHERE i.device = {t}.id AND i.status <> 'deleted' AND (i.status = 'Downloading' OR i.is_provided_by__release = ` + target + `))`
)

// vpnWanted says whether a device is to have a control channel now, as [when.Switch.On] does, but for schedules: whether it is time for one is
// what the device itself says, which reads it with the same code. One that says nothing, as a supervisor, lacks nothing. An end that has come is
// removed within moments, see the package channel.
var vpnWanted = func() string {
	config := func(name string) string {
		return `coalesce((SELECT v.value FROM device_config_variable v WHERE v.device = {t}.id AND v.name = '` + name + `'),
			(SELECT v.value FROM application_config_variable v WHERE v.application = {t}.belongs_to__application AND v.name = '` + name + `'), '')`
	}
	control := `coalesce(nullif(` + config(when.Control) + `, ''), nullif(` + config(when.SupervisorControl) + `, ''), ` + config(when.SupervisorControlLegacy) + `)`
	return `(CASE WHEN ` + config(when.Until) + ` <> '' THEN 1 WHEN ` + control + ` IN ('false', '0', 'off') THEN 0
		WHEN ` + config(when.Schedule) + ` <> '' THEN CASE WHEN coalesce({t}.channel_state, '` + api.ChannelStateOff + `') = '` + api.ChannelStateOff + `' THEN 0 ELSE 1 END
		WHEN ` + control + ` <> '' THEN 1
		WHEN EXISTS (SELECT 1 FROM application f WHERE f.id = {t}.belongs_to__application AND f.is_of__class = 'block') THEN 0 ELSE 1 END) = 1`
}()

// overall gives the two columns that sum a device up, row by row as clients expect: the first case that holds decides.
func (d *Devices) overall() (status, progress string) {
	lacksVPN := "1 = 0"
	if d.cfg.ControlChannel {
		lacksVPN = `({t}.is_connected_to_vpn = 0 AND ` + heartbeat + ` = 'online' AND ` + vpnWanted + `)`
	}
	cases := []struct{ when, status, progress string }{
		{`{t}.is_active = 0`, "inactive", "NULL"},
		{`{t}.provisioning_state = 'Post-Provisioning'`, "post-provisioning", "{t}.provisioning_progress"},
		{`{t}.is_connected_to_vpn = 0 AND ({t}.online_since IS NULL AND {t}.said_online_at IS NULL AND {t}.last_vpn_event IS NULL) AND ` + heartbeat + ` = 'unknown'`, "configuring", "{t}.provisioning_progress"},
		{`{t}.is_connected_to_vpn = 0 AND ` + heartbeat + ` IN ('offline', 'unknown')`, "disconnected", "NULL"},
		{heartbeat + ` IN ('online', 'timeout') AND {t}.download_progress IS NOT NULL AND {t}.status = 'Downloading'`,
			"updating", "{t}.download_progress"},
		{`{t}.provisioning_progress IS NOT NULL`, "configuring", "{t}.provisioning_progress"},
		{heartbeat + ` IN ('online', 'timeout') AND ` + isDownloading, "updating", meanDownload},
		{heartbeat + ` = 'timeout' OR ({t}.is_connected_to_vpn = 1 AND ` + heartbeat + ` <> 'online') OR ` + lacksVPN,
			"reduced-functionality", "NULL"},
	}
	status, progress = "(CASE", "(CASE"
	for _, c := range cases {
		status += " WHEN " + c.when + " THEN '" + c.status + "'"
		progress += " WHEN " + c.when + " THEN " + c.progress
	}
	return status + " ELSE 'operational' END)", progress + " ELSE NULL END)"
}

// columns are those of balena's device, and a few of ours at the end.
func (d *Devices) columns() []odata.Column {
	const (
		id, num, flag, text, date, fk = odata.Integer, odata.Integer, odata.Boolean, odata.String, odata.Date, odata.ForeignKey
	)
	status, progress := d.overall()
	release := func(name, reverse string) odata.Column {
		return odata.Column{Name: name, Type: fk, To: "release", Null: true, Reverse: []string{reverse}}
	}
	shouldRun := release("should_be_running__release", "should_be_running_on__device")
	shouldRun.SQL = target
	cols := []odata.Column{
		{Name: "id", Type: id},
		{Name: "created_at", Type: date}, {Name: "modified_at", Type: date},
		{Name: "actor", Type: fk, To: "actor", Reverse: []string{"is_of__device"}},
		{Name: "uuid", Type: text, MaxLen: 62},
		{Name: "device_name", Type: text, MaxLen: longestName, Ordered: true},
		{Name: "note", Type: text, Null: true},
		{Name: "local_id", Type: text, Null: true, MaxLen: 255},
		{Name: "is_of__device_type", Type: fk, To: "device_type", Reverse: []string{"device", "describes__device"}},
		{Name: "belongs_to__application", Type: fk, To: "application", Reverse: []string{"owns__device"},
			Unseen: "Application doesn't exist or you have no access to it."},
		{Name: "belongs_to__user", Type: fk, To: "user", Null: true, Reverse: []string{"owns__device"}},
		release("is_pinned_on__release", "is_pinned_to__device"), release("is_running__release", "is_running_on__device"), shouldRun,
		release("should_be_operated_by__release", "should_operate__device"),
		release("should_be_managed_by__release", "should_manage__device"),
		{Name: "is_managed_by__service_instance", Type: fk, To: "service_instance", Null: true, Reverse: []string{"manages__device"}},
		{Name: "is_active", Type: flag}, {Name: "is_frozen", Type: flag}, {Name: "is_web_accessible", Type: flag},
		{Name: "is_online", Type: flag, SQL: online},
		{Name: "said_online", Type: flag, Hidden: true}, {Name: "said_online_at", Type: date, Null: true, Hidden: true},
		{Name: "last_connectivity_event", Type: date, Null: true, SQL: lastEvent},
		{Name: "api_heartbeat_state", Type: text, SQL: heartbeat},
		{Name: "changed_api_heartbeat_state_on__date", Type: date, Null: true, SQL: `(CASE WHEN {t}.heartbeat_due >= @now THEN {t}.online_since
			WHEN {t}.heartbeat_until >= @now THEN {t}.heartbeat_due ELSE {t}.heartbeat_until END)`},
		{Name: "is_connected_to_vpn", Type: flag}, {Name: "last_vpn_event", Type: date, Null: true},
		{Name: "is_locked_until__date", Type: date, Null: true},
		{Name: "is_accessible_by_support_until__date", Type: date, Null: true},
		{Name: "overall_status", Type: text, SQL: status, Explicit: true},
		{Name: "overall_progress", Type: num, Null: true, SQL: progress, Explicit: true},
		{Name: "update_status", Type: text, Null: true}, {Name: "last_update_status_event", Type: date, Null: true},
		{Name: "provisioning_progress", Type: num, Null: true}, {Name: "provisioning_state", Type: text, Null: true, MaxLen: 1000},
		{Name: "download_progress", Type: num, Null: true},
		{Name: "custom_latitude", Type: text, Null: true, MaxLen: 50}, {Name: "custom_longitude", Type: text, Null: true, MaxLen: 50},
		{Name: "latitude", Type: text, Null: true, SQL: `NULLIF({t}.custom_latitude, '')`},
		{Name: "longitude", Type: text, Null: true, SQL: `NULLIF({t}.custom_longitude, '')`},
		{Name: "location", Type: text, Null: true, SQL: "NULL"},
		{Name: "is_undervolted", Type: flag},
		// Ours: when the device was last heard, what of its release it could not honour, and how it proved itself on the control channel:
		// "certificate", or by its "key" alone, which is the weaker kind.
		{Name: "last_seen", Type: date, Null: true},
		{Name: "channel_identity", Type: text, Null: true}, {Name: "channel_address", Type: text, Null: true},
		{Name: "channel_state", Type: text, Null: true}, {Name: "channel_reason", Type: text, Null: true}, {Name: "key_protection", Type: text, Null: true}, // as the device has it
		{Name: "unsupported_features", Type: odata.JSON, Null: true},
	}
	for _, f := range report.Columns {
		typ := text
		if f.Number {
			typ = num
		}
		cols = append(cols, odata.Column{Name: f.Name, Type: typ, Null: true, MaxLen: f.MaxLen})
	}
	cols = append(cols, odata.Column{Name: "public_address", Type: text, Null: true, MaxLen: 100})
	return append(cols, rights.DeviceColumns()...)
}
