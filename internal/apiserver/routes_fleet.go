package apiserver

// fleetRoutes are the routes of fleets, releases and builds.
func (s *Server) fleetRoutes() []route { return nil }
