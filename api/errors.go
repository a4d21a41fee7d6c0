package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Code classifies an error the same way on both ends of the wire.
type Code string

// The codes. Each maps to one HTTP status, see [Code.Status].
const (
	Invalid      Code = "invalid"      // the request is wrong and stays wrong
	Unauthorized Code = "unauthorized" // no credentials, or ones that do not hold (or, as balena has it, a POST under an unseen parent)
	Forbidden    Code = "forbidden"    // known caller, verb not allowed
	NotFound     Code = "not_found"    // does not exist, or the caller may not see it
	Conflict     Code = "conflict"     // violates a unique or reference rule
	TooLarge     Code = "too_large"    // body, URL or archive beyond a limit
	Unsupported  Code = "unsupported"  // media type or method not supported
	RateLimited  Code = "rate_limited" // try again later
	Unavailable  Code = "unavailable"  // a part of the server is down or full; try again
	Internal     Code = "internal"     // everything without a code; its text is never shown
)

var statuses = map[Code]int{
	Invalid: http.StatusBadRequest, Unauthorized: http.StatusUnauthorized, Forbidden: http.StatusForbidden,
	NotFound: http.StatusNotFound, Conflict: http.StatusConflict, TooLarge: http.StatusRequestEntityTooLarge,
	Unsupported: http.StatusUnsupportedMediaType, RateLimited: http.StatusTooManyRequests,
	Unavailable: http.StatusServiceUnavailable, Internal: http.StatusInternalServerError,
}

// Status is the HTTP status that carries the code.
func (c Code) Status() int {
	if s, ok := statuses[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// CodeOf gives the code that an HTTP status carries; statuses of 500 and above without a code of their own are Internal,
// other unknown ones Invalid.
func CodeOf(status int) Code {
	for c, s := range statuses {
		if s == status {
			return c
		}
	}
	if status >= 500 {
		return Internal
	}
	return Invalid
}

// Error is an error with a code and a text that people may read.
type Error struct {
	Code Code
	Text string
}

func (e *Error) Error() string {
	if e.Text == "" {
		return string(e.Code)
	}
	return e.Text
}

// Is makes errors.Is(err, api.ErrNotFound) true for every error of that code, on both ends of the wire.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Text == "" || t.Text == e.Text)
}

// One sentinel a code, for errors.Is.
var (
	ErrInvalid      = &Error{Code: Invalid}
	ErrUnauthorized = &Error{Code: Unauthorized}
	ErrForbidden    = &Error{Code: Forbidden}
	ErrNotFound     = &Error{Code: NotFound}
	ErrConflict     = &Error{Code: Conflict}
	ErrTooLarge     = &Error{Code: TooLarge}
	ErrUnsupported  = &Error{Code: Unsupported}
	ErrRateLimited  = &Error{Code: RateLimited}
	ErrUnavailable  = &Error{Code: Unavailable}
)

// Errorf makes an error with a code. The text is shown to the caller.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// AsError finds the coded error in a chain; an error without one is Internal and its text must not be shown.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: Internal}
}
