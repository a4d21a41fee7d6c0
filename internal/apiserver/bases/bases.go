// Package bases has the routes of the api role that tell of the server's base images. They are made and published elsewhere: here they
// are only read. They are the same for everybody, and name no tenant.
package bases

import (
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/shelf"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Routes are the routes; dir is the directory of base images, "" when there is none.
func Routes(dir string) []route.Route {
	return []route.Route{
		{Method: "GET", Path: "/base/v1/images", Who: route.People, Handle: func(w http.ResponseWriter, _ *http.Request) error {
			return list(w, dir)
		}},
		{Method: "GET", Path: "/base/v1/images/{digest}/{what}", Who: route.People, Handle: func(w http.ResponseWriter, r *http.Request) error {
			return text(w, dir, r.PathValue("digest"), r.PathValue("what"))
		}},
	}
}

func list(w http.ResponseWriter, dir string) error {
	images := []api.BaseImage{}
	if dir != "" {
		all, err := shelf.Read(dir)
		if err != nil {
			return err
		}
		images = append(images, all...)
	}
	return web.WriteJSON(w, http.StatusOK, images)
}

// kinds are what is kept of an image, and the names of the files.
var kinds = map[string]string{"sbom": "spdx.json", "provenance": "provenance.json", "lock": "lock.json"}

var digestForm = pattern.New(`^sha256:([0-9a-f]{64})$`)

// text gives what is kept of one image, also of one that was replaced.
func text(w http.ResponseWriter, dir, digest, what string) error {
	m, ending := digestForm.FindStringSubmatch(digest), kinds[what]
	if m == nil || ending == "" || dir == "" {
		return api.Errorf(api.NotFound, "there is no %q of a base image %q; there are sbom, provenance and lock", what, digest)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*", "records", m[1]+"."+ending))
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return api.Errorf(api.NotFound, "nothing is known of a base image %s", digest)
	}
	f, err := os.Open(found[0])
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	w.Header().Set("Content-Type", "application/json")
	_, err = io.Copy(w, f)
	return err
}
