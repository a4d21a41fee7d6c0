package odata

import "github.com/roadstead-io/roadstead/api"

// errUnauthorized has no text: what the caller may not do at all looks the same as what does not exist.
var errUnauthorized = &api.Error{Code: api.Unauthorized}

// invalid is a request that is wrong and stays wrong.
func invalid(format string, args ...any) error { return api.Errorf(api.Invalid, format, args...) }
