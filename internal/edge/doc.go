// Package edge is the server's one public door. Connections for the api role and the dashboard it hands over as they come, having read no
// more than the name they ask for: no API token, no password and no cookie is ever in its memory. Of the others it ends TLS, sends each request to the role
// that its host name asks for over mutually authenticated TLS, and lets nothing through that says who or where somebody is
// but what it saw itself.
package edge
