// Package snapshots reads and writes db files in etcd's own backend format.
//
// One reader, [File], serves snapshots as "etcdctl snapshot save" writes them, the raw db file of a stopped member,
// and archives: the undo record that this program writes before it deletes anything; each of them also compressed with
// zstd. Reading never changes, creates or repairs a file, and a damaged file gives an error that names it, never a
// panic, a fault or an endless loop; on request what is sound of it, and what is lost ([File.Damage]). [Verify] checks
// all that can be checked.
//
// One writer, [Archive], appends entries. Its invariant: when [Archive.Append] returns nil, the entries are on disk
// and survive a crash of the program and of the machine; when it returns an error, every earlier entry still does.
// The format is specified in docs/archive.md.
package snapshots

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
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
	file      *os.File // owned by db
	data      []byte   // the mapped file
	pages     *pages
	keys      tree
	leases    tree
	hasLeases bool
	rev       int64
	compacted int64
	archive   *archiveMeta // nil unless this is an archive

	compressed, tolerant bool
	written              bool // see VerifyOptions
	losses               losses
	// onLoss, if set, is told of each page and entry that is lost, and at which byte of the file it stands.
	onLoss func(bucket string, at int64, err error)

	mu     sync.Mutex
	newest *index
	older  *index // the last one built for another revision
}

// Close gives up the lock and the file.
func (f *File) Close() error {
	var err error
	if f.data != nil {
		err = unix.Munmap(f.data)
		f.data = nil
		if f.pages != nil {
			f.pages.data = nil
		}
	}
	if err := errors.Join(err, f.db.Close()); err != nil {
		return fmt.Errorf("close %q: %w", f.path, err)
	}
	return nil
}

// Path is the path that the file was opened with.
func (f *File) Path() string { return f.path }

// Compressed says whether the file is compressed; everything else that is said of it goes for what it unpacks to.
func (f *File) Compressed() bool { return f.compressed }

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
	return f.scan(ctx, start, end, rev, false, fn)
}

// ScanKeys is [File.Scan] without the values.
func (f *File) ScanKeys(ctx context.Context, start, end string, rev int64, fn func(*mvccpb.KeyValue) error) error {
	return f.scan(ctx, start, end, rev, true, fn)
}

func (f *File) scan(ctx context.Context, start, end string, rev int64, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	places, err := f.ordered(ctx, start, end, rev)
	if err != nil {
		return err
	}
	for _, at := range places {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read %q: %w", f.path, err)
		}
		kv, err := f.entry(at, keysOnly)
		if err != nil {
			return err
		}
		if err := fn(kv); err != nil {
			return err
		}
	}
	return nil
}

// Newest calls fn for every key in [start, end) that is alive at revision rev, as [File.Scan] does, but in no
// particular order: it goes through the file once, and needs no more than 22 bytes of memory a key to do so. With
// keysOnly the values are left out. What fn is given, bytes included, is its own only until it returns; fn may call
// other methods.
func (f *File) Newest(ctx context.Context, start, end string, rev int64, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	rev, err := f.atRevision(rev)
	if err != nil {
		return err
	}
	var kv mvccpb.KeyValue
	give := func(found *fields) error {
		if !within(found.key, start, end) {
			return nil
		}
		if found.fill(&kv); keysOnly {
			kv.Value = nil
		}
		return fn(&kv)
	}
	f.mu.Lock()
	x := *f.slot(rev)
	f.mu.Unlock()
	if x != nil && x.rev == rev {
		return f.again(ctx, x, give)
	}
	x = f.newIndex(rev)
	if err := f.pass(ctx, x, give); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if slot := f.slot(rev); *slot == nil || (*slot).rev != rev {
		*slot = x
	}
	return nil
}

func within(key []byte, start, end string) bool {
	if end == "" {
		return string(key) == start
	}
	return string(key) >= start && (end == "\x00" || string(key) < end)
}

// Count is the number of keys that [File.Scan] would give.
func (f *File) Count(ctx context.Context, start, end string, rev int64) (int64, error) {
	if start == "" && end == "\x00" {
		x, err := f.index(ctx, rev)
		if err != nil {
			return 0, err
		}
		return int64(x.live), nil
	}
	places, err := f.ordered(ctx, start, end, rev)
	return int64(len(places)), err
}

// Get is the entry of key at revision rev (0: newest). Both results are nil when the key did not exist then.
func (f *File) Get(key string, rev int64) (*mvccpb.KeyValue, error) {
	x, err := f.index(context.Background(), rev)
	if err != nil {
		return nil, err
	}
	at, alive, _, err := x.keys.newest([]byte(key))
	if err != nil || !alive {
		return nil, err
	}
	return f.entry(at, false)
}

// Find tells where the newest entry of key stands. It is false when the file has none, or when that is a deletion.
func (f *File) Find(ctx context.Context, key []byte) (pos Position, ok bool, err error) {
	return f.FindAt(ctx, key, 0)
}

// FindAt is Find for what [File.Get] would give at revision rev.
func (f *File) FindAt(ctx context.Context, key []byte, rev int64) (pos Position, ok bool, err error) {
	x, err := f.index(ctx, rev)
	if err != nil {
		return Position{}, false, err
	}
	at, alive, _, err := x.keys.newest(key)
	if err != nil || !alive {
		return Position{}, false, err
	}
	err = guard(f.path, func() error {
		var kv fields
		pos, err = f.viewEntry(at, &kv)
		return err
	})
	return pos, err == nil, err
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
	var kv fields
	return f.walkKeys(ctx, func(pos Position, tombstone bool, _ place, value []byte) error {
		if err := f.parse(pos, value, &kv); err != nil || len(kv.key) == 0 || string(kv.key) != key {
			return err
		}
		return fn(pos, tombstone)
	})
}

// Stage is the stage that was given to [Archive.Append] with this entry; 0 for other files.
func (f *File) Stage(p Position) int {
	if f.archive == nil {
		return 0
	}
	return f.archive.stage(p.Main)
}

// entry copies the entry at a place of the index.
func (f *File) entry(at place, keysOnly bool) (kv *mvccpb.KeyValue, err error) {
	err = guard(f.path, func() error {
		var found fields
		if _, err := f.viewEntry(at, &found); err != nil {
			return err
		}
		kv = found.clone(keysOnly)
		return nil
	})
	return kv, err
}

func (f *File) decode(value []byte, pos Position) (*mvccpb.KeyValue, error) {
	var found fields
	if err := f.parse(pos, value, &found); err != nil {
		return nil, err
	}
	return found.clone(false), nil
}

// position is the revision of an element of bucket "key".
func (f *File) position(e element) (pos Position, tombstone bool, err error) {
	if pos, tombstone, err = positionOf(e.key); err != nil {
		err = &damage{f.path, err.Error()}
	}
	return pos, tombstone, err
}

// walkKeys goes through bucket "key" in file order. value is valid only during the call.
func (f *File) walkKeys(ctx context.Context, fn func(pos Position, tombstone bool, at place, value []byte) error) error {
	var kv fields
	return f.pages.walk(ctx, f.keys, func(at place, e element) error {
		pos, tombstone, err := f.position(e)
		if err == nil && f.tolerant {
			err = f.readEntry(pos, tombstone, e.value, &kv)
		}
		if err != nil {
			return f.loseEntry(at, err)
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
	var kv fields
	return f.walkKeys(ctx, func(pos Position, _ bool, _ place, value []byte) error { return f.parse(pos, value, &kv) })
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
