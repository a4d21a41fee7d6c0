package signer

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Files of the role's directory for the certificates of devices. Their authority is one of its own: it says of nobody else who they are.
const (
	ChannelKeyFile = "channel.key"
	ChannelCAFile  = "channel.pem"
)

// ChannelLife is how long a certificate of a device lives. A device asks for another long before.
const ChannelLife = 90 * 24 * time.Hour

// NewChannelAuthority makes the authority whose certificate and key are in a directory. The parent calls it once, before the role first
// starts.
func NewChannelAuthority(certFile string) error {
	ca, err := pki.NewAuthority("Roadstead devices")
	if err != nil {
		return err
	}
	if err := ca.Save(certFile, filepath.Join(filepath.Dir(certFile), ChannelKeyFile)); err != nil {
		return err
	}
	return os.Chmod(certFile, 0o600) // the parent gives it to whom it concerns
}

// channelCertificate certifies the key of a device, whose API key the api role has seen.
func (s *Server) channelCertificate(w http.ResponseWriter, r *http.Request) error {
	var ask api.ChannelCertificateRequest
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	if !api.DeviceUUID(ask.UUID).Valid() {
		return api.Errorf(api.Invalid, "%.80q is no device", ask.UUID)
	}
	block, _ := pem.Decode([]byte(ask.PublicKey))
	if block == nil || block.Type != "PUBLIC KEY" {
		return api.Errorf(api.Invalid, "no public key in PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return api.Errorf(api.Invalid, "the public key cannot be read: %v", err)
	}
	cert, until, err := s.devices.CertifyClient(ask.UUID, key, ChannelLife)
	if err != nil {
		return api.Errorf(api.Invalid, "the public key cannot be certified: %v", err)
	}
	s.log.InfoContext(r.Context(), "certified", "for", pki.PeerRole(r), "device", ask.UUID, "request", web.RequestID(r.Context()))
	return web.WriteJSON(w, http.StatusOK, api.ChannelCertificate{Certificate: string(cert), ExpiresAt: until.UTC().Format(time.RFC3339)})
}
