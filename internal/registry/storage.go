package registry

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the drivers register themselves by name
	_ "github.com/distribution/distribution/v3/registry/storage/driver/s3-aws"

	"github.com/roadstead-io/roadstead/internal/pattern"
)

// The library's layout below the root of a storage.
const (
	repositoriesDir = "/docker/registry/v2/repositories"
	blobsDir        = "/docker/registry/v2/blobs/sha256"
	markFile        = "/roadstead.json"
)

// CredentialsFile is the name of the file with the keys of the S3 storage, in the role's directory.
const CredentialsFile = "storage.credentials"

// storage is where the bytes are. The library and we reach it through the same kind of driver.
type storage struct {
	driver.StorageDriver
	dir    string // of files on this machine; empty: in a bucket
	kind   string // the driver's name
	params configuration.Parameters
	shown  string // where it is, without any secret
}

var bucketForm = pattern.New(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// parseStorage reads the address of a storage: empty for files in dir, or s3://BUCKET/PREFIX?endpoint=URL&region=NAME&path_style=true.
func parseStorage(dir, address string) (*storage, error) {
	if address == "" {
		return &storage{dir: dir, kind: "filesystem", params: configuration.Parameters{"rootdirectory": dir}, shown: dir}, nil
	}
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is no address", address)
	case u.Scheme != "s3":
		return nil, fmt.Errorf("%q does not begin with s3://", address)
	case u.User != nil:
		return nil, errors.New("keys do not belong into the address; give them in a file")
	case !bucketForm.MatchString(u.Host):
		return nil, fmt.Errorf("%q is not the name of a bucket", u.Host)
	}
	prefix := strings.Trim(u.Path, "/")
	p := configuration.Parameters{
		"bucket": u.Host, "region": "us-east-1", "rootdirectory": "/" + prefix, "forcepathstyle": true, "secure": true, "v4auth": true,
		"multipartcopythresholdsize": int64(64 << 20),
	}
	for key, values := range u.Query() {
		switch value := values[len(values)-1]; key {
		case "endpoint":
			e, err := url.Parse(value)
			if err != nil || e.Host == "" || (e.Scheme != "http" && e.Scheme != "https") {
				return nil, fmt.Errorf("endpoint: %q is no URL", value)
			}
			p["regionendpoint"], p["secure"] = value, e.Scheme == "https"
		case "region":
			p["region"] = value
		case "path_style":
			p["forcepathstyle"] = value == "true"
		default:
			return nil, fmt.Errorf("%q is none of endpoint, region, path_style", key)
		}
	}
	return &storage{kind: "s3", params: p, shown: address}, nil
}

// openStorage makes the way to a storage; it need not answer yet.
func openStorage(ctx context.Context, cfg Config) (*storage, error) {
	st, err := parseStorage(filepath.Join(cfg.Dir, StorageDir), cfg.Storage)
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	if st.dir != "" {
		if err := os.MkdirAll(st.dir, 0o700); err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		}
	} else if st.params["accesskey"], st.params["secretkey"], err = ReadCredentials(filepath.Join(cfg.Dir, CredentialsFile)); err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	if st.StorageDriver, err = factory.Create(ctx, st.kind, st.params); err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	return st, nil
}

// CheckStorage refuses an address of a storage that cannot be one.
func CheckStorage(address string) error {
	_, err := parseStorage("", address)
	return err
}

// ReadCredentials reads the keys of an S3 storage from a file in the form that AWS's own tools use: lines "aws_access_key_id = …" and
// "aws_secret_access_key = …".
func ReadCredentials(file string) (key, secret string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", "", fmt.Errorf("credentials: %w", err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(io.LimitReader(f, 64<<10))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		switch strings.TrimSpace(name) {
		case "aws_access_key_id":
			key = strings.TrimSpace(value)
		case "aws_secret_access_key":
			secret = strings.TrimSpace(value)
		}
	}
	if err := lines.Err(); err != nil {
		return "", "", fmt.Errorf("credentials: %w", err)
	}
	if key == "" || secret == "" {
		return "", "", fmt.Errorf("credentials: %s does not say aws_access_key_id and aws_secret_access_key", file)
	}
	return key, secret, nil
}

// claim writes down whose storage it is, or checks that it is ours: another server's would be garbage to us.
func (st *storage) claim(ctx context.Context, domain string) error {
	type mark struct {
		Domain string `json:"domain"`
	}
	data, err := st.GetContent(ctx, markFile)
	if missing(err) {
		if data, err = json.Marshal(mark{domain}); err == nil {
			err = st.PutContent(ctx, markFile, data)
		}
	}
	if err != nil {
		return fmt.Errorf("the storage %s: %w", st.shown, err)
	}
	var m mark
	if err := json.Unmarshal(data, &m); err != nil || m.Domain != domain {
		return fmt.Errorf("the storage %s belongs to the server of %q, not to this one", st.shown, m.Domain)
	}
	return nil
}

// free is how many bytes may still be written; known is false where nobody can say.
func (st *storage) free() (n int64, known bool, err error) {
	if st.dir == "" {
		return 0, false, nil
	}
	n, err = freeBytes(st.dir)
	return n, true, err
}

// missing reports whether something is not there.
func missing(err error) bool {
	var not driver.PathNotFoundError
	return errors.As(err, &not)
}

// list gives the names in a directory; one that is not there is empty.
func (st *storage) list(ctx context.Context, dir string) ([]string, error) {
	paths, err := st.List(ctx, dir)
	if missing(err) {
		return nil, nil
	}
	for i, p := range paths {
		paths[i] = path.Base(p)
	}
	return paths, err
}

// remove deletes a directory; one that is not there is deleted.
func (st *storage) remove(ctx context.Context, dir string) error {
	if err := st.Delete(ctx, dir); err != nil && !missing(err) {
		return err
	}
	return nil
}

func repositoryDir(name string) string { return path.Join(repositoriesDir, name) }

// blobDir is where a blob is; its bytes are the file "data" in it.
func blobDir(digest string) string {
	h := strings.TrimPrefix(digest, "sha256:")
	return path.Join(blobsDir, h[:2], h)
}

// size is how many bytes of a blob there are; false: it is not there.
func (st *storage) size(ctx context.Context, digest string) (int64, bool, error) {
	info, err := st.Stat(ctx, path.Join(blobDir(digest), "data"))
	if missing(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return info.Size(), true, nil
}

// eachBlob calls f with every stored blob.
func (st *storage) eachBlob(ctx context.Context, f func(digest string) error) error {
	fans, err := st.list(ctx, blobsDir)
	if err != nil {
		return err
	}
	for _, fan := range fans {
		names, err := st.list(ctx, path.Join(blobsDir, fan))
		if err != nil {
			return err
		}
		for _, name := range names {
			if d := "sha256:" + name; digestForm.MatchString(d) && name[:2] == fan {
				if err := f(d); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// whole reads a blob and reports whether its bytes are what its digest says. One that is not there is.
func (st *storage) whole(ctx context.Context, digest string) (n int64, good bool, err error) {
	r, err := st.Reader(ctx, path.Join(blobDir(digest), "data"), 0)
	if missing(err) {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = r.Close() }()
	h := sha256.New()
	n, err = io.Copy(h, r)
	return n, "sha256:"+hex.EncodeToString(h.Sum(nil)) == digest, err
}
