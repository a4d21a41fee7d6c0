package logtext

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// view is what a text says when it is decoded somehow. Each byte knows from which part of the text it comes.
type view struct {
	text     []byte
	from, to []int32
}

func newView(size int) *view {
	return &view{text: make([]byte, 0, size), from: make([]int32, 0, size), to: make([]int32, 0, size)}
}

func (v *view) add(b byte, from, to int32) {
	v.text, v.from, v.to = append(v.text, b), append(v.from, from), append(v.to, to)
}

// withoutColours is a harmless text without its colours: what a person reads.
func withoutColours(s string) *view {
	v := newView(len(s))
	for i := 0; i < len(s); {
		if s[i] == esc {
			n, _ := sequence(s[i:])
			i += n
			continue
		}
		v.add(s[i], int32(i), int32(i+1))
		i++
	}
	return v
}

// fromURL undoes the encoding of URLs; nil where there is none. In a form's values a plus sign is a blank.
func (v *view) fromURL(form bool) *view {
	mark := byte('%')
	if form {
		mark = '+'
	}
	if !strings.ContainsRune(string(v.text), rune(mark)) {
		return nil
	}
	out := newView(len(v.text))
	for i := 0; i < len(v.text); i++ {
		b := v.text[i]
		switch {
		case b == '%' && i+2 < len(v.text) && hexDigit(v.text[i+1]) >= 0 && hexDigit(v.text[i+2]) >= 0:
			out.add(byte(hexDigit(v.text[i+1])<<4|hexDigit(v.text[i+2])), v.from[i], v.to[i+2])
			i += 2
			continue
		case b == '+' && form:
			b = ' '
		}
		out.add(b, v.from[i], v.to[i])
	}
	return out
}

// unescaped undoes the escapes of JSON and of quoted strings in many languages; nil where there is none.
func (v *view) unescaped() *view {
	if !strings.ContainsRune(string(v.text), '\\') {
		return nil
	}
	out := newView(len(v.text))
	for i := 0; i < len(v.text); i++ {
		if v.text[i] != '\\' || i+1 == len(v.text) {
			out.add(v.text[i], v.from[i], v.to[i])
			continue
		}
		digits := 0
		value := []byte{v.text[i+1]}
		switch v.text[i+1] {
		case 'n':
			value[0] = '\n'
		case 't':
			value[0] = '\t'
		case 'r':
			value[0] = '\r'
		case 'x':
			digits = 2
		case 'u':
			digits = 4
		}
		if digits > 0 && i+1+digits < len(v.text) {
			if n, err := strconv.ParseUint(string(v.text[i+2:i+2+digits]), 16, 32); err == nil {
				if value = []byte{byte(n)}; digits == 4 {
					value = utf8.AppendRune(nil, rune(n))
				}
			} else {
				digits = 0
			}
		} else {
			digits = 0
		}
		for _, b := range value {
			out.add(b, v.from[i], v.to[i+1+digits])
		}
		i += 1 + digits
	}
	return out
}

const (
	leastBase64 = 6 // digits that the shortest secret takes
	leastHex    = 2 * Least
)

// decoded is what stands in base64 and hexadecimal digits, however they are aligned.
func (v *view) decoded() []*view {
	out := v.runs(nil, base64Digit, leastBase64, 6)
	return v.runs(out, hexDigit, leastHex, 4)
}

// runs decodes every row of digits that have so many bits each, from each digit that a byte can begin with.
func (v *view) runs(out []*view, digit func(byte) int, least, bits int) []*view {
	for i := 0; i < len(v.text); {
		if digit(v.text[i]) < 0 {
			i++
			continue
		}
		end := i
		for end < len(v.text) && digit(v.text[end]) >= 0 {
			end++
		}
		if end-i >= least {
			starts := 2
			if bits == 6 {
				starts = 4
			}
			for start := range starts {
				out = append(out, v.bytes(i+start, end, digit, bits))
			}
		}
		i = end
	}
	return out
}

func (v *view) bytes(from, end int, digit func(byte) int, bits int) *view {
	out := newView((end - from) * bits / 8)
	acc, have, first := 0, 0, from
	for i := from; i < end; i++ {
		if have == 0 {
			first = i
		}
		acc, have = acc<<bits|digit(v.text[i]), have+bits
		if have >= 8 {
			have -= 8
			out.add(byte(acc>>have), v.from[first], v.to[i])
			acc &= 1<<have - 1
			first = i // its other bits belong to the next byte
		}
	}
	return out
}

// base64Digit knows both alphabets.
func base64Digit(b byte) int {
	switch {
	case b >= 'A' && b <= 'Z':
		return int(b - 'A')
	case b >= 'a' && b <= 'z':
		return int(b-'a') + 26
	case b >= '0' && b <= '9':
		return int(b-'0') + 52
	case b == '+' || b == '-':
		return 62
	case b == '/' || b == '_':
		return 63
	}
	return -1
}

func hexDigit(b byte) int {
	switch {
	case b >= '0' && b <= '9':
		return int(b - '0')
	case b >= 'a' && b <= 'f':
		return int(b-'a') + 10
	case b >= 'A' && b <= 'F':
		return int(b-'A') + 10
	}
	return -1
}
