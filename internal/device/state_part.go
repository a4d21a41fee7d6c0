package device

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/channel/when"
	"github.com/roadstead-io/roadstead/internal/db"
)

// partKey names what one fleet wants on devices that run one of its releases; release 0 is none. Bare is without the fleet's
// variables and labels: whoever may read a public release, or has its images on a device, need not know what its owners told theirs.
type partKey struct {
	fleet, release int64
	bare           bool
}

// part is that, without what single devices have of their own. Nothing of it changes once it is made; alike only grows.
type part struct {
	name, uuid string
	app        api.AppTarget // without releases
	commit     string        // "" when there is no release
	release    api.ReleaseTarget
	services   []partService
	config     map[string]string // of the fleet
	size       int               // roughly, in bytes

	mu    sync.Mutex // covers what follows
	alike map[[2]*part]*shared
}

// partService is one service of it.
type partService struct {
	name     string
	target   api.ServiceTarget
	location string            // of its image
	composed map[string]string // labels in the composition
}

// target gives a device its copy: the fleet's part with the device's own variables. config is the configuration that update
// strategies are read from; nil for apps that are not the device's fleet.
func (p *part) target(own *ownVariables, config map[string]string) *api.AppTarget {
	app := p.app
	if p.commit == "" {
		return &app
	}
	release := p.release
	release.Services = make(map[string]*api.ServiceTarget, len(p.services))
	for i := range p.services {
		s := &p.services[i]
		target := s.target
		target.Environment = maps.Clone(s.target.Environment)
		maps.Copy(target.Environment, own.environment)
		maps.Copy(target.Environment, own.services[target.ID])
		target.Labels = maps.Clone(s.target.Labels)
		labelStrategy(target.Labels, s.composed, config)
		release.Services[s.name] = &target
	}
	app.Releases = map[string]*api.ReleaseTarget{p.commit: &release}
	return &app
}

// Bounds of the parts that are kept.
const (
	maxParts     = 1000
	maxPartBytes = 32 << 20
)

// parts keeps what polls of one fleet have in common. An entry counts only with the fleet's target version that it was made of, and
// every change that may concern it makes a new version (see migrations 0033 and 0071): nothing here is ever stale.
type parts struct {
	mu   sync.Mutex // covers what follows
	made map[partKey]madePart
	size int
}

type madePart struct {
	version string
	part    *part
}

func newParts() *parts { return &parts{made: map[partKey]madePart{}} }

// errNotMade says that a part is not here in the asked version.
var errNotMade = errors.New("the part is not made yet")

// known gives a part that was made before.
func (c *parts) known(key partKey, version string) (*part, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m, ok := c.made[key]; ok && m.version == version {
		return m.part, nil
	}
	return nil, errNotMade
}

// hold says that the image at a location belongs to a part that was made before.
func (c *parts) hold(key partKey, version, location string) bool {
	p, err := c.known(key, version)
	return err == nil && slices.ContainsFunc(p.services, func(s partService) bool { return s.location == location })
}

func (c *parts) get(ctx context.Context, tx *db.Tx, key partKey, version string) (*part, error) {
	if p, err := c.known(key, version); err == nil {
		return p, nil
	}
	p, err := readPart(ctx, tx, key)
	if err != nil {
		return nil, fmt.Errorf("fleet %d, release %d: %w", key.fleet, key.release, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.made[key]; ok {
		c.size -= old.part.size
	}
	c.made[key] = madePart{version, p}
	c.size += p.size
	for other, m := range c.made { // in no order: whatever is needed is made again
		if len(c.made) <= maxParts && c.size <= maxPartBytes {
			break
		}
		if other != key {
			c.size -= m.part.size
			delete(c.made, other)
		}
	}
	return p, nil
}

func readPart(ctx context.Context, tx *db.Tx, key partKey) (*part, error) {
	p := &part{size: 1000}
	err := tx.QueryRowContext(ctx, `SELECT app_name, uuid, is_of__class, is_host = 1 FROM application WHERE id = ?`, key.fleet).
		Scan(&p.name, &p.uuid, &p.app.Class, &p.app.IsHost)
	if err != nil {
		return nil, err
	}
	p.app.ID, p.app.Name = key.fleet, p.name
	var composed string
	if key.release != 0 {
		err := tx.QueryRowContext(ctx, `SELECT "commit", composition FROM "release" WHERE id = ? AND status = 'success'`, key.release).
			Scan(&p.commit, &composed)
		if err != nil && !noRows(err) {
			return nil, err
		}
	}
	vars, err := fleetVariables(ctx, tx, key)
	if err != nil {
		return nil, err
	}
	if key.bare {
		vars = slices.DeleteFunc(vars, func(v variable) bool { return v.rank != envOfImage && v.rank != labelOfImage })
	}
	if p.config = vars.config(); p.app.Class == "block" {
		p.config[when.Default] = "false"
	}
	if p.commit == "" {
		return p, nil
	}
	return p, p.readRelease(ctx, tx, key, composed, vars)
}

// composition is what of a release's compose project concerns a device.
type composition struct {
	Services map[string]map[string]json.RawMessage `json:"services"`
	Networks map[string]json.RawMessage            `json:"networks"`
	Volumes  map[string]json.RawMessage            `json:"volumes"`
}

func (p *part) readRelease(ctx context.Context, tx *db.Tx, key partKey, composed string, vars variables) error {
	var compose composition
	if err := json.Unmarshal([]byte(composed), &compose); err != nil {
		return fmt.Errorf("composition: %w", err)
	}
	p.size += 4 * len(composed) // parsed, and written out for devices
	p.release = api.ReleaseTarget{ID: key.release, Networks: blocks(compose.Networks), Volumes: blocks(compose.Volumes)}
	rows, err := tx.QueryContext(ctx, `SELECT s.id, s.service_name, i.id, i.is_stored_at__image_location, coalesce(i.content_hash, ''),
			coalesce(i.contract, '')
		FROM release_image ri
		JOIN image i ON i.id = ri.image
		JOIN service s ON s.id = i.is_a_build_of__service
		WHERE ri.is_part_of__release = ? AND i.status = 'success' ORDER BY s.service_name, i.id`, key.release)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		s := partService{target: api.ServiceTarget{Environment: map[string]string{}, Labels: map[string]string{}}}
		var digest, contract string
		if err := rows.Scan(&s.target.ID, &s.name, &s.target.ImageID, &s.location, &digest, &contract); err != nil {
			return err
		}
		s.target.Image = strings.ToLower(s.location + "@" + digest)
		if c := strings.TrimSpace(contract); c != "" && c != "null" {
			s.target.Contract = json.RawMessage(c)
		}
		if err := s.compose(compose.Services[s.name]); err != nil {
			return err
		}
		if p.app.IsHost { // supervisors that know nothing of host apps leave it alone then
			s.target.Labels["io.balena.image.store"] = "root"
		}
		vars.addTo(&s)
		p.size += 2*len(contract) + 1000
		p.services = append(p.services, s)
	}
	return rows.Err()
}

// compose gives a service its block of the composition.
func (s *partService) compose(block map[string]json.RawMessage) error {
	if block == nil {
		return nil
	}
	_ = json.Unmarshal(block["labels"], &s.composed) // of another form: then it says nothing about updates
	delete(block, "build")                           // how it was made is no business of the device
	var err error
	if s.target.Composition, err = json.Marshal(block); err != nil {
		return fmt.Errorf("composition: %w", err)
	}
	return nil
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

// labelStrategy turns the two configuration variables about updates into labels, where no label says otherwise.
func labelStrategy(labels, composed, config map[string]string) {
	for variable, label := range map[string]string{
		"RESIN_SUPERVISOR_UPDATE_STRATEGY":  "update.strategy",
		"RESIN_SUPERVISOR_HANDOVER_TIMEOUT": "update.handover-timeout",
	} {
		value, ok := config[variable]
		for _, said := range []map[string]string{labels, composed} {
			for _, vendor := range []string{"io.resin.", "io.balena."} {
				if _, set := said[vendor+label]; set {
					ok = false
				}
			}
		}
		if ok {
			labels["io.resin."+label] = value
		}
	}
}

// Ranks of what a fleet and its releases say: the stronger ones higher. They stand as numbers in the query below.
const (
	configOfFleet = iota + 1
	envOfImage    // stronger than what the composition says, which stands in the service's block
	envOfFleet
	envOfService
	labelOfImage // stronger than the composition's
	labelOfService
)

// variable is one name with a value that becomes part of a target.
type variable struct {
	rank        int
	service     int64 // 0: every service
	name, value string
}

// variables are all of a fleet that concern devices on one release, the weaker ones first.
type variables []variable

// fleetVariables reads them in one go: it is the bulk of the work for a target.
func fleetVariables(ctx context.Context, tx *db.Tx, key partKey) (variables, error) {
	rows, err := tx.QueryContext(ctx, `
		SELECT 1, 0, name, value FROM application_config_variable WHERE application = ?
		UNION ALL SELECT 2, i.is_a_build_of__service, v.name, v.value FROM release_image ri JOIN image i ON i.id = ri.image
			JOIN image_environment_variable v ON v.release_image = ri.id WHERE ri.is_part_of__release = ?
		UNION ALL SELECT 3, 0, name, value FROM application_environment_variable WHERE application = ?
		UNION ALL SELECT 4, v.service, v.name, v.value FROM service s JOIN service_environment_variable v ON v.service = s.id
			WHERE s.application = ?
		UNION ALL SELECT 5, i.is_a_build_of__service, l.label_name, l.value FROM release_image ri JOIN image i ON i.id = ri.image
			JOIN image_label l ON l.release_image = ri.id WHERE ri.is_part_of__release = ?
		UNION ALL SELECT 6, l.service, l.label_name, l.value FROM service s JOIN service_label l ON l.service = s.id
			WHERE s.application = ?`, key.fleet, key.release, key.fleet, key.fleet, key.release, key.fleet)
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

func (vars variables) config() map[string]string {
	config := map[string]string{}
	for _, v := range vars {
		if v.rank == configOfFleet {
			config[v.name] = v.value
		}
	}
	return config
}

// addTo gives a service its environment and labels.
func (vars variables) addTo(s *partService) {
	for _, v := range vars {
		switch {
		case v.rank == configOfFleet || v.service != 0 && v.service != s.target.ID:
		case v.rank >= labelOfImage:
			s.target.Labels[v.name] = v.value
		default:
			s.target.Environment[v.name] = v.value
		}
	}
}

// ReleaseTarget is a release as the devices of its fleet get it, without what is said of the fleet and of single devices.
func ReleaseTarget(ctx context.Context, tx *db.Tx, fleet, release int64) (commit string, target *api.ReleaseTarget, err error) {
	p, err := readPart(ctx, tx, partKey{fleet: fleet, release: release, bare: true})
	if err == nil && p.commit == "" {
		err = api.ErrNotFound
	}
	if err != nil {
		return "", nil, fmt.Errorf("release %d: %w", release, err)
	}
	return p.commit, p.target(&ownVariables{}, nil).Releases[p.commit], nil
}
