package letter

import (
	"net/mail"
	"time"
)

// IsAddress reports whether a text is one bare e-mail address.
func IsAddress(text string) bool {
	parsed, err := mail.ParseAddress(text)
	return err == nil && parsed.Address == text && len(text) <= 254
}

// Time is a time as letters say it.
func Time(t time.Time) string { return t.UTC().Format("2 January 2006 15:04 UTC") }
