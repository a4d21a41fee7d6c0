package rows

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Reader reads the rows of plans within limits.
type Reader struct {
	Tx   *db.Tx
	Bind func(args []any, parents []int64) []any                // the values of a statement
	File func(ctx context.Context, text []byte) ([]byte, error) // how a file is shown

	MaxRows, MaxBytes int // of one answer
}

// Read answers a plan: a JSON array, or a number.
func (r Reader) Read(ctx context.Context, p *Plan) (json.RawMessage, error) {
	run := &runner{Reader: r, ctx: ctx, left: p.Root.statements()}
	if p.Count {
		return run.number(p.Root)
	}
	out, n, err := run.root(p.Root)
	if err == nil && p.Root.Else != nil && n < p.Root.Full {
		run.rows, run.bytes, run.left = 0, 0, p.Root.Else.statements()
		out, _, err = run.root(p.Root.Else)
	}
	return out, err
}

// root gives the rows of a request and how many there are.
func (r *runner) root(l *Level) (json.RawMessage, int, error) {
	if l.Whole {
		return r.whole(l)
	}
	got, err := r.level(l, nil)
	if err != nil {
		return nil, 0, err
	}
	return got.out, got.count, nil
}

// runner is one answer on its way.
type runner struct {
	Reader
	ctx   context.Context // a runner lives for one call
	rows  int
	bytes int
	left  int // statements of the plan that may follow
}

func (r *runner) query(l *Level, ids []int64) (*sql.Rows, error) {
	rows, err := r.Tx.QueryContext(r.ctx, l.Text, r.Bind(l.Args, ids)...)
	if err != nil {
		return nil, Refused(err)
	}
	return rows, nil
}

func (r *runner) number(l *Level) (json.RawMessage, error) {
	rows, err := r.texts(l, nil)
	if err != nil {
		return nil, err
	}
	var n json.RawMessage
	if rows.Next() {
		n = append(n, rows.Row[0].Bytes...)
	} else {
		err = sql.ErrNoRows
	}
	if cerr := rows.Close(); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, Refused(err)
	}
	return n, nil
}

// texts runs a statement for values that are written as they come. It is the last one when all others of the plan have run.
func (r *runner) texts(l *Level, ids []int64) (*db.Texts, error) {
	r.left--
	rows, err := r.Tx.Texts(r.ctx, r.left <= 0, l.Text, r.Bind(l.Args, ids)...)
	if err != nil {
		return nil, Refused(err)
	}
	return rows, nil
}

// statements is how many a level takes, with the lists below it.
func (l *Level) statements() int {
	n := 1
	for _, f := range l.Lists {
		n += f.List.statements()
	}
	return n
}

// whole gives the rows of a statement that wrote them all.
func (r *runner) whole(l *Level) (json.RawMessage, int, error) {
	var n int
	var objects wrapped
	err := r.single(l, nil, &n, &objects)
	switch {
	case err != nil:
		return nil, 0, err
	case n > r.MaxRows:
		return nil, 0, r.tooMany()
	case len(objects) > r.MaxBytes:
		return nil, 0, r.tooLarge()
	}
	return json.RawMessage(objects), n, nil
}

// single runs a statement that gives one row.
func (r *runner) single(l *Level, ids []int64, into ...any) error {
	rows, err := r.query(l, ids)
	if err != nil {
		return err
	}
	if rows.Next() {
		err = rows.Scan(into...)
	} else {
		err = errors.Join(rows.Err(), sql.ErrNoRows)
	}
	if err = errors.Join(err, rows.Close()); err != nil {
		return Refused(err)
	}
	return nil
}

// wrapped is a list of objects with its brackets.
type wrapped []byte

// Scan implements sql.Scanner.
func (w *wrapped) Scan(v any) error {
	text, _ := v.(string) // null: there are none
	*w = append(append(append(make([]byte, 0, len(text)+2), '['), text...), ']')
	return nil
}

func (r *runner) tooMany() error {
	return api.Errorf(api.Invalid, "the answer has more than %d rows; ask for pages with $top and $skip", r.MaxRows)
}

// listed is what a level gave: the objects of its rows in one buffer. Those of an expanded list are told apart by what they hang
// on; the root's buffer is the finished array.
type listed struct {
	out   []byte
	rows  []span // of an expanded list, by what they hang on
	count int
}

// span is the object of one row in a buffer, and the row that it hangs on.
type span struct {
	parent, own int64
	part
}

// arrange puts the rows of a list together that hang on the same one, and those in the order of their ids if they have no other.
func (l *listed) arrange(sorted bool) {
	order := func(a, b span) int {
		if by := cmp.Compare(a.parent, b.parent); by != 0 || sorted {
			return by
		}
		return cmp.Compare(a.own, b.own)
	}
	if !slices.IsSortedFunc(l.rows, order) {
		slices.SortStableFunc(l.rows, order)
	}
}

// of gives the rows that hang on one.
func (l *listed) of(parent int64) []span {
	from, _ := slices.BinarySearchFunc(l.rows, parent, func(s span, id int64) int { return cmp.Compare(s.parent, id) })
	to := from
	for to < len(l.rows) && l.rows[to].parent == parent {
		to++
	}
	return l.rows[from:to]
}

// level runs one statement for the rows that hang on ids, and those below it.
func (r *runner) level(l *Level, ids []int64) (_ *listed, err error) {
	if l.Batch {
		return r.batch(l, ids)
	}
	rows, err := r.texts(l, ids)
	if err != nil {
		return nil, err
	}
	w := r.writer(l)
	w.cells = rows.Row
	for err == nil && rows.Next() {
		r.rows++
		w.count++
		switch {
		case r.rows > r.MaxRows:
			err = r.tooMany()
		case len(l.Lists) > 0:
			w.keep()
		default:
			err = w.row(w.cells)
		}
		if err == nil && r.bytes+len(w.out)+len(w.kept) > r.MaxBytes {
			err = r.tooLarge()
		}
	}
	cerr := rows.Close() // before the next statement: a connection answers one at a time
	if err != nil {
		return nil, err
	}
	if cerr != nil {
		return nil, Refused(cerr)
	}
	if err := w.below(); err != nil {
		return nil, err
	}
	return w.finish(), nil
}

func (r *runner) tooLarge() error {
	return api.Errorf(api.Invalid, "the answer is larger than %d bytes; ask for pages with $top and $skip", r.MaxBytes)
}

// levelWriter gathers the rows of one level.
type levelWriter struct {
	r     *runner
	l     *Level
	cells []cell // the row at hand
	out   []byte
	spans []span    // of a list
	lists []*listed // what the levels below gave
	count int

	// Rows whose lists are still to be asked for: their cells one after the other, -1 for null.
	kept []byte
	ends []int
}

func (r *runner) writer(l *Level) *levelWriter {
	w := &levelWriter{r: r, l: l}
	if l.Parent < 0 {
		w.out = append(make([]byte, 0, 4<<10), '[')
	}
	return w
}

// keep puts the row at hand aside.
func (w *levelWriter) keep() {
	for _, c := range w.cells {
		if c.Null {
			w.ends = append(w.ends, -1)
			continue
		}
		w.kept = append(w.kept, c.Bytes...)
		w.ends = append(w.ends, len(w.kept))
	}
}

// eachKept gives the rows that were put aside.
func (w *levelWriter) eachKept(do func(cells []cell) error) error {
	at := 0
	cells := make([]cell, w.l.Width)
	for i := 0; i < len(w.ends); i += w.l.Width {
		for j, end := range w.ends[i : i+w.l.Width] {
			if cells[j].Null = end < 0; end >= 0 {
				cells[j].Bytes = w.kept[at:end]
				at = end
			}
		}
		if err := do(cells); err != nil {
			return err
		}
	}
	return nil
}

// below asks for the lists of the rows put aside, and then writes those.
func (w *levelWriter) below() error {
	if len(w.l.Lists) == 0 || len(w.ends) == 0 {
		return nil
	}
	w.r.bytes += len(w.kept)
	for _, f := range w.l.Lists {
		ids := []int64{}
		seen := map[int64]bool{}
		err := w.eachKept(func(cells []cell) error {
			if id, ok := number(&cells[f.Col]); ok && !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
			return nil
		})
		if err != nil {
			return err
		}
		got := &listed{}
		if len(ids) > 0 {
			if got, err = w.r.level(f.List, ids); err != nil {
				return err
			}
		}
		w.lists = append(w.lists, got)
		w.r.bytes += len(got.out)
	}
	return w.eachKept(func(cells []cell) error {
		if w.r.bytes+len(w.out) > w.r.MaxBytes {
			return w.r.tooLarge()
		}
		return w.row(cells)
	})
}

// cell is one value.
type cell = db.Text

func number(c *cell) (int64, bool) {
	if c.Null {
		return 0, false
	}
	n, err := strconv.ParseInt(string(c.Bytes), 10, 64)
	return n, err == nil
}

// row writes the object of one row.
func (w *levelWriter) row(cells []cell) error {
	l := w.l
	if l.Parent < 0 && len(w.out) > 1 {
		w.out = append(w.out, ',')
	}
	start := len(w.out)
	if err := w.object(l.Row, cells); err != nil {
		return err
	}
	if l.Parent < 0 {
		return nil
	}
	parent, ok := number(&cells[l.Parent])
	own, ok2 := number(&cells[l.Own])
	if !ok || !ok2 {
		return errors.New("odata: a row of a list has no id")
	}
	w.spans = append(w.spans, span{parent, own, part{start, len(w.out)}})
	return nil
}

func (w *levelWriter) finish() *listed {
	if w.l.Parent < 0 {
		w.out = append(w.out, ']')
	}
	got := &listed{out: w.out, rows: w.spans, count: w.count}
	got.arrange(w.l.Sorted)
	return got
}

func (w *levelWriter) object(n *Node, cells []cell) error {
	w.out = append(w.out, '{')
	for i, f := range n.Fields {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		w.out = append(w.out, f.Key...)
		if err := w.field(f, cells); err != nil {
			return err
		}
	}
	w.out = append(w.out, '}')
	return nil
}

func (w *levelWriter) field(f *Field, cells []cell) error {
	switch {
	case f.List != nil:
		w.list(f, cells)
		return nil
	case f.One == nil:
		return w.value(f.Kind, &cells[f.Col])
	case f.None || cells[f.One.Present].Null:
		w.out = append(w.out, '[', ']')
		return nil
	}
	w.out = append(w.out, '[')
	err := w.object(f.One, cells)
	w.out = append(w.out, ']')
	return err
}

func (w *levelWriter) list(f *Field, cells []cell) {
	w.out = append(w.out, '[')
	if id, ok := number(&cells[f.Col]); ok {
		w.out = w.lists[f.At].write(w.out, id)
	}
	w.out = append(w.out, ']')
}

// write adds the rows that hang on one.
func (l *listed) write(out []byte, parent int64) []byte {
	for i, s := range l.of(parent) {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, l.out[s.start:s.end]...)
	}
	return out
}

// value writes one value in the form of its type.
func (w *levelWriter) value(t Kind, c *cell) error {
	v := c.Bytes
	if c.Null {
		w.out = append(w.out, "null"...)
		return nil
	}
	switch t {
	case Truth, Sure:
		word := "false"
		if string(v) == "1" || string(v) == "true" {
			word = "true"
		}
		w.out = append(w.out, word...)
	case Digits:
		w.out = append(append(append(w.out, '"'), v...), '"')
	case Link:
		w.out = append(append(append(w.out, `{"__id":`...), v...), '}')
	case Text:
		w.out = appendText(w.out, v)
	case File:
		return w.file(v)
	default: // a number; JSON is compact when it is written
		w.out = append(w.out, v...)
	}
	return nil
}

// file writes what clients read of a file.
func (w *levelWriter) file(v []byte) error {
	shown, err := w.r.File(w.r.ctx, v)
	w.out = append(w.out, shown...)
	return err
}

const hexDigits = "0123456789abcdef"

// appendText writes a JSON text. Bytes that are not UTF-8 become the replacement character.
func appendText(out, s []byte) []byte {
	out = append(out, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRune(s[i:])
			if r == utf8.RuneError && n == 1 {
				out = append(append(out, s[start:i]...), "\uFFFD"...)
				start = i + 1
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		out = append(out, s[start:i]...)
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\b':
			out = append(out, '\\', 'b')
		case '\f':
			out = append(out, '\\', 'f')
		case '\n':
			out = append(out, '\\', 'n')
		case '\r':
			out = append(out, '\\', 'r')
		case '\t':
			out = append(out, '\\', 't')
		default:
			out = append(out, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(out, s[start:]...), '"')
}

// Refused says why the database did not run a statement that a request was made to.
func Refused(err error) error {
	if db.IsTooBig(err) {
		return api.Errorf(api.Invalid, "the request or its answer is too large")
	}
	if db.IsOutOfRange(err) {
		return api.Errorf(api.Invalid, "the request computes a value that is out of range")
	}
	return fmt.Errorf("odata: query: %w", err)
}
