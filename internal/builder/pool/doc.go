// Package pool knows the machines that build: this one, and others that joined. For a platform it gives one that can, and keeps a fleet
// with the worker that has its cache. What it knows of a worker is what the worker says of itself, and is forgotten after seconds.
package pool
