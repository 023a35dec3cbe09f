package snapshots

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// busyDB is a db file as a busy member leaves it: branch pages, values of several pages, free pages and their list.
func busyDB(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "busy.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(11, 12))
	version := map[string]int64{}
	created := map[string]int64{}
	for rev := int64(2); rev < 602; rev += 50 {
		err = errors.Join(err, db.Update(func(tx *bolt.Tx) error {
			var failed error
			for _, name := range []string{"meta", "lease", "members"} {
				b, err := tx.CreateBucketIfNotExists([]byte(name))
				failed = errors.Join(failed, err, b.Put(fmt.Append(nil, name, rev), []byte(name)))
			}
			keys, err := tx.CreateBucketIfNotExists([]byte("key"))
			failed = errors.Join(failed, err)
			for r := rev; r < rev+50; r++ {
				key := fmt.Sprintf("/registry/pods/ops-tools/error-ret-%05d", rnd.IntN(200))
				at, kv := Position{Main: r}.bytes(), &mvccpb.KeyValue{Key: []byte(key)}
				if created[key] == 0 {
					created[key] = r
				}
				if version[key]++; rnd.IntN(10) == 0 {
					at, version[key], created[key] = append(at, 't'), 0, 0
				} else {
					kv.Value = make([]byte, 40+rnd.IntN(160))
					if rnd.IntN(10) == 0 {
						kv.Value = make([]byte, 3000+rnd.IntN(9000))
					}
					for i := range kv.Value {
						kv.Value[i] = byte(1 + rnd.IntN(255))
					}
					kv.CreateRevision, kv.ModRevision, kv.Version = created[key], r, version[key]
				}
				b, err := proto.Marshal(kv)
				failed = errors.Join(failed, err, keys.Put(at, b))
			}
			return failed
		}))
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	b := readFile(t, path)
	ps, err := newPages(b, path, int64(os.Getpagesize()))
	if err != nil {
		t.Fatal(err)
	}
	return b[:int64(ps.limit)*ps.pageSize]
}

// sealed is a db file as a snapshot, with the sha256 at its end.
func sealed(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(bytes.Clone(b), sum[:]...)
}

// Any one bit of a saved file that has changed is noticed, the sha256 itself and free pages included.
func TestVerifyNoticesEveryFlip(t *testing.T) {
	t.Parallel()
	flips := 1000
	if testing.Short() {
		flips = 200
	}
	db := busyDB(t)
	dir := t.TempDir()
	for name, whole := range map[string][]byte{"s.db": sealed(db), "s.db.zst": packed(t, sealed(db))} {
		path := filepath.Join(dir, name)
		check := func(b []byte) error {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Verify(t.Context(), path, VerifyOptions{TempDir: dir})
			return err
		}
		if err := check(whole); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		rnd := rand.New(rand.NewPCG(21, 22))
		for i := range flips {
			at := rnd.IntN(len(whole))
			if i < 40 {
				at = len(whole) - 1 - i // the sha256, or the checksum of the compressed data
			}
			b := bytes.Clone(whole)
			b[at] ^= 1 << rnd.IntN(8)
			if err := check(b); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotDB) {
				t.Errorf("%s: flip %d of %d bytes, at %d: %v", name, i, len(whole), at, err)
			}
		}
	}
}

// edited is a db file whose leaf pages of bucket "key" are known.
type edited struct {
	b      []byte
	page   int
	leaves []uint64 // of one page, in order
	ps     *pages
}

func newEdited(t testing.TB, b []byte) *edited {
	t.Helper()
	e := &edited{b: bytes.Clone(b), page: os.Getpagesize()}
	var err error
	if e.ps, err = newPages(e.b, "edited", int64(e.page)); err != nil {
		t.Fatal(err)
	}
	keys, ok, err := e.ps.bucket(bucketKey)
	if err != nil || !ok {
		t.Fatal(err)
	}
	w := &walker{pages: e.ps, ctx: t.Context(), t: keys, seen: e.ps.newPageSet(), leaf: func(p page) {
		if len(p.data) == e.page && p.count > 2 {
			e.leaves = append(e.leaves, p.id)
		}
	}}
	if err := w.walk(); err != nil || len(e.leaves) < 20 {
		t.Fatal(err, len(e.leaves))
	}
	return e
}

func (e *edited) at(id uint64) []byte { return e.b[int(id)*e.page : (int(id)+1)*e.page] }

// elem is the header of an element.
func (e *edited) elem(id uint64, i int) []byte { return e.at(id)[pageHeaderSize+i*elemSize:] }

// key is the key of an element, in place.
func (e *edited) key(id uint64, i int) []byte {
	h := e.elem(id, i)
	return h[binary.NativeEndian.Uint32(h[4:]):][:binary.NativeEndian.Uint32(h[8:])]
}

func TestVerifySaysWhatIsBroken(t *testing.T) {
	t.Parallel()
	whole := busyDB(t)
	leaf := newEdited(t, whole).leaves[10]
	here := fmt.Sprintf("(bucket \"key\", at byte %d)", int(leaf)*os.Getpagesize())
	put32 := binary.NativeEndian.PutUint32
	put64 := binary.NativeEndian.PutUint64
	for name, tt := range map[string]struct {
		edit func(e *edited)
		want string // %d is the number of the leaf page
	}{
		"type":         {func(e *edited) { e.at(leaf)[8] = 0x55 }, "page %d is neither branch nor leaf " + here},
		"number":       {func(e *edited) { put64(e.at(leaf), 7777) }, "page %d says it is page 7777 " + here},
		"elements":     {func(e *edited) { e.at(leaf)[11] = 0xff }, "page %d claims "},
		"bounds":       {func(e *edited) { put32(e.elem(leaf, 1)[4:], 1<<20) }, "element 1 of page %d reaches outside the page " + here},
		"order":        {func(e *edited) { copy(e.key(leaf, 2), e.key(leaf, 1)) }, "the keys of page %d are out of order at its element 2 " + here},
		"below":        {func(e *edited) { put64(e.key(leaf, 0)[:8], 0) }, "the keys of page %d are out of order at its element 0 " + here},
		"length":       {func(e *edited) { put32(e.at(leaf)[12:], 3) }, "page %d claims to be longer than what it holds " + here},
		"too long":     {func(e *edited) { put32(e.at(leaf)[12:], 1<<20) }, "page %d is longer than the file " + here},
		"unwritten":    {func(e *edited) { clear(e.at(leaf)) }, fmt.Sprintf("page %d says it is page 0 ", leaf) + here},
		"entry":        {func(e *edited) { k := e.key(leaf, 1); k[:tombstoneLen][posLen] ^= 0xff }, "is not a key-value message"},
		"revision":     {func(e *edited) { e.key(leaf, 1)[8] = '-' }, "which is no revision"},
		"meta":         {func(e *edited) { e.b[e.page+40] ^= 1 }, "meta page 1 is not what its checksum says"},
		"no free list": {func(e *edited) { clear(e.at(e.ps.freelist)) }, "is no list of free pages"},
		"cut":          {func(e *edited) { e.b = e.b[:len(e.b)/2] }, "the file was cut short: it has "},
		"added":        {func(e *edited) { e.b = append(e.b, "something else"...) }, "are not a whole number of pages"},
		"free and in use": {func(e *edited) {
			put64(e.at(e.ps.freelist)[pageHeaderSize:], leaf)
		}, "page %d is called free, and is in use"},
		"free and outside": {func(e *edited) {
			put64(e.at(e.ps.freelist)[pageHeaderSize:], 1<<40)
		}, "page 1099511627776 is called free, and is outside the file"},
		"free twice": {func(e *edited) {
			list := e.at(e.ps.freelist)[pageHeaderSize:]
			copy(list[8:16], list)
		}, "is called free twice"},
		"neither": {func(e *edited) { e.at(e.ps.freelist)[10]-- }, "is neither in use nor free"},
	} {
		e := newEdited(t, whole)
		tt.edit(e)
		path := writeFile(t, "edited.db", e.b)
		r, err := Verify(t.Context(), path, VerifyOptions{})
		if !errors.Is(err, ErrDamaged) || r == nil || len(r.Problems) == 0 || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", name, r, err)
			continue
		}
		want := strings.ReplaceAll(tt.want, "%d", fmt.Sprint(leaf))
		if all := strings.Join(r.Problems, "\n"); !strings.Contains(all, want) {
			t.Errorf("%s: got\n%s\nwant %s", name, all, want)
		}
		if !bytes.Equal(readFile(t, path), e.b) {
			t.Errorf("%s: the file has changed", name)
		}
	}
	r, err := Verify(t.Context(), writeFile(t, "whole.db", whole), VerifyOptions{})
	if err != nil || r.Kind != KindDB || r.Trailer != TrailerMissing || r.Entries != 600 || r.Free == 0 {
		t.Errorf("the file itself: %+v, %v", r, err)
	}
}

// A hash of what is not all there would be no hash; and the list of problems has an end.
func TestVerifyCountsProblems(t *testing.T) {
	t.Parallel()
	e := newEdited(t, busyDB(t))
	for _, id := range e.leaves {
		e.at(id)[8] = 0
	}
	r, err := Verify(t.Context(), writeFile(t, "many.db", e.b), VerifyOptions{MaxProblems: 3})
	if !errors.Is(err, ErrDamaged) || len(r.Problems) != 3 || r.MoreProblems != len(e.leaves)-3 || r.HashKV != nil {
		t.Errorf("%d leaves: %+v, %v", len(e.leaves), r, err)
	}
	if want := fmt.Sprintf("%d problems; the first: page ", len(e.leaves)); !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	// What is lost may hold the revision asked for, so that it is the damage that is told of.
	r, err = Verify(t.Context(), writeFile(t, "many.db", e.b), VerifyOptions{Revision: 600})
	if !errors.Is(err, ErrDamaged) || r == nil || r.HashKV != nil {
		t.Errorf("at a revision that is lost: %+v, %v", r, err)
	}
}

// Values may be zeros for whole pages: of an archive nobody doubts it, since it has checksums, of a db file unless it is
// known to be written.
func TestVerifyZeros(t *testing.T) {
	t.Parallel()
	want := pods(0, 3, 90)
	want[1].Value = append(make([]byte, 5*os.Getpagesize()), "end"...)
	a := newArchive(t)
	if err := errors.Join(a.Append(0, want, nil), a.Close()); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(t.Context(), a.Path(), VerifyOptions{}); err != nil || r.Keys != 3 {
		t.Errorf("an archive: %+v, %v", r, err)
	}
	f, err := Open(a.Path(), Options{Tolerant: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := f.Get(string(want[1].Key), 0); err != nil || got == nil || f.Damage() != nil {
		t.Errorf("an archive: %v, %v, %q", got, err, f.Damage())
	}
	e := newEdited(t, busyDB(t))
	keys, _, err := e.ps.bucket(bucketKey)
	var large uint64 // a page that has others behind it
	w := &walker{pages: e.ps, ctx: t.Context(), t: keys, seen: e.ps.newPageSet(), leaf: func(p page) {
		if len(p.data) > 2*e.page {
			large = p.id
		}
	}}
	if err = errors.Join(err, w.walk()); err != nil || large == 0 {
		t.Fatal(err, large)
	}
	clear(e.at(large + 1))
	path := writeFile(t, "zeros.db", e.b)
	if r, err := Verify(t.Context(), path, VerifyOptions{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a db file: %+v, %v", r, err)
	}
	if r, err := Verify(t.Context(), path, VerifyOptions{Written: true}); err != nil {
		t.Errorf("a db file that was written: %+v, %v", r, err)
	}
}

// An archive is checked against its own checksums, which notice a changed value where nothing else does.
func TestVerifyArchive(t *testing.T) {
	t.Parallel()
	raw, want := smallArchive(t)
	r, err := Verify(t.Context(), writeFile(t, "undo.db", raw), VerifyOptions{})
	if err != nil || r.Kind != KindArchive || r.Keys != int64(len(want)) || r.HashKV != nil || r.Entries != 120 || r.Revision != want[119].ModRevision {
		t.Errorf("%+v, %v", r, err)
	}
	b := bytes.Clone(raw)
	b[bytes.LastIndex(b, want[60].Value)+20] ^= 1
	r, err = Verify(t.Context(), writeFile(t, "undo.db", b), VerifyOptions{})
	if !errors.Is(err, ErrDamaged) || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "the checksum of the entries from 41 on does not match") {
		t.Errorf("%+v, %v", r, err)
	}
}

// kine counts no versions, so that what is archived from it has none.
func TestArchiveFromKineIsSound(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	kvs := pods(0, 5, 100)
	for _, kv := range kvs {
		kv.Version = 0
	}
	if err := errors.Join(a.Append(1, kvs, nil), a.Close()); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(t.Context(), a.Path(), VerifyOptions{}); err != nil || r.Keys != 5 {
		t.Errorf("%+v, %v", r, err)
	}
	f, err := Open(a.Path(), Options{Tolerant: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, _ := entries(t, f); len(got) != 5 || f.Damage() != nil {
		t.Errorf("%d entries, damage %v", len(got), f.Damage())
	}
}

// What is no db file is refused at once, and nothing is waited for.
func TestVerifyRefusesForeignFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path string
		want error
	}{
		{dir, ErrNotDB},
		{pipe, ErrNotDB},
		{"/dev/zero", ErrNotDB},
		{filepath.Join(dir, "missing"), os.ErrNotExist},
		{writeFile(t, "text", []byte(strings.Repeat("not a database\n", 5000))), ErrNotDB},
		{writeFile(t, "zeros", make([]byte, 1<<20)), ErrNotDB},
		{writeFile(t, "empty", nil), ErrNotDB},
	} {
		if r, err := Verify(t.Context(), tt.path, VerifyOptions{}); !errors.Is(err, tt.want) || r != nil {
			t.Errorf("%s: %+v, %v", tt.path, r, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	small := readFile(f, makeDB(f, history(), nil))
	archive, _ := smallArchive(f)
	f.Add(sealed(small), uint32(5000), byte(1))
	f.Add(small, uint32(0), byte(0))
	f.Add(packed(f, small), uint32(90), byte(8))
	f.Add(archive, uint32(9000), byte(2))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte, at uint32, x byte) {
		if len(b) > 0 {
			b = bytes.Clone(b)
			b[int(at)%len(b)] ^= x
		}
		file, err := os.CreateTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file.Name())
		if _, err := file.Write(b); err != nil || file.Close() != nil {
			t.Fatal(err)
		}
		r, err := Verify(t.Context(), file.Name(), VerifyOptions{TempDir: dir})
		if err == nil && (r == nil || len(r.Problems) > 0) {
			t.Errorf("sound, with %+v", r)
		}
		if g, err := Open(file.Name(), Options{TempDir: dir, Tolerant: true}); err == nil {
			_ = readAll(t.Context(), g)
			g.Damage()
			_ = g.Close()
		}
	})
}
