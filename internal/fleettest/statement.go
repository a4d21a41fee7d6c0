package fleettest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// Statement has the signer of a running server sign where a release comes from, as its builder, whose place a test takes. images are those
// of the build, result is how it ends.
func Statement(ctx context.Context, dataDir string, build int64, images []api.BuildImage, result api.BuildResult) (json.RawMessage, error) {
	builder := filepath.Join(dataDir, "roles", api.RoleBuilder)
	var config struct {
		Peers map[string]string `json:"peers"`
	}
	text, err := os.ReadFile(filepath.Join(builder, "role.json"))
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil {
		return nil, err
	}
	id, err := pki.LoadIdentity(builder)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC().Format(time.RFC3339)
	ask := api.StatementRequest{Build: build, StartedAt: now, FinishedAt: now}
	for i, image := range images {
		ask.Images = append(ask.Images, api.StatementImage{Service: image.Service, Repository: image.Repository, Digest: result.Images[i].Digest,
			SBOM: &api.ImageSBOM{Missing: "nothing was built"}})
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	peer := id.Client(api.RoleSigner, config.Peers[api.RoleSigner])
	defer peer.HTTP.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, peer.URL+"/v1/statement", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := peer.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("the signer answered %d: %s", res.StatusCode, answer)
	}
	return answer, err
}
