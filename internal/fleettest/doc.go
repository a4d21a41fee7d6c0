// Package fleettest runs the real server for tests: the program that an operator would start, on a directory of its own, with
// names that resolve and a certificate that holds. Nothing of it is simulated.
//
// The tests in this folder are the end-to-end ones. They need root, for names in /etc/hosts.
package fleettest
