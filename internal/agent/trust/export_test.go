package trust

// SameJSON and Compare are what a target state is compared with, for tests.
var (
	SameJSON = sameJSON
	Compare  = compare
	ReadCopy = readCopy
)
