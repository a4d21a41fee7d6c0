package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// KeyFile is the name of the file with the sealed data key, in the state directory.
const KeyFile = "sealed-key.json"

const (
	fileVersion = 1
	maxFile     = 64 << 10
)

// keyFile is what stands in it.
type keyFile struct {
	Version int    `json:"version"`
	TPM     sealed `json:"tpm"`
}

// parseKeyFile reads one strictly: it is ours alone.
func parseKeyFile(text []byte) (sealed, error) {
	var f keyFile
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var version struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(text, &version) == nil && version.Version > fileVersion {
		return sealed{}, fmt.Errorf("version %d is of a newer agent than this one", version.Version)
	}
	if err := d.Decode(&f); err != nil {
		return sealed{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return sealed{}, errors.New("something stands after the end")
	}
	s := f.TPM
	switch {
	case f.Version != fileVersion:
		return s, fmt.Errorf("version %d is none", f.Version)
	case len(s.Parent) == 0 || len(s.Public) == 0 || len(s.Private) == 0:
		return s, errors.New("tpm.parent, tpm.public or tpm.private is missing")
	case len(s.Parent) > 1<<10 || len(s.Public) > 1<<10 || len(s.Private) > 1<<10: // a TPM's own bound is lower
		return s, errors.New("tpm.parent, tpm.public or tpm.private is too large")
	case len(s.Values) != len(s.PCRs):
		return s, errors.New("tpm.values has not one value for each of tpm.pcrs")
	}
	if err := CheckPCRs(s.PCRs); err != nil {
		return s, fmt.Errorf("tpm.pcrs: %w", err)
	}
	return s, nil
}

func readKeyFile(path string) (sealed, error) {
	f, err := os.Open(path)
	if err != nil {
		return sealed{}, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err = errors.Join(err, f.Close()); err == nil && len(text) > maxFile {
		err = errors.New("is too large")
	}
	if err != nil {
		return sealed{}, fmt.Errorf("%s: %w", path, err)
	}
	s, err := parseKeyFile(text)
	if err != nil {
		return s, fmt.Errorf("%s: %w: %w", path, ErrLost, err)
	}
	return s, nil
}

func writeKeyFile(path string, s sealed) error {
	text, err := json.MarshalIndent(keyFile{Version: fileVersion, TPM: s}, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteSecret(path, append(text, '\n'), 0o600) // an earlier one may have been bound to less
}
