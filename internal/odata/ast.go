package odata

// request is one parsed URL.
type request struct {
	resource string
	key      []keyPart // nil: none
	action   string    // "", "$count" or "canAccess"
	query    query
	aliases  map[string]expr // @name → literal
	// returnResource is false when the client asked for {"id":n} only.
	returnResource bool
	given          map[string]bool // the $options that stood in the URL
}

// keyPart is one part of a key: (5) has no name.
type keyPart struct {
	name  string
	value expr
}

// query is the options of a request or of one expanded navigation.
type query struct {
	sel     []string // nil: the default representation
	all     bool     // $select holds *
	filter  expr     // nil: none
	expand  []expandItem
	orderby []orderItem
	top     int // -1: none
	skip    int
}

// expandItem is one navigation to expand.
type expandItem struct {
	name  string
	count bool // nav/$count: the number of rows instead of the rows
	query query
}

type orderItem struct {
	by  expr
	asc bool
}

// expr is an expression: one of the structs below.
type expr interface{}

type (
	// literal holds nil, bool, int64, float64, string or dateText.
	literal struct{ value any }
	// param is @name: an alias of the URL, or in rules something about the caller.
	param struct{ name string }
	// path is a property, reached over any number of navigations: a/b/c.
	path struct{ names []string }
	// lambda is nav/any(v:…) or nav/all(v:…). A nil body asks only whether there is a row.
	lambda struct {
		nav  []string
		all  bool
		name string
		body expr
	}
	// countOf is nav/$count or nav/$count($filter=…).
	countOf struct {
		nav    []string
		filter expr
	}
	call struct {
		name string
		args []expr
	}
	// compare is a comparison, arithmetic a calculation.
	compare struct {
		op   string
		l, r expr
	}
	arithmetic struct {
		op   string
		l, r expr
	}
	inList struct {
		item expr
		list []expr
	}
	not struct{ of expr }
	neg struct{ of expr }
	// logical is a chain of the same operator; it is flat so that a long one costs no depth.
	logical struct {
		op    string // "and" or "or"
		terms []expr
	}
)

// dateText is a date literal in the database's form.
type dateText string
