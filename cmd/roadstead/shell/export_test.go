package shell

import "golang.org/x/crypto/ssh"

// ParsePlaces reads the ends of a copy: what is on the device, and which of them are.
func ParsePlaces(texts []string) (device, service string, paths []string, err error) {
	places := make([]place, len(texts))
	for i, text := range texts {
		places[i] = parsePlace(text)
		paths = append(paths, places[i].path)
	}
	far, err := farEnd(places)
	return far.device, far.service, paths, err
}

// FindKey gives an uploaded key that is at hand, and its file if it lies in one.
func FindKey(uploaded [][]byte, file, socket, home string) (ssh.PublicKey, string, error) {
	found, err := findKey(uploaded, file, socket, home)
	return found.key, found.file, err
}
