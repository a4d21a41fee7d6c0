package device

import (
	"context"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/device/batch"
	"github.com/roadstead-io/roadstead/internal/device/report"
)

// RegisterTogether registers devices as one batch does.
func (d *Devices) RegisterTogether(ctx context.Context, by []access.Caller, reqs []api.Register) (made []api.Registered, refused []error, err error) {
	var all []*batch.Ask[*registration]
	for i := range reqs {
		all = append(all, &batch.Ask[*registration]{Of: &registration{by: by[i], req: reqs[i]}})
	}
	err = d.registerAll(ctx, all)
	for _, a := range all {
		made, refused = append(made, a.Of.made), append(refused, a.Err)
	}
	return made, refused, err
}

// ReportTogether takes reports as one batch does.
func (d *Devices) ReportTogether(ctx context.Context, by []access.Caller, bodies []string) (refused []error, err error) {
	var all []*batch.Ask[*told]
	for i, body := range bodies {
		uuid, raw, err := report.Split([]byte(body))
		if err != nil {
			return nil, err
		}
		r, err := report.Read(raw)
		if err != nil {
			return nil, err
		}
		all = append(all, &batch.Ask[*told]{Of: &told{by: by[i], uuid: uuid, report: r}})
	}
	err = d.takeAll(ctx, all)
	for _, a := range all {
		refused = append(refused, a.Err)
	}
	return refused, err
}
