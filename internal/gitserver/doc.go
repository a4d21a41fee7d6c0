// Package gitserver is the git role: it takes `git push` over SSH and HTTPS into a bare repository of the fleet, has the builder build
// what came, and tells the pusher how it goes. See DESIGN.md.
package gitserver
