package snapshots

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

var (
	// ErrLocked says that another process has the file open: a running etcd its db file, a running delete its archive.
	ErrLocked = errors.New("file is in use by another process")
	// ErrNotDB says that a file is nothing that etcd or this program wrote.
	ErrNotDB = errors.New("not an etcd db file")
	// ErrDamaged says that a file was a db file, but its pages or entries contradict themselves.
	ErrDamaged = errors.New("damaged db file")
	// ErrNotArchive says that a db file is not an archive of this program.
	ErrNotArchive = errors.New("not an archive")
	// ErrCompacted says that the file no longer holds the revision asked for.
	ErrCompacted = errors.New("revision was compacted")
	// ErrFutureRev says that the revision asked for is newer than the file.
	ErrFutureRev = errors.New("revision is newer than the file")
)

const defaultLockTimeout = 5 * time.Second

// Options changes how a file is opened.
type Options struct {
	// LockTimeout is how long to wait for a writer to go away; zero means 5 s.
	LockTimeout time.Duration
}

// Open opens a snapshot, a member's db file or an archive for reading. It never creates, changes or repairs the file;
// it takes a shared lock until [File.Close], so that a writer cannot change what is being read. Errors wrap
// [ErrLocked], [ErrNotDB], [ErrDamaged] or what the operating system said.
func Open(path string, opt Options) (*File, error) {
	h, err := openShared(path, opt.LockTimeout)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, size: h.size, db: h.db}
	if f.data, err = mapFile(h.file, path, h.size); err == nil {
		err = f.load(int64(h.db.Info().PageSize))
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// shared is a file under bbolt's own lock. Only the lock and the page size are bbolt's; see pages.
type shared struct {
	db   *bolt.DB
	file *os.File // owned by db
	size int64
}

func openShared(path string, timeout time.Duration) (*shared, error) {
	if err := looksLikeDB(path); err != nil {
		return nil, err
	}
	h := &shared{}
	db, err := openBolt(path, timeout, &bolt.Options{ReadOnly: true}, func(name string, _ int, _ os.FileMode) (*os.File, error) {
		var err error
		h.file, err = os.Open(name)
		return h.file, err
	})
	if err != nil {
		return nil, err
	}
	h.db = db
	st, err := h.file.Stat()
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open db file: %w", err)
	}
	h.size = st.Size()
	return h, nil
}

// looksLikeDB refuses early what bbolt would open, map or wait for: directories, pipes, empty and foreign files.
func looksLikeDB(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("open db file: %w", err)
	case !st.Mode().IsRegular():
		return fmt.Errorf("%w: %q is not a regular file", ErrNotDB, path)
	case st.Size() == 0:
		return fmt.Errorf("%w: %q is empty", ErrNotDB, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open db file: %w", err)
	}
	defer f.Close()
	head := make([]byte, pageHeaderSize+metaSize)
	if n, err := io.ReadFull(f, head); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read %q: %w", path, err)
	} else if n >= 4 && bytes.Equal(head[:4], []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return fmt.Errorf("%w: %q is compressed with zstd", ErrNotDB, path)
	} else if n >= 2 && bytes.Equal(head[:2], []byte{0x1f, 0x8b}) {
		return fmt.Errorf("%w: %q is compressed with gzip", ErrNotDB, path)
	}
	return nil
}

// openBolt opens path with bbolt and turns its errors, panics and faults into ours.
func openBolt(path string, timeout time.Duration, opt *bolt.Options, open func(string, int, os.FileMode) (*os.File, error)) (*bolt.DB, error) {
	opt.Timeout = timeout
	if timeout <= 0 {
		opt.Timeout = defaultLockTimeout
	}
	var file *os.File
	opt.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		var err error
		file, err = open(name, flag, mode)
		return file, err
	}
	var db *bolt.DB
	err := guard(path, func() (err error) {
		db, err = bolt.Open(path, 0o600, opt)
		return err
	})
	if err == nil {
		return db, nil
	}
	if file != nil {
		// bbolt leaves the file open when it panics, and its memory map would keep the lock of a closed one.
		_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
		_ = file.Close()
	}
	return nil, openError(path, err)
}

func openError(path string, err error) error {
	var pathErr *fs.PathError
	switch {
	case errors.Is(err, ErrDamaged):
		return err
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: %q", ErrLocked, path)
	case errors.As(err, &pathErr):
		return fmt.Errorf("open db file: %w", err)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return fmt.Errorf("%w: %q: %w", ErrNotDB, path, err)
	}
	return fmt.Errorf("open db file %q: %w", path, err)
}

// load finds the buckets and reads the small ones.
func (f *File) load(pageSize int64) error {
	if pageSize < pageHeaderSize+metaSize || pageSize > maxPageBytes || pageSize%elemSize != 0 {
		return fmt.Errorf("%w: %q has pages of %d bytes", ErrDamaged, f.path, pageSize)
	}
	var err error
	if f.pages, err = newPages(f.data, f.path, pageSize); err != nil {
		return err
	}
	var ok bool
	if f.keys, ok, err = f.pages.bucket(bucketKey); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("%w: %q has no bucket \"key\"", ErrNotDB, f.path)
	}
	if f.leases, f.hasLeases, err = f.pages.bucket(bucketLease); err != nil {
		return err
	}
	if err := f.loadArchive(); err != nil {
		return err
	}
	if f.archive == nil {
		return f.loadRevisions()
	}
	return nil
}

// loadRevisions finds the newest and the compacted revision as a starting etcd does (mvcc.store.restore): a
// compaction may have removed the newest entry, and a scheduled one may have begun to.
func (f *File) loadRevisions() error {
	last, err := f.pages.lastKey(f.keys)
	if err != nil {
		return err
	}
	f.rev = 1
	if last != nil {
		p, _, err := positionOf(last)
		if err != nil {
			return fmt.Errorf("%w: %q: %w", ErrDamaged, f.path, err)
		}
		f.rev = max(f.rev, p.Main)
	}
	meta, ok, err := f.pages.bucket(bucketMeta)
	if err != nil || !ok {
		return err
	}
	for _, name := range []string{"scheduledCompactRev", "finishedCompactRev"} {
		e, ok, err := f.pages.get(meta, []byte(name))
		if err != nil {
			return err
		}
		if !ok || len(e.value) < posLen {
			continue
		}
		f.compacted = max(f.compacted, int64(binary.BigEndian.Uint64(e.value)))
	}
	f.rev = max(f.rev, f.compacted)
	return nil
}

// SHA256 is the checksum of a whole file in lower-case hex. It reads the file as a stream and stops when ctx ends.
func SHA256(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("checksum: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return "", fmt.Errorf("checksum of %q: %w", path, err)
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return fmt.Sprintf("%x", h.Sum(nil)), nil
		} else if err != nil {
			return "", fmt.Errorf("checksum: %w", err)
		}
	}
}
