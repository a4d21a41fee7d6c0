package release_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
)

// A project's balena.yml names its version; of the same version the revisions are counted.
func TestABuildTakesItsVersionFromItsContract(t *testing.T) {
	w := releasetest.New(t)
	w.Fleet(w.Alice, "harbour", "intel-nuc")
	push := func(draft bool, contract string) (b api.Build, err error) {
		err = w.DB.Write(t.Context(), func(tx *db.Tx) (err error) {
			if b, err = w.Releases.Open(t.Context(), tx, w.Alice, api.BuildRequest{Slug: "alice/harbour", Draft: draft}); err != nil {
				return err
			}
			for range 2 { // the builder did not hear the first answer
				if _, err = w.Releases.AddImages(t.Context(), tx, b.ID, api.BuildImagesRequest{
					Composition: json.RawMessage(`{"services":{}}`), Services: []string{"web"}, Contract: json.RawMessage(contract),
				}); err != nil {
					return err
				}
			}
			return nil
		})
		return b, err
	}
	for _, tc := range []struct {
		draft          bool
		contract, want string
	}{
		{false, `{"name":"pump","version":"1.2.3"}`, "1.2.3"},
		{false, `{"name":"pump","version":"1.2.3"}`, "1.2.3+rev1"},
		{true, `{"version":"1.2.3"}`, fmt.Sprintf("1.2.3-%d", w.Now().UnixMilli())},
		{false, `{"version":"1.3.0-rc.1+gpu"}`, "1.3.0-rc.1+gpu"},
		{false, `{"name":"no version"}`, "0.0.0"},
		{false, ``, "0.0.0+rev1"},
		{false, `{"version":"1.2.3+rev2"}`, "1.2.3+rev2"},
	} {
		b, err := push(tc.draft, tc.contract)
		if err != nil {
			t.Errorf("%s: %v", tc.contract, err)
			continue
		}
		want := `"raw_version":"` + tc.want + `","contract":` + tc.contract
		if tc.contract == "" {
			want += "null"
		}
		w.Want(w.Alice, "GET", path(b.ID)+"?$select=raw_version,contract", nil, 200, want)
	}
	for contract, want := range map[string]string{
		`{"version":"1.2"}`:        "balena.yml: version: 1.2 is not a version",
		`{"version":1.2}`:          "balena.yml: version: 1.2 is not a version",
		`{"version":{}}`:           "balena.yml: version: ",
		`{"version":"1.2.3+rev9"}`: "the next revision of 1.2.3 is 3",
		`["1.2.3"]`:                "balena.yml: it is not an object",
		`{`:                        "balena.yml: it is not an object",
	} {
		if _, err := push(false, contract); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", contract, err, want)
		}
	}
}
