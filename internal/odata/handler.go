package odata

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Handler serves the routes under the configured prefixes. The caller comes from the request's context, see [access.From].
func (e *Engine) Handler() web.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		path := r.URL.EscapedPath()
		m := e.mount(path)
		if m == nil {
			return &api.Error{Code: api.NotFound}
		}
		req, err := syntax.ParseRequest(e.lim.Limits, m.prefix, path[len(m.prefix):], r.URL.RawQuery)
		if err != nil {
			return err
		}
		caller := access.From(r.Context())
		if req.Resource == "$metadata" {
			return e.metadata(w, r, caller, m.schema)
		}
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			return e.get(w, r, caller, m, req)
		case http.MethodPost:
			if req.Action == "canAccess" {
				return e.canAccess(w, r, caller, m, req)
			}
			return e.post(w, r, caller, m, req)
		case http.MethodPatch, http.MethodDelete:
			return e.change(w, r, caller, m, req)
		}
		w.Header().Set("Allow", "GET, HEAD, POST, PATCH, DELETE")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return nil
	}
}

// mount is one version of the API under its prefix.
type mount struct {
	prefix string
	schema *schema
}

func (e *Engine) mount(path string) *mount {
	for _, m := range e.mounts {
		if strings.HasPrefix(path, m.prefix) {
			return m
		}
	}
	return nil
}

func (e *Engine) get(w http.ResponseWriter, r *http.Request, caller access.Caller, m *mount, req *syntax.Request) error {
	if req.Action == "canAccess" {
		return invalid("canAccess is asked with POST")
	}
	var d json.RawMessage
	p, err := e.planned(caller.Kind, m.schema, req)
	if err != nil {
		return err
	}
	err = e.reading(p)(r.Context(), func(tx *db.Tx) (err error) {
		d, err = e.run(r.Context(), tx, caller, p)
		return err
	})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(d)+len(`{"d":}`)))
	for _, part := range [][]byte{[]byte(`{"d":`), d, []byte(`}`)} {
		if _, err := w.Write(part); err != nil {
			return nil // a client that did not wait is its own business
		}
	}
	return nil
}

func (e *Engine) post(w http.ResponseWriter, r *http.Request, caller access.Caller, m *mount, req *syntax.Request) error {
	if req.Key != nil || req.Action != "" || len(req.Given) > 0 {
		return invalid("a POST takes neither a key nor query options")
	}
	// The rule is looked up before the body is read: who may not create need not learn what a good body is.
	if _, err := e.writer(r.Context(), nil, caller, m.schema, req.Resource, Create); err != nil {
		return err
	}
	values, err := body(r)
	if err != nil {
		return err
	}
	var id int64
	answer := json.RawMessage(nil)
	err = e.db.Write(r.Context(), func(tx *db.Tx) (err error) {
		answer = nil
		wr, err := e.writer(r.Context(), tx, caller, m.schema, req.Resource, Create)
		if err != nil {
			return err
		}
		if id, err = wr.insert(values); err != nil || !req.ReturnResource {
			return err
		}
		answer, err = e.readBack(r.Context(), tx, caller, m.schema, req.Resource, id)
		return err
	})
	if err != nil {
		return err
	}
	if answer == nil {
		answer = json.RawMessage(`{"id":` + strconv.FormatInt(id, 10) + `}`)
	}
	n := strconv.FormatInt(id, 10)
	w.Header().Set("Location", m.prefix+req.Resource+"(@id)?@id="+n)
	return web.WriteJSON(w, http.StatusCreated, answer)
}

// readBack is the new row as its maker sees it; nil when the maker may not.
func (e *Engine) readBack(ctx context.Context, tx *db.Tx, caller access.Caller, s *schema, resource string, id int64) (json.RawMessage, error) {
	rows, err := e.read(ctx, tx, caller, s, byID(resource, id))
	if errors.Is(err, api.ErrUnauthorized) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if one := strings.TrimSuffix(strings.TrimPrefix(string(rows), "["), "]"); one != "" {
		return json.RawMessage(one), nil
	}
	return nil, nil
}

// change serves PATCH and DELETE.
func (e *Engine) change(w http.ResponseWriter, r *http.Request, caller access.Caller, m *mount, req *syntax.Request) error {
	op := Update
	if r.Method == http.MethodDelete {
		op = Delete
	}
	if _, err := e.writer(r.Context(), nil, caller, m.schema, req.Resource, op); err != nil {
		return err
	}
	switch given := req.Given; {
	case req.Action != "":
		return invalid("%s takes no /%s", r.Method, req.Action)
	case len(given) > 1 || len(given) == 1 && !given["$filter"]:
		return invalid("%s takes no query option but $filter", r.Method)
	case req.Key == nil && req.Query.Filter == nil:
		return invalid("%s of every %s at once is refused: give a key or a $filter", r.Method, req.Resource)
	}
	var values map[string]any
	if op == Update {
		var err error
		if values, err = body(r); err != nil {
			return err
		}
	}
	err := e.db.Write(r.Context(), func(tx *db.Tx) error {
		wr, err := e.writer(r.Context(), tx, caller, m.schema, req.Resource, op)
		if err != nil {
			return err
		}
		ids, err := wr.targets(req, op)
		if err != nil {
			return err
		}
		if op == Delete {
			return wr.remove(ids)
		}
		return wr.update(ids, values)
	})
	if err == nil {
		w.WriteHeader(http.StatusOK)
	}
	return err
}

// canAccess answers whether the caller could do something with a row.
func (e *Engine) canAccess(w http.ResponseWriter, r *http.Request, caller access.Caller, m *mount, req *syntax.Request) error {
	res, err := m.schema.readable(caller.Kind, req.Resource)
	if err != nil {
		return err
	}
	if req.Key == nil {
		return invalid("canAccess needs a key")
	}
	asked, err := body(r)
	if err != nil {
		return err
	}
	allowed, ok := res.allowed(caller.Kind, asked)
	if !ok {
		return errUnauthorized
	}
	req.Action = ""
	req.Query = syntax.Query{Top: -1, Select: []string{"id"}}
	var d json.RawMessage
	p, err := newCompiler(e.d, caller.Kind, req.Aliases).plan(res, req, allowed)
	if err != nil {
		return err
	}
	err = e.reading(p)(r.Context(), func(tx *db.Tx) (err error) {
		d, err = e.run(r.Context(), tx, caller, p)
		return err
	})
	switch {
	case err != nil:
		return err
	case string(d) == "[]":
		return errUnauthorized
	}
	return web.WriteJSON(w, http.StatusOK, map[string]json.RawMessage{"d": d})
}

// reading is how the statements of a plan see the same state: one alone always does.
func (e *Engine) reading(p *plan) func(context.Context, func(*db.Tx) error) error {
	if len(p.root.lists) == 0 {
		return e.db.ReadOne
	}
	return e.db.Read
}

// allowed is the filter of what canAccess asks for, as an action or as the HTTP method that would be used.
func (r *resource) allowed(k access.Kind, asked map[string]any) (syntax.Expr, bool) {
	action, _ := asked["action"].(string)
	if method, _ := asked["method"].(string); action == "" {
		action = map[string]string{"GET": "read", "PATCH": "update", "PUT": "update", "DELETE": "delete"}[method]
	}
	if k == access.System {
		return nil, action != ""
	}
	ru := r.rules[k]
	var e syntax.Expr
	switch action {
	case "read":
		e = ru.read
	case "update":
		e = ru.update
	case "delete":
		e = ru.delete
	default:
		e = r.actions[action][k]
	}
	return e, e != nil
}

// body reads the fields of a write: a JSON object or a form.
func body(r *http.Request) (map[string]any, error) {
	kind := "application/json"
	if ct := r.Header.Get("Content-Type"); ct != "" {
		var err error
		if kind, _, err = mime.ParseMediaType(ct); err != nil {
			return nil, api.Errorf(api.Unsupported, "the content type %q cannot be read", syntax.Echo(ct))
		}
	}
	data, err := web.ReadBody(r, web.MaxBody)
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	switch {
	case kind == "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(data))
		if err != nil {
			return nil, invalid("the body is not a valid form")
		}
		for name, v := range form {
			values[name] = formText(v[len(v)-1])
		}
	case kind != "application/json" && !strings.HasSuffix(kind, "+json"):
		return nil, api.Errorf(api.Unsupported, "the body must be application/json, not %q", syntax.Echo(kind))
	case len(data) > 0:
		dec := json.NewDecoder(strings.NewReader(string(data)))
		dec.UseNumber()
		if err := dec.Decode(&values); err != nil {
			return nil, invalid("the body is not a JSON object")
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return nil, invalid("the body holds more than one JSON value")
		}
	}
	return values, nil
}
