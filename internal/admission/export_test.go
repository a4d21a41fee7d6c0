package admission

import "net"

// Shaking wraps one connection as a listener of the handshakes does.
func Shaking(h *Handshakes, conn net.Conn) net.Conn { return &shaking{Conn: conn, h: h} }

// Queued is how many wait, or have given up and are still in the queue.
func Queued(h *Handshakes) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.queue)
}

// GaveUp is how many of those have given up.
func GaveUp(h *Handshakes) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.giveUp
}
