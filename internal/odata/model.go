package odata

import (
	"context"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// Type is the type of a column on the wire.
type Type int

// Column types, see wire notes on row representation in docs/odata.md.
const (
	Integer    Type = iota // JSON number
	BigInteger             // JSON string in v7
	Real                   // JSON number
	Boolean                // stored 0/1, JSON true/false
	String                 // JSON string
	Date                   // stored as text YYYY-MM-DDTHH:MM:SS.sssZ; writes accept ISO text, a date, epoch milliseconds
	JSON                   // stored as text, JSON value
	ForeignKey             // stored as integer; {"__id":n}, null, or an array of rows when expanded
	// WebResource is a file: stored as the JSON text of a File, shown with an address to fetch it from. It is written by a
	// multipart/form-data body or by beginUpload and commitUpload, see Files. In Change.Values it is a File.
	WebResource
)

// Column is one property of a resource.
type Column struct {
	Name string
	Type Type
	// SQL is how to compute it, for both databases, with {t} for the table's alias and @now, @user… as in rules; empty: the column
	// of that name. A list is {in}SELECT …{end} where an index on the column before it may help: it becomes IN (SELECT …) or alike.
	// A stored Boolean is 0 or 1, a computed one is a condition (true, false or null), not a number.
	SQL string
	// Shaped, if set, gives SQL that means the same and costs less in a certain shape of statement.
	Shaped func(Shape) string
	// Read is the SQL, in the same form, of what is shown of a stored column instead of its value: everywhere where it can be asked
	// for, in filters and orders too. It is written as what it is.
	Read     string
	Null     bool     // may be null
	To       string   // ForeignKey: name of the resource that it points to
	Synonyms []string // ForeignKey: other property names of the same navigation
	Reverse  []string // ForeignKey: names under which the target sees the rows that point to it
	Hidden   bool     // never leaves the server: not selectable, filterable or countable by anybody
	Explicit bool     // left out of a default representation, given when named in $select
	MaxLen   int      // String: longest accepted value in bytes; 0 means the engine's default
	Ordered  bool     // not null, and an index holds the table in the order of this column and the id: pages sorted by it are cheap
	Unseen   string   // ForeignKey: text of the 404 that answers a PATCH to a row the caller may not see; empty: 401 without a text
}

// Shape is what is known when a statement is compiled: who asks, and how its rows are found.
type Shape struct {
	Scoped bool // the caller's key may be limited
	Staff  bool // the caller may be support staff
	Asked  bool // the rows are at hand, and it is asked of each; otherwise an index may find the rows by it
}

// Rule says what one kind of caller may do with a resource. Filters are OData filter expressions over the resource, in which
// @user, @device, @fleet, @actor, @key stand for the caller's ids and @now for the time of the request. An empty filter means
// "never"; "true" means "every row". Filters inside a rule see all rows: rules do not apply to each other.
type Rule struct {
	Read   string
	Create string // checked on the new row, after it was inserted and before the transaction ends
	Update string // checked on the row before and after the change
	Delete string
	Write  []string // columns that the caller may give in a create or update; others are refused by name
	Ignore []string // columns that the caller may give but which are dropped without an error (what old clients send)
	Hide   []string // columns that this kind never sees
	// Needs asks more of a row than Create or Update does before the caller may give a column: column → filter over the row, as it
	// was before a change and as it is after being made.
	Needs map[string]string
	// Refs says which rows a foreign key may be pointed to: column → filter over the target. Without an entry it is any row that
	// the caller may read.
	Refs map[string]string
}

// Op is a kind of write.
type Op string

// The kinds of writes.
const (
	Create Op = "create"
	Update Op = "update"
	Delete Op = "delete"
)

// Change is a write on its way, as hooks see it.
type Change struct {
	Op     Op
	Caller access.Caller
	IDs    []int64                         // rows to be changed or deleted; after a create, the new row
	Values map[string]any                  // column → nil, int64, float64, bool, string (Date as its text form), json.RawMessage. Hooks may change it
	Then   func(ctx context.Context) error // set by a hook: done after the commit of an update, before its answer; its error is the answer
}

// Hook runs inside the write's transaction. An error ends the write; a coded one is shown to the caller.
type Hook func(ctx context.Context, tx *db.Tx, c *Change) error

// Resource is one resource of the API: a table, what may be asked of it, and by whom.
type Resource struct {
	Name     string
	Synonyms []string   // the long a__verb__b names
	Table    string     // empty: the name
	View     bool       // the table is a view: it has no order to read its first rows in
	Columns  []Column   // "id" first
	Keys     [][]string // natural keys: sets of columns that are unique together
	// UniqueText answers a violated natural key, where clients match a text; keyed by the key's columns joined with ",".
	UniqueText map[string]string
	Rules      map[access.Kind]Rule
	// Refused says why a kind of write is for nobody, to people who try.
	Refused map[Op]string
	// Missing is what a DELETE by key is told, with 404, when there is no such row; empty: nothing, with 200, as of most resources.
	Missing string
	// Actions are what `canAccess` answers besides read, update and delete: action → kind → filter of the rows that allow it.
	Actions access.Acts
	Virtual []string // names accepted in a create or update that are no columns, or computed ones; Before turns them into columns
	Before  []Hook   // before the write: defaults, validation, derived values
	After   []Hook   // after the write, before the commit
}

// Model is all resources. Its declaration is the only source of routes, filters, the permission page and the matrix test.
type Model struct {
	Resources []*Resource
}

// Limits bound what one request may ask.
type Limits = syntax.Limits
