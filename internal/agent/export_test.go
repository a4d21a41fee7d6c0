package agent

import (
	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
	"github.com/roadstead-io/roadstead/internal/agent/trust"
)

// API is the device API, for tests to listen with.
func (a *Agent) API() *deviceapi.Server { return a.api }

// Checks is what the device believes, for tests to ask.
func (a *Agent) Checks() *trust.Trust { return a.checks }
