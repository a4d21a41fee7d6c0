// Package worker runs the build service: a buildkitd that nobody trusts. It has a Unix user of its own, a user namespace
// in which it believes to be root, a process and a network namespace of its own that cannot reach the host's loopback
// addresses, and no credential of any kind. Only the builder role can open its socket. See DESIGN.md beside this file.
package worker
