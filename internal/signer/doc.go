// Package signer is the role that holds signing keys and nothing else: no database, no user's data. It signs registry tokens
// for two callers, each for one purpose, and refuses everything off that list. Whoever steals the api role can ask for pulls
// while it holds that role; it cannot sign anything itself, and no push at all.
package signer
