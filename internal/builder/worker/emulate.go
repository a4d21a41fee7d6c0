package worker

import (
	_ "embed"
	"fmt"
	"runtime"
	"slices"
	"strings"
)

//go:embed emulate.sh
var emulateScript string // registers emulators and starts buildkitd

// emulator is a program of the package qemu-user-static, and by what the kernel knows the programs that it runs.
type emulator struct {
	platforms []string
	program   string
	// magic and mask are of the first 20 bytes of an ELF file: class, byte order and version, kind (executable or shared), machine.
	magic, mask string
}

const (
	elf32 = `\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00`
	elf64 = `\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00`
	// anyABI lets the byte that tells the ABI, and those after it, be anything small.
	anyABI = `\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`
)

var emulators = []emulator{
	{[]string{"linux/arm64"}, "qemu-aarch64-static", elf64 + `\x02\x00\xb7\x00`, anyABI},
	{[]string{"linux/arm/v7", "linux/arm/v6"}, "qemu-arm-static", elf32 + `\x02\x00\x28\x00`, anyABI},
	{[]string{"linux/amd64"}, "qemu-x86_64-static", elf64 + `\x02\x00\x3e\x00`, anyABI},
	{[]string{"linux/386"}, "qemu-i386-static", elf32 + `\x02\x00\x03\x00`, anyABI},
}

// foreign are the emulators of programs that this machine's processor does not run.
func foreign() []emulator {
	return slices.DeleteFunc(slices.Clone(emulators), func(e emulator) bool {
		return slices.ContainsFunc(e.platforms, func(p string) bool { return slices.Contains(native[runtime.GOARCH], p) })
	})
}

// emulation gives the command that registers this machine's emulators before a daemon starts. Flags: the program keeps its own name (P),
// is opened for the emulator (O), and the emulator itself is opened now (F), for it does not lie in the images.
func emulation() []string {
	var lines []string
	for _, e := range foreign() {
		if path, err := lookPath(e.program); err == nil {
			lines = append(lines, fmt.Sprintf(":%s:M::%s:%s:%s:POF", strings.TrimSuffix(e.program, "-static"), e.magic, e.mask, path))
		}
	}
	return []string{"/bin/sh", "-c", emulateScript, "sh", strings.Join(lines, "\n")}
}

// Missing is a platform that images cannot be built for here.
type Missing struct {
	Platform string `json:"platform"`
	Why      string `json:"why"`
}

// missing says why this machine does not build for the platforms that it could emulate and does not.
func missing(can []Platform) []Missing {
	var list []Missing
	for _, e := range foreign() {
		why := "the kernel does not run emulators inside builds: Linux 6.7 or later does, or one registered for the whole machine " +
			"(systemd-binfmt)"
		if _, err := lookPath(e.program); err != nil {
			why = e.program + " is missing: Debian's package qemu-user-static has it"
		}
		for _, p := range e.platforms {
			if !slices.ContainsFunc(can, func(c Platform) bool { return c.Platform == p }) {
				list = append(list, Missing{Platform: p, Why: why})
			}
		}
	}
	return list
}
