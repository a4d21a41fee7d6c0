// Package remote is how a machine somewhere else builds for this server: the builder's side, a listener on which workers of other machines
// join and connect, and the side of such a machine, which calls it and listens nowhere. See DESIGN.md beside this file.
package remote
