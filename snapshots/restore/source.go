package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// source is the file to restore, under the lock of its reader.
type source struct {
	path string
	file *snapshots.File
}

// open opens the file where it lies, or if it is compressed a copy below dir: etcd's code takes a path.
func open(ctx context.Context, opt Options, dir *directory) (*source, error) {
	s := &source{path: opt.Snapshot}
	packed, err := snapshots.Packed(s.path)
	if err != nil {
		return nil, err
	}
	if packed {
		in, err := os.Open(opt.Snapshot)
		if err != nil {
			return nil, fmt.Errorf("read snapshot: %w", err)
		}
		defer in.Close()
		s.path = dir.copy()
		if err := Unpack(ctx, in, s.path); err != nil {
			return nil, fmt.Errorf("unpack %q below %q: %w", opt.Snapshot, dir.part, err)
		}
	}
	if s.file, err = snapshots.Open(s.path, snapshots.Options{TempDir: dir.part}); err != nil {
		return nil, err
	}
	if s.file.Compressed() { // still
		return nil, errors.Join(fmt.Errorf("%w: %q is compressed twice", snapshots.ErrNotDB, opt.Snapshot), s.file.Close())
	}
	return s, nil
}

// Check reads a whole file before it is restored, or changed: what etcd's own code, and bbolt, would end the process for,
// or worse go on with, gives an error that wraps [snapshots.ErrDamaged]. Others are ErrArchive and ErrNoHash.
func Check(ctx context.Context, f *snapshots.File, hash Hash) error {
	if f.IsArchive() {
		return ErrArchive
	}
	if !f.HasHash() && hash == HashRequired {
		return ErrNoHash
	}
	if f.HasHash() && hash != HashIgnored {
		if err := f.CheckHash(ctx); err != nil {
			return err
		}
	}
	return f.Check(ctx)
}

// Unpack is [snapshots.Unpack] into a new file, mode 0600, which is gone after an error.
func Unpack(ctx context.Context, in io.Reader, path string) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = snapshots.Unpack(ctx, out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
