package devices

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
)

// details is a device as its page has it.
type details struct {
	client.Device
	LastHeard string      `json:"last_seen"` // of a poll or a report
	Installs  []install   `json:"image_install"`
	Actions   []actionRow `json:"device_action"`
}

// install is one service of it.
type install struct {
	client.ImageInstall
	InstalledAt string `json:"install_date"`
}

// actionRow is something that it was told to do.
type actionRow struct {
	ID        int64           `json:"id"`
	CreatedAt string          `json:"created_at"`
	Verb      api.ActionVerb  `json:"verb"`
	Service   string          `json:"service_name"`
	Forced    bool            `json:"is_forced"`
	State     api.ActionState `json:"state"`
	Message   string          `json:"message"`
	ExpiresAt string          `json:"expires_at"`
	EndedAt   string          `json:"ended_at"`
	By        client.Ref[struct {
		Username string `json:"username"`
	}] `json:"is_made_by__user"`
}

const actionFields = "id,created_at,verb,service_name,is_forced,state,message,expires_at,ended_at"

// service is a row of the page's table of services.
type service struct {
	Name, Status string
	Progress     *int64
	Release      client.Release
	InstalledAt  string
}

// summaryData is what the page is made from.
type summaryData struct {
	Device   details
	Services []service
	Channel  api.ChannelStatus
	URL      api.PublicURL
	Sessions []api.SSHSession
	// Enters says whether whoever looks may enter the device. Who may not is told neither who does.
	Enters bool
	// Reached says whether the device is reached just now: its channel is up.
	Reached bool
}

// Off says whether remote access is switched off, or there is none.
func (d summaryData) Off() bool { return !d.Channel.Server || !d.Channel.Wanted }

// Locked says whether the device's owner keeps the channel shut on the device.
func (d summaryData) Locked() bool { return d.Channel.Said == api.ChannelStateLocked }

// Usage is a part of what there is, in MiB.
type usage struct {
	Name        string
	Used, Total int64
}

// Usage lists what the device measured.
func (d summaryData) Usage() (list []usage) {
	for _, u := range []struct {
		name        string
		used, total *int64
	}{{"Memory", d.Device.MemoryUsage, d.Device.MemoryTotal}, {"Storage", d.Device.StorageUsage, d.Device.StorageTotal}} {
		if u.used != nil && u.total != nil {
			list = append(list, usage{u.name, *u.used, *u.total})
		}
	}
	return list
}

const (
	deviceFields = "id,uuid,device_name,note,created_at,is_online,overall_status,overall_progress,update_status,last_connectivity_event,last_seen,os_version,supervisor_version," +
		"ip_address,mac_address,public_address,memory_usage,memory_total,storage_usage,storage_total,cpu_usage,cpu_temp,key_protection,unsupported_features"
	deviceExpand = "belongs_to__application($select=id,uuid,slug,app_name),is_of__device_type($select=id,slug,name),is_running__release" + releaseFields +
		",should_be_running__release" + releaseFields + ",is_pinned_on__release" + releaseFields + ",device_tag($select=id,tag_key,value)," +
		"image_install($select=id,status,download_progress,install_date;$filter=status ne 'deleted';" +
		"$expand=installs__image($select=id;$expand=is_a_build_of__service($select=id,service_name)),is_provided_by__release" + releaseFields + ")," +
		"device_action($select=" + actionFields + ";$expand=is_made_by__user($select=id,username);$orderby=id desc;$top=10)," +
		"device_trust($select=" + client.TrustFields + ")"
)

// device reads the device that the page is about.
func (v *Visit) device(fields, expand string) (d details, err error) {
	uuid, err := v.uuid()
	if err != nil {
		return d, err
	}
	found, err := Rows[details](v, "device", client.Query{Select: fields, Expand: expand, Filter: client.Where("uuid eq ?", string(uuid))})
	if err != nil {
		return d, err
	}
	if len(found) != 1 {
		return d, api.Errorf(api.NotFound, "There is no such device.")
	}
	return found[0], nil
}

// notices are what the page says after one of its forms.
var notices = map[string]string{
	"channel": "Remote access is switched.", "url": "The public address is changed.", "ended": "The session is told to end.", "cancelled": "The action is taken back.",
}

func summary(v *Visit) error {
	return v.summary(http.StatusOK, Page{Notice: notices[v.R.URL.Query().Get("done")]})
}

// summary shows the page of the device.
func (v *Visit) summary(status int, p Page) error {
	var d summaryData
	var err error
	if d.Device, err = v.device(deviceFields, deviceExpand); err != nil {
		return err
	}
	path := d.Device.UUID
	if err := v.Call(http.MethodGet, "/channel/v1/device/"+path, nil, &d.Channel); err != nil {
		return err
	}
	if err := v.Call(http.MethodGet, "/device-url/v1/"+path, nil, &d.URL); err != nil && !refused(err) {
		return err
	}
	switch err := v.Call(http.MethodGet, "/ssh/v1/device/"+path+"/sessions", nil, &d.Sessions); {
	case err == nil:
		d.Enters = true
	case !refused(err):
		return err
	}
	d.Sessions = d.Sessions[:min(len(d.Sessions), 10)]
	d.Reached = d.Channel.Connected
	d.Services = servicesOf(d.Device.Installs)
	p.Title, p.Data = d.Device.Name, d
	return v.Show(status, "summary", p)
}

func servicesOf(installs []install) (list []service) {
	for _, i := range installs {
		list = append(list, service{
			Name: i.Image.Get().Service.Get().Name, Status: i.Status, Progress: i.Progress, Release: i.Release.Get(), InstalledAt: i.InstalledAt,
		})
	}
	slices.SortFunc(list, func(a, b service) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// refused says whether somebody may not, or has nothing to see there.
func refused(err error) bool {
	return errors.Is(err, api.ErrForbidden) || errors.Is(err, api.ErrNotFound)
}

// again shows the page of the device with what was wrong about one of its forms. What is refused to who may not even see it is as it is.
func (v *Visit) again(err error) error {
	e := api.AsError(err)
	if e.Code == api.Internal || e.Code == api.Unauthorized || e.Code == api.NotFound || e.Text == "" {
		return err
	}
	return v.summary(e.Code.Status(), Page{Error: e.Text})
}
