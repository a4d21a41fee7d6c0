package deviceapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/roadstead-io/roadstead/internal/agent/proxy"
)

// hostConfig tells everything but the proxy's password: who may ask need not know it.
func (s *Server) hostConfig(q *request) error {
	conf, err := s.acts.HostConfig(q.r.Context())
	if err != nil {
		return err
	}
	network := map[string]any{"hostname": conf.Hostname}
	if conf.Proxy != nil {
		told := *conf.Proxy
		told.Password = ""
		network["proxy"] = told
	}
	q.json(http.StatusOK, map[string]any{"network": network})
	return nil
}

// ReadHostChange reads the member "network" of a request, or of an action that waited, and names the field that is wrong.
func ReadHostChange(given any) (change HostChange, err error) {
	network, ok := given.(map[string]any)
	if !ok {
		return change, fmt.Errorf("%w: missing network", ErrInvalid)
	}
	if given, ok := network["hostname"]; ok {
		name, ok := given.(string)
		if !ok {
			return change, fmt.Errorf("%w: the host name must be a text", ErrInvalid)
		}
		change.Hostname = &name
	}
	if given, ok := network["proxy"]; ok {
		text, err := json.Marshal(given)
		if err != nil {
			return change, err
		}
		to, remove, err := proxy.ParseChange(text)
		if err != nil {
			return change, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if change.NoProxy = remove; !remove {
			change.Proxy = &to
		}
	}
	return change, nil
}

func (s *Server) setHostConfig(q *request) error {
	change, err := ReadHostChange(q.body["network"])
	if err != nil {
		return err
	}
	if err := s.acts.SetHostConfig(q.r.Context(), change, q.force()); err != nil {
		return err
	}
	return q.ok()
}

func (s *Server) tags(q *request) error {
	list, err := s.acts.Tags(q.r.Context())
	if err != nil {
		return q.failed(http.StatusInternalServerError, err.Error())
	}
	tags := []map[string]any{}
	for _, t := range list {
		tags = append(tags, map[string]any{"id": t.ID, "name": t.Key, "value": t.Value})
	}
	return q.success("tags", tags)
}

// maxTags is how many tags one request may set.
const maxTags = 100

func (s *Server) setTags(q *request) error {
	tags := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(q.body)) {
		val, ok := q.body[key].(string)
		switch {
		case key == "" || strings.ContainsFunc(key, unicode.IsSpace) || len(key) > 255:
			return fmt.Errorf("%w: %.80q is no name of a tag: it has a space, or is empty or longer than 255 bytes", ErrInvalid, key)
		case !ok:
			return fmt.Errorf("%w: the value of the tag %.80q must be a text", ErrInvalid, key)
		}
		tags[key] = val
	}
	if len(tags) == 0 || len(tags) > maxTags {
		return fmt.Errorf("%w: between 1 and %d tags are set at once, not %d", ErrInvalid, maxTags, len(tags))
	}
	if err := s.acts.SetTags(q.r.Context(), tags); err != nil {
		return err
	}
	q.json(http.StatusAccepted, map[string]string{"status": "success"})
	return nil
}

func (s *Server) cleanVolumes(q *request) error {
	if err := s.acts.CleanVolumes(q.r.Context(), q.scope.Fleet); err != nil {
		return err
	}
	q.json(http.StatusOK, map[string]string{"status": "success"})
	return nil
}

// noLocalMode answers as balena's supervisor does while it is not in local mode: a device of ours never is.
func noLocalMode(q *request) error {
	return q.failed(http.StatusBadRequest, "this device has no local mode: what it runs comes from its fleet only")
}
