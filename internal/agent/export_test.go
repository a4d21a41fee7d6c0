package agent

import "github.com/roadstead-io/roadstead/internal/agent/deviceapi"

// API is the device API, for tests to listen with.
func (a *Agent) API() *deviceapi.Server { return a.api }
