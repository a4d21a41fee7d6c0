package fidotoken

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// From appendix A of RFC 8949, as far as CTAP2 has it.
var examples = map[string]any{
	"00": 0, "17": 23, "1818": 24, "1903e8": 1000, "1a000f4240": 1000000, "20": -1, "3863": -100, "f4": false, "f5": true, "40": []byte{}, "4401020304": []byte{1, 2, 3, 4},
	"60": "", "6449455446": "IETF", "83010203": []any{1, 2, 3}, "a201020304": map[any]any{1: 2, 3: 4}, "a26161016162820203": map[any]any{"a": 1, "b": []any{2, 3}},
	"a30102200361610a": map[any]any{"a": 10, -1: 3, 1: 2}, // in CTAP2's order
}

func TestCBOR(t *testing.T) {
	for text, v := range examples {
		want, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := encode(v); !bytes.Equal(got, want) {
			t.Errorf("encode(%v): %x, want %s", v, got, text)
		}
		if got, err := decode(want); err != nil || !bytes.Equal(encode(got), want) {
			t.Errorf("decode(%s): %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "18", "1c", "9f01ff", "f6", "f90000", "c000", "5bffffffffffffffff", "1bffffffffffffffff", "a10001ff", "a2010201", "a201020102", "a14001", "8181818181818100", "9affffffff"} {
		data, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := decode(data); err == nil {
			t.Errorf("decode(%s): %v", text, v)
		}
	}
}

func FuzzCBOR(f *testing.F) {
	for text := range examples {
		data, _ := hex.DecodeString(text)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := decode(data)
		if err != nil {
			return
		}
		again, err := decode(encode(v))
		if err != nil || !bytes.Equal(encode(again), encode(v)) {
			t.Errorf("%x is %v, and then %v, %v", data, v, again, err)
		}
	})
}
