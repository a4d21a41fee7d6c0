package db

import (
	"bytes"
	"database/sql/driver"
	"strings"
	"unicode/utf8"

	"github.com/roadstead-io/roadstead/api"
)

// errNoText is a value that PostgreSQL's TEXT cannot hold and SQLite's should not: much that reads it would stop in its middle.
var errNoText = api.Errorf(api.Invalid, "A text holds a zero byte, or is not UTF-8.")

// bind makes a value one that both databases take: truth values are 0 and 1, texts are texts.
func bind(v *driver.NamedValue) error {
	value, err := driver.DefaultParameterConverter.ConvertValue(v.Value)
	if err != nil {
		return err
	}
	switch given := value.(type) {
	case bool:
		value = int64(0)
		if given {
			value = int64(1)
		}
	case string:
		if strings.IndexByte(given, 0) >= 0 || !utf8.ValidString(given) {
			return errNoText
		}
	case []byte:
		if bytes.IndexByte(given, 0) >= 0 || !utf8.Valid(given) {
			return errNoText
		}
	}
	v.Value = value
	return nil
}
