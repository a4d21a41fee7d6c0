package odata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata/rows"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
	"github.com/roadstead-io/roadstead/internal/odata/wire"
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
		caller := access.From(r.Context())
		key := planKey{m, caller.Kind, caller.Staff, path[len(m.prefix):] + "?" + r.URL.RawQuery}
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		if reads {
			if p := e.kept.Get(key); p != nil {
				return e.answer(w, r, caller, p)
			}
		}
		req, err := syntax.ParseRequest(e.lim, m.prefix, path[len(m.prefix):], r.URL.RawQuery)
		if err != nil {
			return err
		}
		if req.Resource == "$metadata" {
			return e.metadata(w, r, caller, m.schema)
		}
		if reads {
			p, err := e.get(caller, m, req)
			if err != nil {
				return err
			}
			e.keep(key, r.URL.RawQuery, p)
			return e.answer(w, r, caller, p)
		}
		switch r.Method {
		case http.MethodPost:
			switch req.Action {
			case "canAccess":
				return e.canAccess(w, r, caller, m, req)
			case "beginUpload", "commitUpload", "cancelUpload":
				return e.upload(w, r, caller, m, req)
			}
			return e.post(w, r, caller, m, req)
		case http.MethodPut:
			return e.put(w, r, caller, m, req)
		case http.MethodPatch, "MERGE", http.MethodDelete:
			return e.change(w, r, caller, m, req)
		}
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, MERGE, DELETE")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return nil
	}
}

// planKey is what a plan depends on.
type planKey struct {
	mount *mount
	kind  access.Kind
	staff bool
	url   string
}

const longestPlan = 2 << 10 // bytes of a URL whose plan is kept

// keep keeps a plan for the next one who asks the same, if its URL is short and without a secret.
func (e *Engine) keep(k planKey, query string, p *rows.Plan) {
	if len(k.url) <= longestPlan && !strings.Contains(query, "apikey") {
		k.url = strings.Clone(k.url) // not the buffer that the request came in
		e.kept.Put(k, p, len(k.url))
	}
}

// mount is one version of the API under its prefix.
type mount struct {
	prefix string
	schema *schema
	older  bool
}

func (e *Engine) mount(path string) *mount {
	for _, m := range e.mounts {
		if strings.HasPrefix(path, m.prefix) {
			return m
		}
	}
	return nil
}

func (e *Engine) get(caller access.Caller, m *mount, req *syntax.Request) (*rows.Plan, error) {
	if req.Action != "" && req.Action != "$count" {
		return nil, invalid("%s is asked with POST", req.Action)
	}
	return e.planned(caller, m.schema, req)
}

// answer runs the plan of a GET.
func (e *Engine) answer(w http.ResponseWriter, r *http.Request, caller access.Caller, p *rows.Plan) error {
	d, err := e.answered(r.Context(), caller, p)
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
	wr, err := e.writer(r.Context(), nil, caller, m.schema, req.Resource, Create)
	if err != nil {
		return err
	}
	values, err := wr.body(r, 0)
	if err != nil {
		return err
	}
	var id int64
	var answer json.RawMessage
	err = e.db.Write(r.Context(), func(tx *db.Tx) (err error) {
		answer = nil
		if id, err = wr.in(tx).insert(values); err != nil || !req.ReturnResource {
			return err
		}
		answer, err = e.readBack(r.Context(), tx, caller, m.schema, req.Resource, id)
		return err
	})
	if err != nil {
		return errors.Join(err, wr.drop(values, 0))
	}
	return created(w, m, req.Resource, id, answer)
}

// created answers a POST with the row, or with its id alone.
func created(w http.ResponseWriter, m *mount, resource string, id int64, row json.RawMessage) error {
	n := strconv.FormatInt(id, 10)
	if row == nil {
		row = json.RawMessage(`{"id":` + n + `}`)
	}
	w.Header().Set("Location", m.prefix+resource+"(@id)?@id="+n)
	return web.WriteJSON(w, http.StatusCreated, row)
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

// change serves PATCH (which MERGE is an old name of) and DELETE.
func (e *Engine) change(w http.ResponseWriter, r *http.Request, caller access.Caller, m *mount, req *syntax.Request) error {
	op := Update
	if r.Method == http.MethodDelete {
		op = Delete
	}
	wr, err := e.writer(r.Context(), nil, caller, m.schema, req.Resource, op)
	if err != nil {
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
	row, in := int64(0), wr
	if op == Update {
		if wire.IsMultipart(r) {
			if row, err = wr.single(req); err != nil {
				return err
			}
		}
		if values, err = wr.body(r, row); err != nil {
			return err
		}
	}
	err = e.db.Write(r.Context(), func(tx *db.Tx) error {
		in = wr.in(tx)
		ids, err := in.targets(req, op)
		if err != nil {
			return err
		}
		switch {
		case op == Update:
			return in.update(ids, values)
		case len(ids) == 0 && req.Key != nil && wr.r.Missing != "":
			return api.Errorf(api.NotFound, "%s", wr.r.Missing)
		}
		return in.remove(ids)
	})
	if err != nil {
		return errors.Join(err, wr.drop(values, row))
	}
	if in.then != nil {
		if err := in.then(r.Context()); err != nil {
			return err
		}
	}
	return done(w, m)
}

// done answers a write that gives nothing back. Older versions say the status in words.
func done(w http.ResponseWriter, m *mount) error {
	if m.older {
		return web.WriteText(w, http.StatusOK, http.StatusText(http.StatusOK))
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// put serves PUT: the row with this key gets these fields, or is made with them.
func (e *Engine) put(w http.ResponseWriter, r *http.Request, caller access.Caller, m *mount, req *syntax.Request) error {
	if req.Key == nil || req.Action != "" || len(req.Given) > 0 {
		return invalid("a PUT takes a key and nothing else")
	}
	change, err := e.writer(r.Context(), nil, caller, m.schema, req.Resource, Update)
	if err != nil {
		return err
	}
	if wire.IsMultipart(r) {
		return invalid("a file is given with POST or PATCH")
	}
	values, err := change.body(r, 0)
	if err != nil {
		return err
	}
	var id int64
	var row json.RawMessage
	isNew := false
	err = e.db.Write(r.Context(), func(tx *db.Tx) error {
		isNew, row = false, nil
		in := change.in(tx)
		ids, err := in.targets(req, Update)
		if err != nil || len(ids) > 0 {
			if err == nil {
				err = in.update(ids, values)
			}
			return err
		}
		fresh, err := e.writer(r.Context(), tx, caller, m.schema, req.Resource, Create)
		if err != nil {
			return err
		}
		all, err := keyed(req, values)
		if err != nil {
			return err
		}
		if id, err = fresh.insert(all); err != nil {
			return err
		}
		isNew = true
		row, err = e.readBack(r.Context(), tx, caller, m.schema, req.Resource, id)
		return err
	})
	switch {
	case err != nil:
		return err
	case isNew:
		return created(w, m, req.Resource, id, row)
	}
	return done(w, m)
}

// keyed adds the parts of a natural key to the fields of a new row.
func keyed(req *syntax.Request, values map[string]any) (map[string]any, error) {
	all := maps.Clone(values)
	for _, k := range req.Key {
		v := k.Value
		if p, ok := v.(syntax.Param); ok {
			v = req.Aliases[p.Name]
		}
		l, ok := v.(syntax.Literal)
		switch {
		case k.Name == "" || k.Name == "id":
			return nil, api.Errorf(api.NotFound, "there is no such %s, and an id cannot be chosen", req.Resource)
		case !ok:
			return nil, invalid("the key %s has no value", syntax.Echo(k.Name))
		}
		if given, twice := all[k.Name]; twice && fmt.Sprint(given) != fmt.Sprint(l.Value) {
			return nil, invalid("%q is one thing in the key and another in the body", k.Name)
		}
		all[k.Name] = l.Value
	}
	return all, nil
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
	asked, err := wire.Body(r, e.lim.Body)
	if err != nil {
		return err
	}
	allowed, ok := res.allowed(caller.Kind, asked)
	if !ok {
		return errUnauthorized
	}
	req.Action = ""
	req.Query = syntax.Query{Top: -1, Select: []string{"id"}}
	p, err := e.compiler(caller.Kind, req.Aliases).plan(res, req, allowed)
	if err != nil {
		return err
	}
	d, err := e.answered(r.Context(), caller, p)
	switch {
	case err != nil:
		return err
	case string(d) == "[]":
		return errUnauthorized
	}
	return web.WriteJSON(w, http.StatusOK, map[string]json.RawMessage{"d": d})
}

// answered runs a plan that stands alone. Several statements see one state; a single one always does.
func (e *Engine) answered(ctx context.Context, caller access.Caller, p *rows.Plan) (d json.RawMessage, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.lim.Time, errSlow)
	defer cancel()
	err = e.db.ReadTexts(ctx, len(p.Root.Lists) == 0, func(tx *db.Tx) (err error) {
		d, err = e.run(ctx, tx, caller, p)
		return err
	})
	return d, slow(ctx, err)
}

// slow says of an error that it came of the time that a request may take.
func slow(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errSlow) {
		return errSlow
	}
	return err
}

// allowed is the filter of what canAccess asks for: an action, several of which one is enough, or the HTTP method that would be
// used.
func (r *resource) allowed(k access.Kind, asked map[string]any) (syntax.Expr, bool) {
	var actions []string
	switch a := asked["action"].(type) {
	case string:
		actions = []string{a}
	case wire.FormText:
		actions = []string{string(a)}
	case map[string]any:
		list, _ := a["or"].([]any)
		for _, x := range list {
			if name, ok := x.(string); ok {
				actions = append(actions, name)
			}
		}
	case nil:
		method, _ := asked["method"].(string)
		actions = []string{map[string]string{"GET": "read", "PATCH": "update", "PUT": "update", "MERGE": "update", "DELETE": "delete"}[method]}
	}
	if len(actions) > maxActions {
		return nil, false
	}
	if k == access.System {
		return nil, len(actions) > 0 && actions[0] != ""
	}
	var either []syntax.Expr
	for _, action := range actions {
		if e := r.action(k, action); e != nil {
			either = append(either, e)
		}
	}
	switch len(either) {
	case 0:
		return nil, false
	case 1:
		return either[0], true
	}
	return syntax.Logical{Op: "or", Terms: either}, true
}

// maxActions is how many actions canAccess takes at once.
const maxActions = 16

// action is the filter of the rows that allow one thing; nil is none.
func (r *resource) action(k access.Kind, name string) syntax.Expr {
	ru := r.rules[k]
	if ru == nil {
		return nil
	}
	switch name {
	case "read":
		return ru.read
	case "update":
		return ru.update
	case "delete":
		return ru.delete
	}
	may, named := r.actions[name]
	if !named { // "tunnel-22" is among "tunnel-*"
		may = r.actions[name[:strings.LastIndexByte(name, '-')+1]+"*"]
	}
	return may[k]
}

// errUnauthorized has no text: what the caller may not do at all looks the same as what does not exist.
var errUnauthorized = &api.Error{Code: api.Unauthorized}

// invalid is a request that is wrong and stays wrong.
func invalid(format string, args ...any) error { return api.Errorf(api.Invalid, format, args...) }
