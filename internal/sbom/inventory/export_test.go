package inventory

// Remembered is how many bytes the layers take that are remembered.
func (s *Scanner) Remembered() int64 { return s.bytes }
