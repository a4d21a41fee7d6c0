package imagegate

// Learn reads a manifest and gives what may pass by it, for tests.
func Learn(body []byte) (blobs map[string]int64, kind string, err error) {
	p := &pull{blobs: map[string]int64{}}
	kind, err = p.learn("manifest", body)
	return p.blobs, kind, err
}

// Parameters are those of a challenge.
var Parameters = parameters

// BesideAPI tells whether a host is of the domain of an API.
func BesideAPI(endpoint, host string) bool {
	return (&Gate{cfg: Config{Endpoint: endpoint}}).besideAPI(host)
}
