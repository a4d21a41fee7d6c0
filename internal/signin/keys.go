package signin

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// keysPause is how long a key set is left alone after it was asked for: a flood of tokens with keys that nobody knows is no
	// flood of requests.
	keysPause = time.Minute
	maxKeys   = 100
)

// keySet is a provider's public keys. It implements oidc.KeySet.
type keySet struct {
	label   string // of the provider
	address string
	http    *http.Client
	now     func() time.Time

	turn  chan struct{} // held while what follows is read or renewed
	keys  []jose.JSONWebKey
	got   time.Time // when the provider gave them
	asked time.Time
	fault error
}

// VerifySignature gives what a token says if one of the keys signed it.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	var algs []jose.SignatureAlgorithm
	for _, a := range algorithms {
		algs = append(algs, jose.SignatureAlgorithm(a))
	}
	signed, err := jose.ParseSignedCompact(token, algs)
	if err != nil {
		return nil, errors.New("it is not signed as it should be")
	}
	for _, renew := range []bool{false, true} {
		keys, err := k.get(ctx, renew)
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			if kid := signed.Signatures[0].Header.KeyID; kid != "" && key.KeyID != kid {
				continue
			}
			if plain, err := signed.Verify(&key); err == nil {
				return plain, nil
			}
		}
	}
	return nil, errors.New("no key of the provider signed it")
}

// get gives the keys; renewed where they may be, and from time to time: a key that the provider has withdrawn is none any more.
func (k *keySet) get(ctx context.Context, renew bool) ([]jose.JSONWebKey, error) {
	select {
	case k.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-k.turn }()
	age := k.now().Sub(k.got)
	if k.keys != nil && age >= stale {
		k.keys = nil
	}
	if k.keys != nil && !renew && age < discoveryLife {
		return k.keys, nil
	}
	pause := keysPause
	if k.keys == nil {
		pause = discoveryPause // there is nothing to go on with
	}
	if !k.asked.IsZero() && k.now().Sub(k.asked) < pause {
		return k.keys, k.without()
	}
	k.asked = k.now()
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, k.address, nil)
	if err != nil {
		return nil, err
	}
	var set jose.JSONWebKeySet
	if k.fault = askJSON(k.http, req, &set); k.fault != nil {
		return k.keys, k.without()
	}
	// A key that is not public, or a secret of both ends, is no key to believe.
	k.keys = slices.DeleteFunc(set.Keys[:min(len(set.Keys), maxKeys)], func(key jose.JSONWebKey) bool {
		return !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig"
	})
	if k.keys == nil {
		k.keys = []jose.JSONWebKey{}
	}
	k.got = k.now()
	return k.keys, nil
}

// without is the error of having no keys at all.
func (k *keySet) without() error {
	if k.keys != nil {
		return nil
	}
	if k.fault == nil {
		return errors.New("the provider's keys are not known")
	}
	return &unreachableError{k.label, k.fault}
}
