// Package builder is the role that turns pushed source into a release: it takes an archive, reads what the project wants to
// run, has BuildKit build one image a service, pushes each by digest into the registry, and tells the api role how it went.
// It holds no key but its own identity; for every repository it asks the signer for a token that lives for minutes. See
// DESIGN.md beside this file, and the package worker for BuildKit itself.
package builder
