// Package edge is the server's one public door: it ends TLS, sends each request to the role that its host name asks for over
// mutually authenticated TLS, and lets nothing through that says who or where somebody is but what it saw itself.
package edge
