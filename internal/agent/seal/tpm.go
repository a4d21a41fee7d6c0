package seal

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Reasons why a TPM does not open what was sealed. Neither passes by waiting alone.
var (
	// ErrOther says that the keys were sealed by another TPM, or by this one before it was cleared.
	ErrOther = errors.New("the keys were sealed by another TPM, or this one was cleared since")
	// ErrChanged says that the TPM has measured another start than the one that the keys were bound to.
	ErrChanged = errors.New("the device did not start with the firmware and settings that its keys were bound to")
)

// maxPCR is the last register that every TPM has.
const maxPCR = 23

// sealed is a secret that one TPM opens, while the registers that it was bound to have their values.
type sealed struct {
	Parent  []byte   `json:"parent"` // name of the TPM's storage key: tells one TPM from another, and nothing else
	Public  []byte   `json:"public"`
	Private []byte   `json:"private"` // encrypted by the TPM
	PCRs    []uint   `json:"pcrs,omitempty"`
	Values  [][]byte `json:"values,omitempty"` // of the registers, to say which one changed
}

// chipped is a TPM in use, with its storage key. The key is derived anew each time from a seed that never leaves the TPM, and takes no
// room in it.
type chipped struct {
	link link
	key  *tpm2.CreatePrimaryResponse
	pub  *tpm2.TPMTPublic
}

func open(path string) (*chipped, error) {
	l, err := dial(path)
	if err != nil {
		return nil, err
	}
	c := &chipped{link: l}
	if c.key, err = (tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}).Execute(l); err != nil {
		return nil, errors.Join(fmt.Errorf("TPM: make the storage key: %w", err), l.Close())
	}
	if c.pub, err = c.key.OutPublic.Contents(); err != nil {
		return nil, errors.Join(fmt.Errorf("TPM: %w", err), c.close())
	}
	return c, nil
}

func (c *chipped) close() error {
	err := c.flush(c.key.ObjectHandle)
	return errors.Join(err, c.link.Close())
}

func (c *chipped) flush(handle tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: handle}.Execute(c.link)
	return err
}

// secret are the options of a session in which what matters is encrypted on the way to the TPM or from it, under a secret that only the
// holder of the storage key learns.
func (c *chipped) secret(direction func() tpm2.AuthOption) []tpm2.AuthOption {
	return []tpm2.AuthOption{tpm2.Salted(c.key.ObjectHandle, *c.pub), direction()}
}

func in() tpm2.AuthOption  { return tpm2.AESEncryption(128, tpm2.EncryptIn) }
func out() tpm2.AuthOption { return tpm2.AESEncryption(128, tpm2.EncryptOut) }

func selection(pcrs []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}}
}

// values reads registers, one by one: a TPM may answer a question for many in part.
func (c *chipped) values(pcrs []uint) ([][]byte, error) {
	var out [][]byte
	for _, pcr := range pcrs {
		got, err := tpm2.PCRRead{PCRSelectionIn: selection([]uint{pcr})}.Execute(c.link)
		if err != nil {
			return nil, fmt.Errorf("TPM: read PCR %d: %w", pcr, err)
		}
		if len(got.PCRValues.Digests) != 1 {
			return nil, fmt.Errorf("TPM: it has no PCR %d of SHA-256", pcr)
		}
		out = append(out, got.PCRValues.Digests[0].Buffer)
	}
	return out, nil
}

// policy is the digest of "these registers have these values".
func policy(pcrs []uint, values [][]byte) ([]byte, error) {
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	all := sha256.Sum256(bytes.Join(values, nil))
	if err := (tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: all[:]}, Pcrs: selection(pcrs)}).Update(calc); err != nil {
		return nil, err
	}
	return calc.Hash().Digest, nil
}

// seal has the TPM seal a secret, bound to what the registers hold now.
func (c *chipped) seal(secret []byte, pcrs []uint) (s sealed, err error) {
	pcrs = slices.Sorted(slices.Values(pcrs)) // the order in which a TPM joins them
	s = sealed{Parent: c.key.Name.Buffer, PCRs: pcrs}
	template := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		// NoDA: guesses at other things of this TPM do not lock it for this one; there is nothing to guess here.
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true, UserWithAuth: len(pcrs) == 0},
	}
	if len(pcrs) > 0 {
		if s.Values, err = c.values(pcrs); err != nil {
			return s, err
		}
		digest, err := policy(pcrs, s.Values)
		if err != nil {
			return s, err
		}
		template.AuthPolicy = tpm2.TPM2BDigest{Buffer: digest}
	}
	made, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: c.key.ObjectHandle, Name: c.key.Name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, c.secret(in)...)},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
		}},
		InPublic: tpm2.New2B(template),
	}.Execute(c.link)
	if err != nil {
		return s, fmt.Errorf("TPM: seal: %w", err)
	}
	s.Public, s.Private = made.OutPublic.Bytes(), made.OutPrivate.Buffer
	return s, nil
}

// unseal has the TPM open what it sealed.
func (c *chipped) unseal(s sealed) (secret []byte, err error) {
	if subtle.ConstantTimeCompare(s.Parent, c.key.Name.Buffer) != 1 { // before anything is encrypted for it
		return nil, ErrOther
	}
	object, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: c.key.ObjectHandle, Name: c.key.Name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, c.secret(out)...)},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](s.Public), InPrivate: tpm2.TPM2BPrivate{Buffer: s.Private},
	}.Execute(c.link)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return nil, fmt.Errorf("%w, or what it sealed was changed", ErrOther)
	}
	if err != nil {
		return nil, fmt.Errorf("TPM: load: %w", err)
	}
	defer func() { err = errors.Join(err, c.flush(object.ObjectHandle)) }()
	auth := tpm2.HMAC(tpm2.TPMAlgSHA256, 16, c.secret(out)...)
	if len(s.PCRs) > 0 {
		session, done, err := tpm2.PolicySession(c.link, tpm2.TPMAlgSHA256, 16, c.secret(out)...)
		if err != nil {
			return nil, fmt.Errorf("TPM: %w", err)
		}
		defer func() { _ = done() }() // the TPM ends it with its use; what is left after a failure goes here
		if _, err := (tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: selection(s.PCRs)}).Execute(c.link); err != nil {
			return nil, fmt.Errorf("TPM: read PCRs: %w", err)
		}
		auth = session
	}
	got, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name, Auth: auth}}.Execute(c.link)
	if errors.Is(err, tpm2.TPMRCPolicyFail) {
		return nil, c.changed(s)
	}
	if err != nil {
		return nil, fmt.Errorf("TPM: unseal: %w", err)
	}
	return got.OutData.Buffer, nil
}

// changed says which registers have other values.
func (c *chipped) changed(s sealed) error {
	values, err := c.values(s.PCRs)
	if err != nil {
		return errors.Join(ErrChanged, err)
	}
	var which []uint
	for i, pcr := range s.PCRs {
		if i >= len(s.Values) || !bytes.Equal(values[i], s.Values[i]) {
			which = append(which, pcr)
		}
	}
	return fmt.Errorf("%w: PCR %d", ErrChanged, which)
}

// CheckPCRs names what is wrong with a list of registers.
func CheckPCRs(pcrs []uint) error {
	for i, pcr := range pcrs {
		switch {
		case pcr > maxPCR:
			return fmt.Errorf("there is no PCR %d, only 0 to %d", pcr, maxPCR)
		case slices.Contains(pcrs[:i], pcr):
			return fmt.Errorf("PCR %d is there twice", pcr)
		}
	}
	return nil
}
