package account

// Forged reports whether a token has the form of ours and a wrong checksum.
func Forged(token string) bool { return forged(token) }

// NewToken makes a token.
func NewToken(prefix string) string { return newToken(prefix) }
