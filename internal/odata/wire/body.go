package wire

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
	"github.com/roadstead-io/roadstead/internal/web"
)

// IsMultipart reports whether a request's body comes in parts.
func IsMultipart(r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == "multipart/form-data"
}

// Body reads the fields of a write or an action, a JSON object or a form, of at most so many bytes.
func Body(r *http.Request, most int) (map[string]any, error) {
	kind := "application/json"
	if ct := r.Header.Get("Content-Type"); ct != "" {
		var err error
		if kind, _, err = mime.ParseMediaType(ct); err != nil {
			return nil, api.Errorf(api.Unsupported, "the content type %q cannot be read", syntax.Echo(ct))
		}
	}
	data, err := web.ReadBody(r, int64(most))
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	switch {
	case kind == "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(data))
		if err != nil {
			return nil, api.Errorf(api.Invalid, "the body is not a valid form")
		}
		for name, v := range form {
			values[name] = FormText(v[len(v)-1])
		}
	case kind != "application/json" && !strings.HasSuffix(kind, "+json"):
		return nil, api.Errorf(api.Unsupported, "the body must be application/json, not %q", syntax.Echo(kind))
	case len(data) > 0:
		dec := json.NewDecoder(strings.NewReader(string(data)))
		dec.UseNumber()
		if err := dec.Decode(&values); err != nil {
			return nil, api.Errorf(api.Invalid, "the body is not a JSON object")
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return nil, api.Errorf(api.Invalid, "the body holds more than one JSON value")
		}
	}
	return values, nil
}
