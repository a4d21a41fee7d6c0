package account

import "github.com/roadstead-io/roadstead/internal/blob"

// FileRules says what the file columns of this package take: an organization's logo is a picture that every browser shows, and
// nothing that could do more than be looked at.
func FileRules() map[string]blob.Rule {
	return map[string]blob.Rule{
		"organization.logo_image": {Max: 2 << 20, Types: []string{"image/png", "image/jpeg", "image/gif", "image/webp"}},
	}
}
