package origin

// Privileges are those of one service of a composition.
func Privileges(block map[string]any, labels map[string]string) []string {
	return composed(block, labels).privileges
}
