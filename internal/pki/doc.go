// Package pki makes and loads the certificates of a server: the authority for its public names, the internal authority
// that gives every role its identity, and the TLS settings that let two roles talk only when each knows the other.
package pki
