package device

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// releaseTarget puts a release together as a device runs it.
func releaseTarget(ctx context.Context, tx *db.Tx, row stateRow, config map[string]string) (*api.ReleaseTarget, error) {
	var text string
	err := tx.QueryRowContext(ctx, `SELECT composition FROM "release" WHERE id = ?`, row.release.Int64).Scan(&text)
	if err != nil {
		return nil, err
	}
	var compose composition
	if err := json.Unmarshal([]byte(text), &compose); err != nil {
		return nil, fmt.Errorf("composition: %w", err)
	}
	services, err := serviceTargets(ctx, tx, row, compose)
	if err != nil {
		return nil, err
	}
	if err := addEnvironment(ctx, tx, row, services); err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	if err := addLabels(ctx, tx, row, services); err != nil {
		return nil, fmt.Errorf("labels: %w", err)
	}
	out := &api.ReleaseTarget{
		ID: row.release.Int64, Services: map[string]*api.ServiceTarget{},
		Networks: blocks(compose.Networks), Volumes: blocks(compose.Volumes),
	}
	for _, s := range services {
		labelStrategy(s, compose.Services[s.name], config)
		out.Services[s.name] = &s.ServiceTarget
	}
	return out, nil
}

// blocks replaces what a compose file leaves empty: a supervisor refuses null.
func blocks(in map[string]json.RawMessage) map[string]json.RawMessage {
	for name, block := range in {
		if string(bytes.TrimSpace(block)) == "null" {
			in[name] = json.RawMessage("{}")
		}
	}
	return in
}

// namedService is one service on its way into a target.
type namedService struct {
	api.ServiceTarget
	name string
}

// serviceTargets gives the services of a release by id, without environment and labels.
func serviceTargets(ctx context.Context, tx *db.Tx, row stateRow, compose composition) (map[int64]*namedService, error) {
	rows, err := tx.QueryContext(ctx, `SELECT s.id, s.service_name, i.id, i.is_stored_at__image_location, i.content_hash, i.contract
		FROM release_image ri
		JOIN image i ON i.id = ri.image
		JOIN service s ON s.id = i.is_a_build_of__service
		WHERE ri.is_part_of__release = ? AND i.status = 'success'`, row.release.Int64)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	out := map[int64]*namedService{}
	for rows.Next() {
		s := &namedService{ServiceTarget: api.ServiceTarget{Environment: map[string]string{}, Labels: map[string]string{}}}
		var location string
		var digest, contract sql.NullString
		if err := rows.Scan(&s.ID, &s.name, &s.ImageID, &location, &digest, &contract); err != nil {
			return nil, err
		}
		s.Image = strings.ToLower(location + "@" + digest.String)
		if c := strings.TrimSpace(contract.String); c != "" && c != "null" {
			s.Contract = json.RawMessage(c)
		}
		if block, ok := compose.Services[s.name]; ok {
			build, has := block["build"] // how it was made is no business of the device
			delete(block, "build")
			if s.Composition, err = json.Marshal(block); err != nil {
				return nil, fmt.Errorf("composition: %w", err)
			}
			if has {
				block["build"] = build
			}
		}
		out[s.ID] = s
	}
	return out, rows.Err()
}

// addEnvironment merges variables, the weakest first: of the image, the fleet, the service, the device, the service on the
// device. What the composition says is weaker than all of them and stands in the service's block.
func addEnvironment(ctx context.Context, tx *db.Tx, row stateRow, services map[int64]*namedService) error {
	rows, err := tx.QueryContext(ctx, `
		SELECT 1 AS rank, i.is_a_build_of__service, v.name, v.value FROM release_image ri JOIN image i ON i.id = ri.image
			JOIN image_environment_variable v ON v.release_image = ri.id WHERE ri.is_part_of__release = ?1
		UNION ALL SELECT 2, NULL, name, value FROM application_environment_variable WHERE application = ?2
		UNION ALL SELECT 3, v.service, v.name, v.value FROM service s JOIN service_environment_variable v ON v.service = s.id
			WHERE s.application = ?2
		UNION ALL SELECT 4, NULL, name, value FROM device_environment_variable WHERE device = ?3
		UNION ALL SELECT 5, si.installs__service, v.name, v.value FROM service_install si
			JOIN device_service_environment_variable v ON v.service_install = si.id WHERE si.device = ?3
		ORDER BY rank`, row.release.Int64, row.fleet, row.device)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var rank int
		var service sql.NullInt64
		var name, value string
		if err := rows.Scan(&rank, &service, &name, &value); err != nil {
			return err
		}
		if !service.Valid {
			for _, s := range services {
				s.Environment[name] = value
			}
		} else if s := services[service.Int64]; s != nil {
			s.Environment[name] = value
		}
	}
	return rows.Err()
}

// addLabels merges labels: those of the service over those of the image. The composition's are weaker and stand in its block.
func addLabels(ctx context.Context, tx *db.Tx, row stateRow, services map[int64]*namedService) error {
	rows, err := tx.QueryContext(ctx, `
		SELECT 1 AS rank, i.is_a_build_of__service, l.label_name, l.value FROM release_image ri JOIN image i ON i.id = ri.image
			JOIN image_label l ON l.release_image = ri.id WHERE ri.is_part_of__release = ?1
		UNION ALL SELECT 2, l.service, l.label_name, l.value FROM service s JOIN service_label l ON l.service = s.id
			WHERE s.application = ?2
		ORDER BY rank`, row.release.Int64, row.fleet)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var rank int
		var service int64
		var name, value string
		if err := rows.Scan(&rank, &service, &name, &value); err != nil {
			return err
		}
		if s := services[service]; s != nil {
			s.Labels[name] = value
		}
	}
	return rows.Err()
}

// labelStrategy turns the two configuration variables about updates into labels, where no label says otherwise.
func labelStrategy(s *namedService, block map[string]json.RawMessage, config map[string]string) {
	var composed map[string]string
	_ = json.Unmarshal(block["labels"], &composed) // of another form: then it says nothing about updates
	for variable, label := range map[string]string{
		"RESIN_SUPERVISOR_UPDATE_STRATEGY":  "update.strategy",
		"RESIN_SUPERVISOR_HANDOVER_TIMEOUT": "update.handover-timeout",
	} {
		value, ok := config[variable]
		if !ok {
			continue
		}
		for _, labels := range []map[string]string{s.Labels, composed} {
			for _, vendor := range []string{"io.resin.", "io.balena."} {
				if _, set := labels[vendor+label]; set {
					ok = false
				}
			}
		}
		if ok {
			s.Labels["io.resin."+label] = value
		}
	}
}
