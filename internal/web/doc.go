// Package web is how every role of the server speaks HTTP: one list of routes, handlers that return errors, one place that
// renders and logs them, a request id that follows a request through the roles, and bounds on what comes in.
package web
