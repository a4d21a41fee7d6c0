package supervise

import (
	"os"
	"strconv"
	"strings"
)

// startTime is when a process began, in the kernel's ticks since boot; with the id it names a process for good. 0 when there
// is no such process.
func startTime(pid int) uint64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	_, rest, ok := strings.Cut(string(data), ") ") // the name before may hold anything, but ") " ends it last
	if i := strings.LastIndex(string(data), ") "); i >= 0 {
		rest, ok = string(data)[i+2:], true
	}
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0
	}
	n, err := strconv.ParseUint(fields[19], 10, 64) // field 22 of the whole line
	if err != nil {
		return 0
	}
	return n
}

// zombie reports whether a process has ended and only waits to be noticed; it holds nothing any more.
func zombie(pid int) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	i := strings.LastIndex(string(data), ") ")
	return i >= 0 && i+2 < len(data) && (data[i+2] == 'Z' || data[i+2] == 'X')
}
