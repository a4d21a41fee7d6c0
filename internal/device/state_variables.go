package device

import (
	"context"
	"database/sql"
	"slices"

	"github.com/roadstead-io/roadstead/internal/db"
)

// Ranks of variables: what they are for, and among those for the same thing the stronger ones higher. Some stand as numbers in
// the queries only.
//
//nolint:unused // see above
const (
	configOfFleet = iota + 1
	configOfDevice

	envOfImage // stronger than what the composition says, which stands in the service's block
	envOfFleet
	envOfService
	envOfDevice
	envOfServiceOnDevice

	labelOfImage // stronger than the composition's
	labelOfService
)

// variable is one name with a value that becomes part of a target.
type variable struct {
	rank        int
	service     sql.NullInt64 // null: every service
	name, value string
}

// variables are all that concern a device, the weaker ones first.
type variables []variable

// readVariables reads them in one go: it is the bulk of the work for a target.
func readVariables(ctx context.Context, tx *db.Tx, row stateRow) (variables, error) {
	rows, err := tx.QueryContext(ctx, `
		SELECT 1, NULL, name, value FROM application_config_variable WHERE application = ?2
		UNION ALL SELECT 2, NULL, name, value FROM device_config_variable WHERE device = ?3
		UNION ALL SELECT 3, i.is_a_build_of__service, v.name, v.value FROM release_image ri JOIN image i ON i.id = ri.image
			JOIN image_environment_variable v ON v.release_image = ri.id WHERE ri.is_part_of__release = ?1
		UNION ALL SELECT 4, NULL, name, value FROM application_environment_variable WHERE application = ?2
		UNION ALL SELECT 5, v.service, v.name, v.value FROM service s JOIN service_environment_variable v ON v.service = s.id
			WHERE s.application = ?2
		UNION ALL SELECT 6, NULL, name, value FROM device_environment_variable WHERE device = ?3
		UNION ALL SELECT 7, si.installs__service, v.name, v.value FROM service_install si
			JOIN device_service_environment_variable v ON v.service_install = si.id WHERE si.device = ?3
		UNION ALL SELECT 8, i.is_a_build_of__service, l.label_name, l.value FROM release_image ri JOIN image i ON i.id = ri.image
			JOIN image_label l ON l.release_image = ri.id WHERE ri.is_part_of__release = ?1
		UNION ALL SELECT 9, l.service, l.label_name, l.value FROM service s JOIN service_label l ON l.service = s.id
			WHERE s.application = ?2`, row.release, row.fleet, row.device)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out variables
	for rows.Next() {
		var v variable
		if err := rows.Scan(&v.rank, &v.service, &v.name, &v.value); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	slices.SortStableFunc(out, func(a, b variable) int { return a.rank - b.rank })
	return out, rows.Err()
}

// addTo gives services their environment and labels.
func (vars variables) addTo(services map[int64]*namedService) {
	for _, v := range vars {
		if v.rank <= configOfDevice {
			continue
		}
		for id, s := range services {
			if v.service.Valid && v.service.Int64 != id {
				continue
			}
			if v.rank >= labelOfImage {
				s.Labels[v.name] = v.value
			} else {
				s.Environment[v.name] = v.value
			}
		}
	}
}
