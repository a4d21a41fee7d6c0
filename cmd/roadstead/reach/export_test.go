package reach

// ParseMapping reads one -p.
func ParseMapping(text string) (remote int, local string, err error) {
	m, err := parseMapping(text)
	return m.Remote, m.Local, err
}
