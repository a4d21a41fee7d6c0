// Package provenance makes, signs and verifies the statement of where a release comes from: an in-toto statement (version 1)
// with a SLSA provenance predicate (version 1) in a DSSE envelope, signed with Ed25519. The signer makes it; the api role, the
// command line and devices verify it. It needs nothing but the standard library.
package provenance
