// Package sandbox takes from a process what it does not need: another user, no capability, no way to regain one, no core
// dump, no other process that can look inside, no system call that only an intruder would want. A process does it to itself,
// in two steps: Enter, still as root, becomes the user and starts the program again; Harden is what the program then does
// first of all.
package sandbox
