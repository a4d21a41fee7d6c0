package apiserver_test

import (
	"path/filepath"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver"
)

// How long the role needs until it can serve, on a database that is there already.
func BenchmarkStart(b *testing.B) {
	s := newServer(b)
	s.stop()
	for b.Loop() {
		srv, err := apiserver.New(apiserver.Config{Dir: filepath.Join(s.dir, api.RoleAPI), Site: api.Site{Domain: "roadstead.test", Port: 443}, SQL: s.sql}, quiet())
		if err != nil {
			b.Fatal(err)
		}
		_ = srv.Close()
	}
}
