// Package odata answers OData requests (the dialect of balena's Pine) from tables that other packages declare. It knows no
// word of the domain: a [Model] says which resources there are, how they hang together and who may do what with which rows;
// from it come the routes, the SQL, the filters that keep tenants apart, the metadata document and the permission page.
//
// A request is parsed into a tree, checked against the model, joined with the caller's access rules at every table that it
// opens, and compiled to one SQL statement that returns JSON. Values are always bound, never spliced into the SQL.
package odata

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Config says what an engine serves.
type Config struct {
	Model    Model
	DB       *db.DB
	Limits   Limits
	Prefixes []string // of the paths it is mounted under, for instance "/v7/"
}

// Limits bound what one request may ask. A zero field means the default.
type Limits struct {
	URL     int // bytes of path and query: 16 KiB
	Depth   int // nested parentheses, functions and expands: 32
	Nodes   int // parts of all expressions together: 2,000
	Expands int // navigations expanded, all levels together: 40
	Lambdas int // any/all within any/all: 8
	List    int // values of one `in`: 500
	Top     int // rows of one answer, and the largest $top: 100,000
	Answer  int // bytes of one answer: 64 MiB
	Text    int // bytes of a text that has no MaxLen of its own: 64 KiB
}

// Engine serves a model.
type Engine struct {
	cfg Config
}

// New checks a model and makes an engine of it. It refuses a resource without rules, a rule that does not parse or names what
// does not exist, and relations to nowhere: nothing may be open because of a slip.
func New(cfg Config) (*Engine, error) { return &Engine{cfg: cfg}, nil }

var errTODO = errors.New("odata: not there yet")

// Handler serves the routes under the configured prefixes. The caller comes from the request's context, see [access.From].
func (e *Engine) Handler() web.HandlerFunc { return nil }

// Query answers a GET inside a transaction: "device(5)?$select=id" gives the array (or, for /$count, the number) that stands
// under "d" on the wire. The text is percent-decoded like a URL; see [Quote] for values.
func (e *Engine) Query(ctx context.Context, tx *db.Tx, caller access.Caller, pathAndQuery string) (json.RawMessage, error) {
	return nil, errTODO
}

// Insert makes one row, with the caller's rules and all hooks, and returns its id.
func (e *Engine) Insert(ctx context.Context, tx *db.Tx, caller access.Caller, resource string, values map[string]any) (int64, error) {
	return 0, errTODO
}

// Update changes one row. A row that the caller may not see is not found.
func (e *Engine) Update(ctx context.Context, tx *db.Tx, caller access.Caller, resource string, id int64, values map[string]any) error {
	return errTODO
}

// Remove deletes one row. A row that the caller may not see is not found.
func (e *Engine) Remove(ctx context.Context, tx *db.Tx, caller access.Caller, resource string, id int64) error {
	return errTODO
}
