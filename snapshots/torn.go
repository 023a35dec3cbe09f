package snapshots

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
)

// losses is what reads of a damaged file have left out.
type losses struct {
	mu      sync.Mutex
	notes   []string // about the file as a whole
	buckets []bucketLoss
	// Those that are counted, up to maxLost.
	pages    map[uint64]struct{}
	entries  map[place]struct{}
	entryErr error // about the first of them
}

// bucketLoss is what is lost of one bucket.
type bucketLoss struct {
	name  string
	count int64
	// first and last are the revisions between which it is lost; last is [math.MaxInt64] when nothing is known to
	// follow. Of bucket "key" only.
	first, last int64
	err         error // about the first page
}

// maxLost bounds the memory for what is lost: more is no longer counted.
const maxLost = 1 << 16

// addNew is false for what is in the set, and for what it has no room for.
func addNew[T comparable](set *map[T]struct{}, v T) bool {
	if _, ok := (*set)[v]; ok || len(*set) >= maxLost {
		return false
	}
	if *set == nil {
		*set = map[T]struct{}{}
	}
	(*set)[v] = struct{}{}
	return true
}

// addPage counts a page once. It is false for one that was counted.
func (l *losses) addPage(lost loss) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !addNew(&l.pages, lost.page) {
		return false
	}
	b := l.bucket(lost.bucket)
	if b.count++; b.count == 1 {
		b.err = lost.err
	}
	first, last := int64(0), int64(math.MaxInt64)
	if p, _, err := positionOf(lost.low); err == nil {
		first = p.Main
	}
	if p, _, err := positionOf(lost.high); err == nil {
		last = p.Main
	}
	b.first, b.last = min(b.first, first), max(b.last, last)
	return true
}

func (l *losses) bucket(name string) *bucketLoss {
	for i := range l.buckets {
		if l.buckets[i].name == name {
			return &l.buckets[i]
		}
	}
	l.buckets = append(l.buckets, bucketLoss{name: name, first: math.MaxInt64})
	return &l.buckets[len(l.buckets)-1]
}

// addEntry counts an entry once.
func (l *losses) addEntry(at place, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !addNew(&l.entries, at) {
		return false
	}
	if len(l.entries) == 1 {
		l.entryErr = err
	}
	return true
}

func (l *losses) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notes = append(l.notes, fmt.Sprintf(format, args...))
}

// Damage says what a file that was opened with Options.Tolerant does not give: one sentence for each kind of loss that
// was met so far, so ask when all is read. It is nil while nothing was, and may be asked after [File.Close].
//
// An object is given as its newest entry that can be read. So one that was changed in a part that is lost is given as
// it was before, and one that was deleted there is given, too. What is inside a value is not checked: a db file holds
// no checksum of it.
func (f *File) Damage() []string {
	f.losses.mu.Lock()
	defer f.losses.mu.Unlock()
	said := append([]string(nil), f.losses.notes...)
	for _, b := range f.losses.buckets {
		said = append(said, b.String())
	}
	if n := int64(len(f.losses.entries)); n > 0 {
		said = append(said, fmt.Sprintf("%s of bucket %q cannot be read (the first: %s)", counted(n, "entry", "entries"), bucketKey, bare(f.losses.entryErr)))
	}
	return said
}

func (b *bucketLoss) String() string {
	of := "the list of buckets"
	if b.name != "" {
		of = fmt.Sprintf("bucket %q", b.name)
	}
	text := fmt.Sprintf("%s of %s cannot be read", counted(b.count, "page", "pages"), of)
	switch {
	case b.name == bucketKey && b.last == math.MaxInt64:
		text += fmt.Sprintf(", with entries from revision %d on", b.first)
	case b.name == bucketKey:
		text += fmt.Sprintf(", with entries between revision %d and %d", b.first, b.last)
	}
	return text + fmt.Sprintf(" (the first: %s)", bare(b.err))
}

func counted(n int64, one, many string) string {
	switch n {
	case 1:
		return "1 " + one
	case maxLost:
		return fmt.Sprintf("%d or more %s", n, many)
	}
	return fmt.Sprintf("%d %s", n, many)
}

// loadTolerant reads the newest state of the file of which it finds the bucket "key", or if it finds none, whatever
// entries there are. It says so.
func (f *File) loadTolerant() error {
	for id := range uint64(2) {
		err := guard(f.path, func() error { _, err := f.pages.metaAt(id); return err })
		if err != nil {
			f.losses.note("%s: what the last commit wrote may be missing", bare(err))
		}
	}
	if has, want := int64(len(f.data)), f.pages.limit*uint64(f.pages.pageSize); uint64(has) < want {
		f.losses.note("the file was cut short: it has %d bytes of at least %d", has, want)
	}
	err := f.loadState()
	if err == nil || !errors.Is(err, ErrDamaged) {
		return err
	}
	newest := f.pages.meta
	if f.pages.other != nil {
		f.pages.meta, f.pages.other = *f.pages.other, nil
		f.rev, f.compacted, f.archive = 0, 0, nil
		if f.loadState() == nil {
			f.losses.note("the newest state cannot be read (%s): this is the one before it", bare(err))
			return nil
		}
	}
	f.pages.meta = newest
	return f.loadStrays(err)
}

// losePage is the hook of a tolerant file's pages.
func (f *File) losePage(l loss) {
	if f.losses.addPage(l) && f.onLoss != nil {
		f.onLoss(l.bucket, int64(l.page)*f.pages.pageSize, l.err)
	}
}

// loseEntry decides about an entry that contradicts itself: a tolerant file goes on without it.
func (f *File) loseEntry(at place, err error) error {
	if !f.tolerant || !errors.Is(err, ErrDamaged) {
		return err
	}
	if f.losses.addEntry(at, err) && f.onLoss != nil {
		f.onLoss(bucketKey, int64(at)*elemSize, err)
	}
	return nil
}

// consistent checks an entry against the revision that it stands at, which etcd writes into it, too. An archive's
// entries stand at ordinals, and those that came from kine have no version; etcdutl's --bump-revision writes an empty
// entry.
func (f *File) consistent(pos Position, tombstone bool, kv *fields, size int) error {
	text := ""
	switch {
	case size == 0:
		return nil
	case len(kv.key) == 0:
		return f.pages.damaged("the entry at %s has no key", pos)
	case kv.size() != size:
		text = fmt.Sprintf("has %d bytes, which is not what its parts take", size)
	case tombstone && f.archive == nil:
		return nil
	case f.archive == nil && kv.mod != pos.Main:
		text = fmt.Sprintf("says that it is of revision %d", kv.mod)
	case kv.create < 1 || kv.create > kv.mod || kv.version < 0 || kv.version == 0 && f.archive == nil:
		text = fmt.Sprintf("has impossible revisions: created at %d, changed at %d, version %d", kv.create, kv.mod, kv.version)
	default:
		return nil
	}
	return f.pages.damaged("the entry at %s, of %q, %s", pos, shortKey(kv.key), text)
}

// shortKey is a key for an error; etcd takes keys of a megabyte.
func shortKey(key []byte) []byte { return key[:min(len(key), 256)] }

// zeroed says whether a part of the value that a page with overflow ends with, from one page border to the next or to
// its end, is zeros: such pages were added to the file, and never written. Few objects of Kubernetes have such a part.
func (ps *pages) zeroed(p page) bool {
	const least = 16
	end := min(p.end(), uint64(len(p.data)))
	for at := uint64(ps.pageSize); at+least <= end; at += uint64(ps.pageSize) {
		part := p.data[at:min(at+uint64(ps.pageSize), end)]
		if len(bytes.TrimLeft(part, "\x00")) == 0 {
			return true
		}
	}
	return false
}

// lastRevision is the revision of the last entry that can be read, 0 if there is none.
func (f *File) lastRevision() (rev int64, err error) {
	if !f.tolerant {
		last, err := f.pages.lastKey(f.keys)
		if err != nil || last == nil {
			return 0, err
		}
		p, _, err := positionOf(last)
		if err != nil {
			return 0, f.pages.damaged("%v", err)
		}
		return p.Main, nil
	}
	w := &walker{pages: f.pages, ctx: context.Background(), t: f.keys, back: true, seen: f.pages.newPageSet()}
	w.fn = func(at place, e element) error {
		var kv fields
		p, tombstone, err := f.position(e)
		if err == nil {
			err = f.readEntry(p, tombstone, e.value, &kv)
		}
		if err != nil {
			return f.loseEntry(at, err)
		}
		rev = p.Main
		return errStop
	}
	return rev, w.walk()
}

// readEntry takes an entry of bucket "key" apart. A tolerant file is strict about it, for nothing else stands between
// a damaged page and those who believe what they read.
func (f *File) readEntry(pos Position, tombstone bool, value []byte, kv *fields) error {
	err := f.parse(pos, value, kv)
	if err == nil && f.tolerant {
		err = f.consistent(pos, tombstone, kv, len(value))
	}
	return err
}

// compactedIn is a revision in bucket "meta", 0 if it is not there.
func (f *File) compactedIn(meta tree, name string) (int64, error) {
	e, ok, err := f.pages.get(meta, []byte(name))
	if err != nil || !ok || len(e.value) < posLen {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(e.value)), nil
}
