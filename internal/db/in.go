package db

import "strings"

// In gives the list of an IN condition and its values: (?,?,?,?). Its length is the next power of two, so that few statements
// have to be prepared; the last value is repeated. No values give a list that nothing is in.
func In[T any](ids []T) (list string, args []any) {
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

// Rows gives n rows of a VALUES list, each written as row is: (?, ?), (?, ?).
func Rows(row string, n int) string { return strings.Repeat(row+", ", n-1) + row }

// Values gives the rows of a VALUES list that a statement joins, and their values. Like the list of [In] it has a power of two of
// rows, the last repeated: use it only where a row that comes twice counts once.
func Values(row string, values [][]any) (list string, args []any) {
	n := 1
	for n < len(values) {
		n *= 2
	}
	for i := range n {
		args = append(args, values[min(i, len(values)-1)]...)
	}
	return Rows(row, n), args
}
