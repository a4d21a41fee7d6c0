// Package supervise is the parent process of a server: it makes what a data directory needs, opens every listening socket,
// starts each role as a child with its own user, its own directory and nothing else, starts it again when it dies, and says
// how they all are. Its own privileges serve a few fixed ends (open the public port, make users and directories, start and
// stop children) and are at nobody's command: it listens to nothing but its own status socket, which answers one question.
package supervise
