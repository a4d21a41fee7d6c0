// Package rows answers a compiled request: it runs its statements from the root down and writes the rows as JSON. It knows no model
// and no rule; those are in the statements.
package rows

// Plan is a compiled request: one statement for its rows and every link to one row, and one more for each expanded list, for all
// its parents at once. The statements give plain columns, or objects without their lists; [Reader] writes the rest of the JSON.
type Plan struct {
	Count bool // the statement gives a number and nothing else
	Root  *Level
	key   int // bytes of the key that it is kept under
}

// Level is one statement with the shape of its rows.
type Level struct {
	Text  string
	Args  []any // given to Reader.Bind when the statement runs
	Width int   // columns
	Row   *Node
	// Of an expanded list: the columns with the parent's id and the row's own; -1 otherwise.
	Parent, Own int
	Packed      int      // the column that holds the object of the row but for its lists; -1: there is none
	Whole       bool     // the statement gives one row: how many there are, and all their objects with commas between
	Batch       bool     // the statement gives one row: how many there are, and all of them as lines of text, see batch.go
	Sorted      bool     // the statement gives the rows in order; otherwise they are put in the order of their ids
	Lists       []*Field // the expanded lists of its rows, at any depth of links to one row
	// Else is run instead when this statement, which looks at a part of the table only, finds fewer than Full rows.
	Else *Level
	Full int
}

// Node is the object of one row, or of a row joined to it.
type Node struct {
	Present int // the column that is null when there is no such row; -1: there always is
	Fields  []*Field
}

// Field is one property.
type Field struct {
	Key  string // "name":
	Kind Kind
	Col  int
	// One is the row behind a link; List the level of an expanded list, whose rows hang on the id in column Col. None is a link
	// that is asked to show nothing.
	One  *Node
	List *Level
	None bool
	At   int // of a list: its place in the level's lists
}

// Kind is how a value is written.
type Kind int

// The kinds.
const (
	Number Kind = iota
	Fraction
	Digits // a number as a text
	Truth  // 0 or 1
	Sure   // 0 or 1, never null
	Text
	JSON // stored compact
	Link // {"__id":n}
	File // see Reader.File
)

// Size is about how much memory a level takes.
func (l *Level) Size() int {
	n := len(l.Text) + 64*len(l.Args) + 512
	for _, f := range l.Lists {
		n += f.List.Size()
	}
	if l.Else != nil {
		n += l.Else.Size()
	}
	return n
}
