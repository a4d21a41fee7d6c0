package builder

import (
	"context"

	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"
)

// credentials answers BuildKit's question for the user name and password of a registry, from what the pusher sent along for
// this one build. There is nothing else to answer with.
type credentials struct {
	auth.UnimplementedAuthServer
	secrets map[string]secret
}

// Register implements session.Attachable.
func (c credentials) Register(s *grpc.Server) { auth.RegisterAuthServer(s, c) }

// Credentials implements auth.AuthServer.
func (c credentials) Credentials(_ context.Context, r *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	s := accountFor(c.secrets, r.Host)
	return &auth.CredentialsResponse{Username: s.Username, Secret: s.Password}, nil
}

// accountFor finds the account for a registry. Docker Hub has one name in files and others on the wire.
func accountFor(secrets map[string]secret, registry string) secret {
	if registry == "registry-1.docker.io" || registry == "index.docker.io" {
		for _, name := range []string{"https://index.docker.io/v1/", "index.docker.io", "docker.io", ""} {
			if s, ok := secrets[name]; ok {
				return s
			}
		}
	}
	return secrets[registry]
}
