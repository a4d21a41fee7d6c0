package client

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// ResponseError is an answer that says no. It wraps the *api.Error that the status and body stand for, so that
// errors.Is(err, api.ErrNotFound) holds on this end of the wire too.
type ResponseError struct {
	Method    string
	Path      string // without the query
	Status    int
	RequestID string // by which the server's log knows the request; "" when it gave none
	Err       *api.Error

	retryAfter time.Duration // negative: the server did not say
}

func (e *ResponseError) Error() string {
	text := e.Err.Text
	if text == "" {
		text = defaultText(e.Status, e.Method, e.Path)
	}
	if e.RequestID != "" {
		return fmt.Sprintf("%s (request %s)", text, e.RequestID)
	}
	return text
}

// Unwrap gives the coded error.
func (e *ResponseError) Unwrap() error { return e.Err }

// RetryAfter is how long the server asked to wait; ok is false when it did not.
func (e *ResponseError) RetryAfter() (wait time.Duration, ok bool) {
	return e.retryAfter, e.retryAfter >= 0
}

func responseError(req *http.Request, res *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10)) // a cut error text is still a text
	code := api.CodeOf(res.StatusCode)
	switch {
	case res.StatusCode == http.StatusBadGateway || res.StatusCode == http.StatusGatewayTimeout:
		code = api.Unavailable
	case res.StatusCode < 400:
		code = api.Internal // a redirect: this API has none
	}
	return &ResponseError{
		Method: req.Method, Path: req.URL.EscapedPath(), Status: res.StatusCode,
		RequestID:  res.Header.Get("X-Request-Id"),
		Err:        &api.Error{Code: code, Text: errorText(res.Header.Get("Content-Type"), body)},
		retryAfter: parseRetryAfter(res.Header),
	}
}

// errorText finds the sentence in an error's body. Servers of this wire put it in one of several places: the body as a JSON
// string or as text, error.text, message, error, error.message.
func errorText(contentType string, body []byte) string {
	text := strings.TrimSpace(string(body))
	if t, _, err := mime.ParseMediaType(contentType); err == nil && t == "text/html" {
		return "" // some proxy's page
	}
	var s string
	if json.Unmarshal(body, &s) == nil {
		return strings.TrimSpace(s)
	}
	var object struct {
		Message any             `json:"message"`
		Error   json.RawMessage `json:"error"`
	}
	if json.Unmarshal(body, &object) != nil {
		return text
	}
	var inner struct{ Text, Message string }
	_ = json.Unmarshal(object.Error, &inner) // another form is tried below
	if inner.Text != "" {
		return inner.Text
	}
	if m, ok := object.Message.(string); ok && m != "" {
		return m
	}
	if json.Unmarshal(object.Error, &s) == nil && s != "" {
		return s
	}
	if inner.Message != "" {
		return inner.Message
	}
	return text
}

func defaultText(status int, method, path string) string {
	switch status {
	case http.StatusUnauthorized:
		return "the server does not accept these credentials"
	case http.StatusForbidden:
		return "you may not do this"
	case http.StatusNotFound:
		return fmt.Sprintf("%s does not exist on this server, or you may not see it", path)
	case http.StatusConflict:
		return "it exists already"
	case http.StatusTooManyRequests:
		return "too many requests; try again later"
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return "a part of the server is not answering; try again in a moment"
	default:
		return fmt.Sprintf("the server answered %s %s with %d %s", method, path, status, http.StatusText(status))
	}
}
