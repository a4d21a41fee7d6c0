// Package quarantine keeps what people push themselves until a builder has looked at it. Every repository is a directory of its own,
// with its blobs, manifests and tags; nothing in it is shared with another one, or with what is released. So a push can learn and
// take nothing of others, and throwing a repository away is removing its directory. Outside, a repository can be written, and be
// asked whether it has something; only the builder reads, closes and empties it.
package quarantine
