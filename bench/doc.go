// Package bench prints the figures of the hot paths: run `make bench`. A figure is never a test: a busy machine must not make
// a build fail. The budgets are in docs/design.md.
package bench
