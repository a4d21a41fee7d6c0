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
func releaseTarget(ctx context.Context, tx *db.Tx, row stateRow, vars variables, config map[string]string) (*api.ReleaseTarget, error) {
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
	vars.addTo(services)
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
			delete(block, "build") // how it was made is no business of the device
			if s.Composition, err = json.Marshal(block); err != nil {
				return nil, fmt.Errorf("composition: %w", err)
			}
		}
		out[s.ID] = s
	}
	return out, rows.Err()
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
