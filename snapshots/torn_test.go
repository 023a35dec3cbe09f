package snapshots

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// truth is all that a file held before it was damaged.
type truth struct {
	newest  map[string]*mvccpb.KeyValue
	entries map[int64]map[string]*mvccpb.KeyValue // by revision and key
}

func truthOf(t testing.TB, b []byte) *truth {
	t.Helper()
	f := open(t, writeFile(t, "truth.db", b))
	all := &truth{map[string]*mvccpb.KeyValue{}, map[int64]map[string]*mvccpb.KeyValue{}}
	for _, kv := range scan(t, f, "", "\x00", 0) {
		all.newest[string(kv.Key)] = kv
	}
	if err := f.Entries(t.Context(), func(p Position, kv *mvccpb.KeyValue) error {
		if all.entries[p.Main] == nil {
			all.entries[p.Main] = map[string]*mvccpb.KeyValue{}
		}
		all.entries[p.Main][string(kv.Key)] = kv
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// readTorn reads all that can be read, in all ways, which must agree.
func readTorn(t *testing.T, what string, f *File) []*mvccpb.KeyValue {
	t.Helper()
	got := scan(t, f, "", "\x00", 0)
	n, err := f.Count(t.Context(), "", "\x00", 0)
	if err != nil || n != int64(len(got)) {
		t.Errorf("%s: Count = %d, %v; Scan gives %d", what, n, err, len(got))
	}
	any := map[string]*mvccpb.KeyValue{}
	err = f.Newest(t.Context(), "", "\x00", 0, false, func(kv *mvccpb.KeyValue) error {
		any[string(kv.Key)] = proto.Clone(kv).(*mvccpb.KeyValue)
		return nil
	})
	if err != nil || len(any) != len(got) {
		t.Errorf("%s: Newest gives %d, %v; Scan %d", what, len(any), err, len(got))
	}
	for _, kv := range got {
		one, err := f.Get(string(kv.Key), 0)
		if err != nil || !proto.Equal(one, kv) || !proto.Equal(any[string(kv.Key)], kv) {
			t.Errorf("%s: Get, Newest and Scan of %q differ: %v", what, kv.Key, err)
		}
	}
	err = f.Entries(t.Context(), func(p Position, kv *mvccpb.KeyValue) error {
		at, err := f.At(p)
		if err != nil || !proto.Equal(at, kv) {
			t.Errorf("%s: At(%s): %v", what, p, err)
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: Entries: %v", what, err)
	}
	return got
}

// check opens a damaged file. What it gives must have been there, byte for byte, and what is missing must be said.
func (all *truth) check(t *testing.T, what string, b []byte) (shown int, damage []string) {
	t.Helper()
	path := writeFile(t, "torn.db", b)
	f, err := Open(path, Options{Tolerant: true})
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotDB) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
		return 0, []string{err.Error()}
	}
	defer f.Close()
	got := readTorn(t, what, f)
	damage = f.Damage()
	for _, kv := range got {
		if was := all.entries[kv.ModRevision][string(kv.Key)]; !proto.Equal(was, kv) {
			t.Errorf("%s: %q at revision %d is not what it was", what, kv.Key, kv.ModRevision)
		}
		if damage == nil && !proto.Equal(all.newest[string(kv.Key)], kv) {
			t.Errorf("%s: %q is not the newest one, and nothing is said", what, kv.Key)
		}
	}
	if len(got) != len(all.newest) && damage == nil {
		t.Errorf("%s: %d of %d keys, and nothing is said", what, len(got), len(all.newest))
	}
	if !bytes.Equal(readFile(t, path), b) {
		t.Errorf("%s: the file has changed", what)
	}
	return len(got), damage
}

func tries(n int) int {
	if testing.Short() {
		return n / 5
	}
	return n
}

// A file that was cut anywhere.
func TestTornCut(t *testing.T) {
	t.Parallel()
	whole := busyDB(t)
	all := truthOf(t, whole)
	rnd := rand.New(rand.NewPCG(31, 32))
	readable := 0
	for range tries(150) {
		n := rnd.IntN(len(whole))
		shown, damage := all.check(t, fmt.Sprintf("cut at %d of %d", n, len(whole)), whole[:n])
		if shown > 0 {
			readable++
		}
		if !strings.Contains(strings.Join(damage, "\n"), "cut short") && shown > 0 {
			t.Errorf("cut at %d: %q", n, damage)
		}
	}
	if readable == 0 {
		t.Error("nothing was read of any of them")
	}
	t.Logf("of %d cut files %d can be read", tries(150), readable)
}

// Pages that were never written: as many zeros.
func TestTornZeroPages(t *testing.T) {
	t.Parallel()
	whole := busyDB(t)
	all := truthOf(t, whole)
	page := newEdited(t, whole).page
	rnd := rand.New(rand.NewPCG(33, 34))
	for i := range tries(150) {
		b := bytes.Clone(whole)
		var zeroed []int
		for range 1 + rnd.IntN(6) {
			id := 2 + rnd.IntN(len(whole)/page-2)
			clear(b[id*page : (id+1)*page])
			zeroed = append(zeroed, id)
		}
		all.check(t, fmt.Sprintf("%d: pages %d are zero", i, zeroed), b)
	}
}

// A page of which only the first half was written, over what was in that place before.
func TestTornHalfPages(t *testing.T) {
	t.Parallel()
	whole := busyDB(t)
	all := truthOf(t, whole)
	e := newEdited(t, whole)
	rnd := rand.New(rand.NewPCG(35, 36))
	for range tries(100) {
		b := bytes.Clone(whole)
		id, from := e.leaves[rnd.IntN(len(e.leaves))], e.leaves[rnd.IntN(len(e.leaves))]
		half := b[int(id)*e.page+512*(1+rnd.IntN(7)) : (int(id)+1)*e.page]
		switch rnd.IntN(2) {
		case 0:
			clear(half)
		case 1: // another page of the same bucket
			copy(half, whole[int(from)*e.page+e.page-len(half):])
		}
		path := writeFile(t, "half.db", b)
		f, err := Open(path, Options{Tolerant: true})
		if err != nil {
			t.Error(err)
			continue
		}
		// The value that lies across the seam may pass for one: nothing in the file tells.
		odd := 0
		for _, kv := range readTorn(t, fmt.Sprintf("half of page %d", id), f) {
			was := all.entries[kv.ModRevision][string(kv.Key)]
			if was == nil || was.CreateRevision != kv.CreateRevision {
				t.Errorf("page %d: %q at revision %d was never there", id, kv.Key, kv.ModRevision)
			} else if !proto.Equal(was, kv) {
				odd++
			}
		}
		if odd > 1 || odd == 1 && f.Damage() != nil {
			t.Errorf("page %d: %d values are not what they were; %q", id, odd, f.Damage())
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// One changed byte: at most the value that it stands in is not what it was.
func TestTornFlips(t *testing.T) {
	t.Parallel()
	whole := busyDB(t)
	all := truthOf(t, whole)
	rnd := rand.New(rand.NewPCG(37, 38))
	for range tries(300) {
		b := bytes.Clone(whole)
		at := rnd.IntN(len(b))
		b[at] ^= byte(1 + rnd.IntN(255))
		f, err := Open(writeFile(t, "flip.db", b), Options{Tolerant: true})
		if err != nil {
			continue
		}
		odd := 0
		for _, kv := range readTorn(t, fmt.Sprintf("flip at %d", at), f) {
			if was := all.entries[kv.ModRevision][string(kv.Key)]; !proto.Equal(was, kv) {
				odd++
			}
		}
		if odd > 1 {
			t.Errorf("flip at %d: %d keys are not what they were", at, odd)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Of one page that is gone, only what was on it is missing, and it is said between which revisions.
func TestTornPageIsAllThatIsLost(t *testing.T) {
	t.Parallel()
	whole := busyDB(t)
	e := newEdited(t, whole)
	for _, n := range []int{0, 1, len(e.leaves) / 2, len(e.leaves) - 2} {
		b := newEdited(t, whole)
		id := e.leaves[n]
		var lost []int64
		p, err := b.ps.parse(id, bytes.Clone(b.at(id)))
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.count {
			pos, _, err := positionOf(b.key(id, i))
			if err != nil {
				t.Fatal(err)
			}
			lost = append(lost, pos.Main)
		}
		clear(b.at(id))
		f, err := Open(writeFile(t, "one.db", b.b), Options{Tolerant: true})
		if err != nil {
			t.Fatal(err)
		}
		var want, got []int64
		for rev := range truthOf(t, whole).entries {
			if !slices.Contains(lost, rev) {
				want = append(want, rev)
			}
		}
		slices.Sort(want)
		if err := f.Entries(t.Context(), func(p Position, _ *mvccpb.KeyValue) error { got = append(got, p.Main); return nil }); err != nil {
			t.Error(err)
		}
		diff(t, fmt.Sprintf("page %d", id), got, want)
		text := fmt.Sprintf("1 page of bucket \"key\" cannot be read, with entries between revision %d and %d (the first: page %d says it is page 0)", lost[0], lost[len(lost)-1]+1, id)
		diff(t, "what is said", f.Damage(), []string{text})
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The root that the newer meta page names is gone: the state before it is read, and that is said.
func TestTornNewestState(t *testing.T) {
	t.Parallel()
	whole := busyDB(t)
	e := newEdited(t, whole)
	clear(e.at(e.ps.root))
	path := writeFile(t, "root.db", e.b)
	if _, err := Open(path, Options{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("not tolerant: %v", err)
	}
	f, err := Open(path, Options{Tolerant: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The last of busyDB's commits had 50 revisions.
	if got := f.Revision(); got != 551 {
		t.Errorf("revision %d", got)
	}
	if said := strings.Join(f.Damage(), "\n"); !strings.Contains(said, "the newest state cannot be read") || !strings.Contains(said, "the one before it") {
		t.Errorf("%q", said)
	}
	readTorn(t, "the state before", f)
}

// Neither state leads to the entries: they are found page by page, and what would be missing or too much is said.
func TestTornWithoutTree(t *testing.T) {
	t.Parallel()
	whole := busyDB(t)
	all := truthOf(t, whole)
	e := newEdited(t, whole)
	clear(e.at(e.ps.root))
	clear(e.at(e.ps.other.root))
	shown, damage := all.check(t, "without its roots", e.b)
	if shown != len(all.newest) {
		t.Errorf("%d of %d keys", shown, len(all.newest))
	}
	if said := strings.Join(damage, "\n"); !strings.Contains(said, "what leads to the entries cannot be read") || !strings.Contains(said, "deleted long ago may be among them") {
		t.Errorf("%q", said)
	}
	r, err := Verify(t.Context(), writeFile(t, "roots.db", e.b), VerifyOptions{})
	if !errors.Is(err, ErrDamaged) || r == nil || r.HashKV != nil || r.Keys != int64(shown) || r.Entries < r.Keys {
		t.Errorf("%+v, %v", r, err)
	}
	archive, _ := smallArchive(t)
	e.b = archive
	if e.ps, err = newPages(archive, "archive", int64(e.page)); err != nil {
		t.Fatal(err)
	}
	clear(e.at(e.ps.root))
	clear(e.at(e.ps.other.root))
	// The ordinals of an archive are no revisions, and nothing else tells what it is.
	if f, err := Open(writeFile(t, "undo.db", archive), Options{Tolerant: true}); !errors.Is(err, ErrDamaged) {
		t.Errorf("an archive: %v, %v", f, err)
	}
}

// A sound file loses nothing by being read tolerantly, and one without damage has none.
func TestTolerantSoundFiles(t *testing.T) {
	t.Parallel()
	for _, path := range []string{unzstd(t, zooFixture), bumped(t), makeDB(t, history(), nil), writeFile(t, "busy.db", busyDB(t))} {
		f, err := Open(path, Options{Tolerant: true})
		if err != nil {
			t.Fatal(err)
		}
		plain := open(t, path)
		if got, want := readTorn(t, path, f), scan(t, plain, "", "\x00", 0); !same(got, want) || f.Revision() != plain.Revision() || f.Compacted() != plain.Compacted() {
			t.Errorf("%s: %d keys, want %d", path, len(got), len(want))
		}
		if said := f.Damage(); said != nil {
			t.Errorf("%s: %q", path, said)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
