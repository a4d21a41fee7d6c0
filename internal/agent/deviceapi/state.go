package deviceapi

import (
	"fmt"
	"net/http"
	"strconv"
)

// status words of a fleet: what version 2 of the API calls its release's update.
func (s *Server) states(q *request) error {
	out := map[string]any{}
	for _, f := range q.state.Fleets {
		if !q.sees(f) {
			continue
		}
		services := map[string]any{}
		for _, svc := range f.Services {
			services[svc.Name] = map[string]any{"status": svc.Status, "image": svc.Image, "releaseId": f.ReleaseID, "downloadProgress": svc.DownloadProgress}
		}
		out[f.Name] = map[string]any{"appId": f.ID, "appUuid": f.UUID, "commit": f.Commit, "updateStatus": f.UpdateStatus, "services": services}
	}
	q.json(http.StatusOK, out)
	return nil
}

func (s *Server) appState(q *request) error {
	f, err := q.fleet()
	if err != nil {
		if q.scope.Device {
			http.Error(q.w, err.Error(), http.StatusConflict)
			return nil
		}
		return err
	}
	services := map[string]any{}
	for _, svc := range f.Services {
		services[strconv.FormatInt(svc.ImageID, 10)] = map[string]any{"status": svc.Status, "releaseId": f.ReleaseID, "download_progress": svc.DownloadProgress}
	}
	q.json(http.StatusOK, map[string]any{
		"commit": f.Commit, "local": map[string]any{strconv.FormatInt(f.ID, 10): map[string]any{"services": services}}, "dependent": map[string]any{},
	})
	return nil
}

func (s *Server) status(q *request) error {
	containers, images := []any{}, []any{}
	var progress *int
	release := ""
	for _, f := range q.state.Fleets {
		if !q.sees(f) {
			continue
		}
		if release == "" {
			release = f.Commit
		}
		for _, svc := range f.Services {
			if svc.ContainerID != "" {
				containers = append(containers, map[string]any{
					"status": svc.Status, "serviceName": svc.Name, "appId": f.ID, "imageId": svc.ImageID, "serviceId": svc.ID, "containerId": svc.ContainerID,
				})
			}
			images = append(images, map[string]any{
				"name": svc.Image, "appId": f.ID, "serviceName": svc.Name, "imageId": svc.ImageID, "status": imageStatus(svc), "downloadProgress": svc.DownloadProgress,
			})
			if svc.DownloadProgress != nil && (progress == nil || *svc.DownloadProgress < *progress) {
				progress = svc.DownloadProgress
			}
		}
	}
	applied := "applied"
	if !q.state.Applied {
		applied = "applying"
	}
	q.json(http.StatusOK, map[string]any{
		"status": "success", "appState": applied, "overallDownloadProgress": progress, "containers": containers, "images": images, "release": release,
	})
	return nil
}

func imageStatus(svc ServiceState) string {
	if svc.DownloadProgress != nil {
		return "Downloading"
	}
	return "Downloaded"
}

// containerIDs tells the container of one service, by its name, or of all.
func (s *Server) containerIDs(q *request) error {
	name := q.r.URL.Query().Get("service")
	if name == "" {
		name = q.r.URL.Query().Get("serviceName")
	}
	ids := map[string]string{}
	for _, f := range q.state.Fleets {
		if q.sees(f) {
			for _, svc := range f.Services {
				ids[svc.Name] = svc.ContainerID
			}
		}
	}
	if name == "" {
		return q.success("services", ids)
	}
	if ids[name] == "" {
		return fmt.Errorf("no container of a service %q", name)
	}
	return q.success("containerId", ids[name])
}
