package apiserver

// deviceRoutes are the routes that devices call, and those about one device.
func (s *Server) deviceRoutes() []route { return nil }
