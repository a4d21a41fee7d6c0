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
		prefix := ""
		for _, p := range e.prefixes {
			if strings.HasPrefix(path, p) {
				prefix = p
			}
		}
		if prefix == "" {
			return &api.Error{Code: api.NotFound}
		}
		req, err := syntax.ParseRequest(e.lim.Limits, prefix, path[len(prefix):], r.URL.RawQuery)
		if err != nil {
			return err
		}
		caller := access.From(r.Context())
		if req.Resource == "$metadata" {
			return e.metadata(w, r, caller)
		}
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			return e.get(w, r, caller, req)
		case http.MethodPost:
			if req.Action == "canAccess" {
				return e.canAccess(w, r, caller, req)
			}
			return e.post(w, r, caller, req, prefix)
		case http.MethodPatch, http.MethodDelete:
			return e.change(w, r, caller, req)
		}
		w.Header().Set("Allow", "GET, HEAD, POST, PATCH, DELETE")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return nil
	}
}

func (e *Engine) get(w http.ResponseWriter, r *http.Request, caller access.Caller, req *syntax.Request) error {
	if req.Action == "canAccess" {
		return invalid("canAccess is asked with POST")
	}
	var d json.RawMessage
	err := e.db.Read(r.Context(), func(tx *db.Tx) (err error) {
		d, err = e.read(r.Context(), tx, caller, req)
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

func (e *Engine) post(w http.ResponseWriter, r *http.Request, caller access.Caller, req *syntax.Request, prefix string) error {
	if req.Key != nil || req.Action != "" || len(req.Given) > 0 {
		return invalid("a POST takes neither a key nor query options")
	}
	// The rule is looked up before the body is read: who may not create need not learn what a good body is.
	if _, err := e.writer(r.Context(), nil, caller, req.Resource, Create); err != nil {
		return err
	}
	values, err := body(r)
	if err != nil {
		return err
	}
	var id int64
	answer := json.RawMessage(nil)
	err = e.db.Write(r.Context(), func(tx *db.Tx) (err error) {
		if id, err = e.Insert(r.Context(), tx, caller, req.Resource, values); err != nil || !req.ReturnResource {
			return err
		}
		answer, err = e.readBack(r.Context(), tx, caller, req.Resource, id)
		return err
	})
	if err != nil {
		return err
	}
	if answer == nil {
		answer = json.RawMessage(`{"id":` + strconv.FormatInt(id, 10) + `}`)
	}
	n := strconv.FormatInt(id, 10)
	w.Header().Set("Location", prefix+req.Resource+"(@id)?@id="+n)
	return web.WriteJSON(w, http.StatusCreated, answer)
}

// readBack is the new row as its maker sees it; nil when the maker may not.
func (e *Engine) readBack(ctx context.Context, tx *db.Tx, caller access.Caller, resource string, id int64) (json.RawMessage, error) {
	rows, err := e.read(ctx, tx, caller, byID(resource, id))
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
func (e *Engine) change(w http.ResponseWriter, r *http.Request, caller access.Caller, req *syntax.Request) error {
	op := Update
	if r.Method == http.MethodDelete {
		op = Delete
	}
	if _, err := e.writer(r.Context(), nil, caller, req.Resource, op); err != nil {
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
		wr, err := e.writer(r.Context(), tx, caller, req.Resource, op)
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
func (e *Engine) canAccess(w http.ResponseWriter, r *http.Request, caller access.Caller, req *syntax.Request) error {
	res, err := e.readable(caller, req.Resource)
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
	err = e.db.Read(r.Context(), func(tx *db.Tx) (err error) {
		c := newCompiler(&sqlite, caller, tx.Now, req.Aliases)
		d, err = e.accessible(r.Context(), tx, c, res, req, allowed)
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

// accessible lists the rows of a request that a filter allows; a nil filter is every row, for the server itself.
func (e *Engine) accessible(
	ctx context.Context, tx *db.Tx, c *compiler, r *resource, req *syntax.Request, allowed syntax.Expr,
) (json.RawMessage, error) {
	s, where, err := c.selection(r, req)
	if err != nil {
		return nil, err
	}
	if allowed != nil {
		cond, err := c.ruleFilter(s, allowed)
		if err != nil {
			return nil, err
		}
		if cond != "" {
			where = append(where, cond)
		}
	}
	row, err := c.row(s, &req.Query)
	if err != nil {
		return nil, err
	}
	return e.rows(ctx, tx, "SELECT "+row+" FROM "+s.from()+" WHERE "+strings.Join(where, " AND "), c.args, false)
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
