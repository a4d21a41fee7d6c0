package fidotoken

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// CBOR (RFC 8949), as much of it as CTAP2 allows: integers, byte and text strings, arrays, maps by integers or text, true and false. An integer is an
// int, an array a []any, a map a map[any]any.

// Major types, in the three upper bits of the first byte.
const (
	majorUint = iota << 5
	majorNegative
	majorBytes
	majorText
	majorArray
	majorMap
	_
	majorSimple
)

const (
	simpleFalse = majorSimple | 20
	simpleTrue  = majorSimple | 21
)

// maxNesting of what is read; CTAP2 allows four.
const maxNesting = 4

var errCBOR = errors.New("this is no CBOR of CTAP2")

// encode gives the canonical form, in which authenticators answer: shortest heads, keys in the order of their bytes.
func encode(v any) []byte {
	switch v := v.(type) {
	case int:
		if v < 0 {
			return head(majorNegative, uint64(-1-v))
		}
		return head(majorUint, uint64(v))
	case []byte:
		return append(head(majorBytes, uint64(len(v))), v...)
	case string:
		return append(head(majorText, uint64(len(v))), v...)
	case bool:
		if v {
			return []byte{simpleTrue}
		}
		return []byte{simpleFalse}
	case []any:
		out := head(majorArray, uint64(len(v)))
		for _, e := range v {
			out = append(out, encode(e)...)
		}
		return out
	case map[any]any:
		type entry struct{ key, value []byte }
		var entries []entry
		for key, value := range v {
			entries = append(entries, entry{encode(key), encode(value)})
		}
		slices.SortFunc(entries, func(a, b entry) int { return bytes.Compare(a.key, b.key) })
		out := head(majorMap, uint64(len(v)))
		for _, e := range entries {
			out = append(append(out, e.key...), e.value...)
		}
		return out
	}
	panic(fmt.Sprintf("CTAP2 has no CBOR for %T", v))
}

func head(major byte, n uint64) []byte {
	switch {
	case n < 24:
		return []byte{major | byte(n)}
	case n < 1<<8:
		return []byte{major | 24, byte(n)}
	case n < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{major | 25}, uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32([]byte{major | 26}, uint32(n))
	}
	return binary.BigEndian.AppendUint64([]byte{major | 27}, n)
}

// decode reads one value that fills the bytes.
func decode(data []byte) (any, error) {
	r := reader(data)
	v, err := r.value(maxNesting)
	if err == nil && len(r) > 0 {
		err = errCBOR
	}
	return v, err
}

// reader is what is left to read.
type reader []byte

func (r *reader) take(n uint64) ([]byte, error) {
	if n > uint64(len(*r)) {
		return nil, errCBOR
	}
	out := (*r)[:n]
	*r = (*r)[n:]
	return out, nil
}

func (r *reader) head() (first byte, n uint64, err error) {
	b, err := r.take(1)
	if err != nil {
		return 0, 0, err
	}
	first = b[0]
	n = uint64(first & 31)
	if n < 24 {
		return first, n, nil
	}
	if n > 27 { // reserved, or of indefinite length
		return 0, 0, errCBOR
	}
	if b, err = r.take(1 << (n - 24)); err != nil {
		return 0, 0, err
	}
	return first, binary.BigEndian.Uint64(append(make([]byte, 8-len(b)), b...)), nil
}

func (r *reader) value(nesting int) (any, error) {
	first, n, err := r.head()
	if err != nil {
		return nil, err
	}
	switch major := first &^ 31; major {
	case majorUint, majorNegative:
		if n > 1<<32 {
			return nil, errCBOR
		}
		if major == majorNegative {
			return -1 - int(n), nil
		}
		return int(n), nil
	case majorBytes, majorText:
		b, err := r.take(n)
		if major == majorText {
			return string(b), err
		}
		return bytes.Clone(b), err
	case majorArray, majorMap:
		if nesting == 0 || n > uint64(len(*r)) {
			return nil, errCBOR
		}
		if major == majorMap {
			return r.entries(n, nesting-1)
		}
		list := []any{}
		for range n {
			v, err := r.value(nesting - 1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	}
	switch first {
	case simpleFalse, simpleTrue:
		return first == simpleTrue, nil
	}
	return nil, errCBOR
}

func (r *reader) entries(n uint64, nesting int) (any, error) {
	m := map[any]any{}
	for range n {
		key, err := r.value(0)
		if err != nil {
			return nil, err
		}
		switch key.(type) {
		case int, string:
		default:
			return nil, errCBOR
		}
		if _, twice := m[key]; twice {
			return nil, errCBOR
		}
		if m[key], err = r.value(nesting); err != nil {
			return nil, err
		}
	}
	return m, nil
}
