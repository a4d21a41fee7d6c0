package odata

import (
	"maps"
	"net/http"
	"slices"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata/csdl"
)

var edmTypes = map[Type]string{
	Integer: "Edm.Int32", BigInteger: "Edm.Int64", Real: "Edm.Double", Boolean: "Edm.Boolean", String: "Edm.String",
	Date: "Edm.DateTimeOffset", JSON: "Edm.Untyped", WebResource: "Edm.Untyped",
}

// metadata describes what the caller may read.
func (e *Engine) metadata(w http.ResponseWriter, r *http.Request, caller access.Caller, s *schema) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return invalid("$metadata can only be read")
	}
	doc := csdl.New()
	c := e.compiler(caller.Kind, nil)
	readable := func(r *resource) bool {
		_, err := s.readable(caller.Kind, r.Name)
		return err == nil
	}
	for _, res := range s.resources {
		if !readable(res) {
			continue
		}
		entity := doc.Entity(append([]string{res.Name}, res.Synonyms...)...)
		for _, name := range res.order {
			col := res.columns[name]
			switch {
			case !c.sees(scope{res: res}, col):
			case col.target == nil:
				entity.Property(name, edmTypes[col.Type], col.Null)
			case readable(col.target):
				for _, n := range append([]string{name}, col.Synonyms...) {
					entity.One(n, col.target.Name, col.Null)
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(res.toMany)) {
			if col := res.toMany[name]; readable(col.of) && c.sees(scope{res: col.of}, col) {
				entity.Many(name, col.of.Name)
			}
		}
	}
	if doc.Empty() {
		return errUnauthorized
	}
	data, err := doc.Encode()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/xml; charset=utf-8")
	_, _ = w.Write(data) // a client that did not wait is its own business
	return nil
}
