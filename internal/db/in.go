package db

import "strings"

// In gives the list of an IN condition and its values: (?,?,?,?). Its length is the next power of two, so that few statements
// have to be prepared; the last id is repeated. No ids give a list that nothing is in.
func In(ids []int64) (list string, args []any) {
	if len(ids) == 0 {
		return "(NULL)", nil
	}
	n := 1
	for n < len(ids) {
		n *= 2
	}
	args = make([]any, n)
	for i := range args {
		args[i] = ids[min(i, len(ids)-1)]
	}
	return "(" + strings.Repeat("?,", n-1) + "?)", args
}
