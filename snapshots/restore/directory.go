package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// overhead is what a data directory takes besides the db: etcd lays out two segments of the write-ahead log, of 64 MiB
// each, one of which goes away, and lets the db grow in steps of 16 MiB.
const overhead = 160 << 20

// directory is a data directory in the making.
type directory struct {
	final, part string
	lock        *os.File // part itself
	statfs      func(string, *unix.Statfs_t) error
}

// begin makes and locks the directory that everything is written below.
func begin(dataDir string) (*directory, error) {
	final, err := filepath.Abs(dataDir)
	if err != nil {
		return nil, err
	}
	d := &directory{final: final, part: final + ".part", statfs: unix.Statfs}
	if _, err := os.Lstat(final); err == nil {
		return nil, fmt.Errorf("%w: %q", ErrExists, final)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	err = os.Mkdir(d.part, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil, d.who()
	} else if err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if d.lock, err = lockDirectory(d.part); err != nil {
		return nil, errors.Join(err, os.Remove(d.part))
	}
	return d, nil
}

func lockDirectory(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), f.Close())
	}
	return f, nil
}

// who says whose the directory is. One that was left behind is not removed here: nothing in it says that it is ours.
func (d *directory) who() error {
	f, err := lockDirectory(d.part)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%w: %q is being written by another restore", ErrPart, d.part)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrPart, err)
	}
	_ = f.Close() // which gives up the lock
	return fmt.Errorf("%w: %q was left by a restore that did not end", ErrPart, d.part)
}

// data is where etcd's code writes, copy where a compressed file is unpacked.
func (d *directory) data() string { return filepath.Join(d.part, "data") }
func (d *directory) copy() string { return filepath.Join(d.part, "snapshot.db") }

func (d *directory) free() (int64, error) {
	var s unix.Statfs_t
	if err := d.statfs(d.part, &s); err != nil {
		return 0, fmt.Errorf("free space of %q: %w", d.part, err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// room refuses to begin what the disk cannot hold.
func (d *directory) room(need int64) error {
	free, err := d.free()
	if err == nil && free < need {
		err = fmt.Errorf("%w: it takes %s more, and %q has %s", snapshots.ErrNoSpace, mebibytes(need), filepath.Dir(d.final), mebibytes(free))
	}
	return err
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20) }

// end gives what was made its name, if all is well, and removes the rest.
func (d *directory) end(good bool) error {
	var err error
	if good {
		if err = d.settle(); err != nil {
			err = fmt.Errorf("make data directory: %w", err)
		}
	}
	// A moment ago etcd's code may still have been at work in it.
	rest := os.RemoveAll(d.part)
	for range 3 {
		if rest != nil {
			rest = os.RemoveAll(d.part)
		}
	}
	return errors.Join(err, rest, d.lock.Close())
}

// settle syncs everything, and renames. No directory that holds anything is ever replaced by that.
func (d *directory) settle() error {
	if err := syncAll(d.data()); err != nil {
		return err
	}
	if _, err := os.Lstat(d.final); err == nil {
		return fmt.Errorf("%w: %q, since a moment", ErrExists, d.final)
	}
	if err := os.Rename(d.data(), d.final); err != nil {
		return err
	}
	return syncFile(filepath.Dir(d.final))
}

// syncAll brings a tree to the disk. etcd syncs its files, but not every directory that holds them.
func syncAll(root string) error {
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncFile(path)
	})
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
