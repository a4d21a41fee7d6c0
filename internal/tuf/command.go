package tuf

import (
	"bytes"
	"encoding/hex"
	"encoding/json"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
)

// commandType is the member _type of a command, so that nothing else that the same key signs is taken for one.
const commandType = "command"

// SignCommand signs what a device is told to do.
func SignCommand(c api.TrustCommand, signer Signer) ([]byte, error) {
	c.Type = commandType
	message, err := Canonical(c)
	if err != nil {
		return nil, err
	}
	sig, err := signer.Sign(message)
	if err != nil {
		return nil, err
	}
	file, err := json.Marshal(envelope{Signed: message, Signatures: []signature{{KeyID: KeyID(signer.Public()), Sig: hex.EncodeToString(sig)}}})
	if err != nil {
		return nil, err
	}
	if _, _, _, err := readCommand(file); err != nil {
		return nil, err
	}
	return file, nil
}

// ReadCommand reads a command strictly, without verifying it.
func ReadCommand(data []byte) (api.TrustCommand, error) {
	c, _, _, err := readCommand(data)
	return c, err
}

func readCommand(data []byte) (c api.TrustCommand, message []byte, signatures []signature, err error) {
	const what = commandType
	if err := strict(what, data, MaxCommand); err != nil {
		return c, nil, nil, err
	}
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil || len(e.Signed) == 0 {
		return c, nil, nil, Refuse(what, ReasonMalformed, "", "a signed command", "something else")
	}
	if err := checkSignatures(what, e.Signatures); err != nil {
		return c, nil, nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(e.Signed))
	dec.DisallowUnknownFields() // what is not known cannot be obeyed
	if err := dec.Decode(&c); err != nil {
		return c, nil, nil, Refuse(what, ReasonMalformed, "", "a command", err.Error())
	}
	if message, err = Canonical(e.Signed); err != nil {
		return c, nil, nil, Refuse(what, ReasonMalformed, "", "canonical JSON", err.Error())
	}
	switch {
	case c.Type != commandType:
		return c, nil, nil, Refuse(what, ReasonType, "", commandType, c.Type)
	case c.Fleet == "":
		return c, nil, nil, Refuse(what, ReasonMissing, "", "fleet", "nothing")
	case c.Device == "":
		return c, nil, nil, Refuse(what, ReasonMissing, "", "device", "nothing")
	case c.Verb == "":
		return c, nil, nil, Refuse(what, ReasonMissing, "", "verb", "nothing")
	case len(c.Nonce) < 16 || len(c.Nonce) > 64:
		return c, nil, nil, Refuse(what, ReasonNonce, "", "16 to 64 characters", digits(int64(len(c.Nonce))))
	case c.Expires.IsZero():
		return c, nil, nil, Refuse(what, ReasonMissing, "", "expires", "nothing")
	}
	return c, message, e.Signatures, nil
}

// Command takes a command to a device: signed by the director that the targets name, for this fleet and device, unexpired. Whether its nonce was
// used already is for the caller to say.
func (t *Trusted) Command(data []byte, device api.DeviceUUID) (api.TrustCommand, error) {
	c, message, signatures, err := readCommand(data)
	if err != nil {
		return api.TrustCommand{}, err
	}
	what := "command " + string(c.Verb)
	if err := t.ready(); err != nil {
		return api.TrustCommand{}, err
	}
	if _, ok := t.held[api.TrustTargets]; !ok || t.set.Targets[api.TrustTargets] == nil {
		return api.TrustCommand{}, Refuse(api.TrustTargets, ReasonMissing, "", "a file", "none")
	}
	keys, threshold := t.holders(api.TrustDirector)
	if len(keys) == 0 {
		return api.TrustCommand{}, Refuse(what, ReasonMissing, "", "a director that the targets name", "none")
	}
	if err := explain(what, message, signatures, keys, threshold, nil); err != nil {
		return api.TrustCommand{}, err
	}
	switch {
	case c.Fleet != t.fleet:
		return api.TrustCommand{}, Refuse(what, ReasonFleet, "", t.fleet, c.Fleet)
	case c.Device != device || device == "":
		return api.TrustCommand{}, Refuse(what, ReasonDevice, "", string(device), string(c.Device))
	case t.Now().After(c.Expires):
		return api.TrustCommand{}, Refuse(what, ReasonExpired, "", "valid at "+t.Now().Format(timeForm), "expired "+c.Expires.UTC().Format(timeForm))
	}
	return c, nil
}

// explain counts the valid signatures of some keys, each key once. It refuses when they are too few, and names the first key that is concerned: one whose signature
// is wrong before one that did not sign. With a cause it refuses in any case.
func explain(what string, message []byte, signatures []signature, keys map[string]*metadata.Key, threshold int, cause error) error {
	valid := map[string]bool{}
	var wrong, absent string
	for _, id := range sorted(keys) {
		p, err := publicKey(what, keys[id])
		if err != nil {
			return err
		}
		signed := false
		for _, s := range signatures {
			if s.KeyID != id {
				continue
			}
			signed = true
			sig, err := hex.DecodeString(s.Sig)
			if err == nil && p.verify(message, sig) {
				valid[p.bytes] = true
			} else if wrong == "" {
				wrong = id
			}
		}
		if !signed && absent == "" {
			absent = id
		}
	}
	want := digits(int64(threshold)) + " of " + digits(int64(len(keys))) + " keys"
	if threshold >= 1 && len(valid) >= threshold {
		if cause == nil {
			return nil
		}
		return Refuse(what, ReasonMalformed, "", "", cause.Error())
	}
	if wrong != "" {
		return Refuse(what, ReasonSignature, wrong, want, digits(int64(len(valid)))+" valid")
	}
	return Refuse(what, ReasonThreshold, absent, want, digits(int64(len(valid)))+" valid")
}

// Signers gives the ids of those keys whose signature on a file is valid, each key once, in the order of the keys.
func Signers(file []byte, keys []*metadata.Key) ([]string, error) {
	e, message, err := open("file", file)
	if err != nil {
		return nil, err
	}
	if err := checkSignatures("file", e.Signatures); err != nil {
		return nil, err
	}
	var ids []string
	seen := map[string]bool{}
	for _, key := range keys {
		p, err := publicKey("key", key)
		if err != nil {
			return nil, err
		}
		for _, s := range e.Signatures {
			if sig, err := hex.DecodeString(s.Sig); err == nil && s.KeyID == KeyID(key) && p.verify(message, sig) && !seen[p.bytes] {
				seen[p.bytes] = true
				ids = append(ids, s.KeyID)
			}
		}
	}
	return ids, nil
}
