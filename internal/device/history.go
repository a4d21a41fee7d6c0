package device

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/batch"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// What of a device's past is kept: rows that ended within keepHistory, and at most maxHistory of them a device.
const (
	keepHistory = 365 * 24 * time.Hour
	maxHistory  = 1000
)

// recorded are the columns of a device whose changes make a new row of its history.
var recorded = []string{
	"belongs_to__application", "is_active", "is_running__release", "is_pinned_on__release", "is_managed_by__service_instance",
	"os_version", "os_variant", "supervisor_version", "is_of__device_type", "cpu_id", "should_be_managed_by__release",
}

// record writes down what a device has become, if that differs from the last that was written down.
func record(ctx context.Context, tx *db.Tx, by access.Caller, device int64) error {
	var differs []string
	for _, c := range recorded {
		differs = append(differs, "d."+c+" IS DISTINCT FROM device_history."+c)
	}
	_, err := tx.ExecContext(ctx, `UPDATE device_history SET end_timestamp = ?, is_ended_by__actor = ?
		WHERE tracks__device = ? AND end_timestamp IS NULL AND EXISTS (SELECT 1 FROM device d
			WHERE d.id = device_history.tracks__device AND (`+strings.Join(differs, " OR ")+`))`, tx.NowText(), actorOf(by), device)
	if err != nil {
		return fmt.Errorf("history of device %d: %w", device, err)
	}
	columns := strings.Join(recorded, ", ")
	_, err = tx.ExecContext(ctx, `INSERT INTO device_history (created_at, is_created_by__actor, tracks__device, tracks__actor, uuid, `+columns+`)
		SELECT CAST(? AS TEXT), CAST(? AS BIGINT), id, actor, uuid, `+columns+` FROM device
		WHERE id = ? AND NOT EXISTS (SELECT 1 FROM device_history h WHERE h.tracks__device = device.id AND h.end_timestamp IS NULL)`,
		tx.NowText(), actorOf(by), device)
	if err != nil {
		return fmt.Errorf("history of device %d: %w", device, err)
	}
	return nil
}

// recordNew writes down what new devices are, which have no history.
func recordNew(ctx context.Context, tx *db.Tx, all []*batch.Ask[*registration]) error {
	args := append(make([]any, 0, 1+2*len(all)), tx.NowText())
	for _, a := range all {
		args = append(args, a.Of.made.ID, actorOf(a.Of.by))
	}
	columns := strings.Join(recorded, ", ")
	_, err := tx.ExecContext(ctx, `INSERT INTO device_history (created_at, is_created_by__actor, tracks__device, tracks__actor, uuid, `+columns+`)
		SELECT CAST(? AS TEXT), b.column2, id, actor, uuid, `+columns+` FROM device
		JOIN (VALUES `+db.Rows(`(CAST(? AS BIGINT), CAST(? AS BIGINT))`, len(all))+`) AS b ON device.id = b.column1`, args...)
	if err != nil {
		return fmt.Errorf("history of new devices: %w", err)
	}
	return nil
}

// recordEnd closes the history of a device that is about to be deleted.
func recordEnd(ctx context.Context, tx *db.Tx, by access.Caller, device int64) error {
	_, err := tx.ExecContext(ctx, `UPDATE device_history SET end_timestamp = ?, is_ended_by__actor = ?
		WHERE tracks__device = ? AND end_timestamp IS NULL`, tx.NowText(), actorOf(by), device)
	if err != nil {
		return fmt.Errorf("history of device %d: %w", device, err)
	}
	return nil
}

// actorOf is who did it; null when it was the server itself.
func actorOf(by access.Caller) any {
	if by.Actor == 0 {
		return nil
	}
	return by.Actor
}

// ForgetHistoryOnce removes the past that is not kept.
func (d *Devices) ForgetHistoryOnce(ctx context.Context) error {
	return d.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM device_history WHERE id IN
			(SELECT id FROM device_history WHERE end_timestamp < ? LIMIT 10000)`, db.FormatTime(tx.Now.Add(-keepHistory)))
		if err != nil {
			return fmt.Errorf("device: forget history: %w", err)
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM device_history WHERE end_timestamp IS NOT NULL AND id <= (
			SELECT h.id FROM device_history h WHERE h.tracks__device = device_history.tracks__device ORDER BY h.id DESC LIMIT 1 OFFSET ?)
			AND tracks__device IN (SELECT tracks__device FROM device_history GROUP BY tracks__device HAVING count(*) > ?)`,
			maxHistory, maxHistory)
		if err != nil {
			return fmt.Errorf("device: forget history: %w", err)
		}
		return nil
	})
}

// history shows what devices were. A row is for those who may see the fleet that the device was in then.
func history() *odata.Resource {
	fk := func(name, to string, reverse ...string) odata.Column {
		return odata.Column{Name: name, Type: odata.ForeignKey, To: to, Null: true, Reverse: reverse}
	}
	text := func(name string) odata.Column { return odata.Column{Name: name, Type: odata.String, Null: true} }
	return &odata.Resource{
		Name: "device_history",
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date}, {Name: "end_timestamp", Type: odata.Date, Null: true},
			fk("is_created_by__actor", "actor"), fk("is_ended_by__actor", "actor"),
			fk("tracks__device", "device", "device_history", "is_tracked_by__device_history"),
			fk("tracks__actor", "actor", "is_tracked_by__device_history"),
			text("uuid"),
			fk("belongs_to__application", "application", "device_history", "owns__device_history"),
			{Name: "is_active", Type: odata.Boolean},
			fk("is_running__release", "release"), fk("is_pinned_on__release", "release"),
			fk("is_managed_by__service_instance", "service_instance"),
			text("os_version"), text("os_variant"), text("supervisor_version"),
			fk("is_of__device_type", "device_type", "device_history"),
			text("cpu_id"),
			fk("should_be_managed_by__release", "release"),
		},
		Rules: historyRules(),
	}
}

// serviceInstance is what carries devices' control channels.
func serviceInstance() *odata.Resource {
	return &odata.Resource{
		Name:    "service_instance",
		Columns: []odata.Column{{Name: "id", Type: odata.Integer}, {Name: "ip_address", Type: odata.String}},
		Rules:   serviceInstanceRules(),
	}
}
