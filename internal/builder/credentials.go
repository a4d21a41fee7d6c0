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
	host := r.Host
	if host == "registry-1.docker.io" { // Docker Hub has one name in files and another on the wire
		for _, name := range []string{"https://index.docker.io/v1/", "index.docker.io", "docker.io", ""} {
			if _, ok := c.secrets[name]; ok {
				host = name
				break
			}
		}
	}
	s := c.secrets[host]
	return &auth.CredentialsResponse{Username: s.Username, Secret: s.Password}, nil
}
