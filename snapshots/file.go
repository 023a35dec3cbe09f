// Package snapshots reads and writes db files in etcd's own backend format.
//
// One reader, [File], serves snapshots as "etcdctl snapshot save" writes them, the raw db file of a stopped member,
// and archives: the undo record that this program writes before it deletes anything. Reading never changes, creates
// or repairs a file, and a damaged file gives an error that names it, never a panic, a fault or an endless loop.
//
// One writer, [Archive], appends entries. Its invariant: when [Archive.Append] returns nil, the entries are on disk
// and survive a crash of the program and of the machine; when it returns an error, every earlier entry still does.
// The format is specified in docs/archive.md.
package snapshots

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
)

const (
	bucketKey   = "key"
	bucketMeta  = "meta"
	bucketLease = "lease"
)

// File is an open db file. All its methods may be called at the same time from several goroutines, but none after or
// during [File.Close].
type File struct {
	path      string
	size      int64
	db        *bolt.DB // holds the lock
	pages     *pages
	keys      tree
	leases    tree
	hasLeases bool
	rev       int64
	compacted int64
	archive   *archiveMeta // nil unless this is an archive

	mu     sync.Mutex
	newest *index
	older  *index // the last one built for another revision
}

// Close gives up the lock and the file.
func (f *File) Close() error {
	if err := f.db.Close(); err != nil {
		return fmt.Errorf("close %q: %w", f.path, err)
	}
	return nil
}

// Path is the path that the file was opened with.
func (f *File) Path() string { return f.path }

// Size is the length of the file in bytes, hash trailer included.
func (f *File) Size() int64 { return f.size }

// HasHash says whether the file ends with the 32-byte sha256 that "etcdctl snapshot save" appends. The hash is not
// checked here.
func (f *File) HasHash() bool { return f.size%512 == 32 }

// IsArchive says whether this program wrote the file as an archive.
func (f *File) IsArchive() bool { return f.archive != nil }

// Archive is what an archive says about itself; false for other files.
func (f *File) Archive() (ArchiveInfo, bool) {
	if f.archive == nil {
		return ArchiveInfo{}, false
	}
	return f.archive.info, true
}

// Revision is the newest revision in the file. In an archive it is the highest ModRevision of its entries, 0 when it
// has none; elsewhere it is at least 1, as in a fresh etcd.
func (f *File) Revision() int64 { return f.rev }

// Compacted is the revision that was last compacted, finished or only scheduled; 0 if none. It is the oldest revision
// that can be read.
func (f *File) Compacted() int64 { return f.compacted }

// LeaseTTL is the granted time to live of a lease in seconds. It is false when the file does not know the lease.
func (f *File) LeaseTTL(id int64) (seconds int64, ok bool) {
	if !f.hasLeases {
		return 0, false
	}
	e, ok, err := f.pages.get(f.leases, leaseKey(id))
	if err != nil || !ok {
		return 0, false
	}
	var l leasepb.Lease
	if err := proto.Unmarshal(e.value, &l); err != nil {
		return 0, false
	}
	return l.TTL, true
}

func leaseKey(id int64) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(id))
}

// Scan calls fn for every key in [start, end) that is alive at revision rev, in key order. rev 0 means the newest.
// An empty end means only the key start; the end "\x00" means all keys from start on, as in etcd. fn may keep what it
// is given. An error of fn ends the scan and is returned as it is. A rev that the file does not hold gives
// [ErrCompacted] or [ErrFutureRev].
//
// In an archive rev is ignored, and the last entry of a key is the one that counts.
func (f *File) Scan(ctx context.Context, start, end string, rev int64, fn func(*mvccpb.KeyValue) error) error {
	x, err := f.index(ctx, rev)
	if err != nil {
		return err
	}
	lo, hi := x.bounds(start, end)
	var p page
	var buf []byte
	for i := lo; i < hi; i++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read %q: %w", f.path, err)
		}
		at := x.places[i]
		if p.data == nil || p.id != at.page {
			if p, buf, err = f.pages.page(f.keys, at.page, buf); err != nil {
				return err
			}
		}
		kv, err := f.entry(p, at)
		if err != nil {
			return err
		}
		if err := fn(kv); err != nil {
			return err
		}
	}
	return nil
}

// Count is the number of keys that [File.Scan] would give.
func (f *File) Count(ctx context.Context, start, end string, rev int64) (int64, error) {
	x, err := f.index(ctx, rev)
	if err != nil {
		return 0, err
	}
	lo, hi := x.bounds(start, end)
	return int64(hi - lo), nil
}

// Get is the entry of key at revision rev (0: newest). Both results are nil when the key did not exist then.
func (f *File) Get(key string, rev int64) (*mvccpb.KeyValue, error) {
	var found *mvccpb.KeyValue
	err := f.Scan(context.Background(), key, "", rev, func(kv *mvccpb.KeyValue) error {
		found = kv
		return nil
	})
	return found, err
}

// Entries calls fn for every entry of the file in the order of the file, earlier revisions included, deletions left
// out. For an archive that is the order in which the entries were archived. fn may keep what it is given; its error
// ends the walk and is returned as it is.
func (f *File) Entries(ctx context.Context, fn func(Position, *mvccpb.KeyValue) error) error {
	return f.walkKeys(ctx, func(pos Position, tombstone bool, _ place, value []byte) error {
		if tombstone || len(value) == 0 {
			return nil
		}
		kv, err := f.decode(value, pos)
		if err != nil || len(kv.Key) == 0 {
			return err
		}
		return fn(pos, kv)
	})
}

// At is the entry at one position. It is an error if there is none, or a deletion.
func (f *File) At(p Position) (*mvccpb.KeyValue, error) {
	e, ok, err := f.pages.get(f.keys, p.bytes())
	if err != nil {
		return nil, err
	}
	if !ok || len(e.value) == 0 {
		return nil, fmt.Errorf("%q has no entry at %s", f.path, p)
	}
	return f.decode(e.value, p)
}

// Revisions calls fn for every stored revision of one key, deletions and what a compaction has not yet removed
// included, in the order of the file: from the oldest to the newest. It reads every entry of the file once and keeps
// none. An error of fn ends the walk and is returned as it is.
func (f *File) Revisions(ctx context.Context, key string, fn func(at Position, deleted bool) error) error {
	return f.walkKeys(ctx, func(pos Position, tombstone bool, _ place, value []byte) error {
		found, err := f.keyAt(pos, value)
		if err != nil || len(found) == 0 || string(found) != key {
			return err
		}
		return fn(pos, tombstone)
	})
}

// keyAt is the key of an encoded entry, empty for the empty value that etcdutl's --bump-revision writes.
func (f *File) keyAt(pos Position, value []byte) ([]byte, error) {
	key, err := keyOf(value)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: the entry at %s: %w", ErrDamaged, f.path, pos, err)
	}
	return key, nil
}

// Stage is the stage that was given to [Archive.Append] with this entry; 0 for other files.
func (f *File) Stage(p Position) int {
	if f.archive == nil {
		return 0
	}
	return f.archive.stage(p.Main)
}

func (f *File) entry(p page, at place) (*mvccpb.KeyValue, error) {
	e, err := f.pages.leaf(p, int(at.index))
	if err != nil {
		return nil, err
	}
	pos, _, err := positionOf(e.key)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrDamaged, f.path, err)
	}
	return f.decode(e.value, pos)
}

func (f *File) decode(value []byte, pos Position) (*mvccpb.KeyValue, error) {
	kv := &mvccpb.KeyValue{}
	if err := proto.Unmarshal(value, kv); err != nil {
		// The parser's text could quote a part of the value, which may be a Secret.
		return nil, fmt.Errorf("%w: %q: the entry at %s is not a key-value message", ErrDamaged, f.path, pos)
	}
	return kv, nil
}

// walkKeys goes through bucket "key" in file order. value is valid only during the call.
func (f *File) walkKeys(ctx context.Context, fn func(pos Position, tombstone bool, at place, value []byte) error) error {
	return f.pages.walk(ctx, f.keys, func(at place, e element) error {
		pos, tombstone, err := positionOf(e.key)
		if err != nil {
			return fmt.Errorf("%w: %q: %w", ErrDamaged, f.path, err)
		}
		return fn(pos, tombstone, at, e.value)
	})
}

// Check reads the whole file and reports the first thing that is wrong with it: pages, revisions, entries, and in an
// archive the checksum of every batch. It does not look at the hash trailer.
func (f *File) Check(ctx context.Context) error {
	seen := f.pages.newPageSet()
	names, err := f.pages.buckets(ctx, seen)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := f.checkBucket(ctx, name, seen); err != nil {
			return err
		}
	}
	if f.archive != nil {
		return f.checkBatches(ctx)
	}
	return f.Entries(ctx, func(Position, *mvccpb.KeyValue) error { return nil })
}

func (f *File) checkBucket(ctx context.Context, name string, seen *pageSet) error {
	t, ok, err := f.pages.bucket(name)
	if err != nil {
		return err
	}
	if !ok {
		return f.pages.damaged("bucket %q cannot be found again", name)
	}
	return f.pages.walkOnce(ctx, t, seen, func(_ place, e element) error {
		if e.flags != 0 {
			return f.pages.damaged("bucket %q holds another bucket", name)
		}
		return nil
	})
}
