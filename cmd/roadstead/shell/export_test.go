package shell

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
