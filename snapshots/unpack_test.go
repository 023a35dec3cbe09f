package snapshots

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// packed is content as one zstd frame with a checksum.
func packed(t testing.TB, content []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(content, make([]byte, 0, 64))
}

func writeFile(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func skippable(n int) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x184D2A53)
	return append(binary.LittleEndian.AppendUint32(b, uint32(n)), make([]byte, n)...)
}

// A snapshot, a db file and an archive read the same, compressed or not.
func TestOpenReadsZstd(t *testing.T) {
	t.Parallel()
	archive, _ := smallArchive(t)
	for name, plain := range map[string][]byte{
		"snapshot": readFile(t, unzstd(t, zooFixture)),
		"db":       readFile(t, makeDB(t, history(), nil)),
		"archive":  archive,
	} {
		half := len(plain) / 2
		for how, content := range map[string][]byte{
			"one frame":         packed(t, plain),
			"two frames":        slices.Concat(packed(t, plain[:half]), packed(t, plain[half:])),
			"a skippable frame": slices.Concat(skippable(4), packed(t, plain)),
		} {
			temp := t.TempDir()
			path := writeFile(t, "x.db.zst", content)
			f, err := Open(path, Options{TempDir: temp})
			if err != nil {
				t.Errorf("%s, %s: %v", name, how, err)
				continue
			}
			if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
				t.Errorf("%s, %s: %v, %v: the unpacked file has a name", name, how, left, err)
			}
			st, err := f.file.Stat()
			if err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%s, %s: mode %v, %v", name, how, st.Mode(), err)
			}
			plainFile := open(t, writeFile(t, "x.db", plain))
			if got, want := scan(t, f, "", "\x00", 0), scan(t, plainFile, "", "\x00", 0); !same(got, want) || len(got) == 0 {
				t.Errorf("%s, %s: %d keys, want %d", name, how, len(got), len(want))
			}
			if !f.Compressed() || f.Path() != path || f.Size() != int64(len(plain)) || f.IsArchive() != (name == "archive") || f.HasHash() != (name == "snapshot") {
				t.Errorf("%s, %s: compressed %v, path %s, size %d", name, how, f.Compressed(), f.Path(), f.Size())
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// A cut or changed stream is an error, whatever it unpacks to.
func TestDamagedZstd(t *testing.T) {
	t.Parallel()
	whole := packed(t, readFile(t, makeDB(t, history(), nil)))
	for _, n := range []int{5, 9, len(whole) / 2, len(whole) - 5, len(whole) - 1} {
		_, err := Open(writeFile(t, "cut.zst", whole[:n]), Options{})
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "cut short") {
			t.Errorf("cut at %d of %d: %v", n, len(whole), err)
		}
	}
	for _, at := range []int{len(whole) / 3, len(whole) / 2, len(whole) - 2} {
		b := bytes.Clone(whole)
		b[at] ^= 4
		if _, err := Open(writeFile(t, "flip.zst", b), Options{}); !errors.Is(err, ErrDamaged) {
			t.Errorf("flip at %d: %v", at, err)
		}
	}
	if _, err := Open(writeFile(t, "more.zst", append(bytes.Clone(whole), "rest of a line"...)), Options{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("something behind it: %v", err)
	}
}

// zeros is endless, like what a zip bomb unpacks to.
type zeros struct{ given int64 }

func (z *zeros) Read(p []byte) (int, error) {
	clear(p)
	z.given += int64(len(p))
	return len(p), nil
}

// A bomb is stopped while a reserve is still free.
func TestUnpackKeepsSpaceFree(t *testing.T) {
	t.Parallel()
	dst, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	const total = 100 << 20
	u := unpacker{func(f *os.File) (int64, int64, error) {
		st, err := f.Stat()
		return 40<<20 - st.Size(), total, err
	}}
	pr, pw := io.Pipe()
	go func() {
		z, _ := zstd.NewWriter(pw)
		_, err := io.Copy(z, &zeros{})
		_ = pw.CloseWithError(err)
	}()
	err = u.unpack(t.Context(), dst, pr)
	_ = pr.Close()
	st, statErr := dst.Stat()
	if statErr != nil {
		t.Fatal(statErr)
	}
	if !errors.Is(err, ErrNoSpace) || st.Size() > 30<<20 || st.Size() < 20<<20 {
		t.Errorf("%v after %d bytes: want a tenth of %d left of 40 MiB", err, st.Size(), total)
	}
}

// A frame that says how long it is is refused before anything is written.
func TestUnpackAsksForSpaceFirst(t *testing.T) {
	t.Parallel()
	dst, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	u := unpacker{func(*os.File) (int64, int64, error) { return 20 << 20, 100 << 20, nil }}
	err = u.unpack(t.Context(), dst, bytes.NewReader(packed(t, make([]byte, 16<<20))))
	if st, _ := dst.Stat(); !errors.Is(err, ErrNoSpace) || st.Size() != 0 {
		t.Errorf("%v after %d bytes", err, st.Size())
	}
	if err := u.unpack(t.Context(), dst, bytes.NewReader(packed(t, make([]byte, 1<<20)))); err != nil {
		t.Error(err)
	}
}

// A window is memory, and the file says how much.
func TestUnpackBoundsMemory(t *testing.T) {
	t.Parallel()
	head := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 18 << 3} // a window of 2^28 bytes
	_, err := Open(writeFile(t, "wide.zst", append(head, make([]byte, 64)...)), Options{})
	if err == nil || !strings.Contains(err.Error(), "window") {
		t.Error(err)
	}
}

func TestUnpackStops(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenContext(ctx, zooFixture, Options{TempDir: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := Open(zooFixture, Options{TempDir: missing}); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Error(err)
	}
}

// Memory is no place for gigabytes, unless somebody chose it.
func TestUnpackOnDisk(t *testing.T) {
	t.Parallel()
	const memory = "/memory"
	disk := t.TempDir()
	for _, tt := range []struct {
		dir, disk string
		chosen    bool
		want      string
	}{
		{memory, disk, false, disk},
		{memory, disk, true, memory},
		{memory, filepath.Join(disk, "missing"), false, memory},
		{disk, memory, false, disk},
	} {
		if got := tempDir(tt.dir, tt.disk, tt.chosen, func(dir string) bool { return dir == memory }); got != tt.want {
			t.Errorf("%+v: got %s", tt, got)
		}
	}
	if room, err := UnpackRoom(disk); err != nil || room <= 0 {
		t.Errorf("room on disk: %d, %v", room, err)
	}
	if room, err := UnpackRoom(filepath.Join(disk, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("room nowhere: %d, %v", room, err)
	}
}

// An archive that was compressed is no longer appended to.
func TestOpenArchiveRefusesZstd(t *testing.T) {
	t.Parallel()
	raw, _ := smallArchive(t)
	path := writeFile(t, "undo.db.zst", packed(t, raw))
	if a, err := OpenArchive(path, 0); !errors.Is(err, ErrNotArchive) || a != nil {
		t.Errorf("%v", err)
	}
	if !bytes.Equal(readFile(t, path), packed(t, raw)) {
		t.Error("the file has changed")
	}
	f := open(t, path)
	n := 0
	if err := f.Entries(t.Context(), func(Position, *mvccpb.KeyValue) error { n++; return nil }); err != nil || n != 120 {
		t.Errorf("%d entries, %v", n, err)
	}
}
