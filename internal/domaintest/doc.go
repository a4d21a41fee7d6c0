// Package domaintest is what the tests of the domain packages share: a database of either kind with a clock of its own, people with fleets and devices in it,
// and the packages up to devices' on top, put together as the api role does it. Nothing of it is simulated.
package domaintest
