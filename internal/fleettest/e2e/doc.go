// Package e2e holds the end-to-end tests: a real server, a real build, a real Docker Engine in a virtual device, the real
// agent, our command line and the real balena CLI. They are the user's day, and the acceptance of the main job.
package e2e
