package odata

// ParseOnly parses the part of a URL below the prefix with the default limits, for fuzzing.
func ParseOnly(path, query string) error {
	_, err := parseRequest(Limits{}.withDefaults(), "/v7/", path, query)
	return err
}
