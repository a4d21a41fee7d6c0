package channel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/seal"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// identity is the key and the certificate that the device shows beside its name and password. The key never leaves the device.
type identity struct {
	path  string
	vault *seal.Vault // keeps the key

	mu       sync.Mutex // covers what follows
	doubtful bool       // the server refused it: ask anew
}

// known is the file, which is replaced as a whole.
type known struct {
	Key     string              `json:"key"` // PEM; made before anybody hears of it
	SSHKey  string              `json:"ssh_host_key,omitempty"`
	Renew   time.Time           `json:"renew"` // when a third of its life is left
	Answer  api.ChannelIdentity `json:"answer"`
	expires time.Time
}

func (i *identity) doubt() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.doubtful = true
}

// load gives the identity, having asked the server for a certificate when there is none or its end is near. One that is still good is
// used even when the server cannot be asked.
func (i *identity) load(ctx context.Context, cfg Config, now time.Time) (*known, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := os.MkdirAll(dirOf(i.path), 0o700); err != nil {
		return nil, err
	}
	id := &known{}
	if text, err := os.ReadFile(i.path); err == nil && json.Unmarshal(text, id) != nil {
		id = &known{} // as good as none
	}
	var err error
	if id.Key, err = i.vault.Reveal(seal.ChannelKey, id.Key); err != nil {
		return nil, err
	}
	hostKey := ""
	if cfg.HostKey != nil {
		hostKey = cfg.HostKey()
	}
	usable := id.check(cfg.UUID) == nil && now.Before(id.expires)
	if usable && now.Before(id.Renew) && !i.doubtful && id.SSHKey == hostKey {
		return id, nil
	}
	if err = i.certify(ctx, cfg, id, hostKey); err == nil {
		i.doubtful = false
		return id, nil
	}
	if usable && !i.doubtful {
		cfg.Log.Warn("the channel's certificate could not be renewed yet", "error", err)
		return id, nil
	}
	return nil, err
}

func (i *identity) certify(ctx context.Context, cfg Config, id *known, hostKey string) error {
	key, err := parseKey(id.Key)
	if err != nil {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		*id = known{Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))}
		if err := i.store(id); err != nil {
			return err
		}
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	answer, err := cfg.Certify(ctx, api.ChannelCertify{
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})), SSHHostKey: hostKey,
	})
	if err != nil {
		return fmt.Errorf("ask for a certificate: %w", err)
	}
	next := &known{Key: id.Key, SSHKey: hostKey, Answer: answer}
	if err := next.check(cfg.UUID); err != nil {
		return fmt.Errorf("the server's certificate: %w", err)
	}
	if err := i.store(next); err != nil {
		return err
	}
	*id = *next
	return nil
}

func (i *identity) store(id *known) error {
	kept := *id
	kept.Key = i.vault.Protect(seal.ChannelKey, id.Key)
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	return durable.WriteSecret(i.path, text, 0o600)
}

// check finds out whether the parts belong together, and until when they hold.
func (id *known) check(uuid string) error {
	key, err := parseKey(id.Key)
	if err != nil {
		return err
	}
	block, _ := pem.Decode([]byte(id.Answer.Certificate))
	if block == nil {
		return errors.New("there is none")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(cert.PublicKey) || cert.Subject.CommonName != uuid {
		return errors.New("it is not this device's")
	}
	if ca, _ := pem.Decode([]byte(id.Answer.CA)); ca == nil {
		return errors.New("it comes without an authority to know the server by")
	}
	id.expires = cert.NotAfter
	id.Renew = cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)
	return nil
}

func parseKey(text string) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("there is no key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the key is of another kind")
	}
	return ec, nil
}
