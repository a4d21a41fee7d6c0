package registry_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func sum(data string) string {
	h := sha256.Sum256([]byte(data))
	return "sha256:" + hex.EncodeToString(h[:])
}

// The cases of the OCI distribution specification that this registry takes part in: pull and push. Listing and deleting are
// not offered (TestOnlyTheBuilderWrites).
func TestOCIConformance(t *testing.T) {
	s := start(t)
	push, pull := s.token(grant(mine, "pull", "push"), nil), s.token(grant(mine, "pull"), nil)
	repo := "/v2/" + mine
	local := func(res *http.Response) string {
		return strings.TrimPrefix(res.Header.Get("Location"), "https://"+s.addr)
	}
	check := func(what string, res *http.Response, body string, status int) {
		t.Helper()
		if res.StatusCode != status {
			t.Errorf("%s: %d %s, want %d", what, res.StatusCode, body, status)
		}
	}
	errorCode := func(what, body, code string) {
		t.Helper()
		var e struct{ Errors []struct{ Code string } }
		if json.Unmarshal([]byte(body), &e) != nil || len(e.Errors) == 0 || e.Errors[0].Code != code {
			t.Errorf("%s: error body %q, want code %s", what, body, code)
		}
	}

	// Push: monolithic by POST then PUT.
	res, body := s.do("builder", push, "POST", repo+"/blobs/uploads/", nil)
	check("POST uploads", res, body, 202)
	const config = `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`
	res, body = s.do("builder", push, "PUT", local(res)+"&digest="+sum(config), strings.NewReader(config),
		"Content-Type", "application/octet-stream")
	check("PUT the whole blob", res, body, 201)
	if d := res.Header.Get("Docker-Content-Digest"); d != sum(config) {
		t.Errorf("Docker-Content-Digest = %q", d)
	}

	// Push: in chunks, one out of order, the status in between.
	res, _ = s.do("builder", push, "POST", repo+"/blobs/uploads/", nil)
	res, body = s.do("builder", push, "PATCH", local(res), strings.NewReader("chunk one,"), "Content-Type", "application/octet-stream",
		"Content-Range", "0-9")
	check("PATCH the first chunk", res, body, 202)
	if r := res.Header.Get("Range"); r != "0-9" {
		t.Errorf("Range = %q, want 0-9", r)
	}
	next := local(res)
	res, body = s.do("builder", push, "PATCH", next, strings.NewReader("x"), "Content-Type", "application/octet-stream",
		"Content-Range", "20-20")
	check("PATCH out of order", res, body, 416)
	res, body = s.do("builder", push, "GET", next, nil)
	check("GET the upload's state", res, body, 204)
	res, body = s.do("builder", push, "PATCH", next, strings.NewReader("chunk two"), "Content-Type", "application/octet-stream",
		"Content-Range", "10-18")
	check("PATCH the second chunk", res, body, 202)
	const layer = "chunk one,chunk two"
	last := local(res)
	res, body = s.do("builder", push, "PUT", last+"&digest="+sum("something else"), nil)
	check("PUT with a wrong digest", res, body, 400)
	errorCode("PUT with a wrong digest", body, "DIGEST_INVALID")
	res, _ = s.do("builder", push, "POST", repo+"/blobs/uploads/", nil)
	res, body = s.do("builder", push, "PUT", local(res)+"&digest="+sum(layer), strings.NewReader(layer), "Content-Type", "application/octet-stream")
	check("PUT after a failure", res, body, 201)

	// Manifests.
	const kind = "application/vnd.oci.image.manifest.v1+json"
	manifest := `{"schemaVersion":2,"mediaType":"` + kind + `","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` +
		sum(config) + `","size":` + itoa(len(config)) + `},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` +
		sum(layer) + `","size":` + itoa(len(layer)) + `}]}`
	missing := strings.ReplaceAll(manifest, sum(layer), sum("not there"))
	res, body = s.do("builder", push, "PUT", repo+"/manifests/"+sum(missing), strings.NewReader(missing), "Content-Type", kind)
	check("PUT a manifest without its blobs", res, body, 400)
	errorCode("PUT a manifest without its blobs", body, "MANIFEST_BLOB_UNKNOWN")
	res, body = s.do("edge", pull, "GET", repo+"/manifests/"+sum(missing), nil, "Accept", kind)
	check("GET what was refused", res, body, 404)
	res, body = s.do("builder", push, "PUT", repo+"/manifests/"+sum("other"), strings.NewReader(manifest), "Content-Type", kind)
	check("PUT a manifest under a wrong digest", res, body, 400)
	res, body = s.do("builder", push, "PUT", repo+"/manifests/"+sum(manifest), strings.NewReader(manifest), "Content-Type", kind)
	check("PUT a manifest", res, body, 201)

	// Pull.
	res, body = s.do("edge", pull, "GET", repo+"/manifests/"+sum(manifest), nil, "Accept", kind)
	check("GET the manifest", res, body, 200)
	if body != manifest || res.Header.Get("Content-Type") != kind || res.Header.Get("Docker-Content-Digest") != sum(manifest) {
		t.Errorf("GET the manifest: %s %q, want it byte for byte", res.Header, body)
	}
	res, body = s.do("edge", pull, "HEAD", repo+"/manifests/"+sum(manifest), nil, "Accept", kind)
	check("HEAD the manifest", res, body, 200)
	if res.ContentLength != int64(len(manifest)) {
		t.Errorf("HEAD: Content-Length %d, want %d", res.ContentLength, len(manifest))
	}
	res, body = s.do("edge", pull, "GET", repo+"/blobs/"+sum(layer), nil)
	check("GET a blob", res, body, 200)
	if body != layer {
		t.Errorf("GET a blob: %q", body)
	}
	res, body = s.do("edge", pull, "HEAD", repo+"/blobs/"+sum(layer), nil)
	check("HEAD a blob", res, body, 200)
	res, body = s.do("edge", pull, "GET", repo+"/manifests/"+sum("nothing"), nil, "Accept", kind)
	check("GET an unknown manifest", res, body, 404)
	errorCode("GET an unknown manifest", body, "MANIFEST_UNKNOWN")
	res, body = s.do("edge", pull, "GET", repo+"/blobs/"+sum("nothing"), nil)
	check("GET an unknown blob", res, body, 404)
	errorCode("GET an unknown blob", body, "BLOB_UNKNOWN")

	// An abandoned upload can be cancelled; the builder does when a build is.
	res, _ = s.do("builder", push, "POST", repo+"/blobs/uploads/", nil)
	res, body = s.do("builder", push, "DELETE", local(res), nil)
	check("DELETE an upload", res, body, 204)
}

func itoa(n int) string {
	data, _ := json.Marshal(n) // an int always marshals
	return string(data)
}
