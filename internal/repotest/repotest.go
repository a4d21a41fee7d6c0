// Package repotest holds tests about this repository: which package may import which, how large a file, a function or an
// interface may grow, and whether the documents name things that exist. It has no code of its own.
package repotest
