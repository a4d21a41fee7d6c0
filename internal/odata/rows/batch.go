package rows

import (
	"bytes"
	"errors"
	"strconv"
)

// A statement of which SQLite writes the objects gives all its rows in one: a row costs this driver as much as finding it. Each is a
// line, an array of its numbers (the ids that it hangs on and that others hang on) and its object. JSON has no line ends inside.
type batch struct {
	width   int     // numbers of a row
	numbers []int64 // of all rows
	objects []part  // of all rows
	text    []byte
}

// part is a part of a text.
type part struct{ start, end int }

// blob is a text of the database, its memory taken over.
type blob []byte

// Scan implements sql.Scanner.
func (b *blob) Scan(v any) error {
	text, _ := v.(string) // null: there is none
	*b = []byte(text)
	return nil
}

var errBatch = errors.New("odata: the database gave rows in a wrong form")

func decode(width, rows int, text []byte) (*batch, error) {
	b := &batch{width: width, numbers: make([]int64, 0, rows*width), objects: make([]part, 0, rows), text: text}
	for at := 0; at < len(text); {
		end := len(text)
		if i := bytes.IndexByte(text[at:], '\n'); i >= 0 {
			end = at + i
		}
		next := end + 1
		at++ // [
		for range width {
			comma := bytes.IndexByte(text[at:end], ',')
			if comma < 0 {
				return nil, errBatch
			}
			n, err := strconv.ParseInt(string(text[at:at+comma]), 10, 64)
			if err != nil {
				return nil, errBatch
			}
			b.numbers = append(b.numbers, n)
			at += comma + 1
		}
		if end--; end-at < len("{}") || text[at] != '{' || text[end-1] != '}' {
			return nil, errBatch
		}
		b.objects = append(b.objects, part{at, end})
		at = next
	}
	if len(b.objects) != rows {
		return nil, errBatch
	}
	return b, nil
}

// ids gives each of the values of one number once.
func (b *batch) ids(at int) []int64 {
	ids := make([]int64, 0, len(b.objects))
	seen := make(map[int64]struct{}, len(b.objects))
	for i := at; i < len(b.numbers); i += b.width {
		id := b.numbers[i]
		if _, twice := seen[id]; !twice {
			seen[id] = struct{}{}
			ids = append(ids, id)
		}
	}
	return ids
}

// batch runs one statement for the rows that hang on ids, and those below it. The columns of its rows are the numbers, then the
// object.
func (r *runner) batch(l *Level, ids []int64) (*listed, error) {
	var n int
	var text blob
	if err := r.single(l, ids, &n, &text); err != nil {
		return nil, err
	}
	r.rows += n
	r.bytes += len(text)
	switch {
	case r.rows > r.MaxRows:
		return nil, r.tooMany()
	case r.bytes > r.MaxBytes:
		return nil, r.tooLarge()
	}
	b, err := decode(l.Packed, n, text)
	if err != nil {
		return nil, err
	}
	below := make([]*listed, 0, len(l.Lists))
	size := len(text)
	for _, f := range l.Lists {
		got := &listed{}
		if n > 0 {
			if got, err = r.level(f.List, b.ids(f.Col)); err != nil {
				return nil, err
			}
		}
		below = append(below, got)
		size += len(got.out) + n*(len(f.Key)+4)
	}
	return r.written(l, b, below, size)
}

// written puts the rows of a statement and the lists below them together. size is about how long the result is.
func (r *runner) written(l *Level, b *batch, below []*listed, size int) (*listed, error) {
	got := &listed{count: len(b.objects), out: b.text}
	if l.Parent < 0 {
		got.out = append(make([]byte, 0, size+2), '[')
	} else {
		got.rows = make([]span, 0, len(b.objects))
		if len(below) > 0 {
			got.out = make([]byte, 0, size)
		}
	}
	before := r.bytes - len(b.text)
	for i, at := range b.objects {
		numbers := b.numbers[i*b.width : (i+1)*b.width]
		if len(below) > 0 {
			if l.Parent < 0 && i > 0 {
				got.out = append(got.out, ',')
			}
			start := len(got.out)
			got.out = with(got.out, b.text[at.start:at.end], l.Row.Fields, below, numbers)
			at = part{start, len(got.out)}
		}
		if l.Parent >= 0 {
			got.rows = append(got.rows, span{numbers[l.Parent], numbers[l.Own], at})
		}
		if before+len(got.out) > r.MaxBytes {
			return nil, r.tooLarge()
		}
	}
	if l.Parent < 0 {
		got.out = append(got.out, ']')
	}
	got.arrange(l.Sorted)
	return got, nil
}

// with adds an object with its lists.
func with(out, object []byte, lists []*Field, below []*listed, numbers []int64) []byte {
	out = append(out, object[:len(object)-1]...)
	for i, f := range lists {
		if i > 0 || len(object) > len("{}") {
			out = append(out, ',')
		}
		out = append(append(out, f.Key...), '[')
		out = append(below[f.At].write(out, numbers[f.Col]), ']')
	}
	return append(out, '}')
}
