package snapshots

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

var saveSeed = flag.Uint64("save.seed", 0, "take the flips and pieces of the save tests from this seed; 0: from a new one")

func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *saveSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("to see the same again: -save.seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// sent is a server that sends some bytes in pieces and then ends with err.
type sent struct {
	data  []byte
	piece int // 32 KiB if 0
	err   error
	// before, if set, is asked before every piece.
	before func(n int, at int64) error

	total, n, at int
}

func (s *sent) Snapshot(context.Context) (Stream, error) {
	s.n, s.at, s.total = 0, 0, len(s.data)
	return s, nil
}

func (s *sent) Recv() (*etcdserverpb.SnapshotResponse, error) {
	if s.before != nil {
		if err := s.before(s.n, int64(s.at)); err != nil {
			return nil, err
		}
	}
	s.n++
	if s.at == len(s.data) {
		if s.err != nil {
			return nil, s.err
		}
		return nil, io.EOF
	}
	size := 32 << 10
	if s.piece > 0 {
		size = s.piece
	}
	if beforeSum := s.total - sha256.Size - s.at; beforeSum > 0 {
		size = min(size, beforeSum) // as etcd does, which sends the sum by itself
	}
	from := s.at
	s.at = min(s.at+size, len(s.data))
	return &etcdserverpb.SnapshotResponse{
		Blob: bytes.Clone(s.data[from:s.at]), RemainingBytes: uint64(max(0, s.total-sha256.Size-s.at)), Version: "3.6.0",
	}, nil
}

// zoo is a real snapshot, sum included.
func zoo(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile(unzstd(t, zooFixture))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// holds asserts the names of all files in dir.
func holds(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		t.Errorf("files, -want +got:\n%s", diff)
	}
}

func TestSave(t *testing.T) {
	t.Parallel()
	data := zoo(t)
	sum := hex.EncodeToString(data[len(data)-sha256.Size:])
	r := random(t)
	for _, piece := range []int{0, 1 << 20, 4096 + r.IntN(9999), 1000 + r.IntN(50)} {
		t.Run(fmt.Sprint(piece), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "a.db")
			var got, total int64
			verifying := 0
			saved, err := Save(t.Context(), &sent{data: data, piece: piece}, SaveOptions{
				Path: path, Room: func(n int64) error { total = n; return nil },
				Received:  func(n int, of int64) { got += int64(n); total = of },
				Verifying: func() { verifying++; holds(t, dir, "a.db.part") },
			})
			if err != nil {
				t.Fatal(err)
			}
			holds(t, dir, "a.db")
			size := int64(len(data))
			if saved.Path != path || saved.Bytes != size || saved.Stored != size || saved.SHA256 != sum || saved.StorageVersion != "3.6.0" ||
				saved.Report == nil || saved.Report.Keys == 0 || got != size || total != size || verifying != 1 {
				t.Errorf("got %+v, %d of %d received, verified %d times", saved, got, total, verifying)
			}
			written, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(written, data) {
				t.Errorf("the file differs: %v", err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
			}
		})
	}
}

func TestSaveCompressed(t *testing.T) {
	t.Parallel()
	data := zoo(t)
	var before []byte
	for i, piece := range []int{0, 5000} { // the same bytes, however they come
		dir := t.TempDir()
		saved, err := Save(t.Context(), &sent{data: data, piece: piece}, SaveOptions{Path: filepath.Join(dir, "a.db.zst"), Compress: Zstd})
		if err != nil {
			t.Fatal(err)
		}
		holds(t, dir, "a.db.zst")
		written, err := os.ReadFile(saved.Path)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && !bytes.Equal(before, written) {
			t.Error("it is not compressed in the same way again")
		}
		before = written
		if saved.Bytes != int64(len(data)) || saved.Stored != int64(len(written)) || saved.Report == nil {
			t.Errorf("got %+v", saved)
		}
		if got := decompress(t, written); !bytes.Equal(got, data) {
			t.Errorf("%d bytes come out again, want %d", len(got), len(data))
		}
	}
	if _, err := Save(t.Context(), &sent{data: data}, SaveOptions{Out: io.Discard, Compress: "lzma"}); err == nil {
		t.Error("an unknown compression was taken")
	}
}

func decompress(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestSaveNoticesFlips: no bit that changes on the way is missed, the sum's own
// included.
func TestSaveNoticesFlips(t *testing.T) {
	t.Parallel()
	data, r, dir := zoo(t), random(t), t.TempDir()
	flips := []int{0, 8*len(data) - 1, 8 * (len(data) - sha256.Size), 8*(len(data)-sha256.Size) - 1}
	for range 60 {
		flips = append(flips, r.IntN(8*len(data)))
	}
	for i, bit := range flips {
		damaged := bytes.Clone(data)
		damaged[bit/8] ^= 1 << (bit % 8)
		opt := SaveOptions{Path: filepath.Join(dir, "a.db")}
		if i%4 == 3 {
			opt = SaveOptions{Out: io.Discard}
		}
		if _, err := Save(t.Context(), &sent{data: damaged}, opt); !errors.Is(err, ErrChecksum) {
			t.Fatalf("bit %d: got %v, want %v", bit, err, ErrChecksum)
		}
		holds(t, dir)
	}
}

// TestSaveEndsEarly: wherever the stream ends, and however, nothing is left.
func TestSaveEndsEarly(t *testing.T) {
	t.Parallel()
	data := zoo(t)
	pieces := (len(data)-sha256.Size)/(128<<10) + 2
	gone := status.Error(codes.Unavailable, "connection reset by peer")
	full := errors.New("no room at all")
	for n := range pieces {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			at := min(n*(128<<10), len(data)-1)
			cut := func(err error) *sent { return &sent{data: data, piece: 128 << 10, before: failAt(n, err)} }
			ctx, cancel := context.WithCancel(t.Context())
			for name, tc := range map[string]struct {
				src  *sent
				opt  SaveOptions
				want error
			}{
				"connection": {cut(gone), SaveOptions{}, gone},
				"cut off":    {cut(gone), SaveOptions{Compress: Zstd}, ErrCutOff},
				"end":        {cut(io.EOF), SaveOptions{}, ErrCutOff},
				"sum":        {&sent{data: data[:at]}, SaveOptions{}, ErrCutOff},
				"room":       {&sent{data: data}, SaveOptions{Room: func(int64) error { return full }}, full},
				"write":      {&sent{data: data, piece: 128 << 10}, SaveOptions{Out: &fullDisk{room: at}}, errFullDisk},
				"write zstd": {&sent{data: data, piece: 128 << 10}, SaveOptions{Out: &fullDisk{}, Compress: Zstd}, errFullDisk},
			} {
				if tc.opt.Out == nil {
					tc.opt.Path = filepath.Join(dir, "a.db")
				}
				if _, err := Save(t.Context(), tc.src, tc.opt); !errors.Is(err, tc.want) {
					t.Errorf("%s: got %v, want %v", name, err, tc.want)
				}
				holds(t, dir)
			}
			stop := &sent{data: data, piece: 128 << 10, before: func(i int, _ int64) error {
				if i == n {
					cancel()
				}
				return nil
			}}
			// The last piece may have been written when it is cancelled; then it is the reading back that stops.
			_, err := Save(ctx, stop, SaveOptions{Path: filepath.Join(dir, "a.db")})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: got %v", err)
			}
			holds(t, dir)
		})
	}
}

func failAt(n int, err error) func(int, int64) error {
	return func(i int, _ int64) error {
		if i == n {
			return err
		}
		return nil
	}
}

var errFullDisk = errors.New("disk is full")

// fullDisk takes so many bytes.
type fullDisk struct{ room int }

func (d *fullDisk) Write(b []byte) (int, error) {
	if d.room -= len(b); d.room < 0 {
		return 0, errFullDisk
	}
	return len(b), nil
}

// TestSaveGivesUpOnSilence: a server that hangs, and one that sends empty
// pieces for ever, as etcd does when its disk fails.
func TestSaveGivesUpOnSilence(t *testing.T) {
	t.Parallel()
	data := zoo(t)
	for _, n := range []int{0, 3} {
		hangs := &hanging{sent: sent{data: data}, n: n}
		for name, src := range map[string]Snapshotter{"hangs": hangs, "empty": &empty{sent: sent{data: data}, n: n}} {
			dir := t.TempDir()
			_, err := Save(t.Context(), src, SaveOptions{Path: filepath.Join(dir, "a.db"), Stall: 20 * time.Millisecond})
			if !errors.Is(err, ErrCutOff) || !errors.Is(err, errSilent) {
				t.Errorf("%s after %d pieces: got %v", name, n, err)
			}
			holds(t, dir)
		}
	}
}

// hanging answers n times and then waits for its context.
type hanging struct {
	sent
	n   int
	ctx context.Context
}

func (h *hanging) Snapshot(ctx context.Context) (Stream, error) {
	h.ctx = ctx
	_, err := h.sent.Snapshot(ctx)
	return h, err
}

func (h *hanging) Recv() (*etcdserverpb.SnapshotResponse, error) {
	if h.sent.n == h.n {
		<-h.ctx.Done()
		return nil, h.ctx.Err()
	}
	return h.sent.Recv()
}

// empty answers n times with something.
type empty struct {
	sent
	n int
}

func (e *empty) Snapshot(ctx context.Context) (Stream, error) {
	_, err := e.sent.Snapshot(ctx)
	return e, err
}

func (e *empty) Recv() (*etcdserverpb.SnapshotResponse, error) {
	if e.sent.n == e.n {
		return &etcdserverpb.SnapshotResponse{}, nil
	}
	return e.sent.Recv()
}

// TestSaveReplacesNothing: neither a file that is there nor one that somebody
// makes meanwhile, nor the rest of another run.
func TestSaveReplacesNothing(t *testing.T) {
	t.Parallel()
	data, dir := zoo(t), t.TempDir()
	path := filepath.Join(dir, "a.db")
	mine := []byte("mine")
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), mine, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	still := func(name string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(b, mine) {
			t.Errorf("%s was replaced: %v", name, err)
		}
	}
	opt := SaveOptions{Path: path, Verifying: func() { write("a.db") }}
	if _, err := Save(t.Context(), &sent{data: data}, opt); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made meanwhile: got %v", err)
	}
	still("a.db")
	holds(t, dir, "a.db")
	asked := false
	src := &sent{data: data, before: func(int, int64) error { asked = true; return nil }}
	if _, err := Save(t.Context(), src, SaveOptions{Path: path}); !errors.Is(err, fs.ErrExist) || asked {
		t.Errorf("made before: got %v, asked for the snapshot: %v", err, asked)
	}
	still("a.db")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write("a.db.part")
	write("a.db.2.part")
	if _, err := Save(t.Context(), &sent{data: data}, SaveOptions{Path: path}); err != nil {
		t.Fatal(err)
	}
	still("a.db.part")
	still("a.db.2.part")
	holds(t, dir, "a.db", "a.db.2.part", "a.db.part")
	if _, err := Save(t.Context(), &sent{data: data}, SaveOptions{Path: filepath.Join(dir, "none", "a.db")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such directory: got %v", err)
	}
}

// TestSaveReadsBack: a snapshot that came as it was sent, and that the member
// itself holds damaged, gets no name.
func TestSaveReadsBack(t *testing.T) {
	t.Parallel()
	data := zoo(t)
	body := data[:len(data)-sha256.Size]
	clear(body[64<<10:]) // all but the first pages
	sum := sha256.Sum256(body)
	data = append(body, sum[:]...)
	for _, compress := range []string{"", Zstd} {
		dir := t.TempDir()
		_, err := Save(t.Context(), &sent{data: data}, SaveOptions{Path: filepath.Join(dir, "a.db"), Compress: compress})
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: got %v", compress, err)
		}
		holds(t, dir)
	}
}

func TestSaveToWriter(t *testing.T) {
	t.Parallel()
	data := zoo(t)
	var out bytes.Buffer
	saved, err := Save(t.Context(), &sent{data: data}, SaveOptions{Out: &out})
	if err != nil || !bytes.Equal(out.Bytes(), data) || saved.Report != nil || saved.Path != "" {
		t.Errorf("%d bytes, want %d; %+v, %v", out.Len(), len(data), saved, err)
	}
	out.Reset()
	if _, err = Save(t.Context(), &sent{data: data}, SaveOptions{Out: &out, Compress: Zstd}); err != nil || !bytes.Equal(decompress(t, out.Bytes()), data) {
		t.Errorf("compressed: %v", err)
	}
	// What is not whole cannot be unpacked as if it were.
	damaged := bytes.Clone(data)
	damaged[len(damaged)/3] ^= 1
	for name, src := range map[string]*sent{"flip": {data: damaged}, "cut": {data: data[:len(data)/2]}} {
		out.Reset()
		if _, err = Save(t.Context(), src, SaveOptions{Out: &out, Compress: Zstd}); err == nil {
			t.Errorf("%s: no error", name)
		}
		z, err := zstd.NewReader(&out)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, z); err == nil {
			t.Errorf("%s: %d bytes are unpacked, and nothing is said", name, n)
		}
		z.Close()
	}
}

// TestStreamSum: the sum does not depend on where the pieces end.
func TestStreamSum(t *testing.T) {
	t.Parallel()
	r := random(t)
	for n := range 300 {
		body := make([]byte, 512*r.IntN(5))
		for i := range body {
			body[i] = byte(r.Uint32())
		}
		want := sha256.Sum256(body)
		s := newStreamSum()
		for rest := append(body, want[:]...); len(rest) > 0; {
			piece := min(len(rest), r.IntN(100))
			s.add(rest[:piece])
			rest = rest[piece:]
		}
		if err := s.check(); err != nil || s.n != int64(len(body)+sha256.Size) {
			t.Fatalf("round %d, %d bytes: %v", n, len(body), err)
		}
	}
}
