package supervise

import (
	"os"
	"strconv"
	"strings"
)

// stat gives what the kernel says of a process from the third field on: its state first. nil when there is no such process.
func stat(pid int) []string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	// The second field is the program's name in parentheses, which may hold anything: the last ") " ends it.
	end := strings.LastIndex(string(data), ") ")
	if end < 0 {
		return nil
	}
	return strings.Fields(string(data[end+2:]))
}

// startTime is when a process began, in the kernel's ticks since boot; with the id it names a process for good. 0 when there
// is no such process.
func startTime(pid int) uint64 {
	fields := stat(pid)
	if len(fields) < 20 {
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
	fields := stat(pid)
	return len(fields) > 0 && (fields[0] == "Z" || fields[0] == "X")
}
