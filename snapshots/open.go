package snapshots

import (
	"context"
	"crypto/sha256"
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
	// TempDir is where a compressed file is unpacked, into a file without a name; "" is [os.TempDir], or /var/tmp if
	// that is memory and TMPDIR is not set. It needs as much room as the content, or Open fails with [ErrNoSpace].
	TempDir string
	// Tolerant reads what can be read of a damaged file and leaves out the rest, of which [File.Damage] tells. What
	// writes to a cluster by a file's completeness must not use it.
	Tolerant bool
}

// Open opens a snapshot, a member's db file or an archive for reading, each of them also compressed with zstd. It
// never creates, changes or repairs the file; it takes a shared lock until [File.Close], so that a writer cannot
// change what is being read. Errors wrap [ErrLocked], [ErrNotDB], [ErrDamaged], [ErrNoSpace] or what the operating
// system said.
func Open(path string, opt Options) (*File, error) {
	return OpenContext(context.Background(), path, opt)
}

// OpenContext is [Open], and stops unpacking when ctx ends.
func OpenContext(ctx context.Context, path string, opt Options) (*File, error) {
	f, err := openFile(ctx, path, opt)
	if err != nil {
		return nil, err
	}
	if err := f.load(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// openFile locks and maps a file; nothing in it is looked at yet.
func openFile(ctx context.Context, path string, opt Options) (*File, error) {
	h, err := openShared(ctx, path, opt)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, size: h.size, db: h.db, file: h.file, compressed: h.compressed, tolerant: opt.Tolerant}
	if f.data, err = mapFile(h.file, path, h.size); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// shared is a file under bbolt's own lock. Only the lock and the page size are bbolt's; see pages.
type shared struct {
	db         *bolt.DB
	file       *os.File // owned by db
	size       int64
	compressed bool
}

func openShared(ctx context.Context, path string, opt Options) (*shared, error) {
	h := &shared{}
	unpacked, err := unpackIfPacked(ctx, path, opt.TempDir)
	if err != nil {
		return nil, err
	}
	h.compressed = unpacked != nil
	db, err := openBolt(path, opt.LockTimeout, &bolt.Options{ReadOnly: true}, func(name string, _ int, _ os.FileMode) (*os.File, error) {
		if h.file = unpacked; unpacked != nil {
			return unpacked, nil
		}
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

// Packed says whether the file at path is compressed with zstd. It refuses early, with an error that wraps [ErrNotDB],
// what bbolt would open, map or wait for: directories, pipes, empty and foreign files.
func Packed(path string) (bool, error) {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return false, fmt.Errorf("open db file: %w", err)
	case !st.Mode().IsRegular():
		return false, fmt.Errorf("%w: %q is not a regular file", ErrNotDB, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("open db file: %w", err)
	}
	defer f.Close()
	return looksPacked(f, path)
}

// unpackIfPacked gives the unpacked content of a compressed file, and nil for one that is not compressed.
func unpackIfPacked(ctx context.Context, path, dir string) (*os.File, error) {
	packed, err := Packed(path)
	if err != nil || !packed {
		return nil, err
	}
	unpacked, err := unpackFile(ctx, path, dir)
	if err != nil {
		return nil, err
	}
	if packed, err = looksPacked(unpacked, path); packed {
		err = fmt.Errorf("%w: %q is compressed twice", ErrNotDB, path)
	}
	if err != nil {
		_ = unpacked.Close()
		return nil, err
	}
	return unpacked, nil
}

// looksPacked says whether f is zstd, and refuses what is empty or compressed otherwise.
func looksPacked(f *os.File, path string) (bool, error) {
	head := make([]byte, 16)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read %q: %w", path, err)
	}
	if n == 0 {
		return false, fmt.Errorf("%w: %q is empty", ErrNotDB, path)
	}
	if name, unpack := packedWith(head[:n]); name != "" {
		return false, fmt.Errorf("%w: %q is compressed with %s; unpack it first (%s)", ErrNotDB, path, name, unpack)
	}
	return isZstd(head[:n]), nil
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
	var errno syscall.Errno
	switch {
	case errors.Is(err, ErrDamaged):
		return err
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: %q", ErrLocked, path)
	case errors.As(err, &pathErr):
		return fmt.Errorf("open db file: %w", err)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return fmt.Errorf("%w: %q: %w", ErrNotDB, path, err)
	case !errors.As(err, &errno):
		return &damage{path, err.Error()} // shorter than its two meta pages
	}
	return fmt.Errorf("open db file %q: %w", path, err)
}

// load finds the buckets and reads the small ones.
func (f *File) load() error {
	pageSize := int64(f.db.Info().PageSize)
	if pageSize < pageHeaderSize+metaSize || pageSize > maxPageBytes || pageSize%elemSize != 0 {
		return fmt.Errorf("%w: %q has pages of %d bytes", ErrDamaged, f.path, pageSize)
	}
	var err error
	if f.pages, err = newPages(f.data, f.path, pageSize); err != nil {
		return err
	}
	if !f.tolerant {
		return f.loadState()
	}
	f.pages.lost, f.pages.doubtZeros = f.losePage, !f.HasHash() && !f.written
	return f.loadTolerant()
}

// loadState reads what the chosen meta page leads to.
func (f *File) loadState() error {
	var ok bool
	var err error
	if f.keys, ok, err = f.pages.bucket(bucketKey); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("%w: %q has no bucket \"key\"", ErrNotDB, f.path)
	}
	if f.tolerant && f.keys.root != 0 { // else all of it would be lost, and another state may have it
		err := guard(f.path, func() error { _, err := f.pages.view(f.keys.root); return err })
		if err != nil {
			return err
		}
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
	f.pages.doubtZeros = false // what it holds was synced before anything led to it, and has checksums
	return nil
}

// loadRevisions finds the newest and the compacted revision as a starting etcd does (mvcc.store.restore): a
// compaction may have removed the newest entry, and a scheduled one may have begun to.
func (f *File) loadRevisions() error {
	last, err := f.lastRevision()
	if err != nil {
		return err
	}
	f.rev = max(1, last)
	meta, ok, err := f.pages.bucket(bucketMeta)
	if err != nil || !ok {
		return err
	}
	for _, name := range []string{"scheduledCompactRev", "finishedCompactRev"} {
		rev, err := f.compactedIn(meta, name)
		if err != nil {
			return err
		}
		f.compacted = max(f.compacted, rev)
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
