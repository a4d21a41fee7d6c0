// Package registry is the role that keeps the images: the well-kept distribution registry behind our own walls. Every request
// carries a token that the signer made and that the public key proves; writing needs, besides a token that says so, to come
// from the builder itself; what is read is compared with the digest it was asked by.
package registry
