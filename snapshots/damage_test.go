package snapshots

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

func smallArchive(t testing.TB) (raw []byte, want []*mvccpb.KeyValue) {
	t.Helper()
	a := newArchive(t)
	want = pods(0, 120, 90)
	for i := 0; i < len(want); i += 40 {
		if err := a.Append(i, want[i:i+40], map[int64]int64{7: 15}); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(a.Path())
	if err != nil {
		t.Fatal(err)
	}
	return raw, want
}

// tryDamaged opens a file that may be anything. If it passes Check, its entries must be the original ones; a nil want
// is for files whose values no checksum covers.
func tryDamaged(t *testing.T, path string, b []byte, want []*mvccpb.KeyValue, what string) (noticed bool) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := OpenArchive(path, 0)
	if err == nil {
		if err := a.Close(); err != nil {
			t.Errorf("%s: close: %v", what, err)
		}
	}
	f, err := Open(path, Options{LockTimeout: time.Minute})
	if err != nil {
		return true
	}
	defer f.Close()
	if readAll(context.Background(), f) != nil || !f.IsArchive() {
		return true
	}
	got, _ := entries(t, f)
	// A lost meta page takes the file back to an earlier commit, of 0, 40 or 80 entries.
	if want != nil && (len(got)%40 != 0 || !same(got, want[:min(len(got), len(want))])) {
		t.Errorf("%s: Check finds nothing wrong with %d changed entries", what, len(got))
	}
	return false
}

func TestDamagedFilesNeverPanic(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	t.Parallel()
	raw, want := smallArchive(t)
	path := filepath.Join(t.TempDir(), "damaged.db")
	rnd := rand.New(rand.NewPCG(3, 4))
	noticed := 0
	for i := range 1500 {
		b := append([]byte(nil), raw...)
		at := rnd.IntN(len(b))
		b[at] ^= 1 << rnd.IntN(8)
		if tryDamaged(t, path, b, want, fmt.Sprintf("flip %d at %d", i, at)) {
			noticed++
		}
	}
	t.Logf("%d of 1500 flipped bits noticed, the others change no entry", noticed)
	for n := 0; n < len(raw); n += 1 + rnd.IntN(700) {
		tryDamaged(t, path, raw[:n], want, fmt.Sprintf("cut at %d", n))
	}
	for i := range 50 {
		b := make([]byte, rnd.IntN(40000))
		for j := range b {
			b[j] = byte(rnd.Uint32())
		}
		if i%2 == 0 {
			copy(b, raw[:min(len(raw), 8192)]) // sound meta pages, rubbish below
		}
		tryDamaged(t, path, b, want, fmt.Sprintf("random %d", i))
	}
}

// Headers, element tables and child numbers are where a trusting reader goes astray.
func TestDamagedPageHeadersNeverPanic(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	t.Parallel()
	raw, want := smallArchive(t)
	path := filepath.Join(t.TempDir(), "damaged.db")
	page := os.Getpagesize()
	for p := 2 * page; p < len(raw); p += page {
		for at := p; at < p+64 && at < len(raw); at++ {
			for _, x := range []byte{0x01, 0xff} {
				b := append([]byte(nil), raw...)
				b[at] ^= x
				tryDamaged(t, path, b, want, fmt.Sprintf("byte %d xor %#x", at, x))
			}
		}
	}
}

func TestDamagedSnapshotNeverPanics(t *testing.T) {
	t.Parallel()
	path := unzstd(t, zooFixture)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := range 60 {
		b := append([]byte(nil), raw...)
		for range 1 + rnd.IntN(2000) {
			b[8192+rnd.IntN(len(b)-8192)] ^= byte(1 + rnd.IntN(255))
		}
		if i%3 == 0 {
			b = b[:rnd.IntN(len(b))]
		}
		tryDamaged(t, path, b, nil, fmt.Sprintf("zoo %d", i))
	}
}

// A branch page that names itself as its child sends a recursive reader into a stack overflow.
func TestLoopInPageTree(t *testing.T) {
	t.Parallel()
	raw, _ := smallArchive(t)
	page := os.Getpagesize()
	path := filepath.Join(t.TempDir(), "loop.db")
	loops := 0
	for p := 2 * page; p+page <= len(raw); p += page {
		if raw[p+8] != branchPage {
			continue
		}
		loops++
		b := append([]byte(nil), raw...)
		copy(b[p+pageHeaderSize+8:], b[p:p+8])
		tryDamaged(t, path, b, nil, fmt.Sprintf("loop at page %d", p/page))
	}
	if loops == 0 {
		t.Fatal("the archive has no branch page to damage")
	}
}

func FuzzOpen(f *testing.F) {
	raw, _ := smallArchive(f)
	f.Add(raw)
	f.Add(raw[:9000])
	f.Add([]byte("x"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := os.CreateTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		path := file.Name()
		file.Close()
		defer os.Remove(path)
		tryDamaged(t, path, b, nil, "fuzz")
	})
}
