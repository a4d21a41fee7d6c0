package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// A file larger than a part goes up in parts of this size, as balena's clients send it: a multiple of what every store takes.
const assetPart = 5 << 20

// Asset is a row of release_asset.
type Asset struct {
	ID   int64  `json:"id"`
	Key  string `json:"asset_key"`
	File *File  `json:"asset"` // nil while it is being uploaded
}

// File is what the server says of a file that it keeps.
type File struct {
	Name        string `json:"filename"`
	URL         string `json:"href"` // to be fetched without a token, for a while
	ContentType string `json:"content_type"`
	Size        int64  `json:"size"` // bytes
	Checksum    string `json:"checksum"`
}

// Upload is a file on its way to the server.
type Upload struct {
	Name, ContentType string
	Size              int64 // bytes; From must give as many
	From              io.Reader
	Sent              func(bytes int64) // told how much has arrived; may be nil
}

func (u Upload) sent(n int64) {
	if u.Sent != nil {
		u.Sent(n)
	}
}

// UploadAsset makes a release's asset of a file, or puts the file in the place of the one that the row has.
func (c *Client) UploadAsset(ctx context.Context, release int64, key string, row int64, file Upload) (*Asset, error) {
	if file.Size <= assetPart {
		return c.uploadWhole(ctx, release, key, row, file)
	}
	fresh := row == 0
	if fresh {
		made, err := Create[Asset](ctx, c, "release_asset", map[string]any{"release": release, "asset_key": key, "asset": nil})
		if err != nil {
			return nil, err
		}
		row = made.ID
	}
	if err := c.uploadParts(ctx, row, file); err != nil {
		if fresh { // no row without a file is left behind
			err = errors.Join(err, c.Delete(context.WithoutCancel(ctx), ID("release_asset", row), Query{}))
		}
		return nil, err
	}
	return One[Asset](ctx, c, ID("release_asset", row), Query{Select: "id,asset_key,asset"})
}

func (c *Client) uploadWhole(ctx context.Context, release int64, key string, row int64, file Upload) (*Asset, error) {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	method, path := http.MethodPost, odataRoot+"release_asset"
	if row != 0 {
		method, path = http.MethodPatch, odataRoot+ID("release_asset", row)
	} else if err := errors.Join(form.WriteField("release", strconv.FormatInt(release, 10)), form.WriteField("asset_key", key)); err != nil {
		return nil, err
	}
	head := textproto.MIMEHeader{"Content-Type": {file.ContentType}}
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\r", "", "\n", "")
	head.Set("Content-Disposition", `form-data; name="asset"; filename="`+quote.Replace(file.Name)+`"`)
	part, err := form.CreatePart(head)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(part, file.From); err != nil {
		return nil, fmt.Errorf("read %s: %w", file.Name, err)
	}
	if err := form.Close(); err != nil {
		return nil, err
	}
	req, err := c.request(ctx, method, c.base+path, &body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", form.FormDataContentType())
	var made Asset
	if err := c.send(req, &made); err != nil {
		return nil, fmt.Errorf("upload %s: %w", file.Name, err)
	}
	file.sent(file.Size)
	if row != 0 {
		return One[Asset](ctx, c, ID("release_asset", row), Query{Select: "id,asset_key,asset"})
	}
	return &made, nil
}

type uploadPlan struct {
	Asset struct {
		UUID  string `json:"uuid"`
		Parts []struct {
			URL    string `json:"url"`
			Size   int64  `json:"chunkSize"`
			Number int    `json:"partNumber"`
		} `json:"uploadParts"`
	} `json:"asset"`
}

type uploadedPart struct {
	Number int    `json:"PartNumber"`
	ETag   string `json:"ETag"`
}

func (c *Client) uploadParts(ctx context.Context, row int64, file Upload) error {
	address := odataRoot + ID("release_asset", row)
	var plan uploadPlan
	err := c.Do(ctx, http.MethodPost, address+"/beginUpload", map[string]any{"asset": map[string]any{
		"filename": file.Name, "content_type": file.ContentType, "size": file.Size, "chunk_size": assetPart}}, &plan)
	if err != nil {
		return fmt.Errorf("upload %s: %w", file.Name, err)
	}
	var parts []uploadedPart
	var sent int64
	for _, p := range plan.Asset.Parts {
		data := make([]byte, min(p.Size, file.Size-sent))
		if _, err = io.ReadFull(file.From, data); err != nil {
			err = fmt.Errorf("read %s: %w", file.Name, err)
			break
		}
		var tag string
		if tag, err = c.put(ctx, p.URL, data); err != nil {
			err = fmt.Errorf("upload part %d of %s: %w", p.Number, file.Name, err)
			break
		}
		parts = append(parts, uploadedPart{p.Number, tag})
		sent += int64(len(data))
		file.sent(sent)
	}
	if err != nil {
		cancel := c.Do(context.WithoutCancel(ctx), http.MethodPost, address+"/cancelUpload", map[string]any{"uuid": plan.Asset.UUID}, nil)
		return errors.Join(err, cancel)
	}
	err = c.Do(ctx, http.MethodPost, address+"/commitUpload", map[string]any{"uuid": plan.Asset.UUID,
		"providerCommitData": map[string]any{"Parts": parts}}, nil)
	if err != nil {
		return fmt.Errorf("upload %s: %w", file.Name, err)
	}
	return nil
}

// put sends a part to where the server said; the address is the permission, so no token goes with it.
func (c *Client) put(ctx context.Context, address string, data []byte) (tag string, err error) {
	req, err := c.As("").request(ctx, http.MethodPut, address, bytes.NewReader(data))
	if err != nil {
		return "", err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return "", unwrapURL(err)
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return "", responseError(req, res)
	}
	return res.Header.Get("ETag"), nil
}

// send sends a request that was made by hand and reads the answer.
func (c *Client) send(req *http.Request, into any) error {
	res, err := c.http.Do(req)
	if err != nil {
		return unwrapURL(err)
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return responseError(req, res)
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil || len(answer) == 0 {
		return err
	}
	return json.Unmarshal(answer, into)
}

// Download copies a file that the server keeps. It is complete when no error is returned.
func (c *Client) Download(ctx context.Context, file *File, to io.Writer) error {
	if file == nil || file.URL == "" {
		return api.Errorf(api.NotFound, "the file has not been uploaded")
	}
	req, err := c.As("").request(ctx, http.MethodGet, file.URL, nil)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("download %s: %w", file.Name, unwrapURL(err))
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return responseError(req, res)
	}
	n, err := io.Copy(to, res.Body)
	if err != nil {
		return fmt.Errorf("download %s: %w", file.Name, err)
	}
	if n != file.Size {
		return fmt.Errorf("download %s: %d bytes of %d", file.Name, n, file.Size)
	}
	return nil
}
