package syntax

// Request is one parsed URL.
type Request struct {
	Resource string
	Key      []KeyPart // nil: none
	Action   string    // "", "$count", "canAccess", "beginUpload", "commitUpload" or "cancelUpload"
	Query    Query
	Aliases  map[string]Expr // @name → literal
	// ReturnResource is false when the client asked for {"id":n} only.
	ReturnResource bool
	Given          map[string]bool // the $options that stood in the URL
}

// KeyPart is one part of a key: (5) has no name.
type KeyPart struct {
	Name  string
	Value Expr
}

// Query is the options of a request or of one expanded navigation.
type Query struct {
	Select  []string // nil: the default representation
	All     bool     // $select holds *
	Filter  Expr     // nil: none
	Expand  []Expand
	OrderBy []Order
	Top     int // -1: none
	Skip    int
}

// Paged reports whether only a part of the rows is asked for.
func (q *Query) Paged() bool { return q.Top >= 0 || q.Skip > 0 }

// Expand is one navigation to expand.
type Expand struct {
	Name  string
	Count bool // nav/$count: the number of rows instead of the rows
	Query Query
}

// Order is one key to sort by.
type Order struct {
	By  Expr
	Asc bool
}

// Expr is an expression: one of the structs below.
type Expr any

type (
	// Literal holds nil, bool, int64, float64, string, time.Time or time.Duration.
	Literal struct{ Value any }
	// Param is @name: an alias of the URL, or in rules something about the caller.
	Param struct{ Name string }
	// Path is a property, reached over any number of navigations: a/b/c.
	Path struct{ Names []string }
	// Lambda is nav/any(v:…) or nav/all(v:…). A nil body asks only whether there is a row.
	Lambda struct {
		Nav  []string
		All  bool
		Name string
		Body Expr
	}
	// CountOf is nav/$count or nav/$count($filter=…).
	CountOf struct {
		Nav    []string
		Filter Expr
	}
	// Call is a function with as many arguments as it takes.
	Call struct {
		Name string
		Args []Expr
	}
	// Compare is eq, ne, gt, ge, lt or le.
	Compare struct {
		Op          string
		Left, Right Expr
	}
	// Arithmetic is add, sub, mul, div or mod.
	Arithmetic struct {
		Op          string
		Left, Right Expr
	}
	// InList is item in (a,b,c).
	InList struct {
		Item Expr
		List []Expr
	}
	// Not is the negation of a condition.
	Not struct{ Of Expr }
	// Neg is the negation of a number.
	Neg struct{ Of Expr }
	// Logical is a chain of the same operator; it is flat so that a long one costs no depth.
	Logical struct {
		Op    string // "and" or "or"
		Terms []Expr
	}
)
