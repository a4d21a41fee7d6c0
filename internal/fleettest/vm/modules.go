package vm

import (
	"debug/elf"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// modules of Debian's kernel that a machine of ours needs; what is built into the kernel has no file and needs none.
var modules = []string{"virtio_pci", "virtio_blk", "virtio_net"}

// modulesOfAnEngine are those of a Docker Engine and its containers. Nothing in the machine loads modules when they are asked for.
var modulesOfAnEngine = []string{
	"overlay", "bridge", "br_netfilter", "veth", "nf_tables", "nft_compat", "nft_chain_nat", "nf_nat", "nf_conntrack", "nf_conntrack_netlink", "nfnetlink",
	"xt_conntrack", "xt_addrtype", "xt_nat", "xt_MASQUERADE", "xt_mark", "xt_comment", "xt_tcpudp", "xt_REDIRECT", "xt_multiport", "nft_counter", "xt_mac", "xt_limit",
}

// withNeeded gives the files of modules, each after those that it needs.
func withNeeded(t *testing.T, kernel string, names []string) (files []string) {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(filepath.Join(kernel, "lib", "modules"), func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			all[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatalf("%s has no modules", kernel)
	}
	var add func(name string)
	add = func(name string) {
		file := all[strings.ReplaceAll(name, "-", "_")]
		if file == "" || slices.Contains(files, file) {
			return
		}
		for _, needed := range needs(t, file) {
			add(needed)
		}
		files = append(files, file)
	}
	for _, name := range names {
		add(name)
	}
	return files
}

// needs reads from a module which others it needs.
func needs(t *testing.T, file string) []string {
	t.Helper()
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	section := f.Section(".modinfo")
	if section == nil {
		t.Fatalf("%s is no module", file)
	}
	info, err := section.Data()
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range strings.Split(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(list, ",")
		}
	}
	return nil
}
