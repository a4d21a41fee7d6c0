package db

// Numbered is for tests.
var Numbered = numbered
