package builder

import (
	"context"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/roadstead-io/roadstead/api"
)

// materials is the bill of materials of an image, or why there is none.
type materials struct {
	document []byte
	packages int
	notes    []string
	missing  string
}

// bill reads a finished image for its packages. Whatever is wrong with the image is no reason for the build to fail: it may be
// meant to be as it is.
func (s *Server) bill(ctx context.Context, img v1.Image, service, digest string) *materials {
	found, err := s.scanner.Image(ctx, img)
	if err != nil {
		s.log.WarnContext(ctx, "no bill of materials", "service", service, "image", digest, "error", err)
		if words := api.AsError(err); words.Code != api.Internal {
			return &materials{missing: words.Text}
		}
		return &materials{missing: first(err.Error())}
	}
	document, err := found.Document(service, digest)
	if err != nil {
		return &materials{missing: first(err.Error())}
	}
	return &materials{document: document, packages: len(found.Packages), notes: found.Notes}
}

// first is the first line of a text.
func first(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
