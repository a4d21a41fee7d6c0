package tunnel

// Parse reads a request for the fuzz test: the uuid and the port that it leads to.
func Parse(head string) (uuid string, port int, token string, err error) {
	q, err := parse(head)
	return string(q.uuid), q.port, q.token, err
}
