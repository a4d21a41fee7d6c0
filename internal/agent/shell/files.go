package shell

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/sftp"
)

const maxLinks = 40 // of one path

// tree is the files below a root, which nothing leads out of: a link in a container that is absolute means the container's own root.
type tree struct{ root *os.Root }

// errLoop says that links lead round and round.
var errLoop = syscall.ELOOP

// resolve gives the path, without a slash before it, that a name means once links were followed; those of the last part only if last.
func (t *tree) resolve(name string, last bool) (string, error) {
	todo := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	var done []string
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(done) > 0 {
				done = done[:len(done)-1]
			}
			continue
		}
		here := strings.Join(append(done[:len(done):len(done)], part), "/")
		if len(todo) == 0 && !last {
			return here, nil
		}
		info, err := t.root.Lstat(here)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			if err != nil && (len(todo) > 0 || !errors.Is(err, fs.ErrNotExist)) {
				return "", err
			}
			done = append(done, part)
			continue
		}
		if links++; links > maxLinks {
			return "", errLoop
		}
		to, err := t.root.Readlink(here)
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(to, "/") {
			done = nil
		}
		todo = append(strings.Split(to, "/"), todo...)
	}
	if len(done) == 0 {
		return ".", nil
	}
	return strings.Join(done, "/"), nil
}

// Fileread implements sftp.FileReader.
func (t *tree) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	f, err := t.open(r.Filepath, os.O_RDONLY)
	if err != nil {
		return nil, err // a nil file in an interface would not be nil
	}
	return f, nil
}

// Filewrite implements sftp.FileWriter.
func (t *tree) Filewrite(r *sftp.Request) (io.WriterAt, error) {
	return t.OpenFile(r)
}

// OpenFile implements sftp.OpenFileWriter.
func (t *tree) OpenFile(r *sftp.Request) (sftp.WriterAtReaderAt, error) {
	want := r.Pflags()
	flags := os.O_WRONLY
	if want.Read {
		flags = os.O_RDWR
	}
	if want.Creat {
		flags |= os.O_CREATE
	}
	if want.Trunc {
		flags |= os.O_TRUNC
	}
	if want.Excl {
		flags |= os.O_EXCL
	}
	f, err := t.open(r.Filepath, flags) // to append is to write at the end, which the client says itself
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (t *tree) open(name string, flags int) (*os.File, error) {
	at, err := t.resolve(name, true)
	if err != nil {
		return nil, err
	}
	return t.root.OpenFile(at, flags|syscall.O_NONBLOCK, 0o644) // a pipe without another end must not keep us
}

// Filecmd implements sftp.FileCmder.
func (t *tree) Filecmd(r *sftp.Request) error {
	if r.Method == "Symlink" { // the file is what the link says, the target is where it is
		to, err := t.resolve(r.Target, false)
		if err != nil {
			return err
		}
		return t.root.Symlink(r.Filepath, to)
	}
	at, err := t.resolve(r.Filepath, r.Method == "Setstat")
	if err != nil {
		return err
	}
	switch r.Method {
	case "Setstat":
		return t.set(at, r)
	case "Mkdir":
		return t.root.Mkdir(at, 0o755)
	case "Remove", "Rmdir":
		return t.root.Remove(at)
	case "Rename", "Link":
		to, err := t.resolve(r.Target, false)
		if err != nil {
			return err
		}
		if r.Method == "Link" {
			return t.root.Link(at, to)
		}
		if _, err := t.root.Lstat(to); err == nil {
			return fs.ErrExist // what replaces is PosixRename
		}
		return t.root.Rename(at, to)
	}
	return sftp.ErrSSHFxOpUnsupported
}

// PosixRename implements sftp.PosixRenameFileCmder.
func (t *tree) PosixRename(r *sftp.Request) error {
	at, err := t.resolve(r.Filepath, false)
	if err != nil {
		return err
	}
	to, err := t.resolve(r.Target, false)
	if err != nil {
		return err
	}
	return t.root.Rename(at, to)
}

// set changes what a client names of a file's attributes.
func (t *tree) set(at string, r *sftp.Request) error {
	which, what := r.AttrFlags(), r.Attributes()
	if which.Size {
		f, err := t.root.OpenFile(at, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		err = f.Truncate(int64(what.Size)) //nolint:gosec // a size that is too large is refused by the kernel
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	if which.UidGid {
		if err := t.root.Chown(at, int(what.UID), int(what.GID)); err != nil {
			return err
		}
	}
	if which.Permissions {
		if err := t.root.Chmod(at, what.FileMode()); err != nil {
			return err
		}
	}
	if which.Acmodtime {
		return t.root.Chtimes(at, time.Unix(int64(what.Atime), 0), time.Unix(int64(what.Mtime), 0))
	}
	return nil
}

// list is an answer that is a list.
type list []fs.FileInfo

// ListAt implements sftp.ListerAt.
func (l list) ListAt(to []fs.FileInfo, offset int64) (int, error) {
	if offset >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(to, l[offset:])
	if n < len(to) {
		return n, io.EOF
	}
	return n, nil
}

// Filelist implements sftp.FileLister.
func (t *tree) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	at, err := t.resolve(r.Filepath, true)
	if err != nil {
		return nil, err
	}
	if r.Method == "Stat" {
		info, err := t.root.Lstat(at)
		return list{info}, err
	}
	if r.Method != "List" {
		return nil, sftp.ErrSSHFxOpUnsupported
	}
	f, err := t.root.OpenFile(at, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var out list
	for _, e := range entries {
		if info, err := t.root.Lstat(path.Join(at, e.Name())); err == nil { // what is gone meanwhile is not listed
			out = append(out, info)
		}
	}
	return out, nil
}

// Lstat implements sftp.LstatFileLister.
func (t *tree) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	at, err := t.resolve(r.Filepath, false)
	if err != nil {
		return nil, err
	}
	info, err := t.root.Lstat(at)
	if err != nil {
		return nil, err
	}
	return list{info}, nil
}

// Readlink implements sftp.ReadlinkFileLister.
func (t *tree) Readlink(name string) (string, error) {
	at, err := t.resolve(name, false)
	if err != nil {
		return "", err
	}
	return t.root.Readlink(at)
}
