// Package handover passes open connections from one process to others on the same machine, with the bytes that were already
// read from them. Whoever starts the processes makes the two ends of a channel and gives each process its own: the channel
// outlives them all, so that a connection handed over while its taker is being restarted waits for the next one. Several
// takers may share an end; the one that is free first takes the next connection.
package handover
