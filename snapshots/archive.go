package snapshots

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
)

// Archive appends entries to an archive file. It holds the file's exclusive lock until [Archive.Close]. All its
// methods may be called at the same time from several goroutines.
type Archive struct {
	path string
	info ArchiveInfo
	db   *bolt.DB

	mu     sync.Mutex
	count  int64
	failed error // why nothing more may be written
}

// CreateArchive makes a new archive. The file must not exist (the error wraps [fs.ErrExist]); it has mode 0600 and
// its final name from the first byte, and it and its directory entry are on disk when CreateArchive returns. After an
// error nothing is left behind.
func CreateArchive(path string, info ArchiveInfo) (*Archive, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("create archive: %w", err)
	}
	info.Version = archiveVersion
	created := false
	db, err := openBolt(abs, 0, writeOptions(), func(name string, flag int, _ os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag|os.O_EXCL, 0o600)
		created = err == nil
		return f, err
	})
	if err == nil {
		a := &Archive{path: abs, info: info, db: db}
		if err = a.init(); err == nil {
			return a, nil
		}
		_ = db.Close()
	}
	if created {
		err = errors.Join(err, os.Remove(abs))
	}
	return nil, fmt.Errorf("create archive %q: %w", abs, err)
}

// OpenArchive opens an archive to append to it. It reads the whole file first and refuses a damaged one. Errors wrap
// [ErrLocked] when another process has the file open for longer than lockTimeout (zero: 5 s), and [ErrNotArchive]
// when the file is something else.
func OpenArchive(path string, lockTimeout time.Duration) (*Archive, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	// bbolt rebuilds its free list from the page tree, which a damaged file would make it do for ever.
	info, err := inspectArchive(abs, lockTimeout)
	if err != nil {
		return nil, err
	}
	db, err := openBolt(abs, lockTimeout, writeOptions(), func(name string, flag int, mode os.FileMode) (*os.File, error) {
		return os.OpenFile(name, flag&^os.O_CREATE, mode)
	})
	if err != nil {
		return nil, err
	}
	a := &Archive{path: abs, info: info, db: db}
	err = guard(abs, func() error {
		return db.View(func(tx *bolt.Tx) error {
			a.count, err = lastOrdinal(tx.Bucket([]byte(bucketKey)))
			return err
		})
	})
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open archive %q: %w", abs, err)
	}
	return a, nil
}

func inspectArchive(path string, lockTimeout time.Duration) (ArchiveInfo, error) {
	f, err := Open(path, Options{LockTimeout: lockTimeout})
	if errors.Is(err, ErrNotDB) {
		return ArchiveInfo{}, fmt.Errorf("%w: %w", ErrNotArchive, err)
	} else if err != nil {
		return ArchiveInfo{}, err
	}
	info, ok := f.Archive()
	if f.Compressed() {
		err = fmt.Errorf("%w that can be appended to: %q is compressed", ErrNotArchive, path)
	} else if !ok {
		err = fmt.Errorf("%w: %q", ErrNotArchive, path)
	} else {
		err = f.Check(context.Background())
	}
	return info, errors.Join(err, f.Close())
}

func writeOptions() *bolt.Options {
	return &bolt.Options{
		// The free list is rebuilt on opening; not writing it halves the small writes of every commit.
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
	}
}

func (a *Archive) init() error {
	js, err := json.Marshal(a.info)
	if err != nil {
		return err
	}
	err = guard(a.path, func() error {
		return a.db.Update(func(tx *bolt.Tx) error {
			for _, name := range []string{bucketKey, bucketMeta, bucketLease, bucketOwn} {
				if _, err := tx.CreateBucket([]byte(name)); err != nil {
					return err
				}
			}
			return tx.Bucket([]byte(bucketOwn)).Put([]byte(keyInfo), js)
		})
	})
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(a.path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Info is what the archive was created with.
func (a *Archive) Info() ArchiveInfo { return a.info }

// Path is the absolute path of the archive.
func (a *Archive) Path() string { return a.path }

// Len is the number of entries in the archive.
func (a *Archive) Len() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.count
}

// Append adds entries in the given order and remembers stage with them. leaseTTL gives the granted time to live, in
// seconds, of the leases that the entries are attached to.
//
// When Append returns nil, all of it is on disk. When it returns an error, none of it may be taken for archived; the
// file stays readable, with all earlier entries. After a failed write this Archive accepts no more: what the kernel
// does with unwritten data is unknown then. Close it, and open it again when the disk is sound.
func (a *Archive) Append(stage int, kvs []*mvccpb.KeyValue, leaseTTL map[int64]int64) error {
	b, err := encode(kvs, leaseTTL)
	if err != nil {
		return fmt.Errorf("archive %q: %w", a.path, err)
	}
	if len(kvs) == 0 && len(leaseTTL) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	err = a.update(func(tx *bolt.Tx) error { return b.write(tx, stage) })
	if err != nil {
		return fmt.Errorf("archive %q: append %d entries: %w", a.path, len(kvs), err)
	}
	a.count += int64(len(kvs))
	return nil
}

// Note adds a remark to the audit trail, such as the command line of a further run on this archive. Remarks are never
// replaced: the same key may be used again. The guarantees are those of [Archive.Append].
func (a *Archive) Note(key string, value []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.update(func(tx *bolt.Tx) error {
		own := tx.Bucket([]byte(bucketOwn))
		n, err := own.NextSequence()
		if err != nil {
			return err
		}
		return own.Put(fmt.Appendf(nil, "%s%020d/%s", notePrefix, n, key), value)
	})
	if err != nil {
		return fmt.Errorf("archive %q: add note %q: %w", a.path, key, err)
	}
	return nil
}

// Close gives up the file. What was appended is on disk already.
func (a *Archive) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := guard(a.path, a.db.Close); err != nil {
		return fmt.Errorf("close archive %q: %w", a.path, err)
	}
	return nil
}

// update runs one transaction and refuses all later ones once one has failed. The caller holds a.mu.
func (a *Archive) update(fn func(*bolt.Tx) error) error {
	if a.failed != nil {
		return fmt.Errorf("not written after an earlier failure: %w", a.failed)
	}
	a.failed = guard(a.path, func() error { return a.db.Update(fn) })
	return a.failed
}

// encoded is one Append, ready to be written.
type encoded struct {
	values [][]byte
	rev    int64 // highest ModRevision
	leases map[int64][]byte
}

func encode(kvs []*mvccpb.KeyValue, leaseTTL map[int64]int64) (*encoded, error) {
	b := &encoded{values: make([][]byte, len(kvs)), leases: make(map[int64][]byte, len(leaseTTL))}
	var err error
	for i, kv := range kvs {
		if len(kv.GetKey()) == 0 {
			return nil, fmt.Errorf("entry %d of %d has no key", i+1, len(kvs))
		}
		if b.values[i], err = proto.Marshal(kv); err != nil {
			return nil, fmt.Errorf("encode %q: %w", kv.GetKey(), err)
		}
		b.rev = max(b.rev, kv.GetModRevision())
	}
	for id, ttl := range leaseTTL {
		if b.leases[id], err = proto.Marshal(&leasepb.Lease{ID: id, TTL: ttl}); err != nil {
			return nil, fmt.Errorf("encode lease %x: %w", id, err)
		}
	}
	return b, nil
}

func (b *encoded) write(tx *bolt.Tx, stage int) error {
	for id, lease := range b.leases {
		if err := tx.Bucket([]byte(bucketLease)).Put(leaseKey(id), lease); err != nil {
			return err
		}
	}
	if len(b.values) == 0 {
		return nil
	}
	keys := tx.Bucket([]byte(bucketKey))
	// Entries are only ever added at the end, so half-empty pages would stay so.
	keys.FillPercent = 1
	last, err := lastOrdinal(keys)
	if err != nil {
		return err
	}
	rec := batch{first: last + 1, Stage: stage, Count: int64(len(b.values))}
	sum := newBatchSum()
	for i, v := range b.values {
		pos := Position{Main: rec.first + int64(i)}
		sum.add(pos, v)
		if err := keys.Put(pos.bytes(), v); err != nil {
			return err
		}
	}
	rec.SHA256 = sum.String()
	return b.describe(tx.Bucket([]byte(bucketOwn)), rec)
}

func (b *encoded) describe(own *bolt.Bucket, rec batch) error {
	js, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := own.Put(rec.key(), js); err != nil {
		return err
	}
	if old := own.Get([]byte(keyRevision)); len(old) == 8 && int64(binary.BigEndian.Uint64(old)) >= b.rev {
		return nil
	}
	return own.Put([]byte(keyRevision), binary.BigEndian.AppendUint64(nil, uint64(b.rev)))
}

// lastOrdinal is read from the file in every transaction, so that no count in memory can ever overwrite an entry.
func lastOrdinal(keys *bolt.Bucket) (int64, error) {
	k, _ := keys.Cursor().Last()
	if k == nil {
		return 0, nil
	}
	p, _, err := positionOf(k)
	return p.Main, err
}
