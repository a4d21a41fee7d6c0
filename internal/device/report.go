package device

import (
	"context"
	"fmt"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/device/report"
)

// metricsEvery is how often metrics alone are worth a write.
const metricsEvery = time.Minute

// metrics are what a device measures all the time: a report of nothing else may be dropped.
var metrics = []string{
	"memory_usage", "memory_total", "storage_usage", "storage_total", "storage_block_device", "cpu_usage", "cpu_temp",
}

// Report takes what a device says of itself: all of it or nothing. The body is {"<uuid>": {what changed}}; keys that mean
// nothing here are ignored, for newer and older devices send more and less. address is where the report came from.
func (d *Devices) Report(ctx context.Context, by access.Caller, body []byte, address string) error {
	if by.Kind != access.Device {
		return api.Errorf(api.Forbidden, "only a device reports its state")
	}
	uuid, raw, err := report.Split(body)
	if err != nil {
		return err
	}
	r, err := report.Read(raw)
	if err != nil {
		return err
	}
	return d.take(ctx, by, uuid, r, address)
}

// told is a report on its way: who sent it, and what comes of it.
type told struct {
	by     access.Caller
	uuid   api.DeviceUUID
	report *report.Report
	plan   *plan
}

// take stores a report. Those that come at the same time are compared with what is known together, and written together.
func (d *Devices) take(ctx context.Context, by access.Caller, uuid api.DeviceUUID, r *report.Report, address string) error {
	if address != "" {
		r.Columns["public_address"] = report.Cut(address, 100)
	}
	t := &told{by: by, uuid: uuid, report: r}
	if err := d.reports.Do(ctx, t); err != nil {
		return fmt.Errorf("report of %s: %w", uuid, err)
	}
	if !t.plan.beaten {
		d.Heard(ctx, Target{device: by.Device, at: t.plan.at, interval: t.plan.interval, wasOnline: t.plan.online})
	}
	return nil
}
