package snapshots

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
)

func TestPositionRoundTrip(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"0_0", "12_0", "1718_3", "9223372036854775807_1"} {
		p, err := ParsePosition(s)
		if err != nil || p.String() != s {
			t.Errorf("ParsePosition(%q) = %v, %v", s, p, err)
		}
		if back, tomb, err := positionOf(p.bytes()); back != p || tomb || err != nil {
			t.Errorf("positionOf(%v.bytes()) = %v, %v, %v", p, back, tomb, err)
		}
	}
	for _, s := range []string{"", "12", "_", "1_", "_1", "-1_0", "1_-1", "01_0", "+1_0", "1_0_0", "1_0 ", "9223372036854775808_0"} {
		if p, err := ParsePosition(s); err == nil {
			t.Errorf("ParsePosition(%q) = %v, want an error", s, p)
		}
	}
}

func TestZooMatchesKeysTxt(t *testing.T) {
	t.Parallel()
	f := open(t, unzstd(t, zooFixture))
	raw, err := os.ReadFile("../testdata/zoo-1.36/keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for sc := bufio.NewScanner(strings.NewReader(string(raw))); sc.Scan(); {
		if !strings.HasPrefix(sc.Text(), "# ") {
			want = append(want, sc.Text())
		}
	}
	for _, kv := range scan(t, f, "", "\x00", 0) {
		got = append(got, fmt.Sprintf("%s\t%d\t%d\t%d\t%d\t%d", kv.Key, kv.ModRevision, kv.CreateRevision, kv.Version, kv.Lease, len(kv.Value)))
	}
	diff(t, "keys", got, want)
	if f.Revision() != 1718 || f.Compacted() != 0 || f.IsArchive() || !f.HasHash() {
		t.Errorf("revision %d compacted %d archive %v hash %v", f.Revision(), f.Compacted(), f.IsArchive(), f.HasHash())
	}
	if err := readAll(t.Context(), f); err != nil {
		t.Error(err)
	}
}

func TestRunawayFixture(t *testing.T) {
	t.Parallel()
	f := open(t, unzstd(t, runawayFixture))
	n, err := f.Count(t.Context(), "/registry/pods/", "/registry/pods0", 0)
	if err != nil || n != 30000 || f.Revision() != 30440 {
		t.Errorf("pods = %d, %v; revision %d", n, err, f.Revision())
	}
	if n, err := f.Count(t.Context(), "", "\x00", 0); err != nil || n != 30229 {
		t.Errorf("all keys = %d, %v; want 30229", n, err)
	}
}

// history has an updated key, a deleted one, one made again, and two changes of one transaction.
func history() []change {
	return []change{
		{rev: 2, key: "/a", value: "a1", create: 2, version: 1},
		{rev: 3, key: "/b", value: "b1", create: 3, version: 1},
		{rev: 4, key: "/a", value: "a2", create: 2, version: 2},
		{rev: 5, key: "/b", deleted: true},
		{rev: 6, key: "/c", value: "c1", create: 6, version: 1},
		{rev: 6, sub: 1, key: "/ab", value: "ab1", create: 6, version: 1},
		{rev: 7, key: "/b", value: "b2", create: 7, version: 1},
		{rev: 8, key: "/c", deleted: true},
	}
}

func TestScanAtRevisions(t *testing.T) {
	t.Parallel()
	f := open(t, makeDB(t, history(), nil))
	for _, tt := range []struct {
		name, start, end string
		rev              int64
		want             []string
	}{
		{"newest", "", "\x00", 0, []string{"/a=a2", "/ab=ab1", "/b=b2"}},
		{"newest by number", "", "\x00", 8, []string{"/a=a2", "/ab=ab1", "/b=b2"}},
		{"before the delete", "", "\x00", 7, []string{"/a=a2", "/ab=ab1", "/b=b2", "/c=c1"}},
		{"both changes of a transaction", "", "\x00", 6, []string{"/a=a2", "/ab=ab1", "/c=c1"}},
		{"deleted", "", "\x00", 5, []string{"/a=a2"}},
		{"before the update", "", "\x00", 3, []string{"/a=a1", "/b=b1"}},
		{"nothing yet", "", "\x00", 1, []string{}},
		{"one key", "/a", "", 0, []string{"/a=a2"}},
		{"one key that is not there", "/aa", "", 0, []string{}},
		{"range", "/a", "/b", 0, []string{"/a=a2", "/ab=ab1"}},
		{"from", "/ab", "\x00", 0, []string{"/ab=ab1", "/b=b2"}},
		{"inverted range", "/b", "/a", 0, []string{}},
	} {
		diff(t, tt.name, keysOf(scan(t, f, tt.start, tt.end, tt.rev)), tt.want)
		n, err := f.Count(t.Context(), tt.start, tt.end, tt.rev)
		if err != nil || n != int64(len(tt.want)) {
			t.Errorf("%s: Count = %d, %v", tt.name, n, err)
		}
	}
	if kv, err := f.Get("/c", 0); kv != nil || err != nil {
		t.Errorf("Get of a deleted key = %v, %v", kv, err)
	}
	if kv, err := f.Get("/c", 7); err != nil || string(kv.Value) != "c1" || kv.ModRevision != 6 {
		t.Errorf("Get at revision 7 = %v, %v", kv, err)
	}
	if err := f.Scan(t.Context(), "", "\x00", 9, nil); !errors.Is(err, ErrFutureRev) {
		t.Errorf("future revision: %v", err)
	}
}

func TestEntriesAndAt(t *testing.T) {
	t.Parallel()
	f := open(t, makeDB(t, history(), nil))
	var got []string
	if err := f.Entries(t.Context(), func(p Position, kv *mvccpb.KeyValue) error {
		got = append(got, p.String()+" "+string(kv.Value))
		at, err := f.At(p)
		diff(t, "At "+p.String(), at, kv)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	diff(t, "entries", got, []string{"2_0 a1", "3_0 b1", "4_0 a2", "6_0 c1", "6_1 ab1", "7_0 b2"})
	for _, p := range []Position{{1, 0}, {5, 0}, {6, 2}, {8, 0}, {99, 0}} {
		if kv, err := f.At(p); err == nil {
			t.Errorf("At(%v) = %v, want an error", p, kv)
		}
	}
	if f.Stage(Position{2, 0}) != 0 {
		t.Error("a file that is no archive has a stage")
	}
	stop := errors.New("enough")
	if err := f.Entries(t.Context(), func(Position, *mvccpb.KeyValue) error { return stop }); err != stop {
		t.Errorf("error of fn came back as %v", err)
	}
}

func TestRevisions(t *testing.T) {
	t.Parallel()
	// What a compaction has not yet removed is listed too.
	f := open(t, makeDB(t, history(), map[string][]byte{"scheduledCompactRev": Position{6, 0}.bytes()}))
	for key, want := range map[string][]string{
		"/a": {"2_0", "4_0"}, "/b": {"3_0", "5_0 deleted", "7_0"}, "/ab": {"6_1"}, "/c": {"6_0", "8_0 deleted"}, "/": nil, "": nil,
	} {
		var got []string
		err := f.Revisions(t.Context(), key, func(at Position, deleted bool) error {
			if got = append(got, at.String()); deleted {
				got[len(got)-1] += " deleted"
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		diff(t, "revisions of "+key, got, want)
	}
	stop := errors.New("enough")
	if err := f.Revisions(t.Context(), "/a", func(Position, bool) error { return stop }); err != stop {
		t.Errorf("error of fn came back as %v", err)
	}
}

func TestCompacted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                string
		meta                map[string][]byte
		compacted, revision int64
	}{
		{"never", nil, 0, 8},
		{"finished", map[string][]byte{"finishedCompactRev": Position{4, 0}.bytes(), "scheduledCompactRev": Position{4, 0}.bytes()}, 4, 8},
		{"only scheduled", map[string][]byte{"finishedCompactRev": Position{2, 0}.bytes(), "scheduledCompactRev": Position{5, 0}.bytes()}, 5, 8},
		{"past the newest entry", map[string][]byte{"finishedCompactRev": Position{11, 0}.bytes()}, 11, 11},
	} {
		f := open(t, makeDB(t, history(), tt.meta))
		if f.Compacted() != tt.compacted || f.Revision() != tt.revision {
			t.Errorf("%s: compacted %d revision %d, want %d and %d", tt.name, f.Compacted(), f.Revision(), tt.compacted, tt.revision)
		}
		if tt.compacted > 1 {
			if _, err := f.Count(t.Context(), "", "\x00", tt.compacted-1); !errors.Is(err, ErrCompacted) {
				t.Errorf("%s: below the compaction: %v", tt.name, err)
			}
		}
		if n, err := f.Count(t.Context(), "", "\x00", tt.revision); err != nil || n != 3 {
			t.Errorf("%s: newest: %d, %v", tt.name, n, err)
		}
	}
}

// bumped is the db of the zoo as etcdutl restores it with a higher revision.
func bumped(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: unzstd(t, zooFixture), Name: "s", OutputDataDir: dir,
		PeerURLs: []string{"http://127.0.0.1:1"}, InitialCluster: "s=http://127.0.0.1:1", InitialClusterToken: "t",
		RevisionBump: 1000, MarkCompacted: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "member", "snap", "db")
}

func TestBumpedRevision(t *testing.T) {
	t.Parallel()
	f := open(t, bumped(t))
	if f.Revision() != 2718 || f.Compacted() != 2718 || f.HasHash() {
		t.Errorf("revision %d, compacted %d, hash %v", f.Revision(), f.Compacted(), f.HasHash())
	}
	if n, err := f.Count(t.Context(), "", "\x00", 0); err != nil || n != 790 {
		t.Errorf("live keys = %d, %v; want 790", n, err)
	}
	if err := readAll(t.Context(), f); err != nil && !errors.Is(err, ErrCompacted) {
		t.Error(err)
	}
	if kv, err := f.At(Position{2718, 0}); err == nil {
		t.Errorf("the empty revision reads as %v", kv)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	other := filepath.Join(dir, "other.db")
	db, err := bolt.Open(other, 0o600, nil)
	if err != nil || db.Close() != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		want       error
		text       string
	}{
		{"missing", filepath.Join(dir, "missing.db"), os.ErrNotExist, "missing.db"},
		{"directory", dir, ErrNotDB, "not a regular file"},
		{"empty", write("empty", nil), ErrNotDB, "is empty"},
		{"short", write("short", []byte("x")), ErrNotDB, "short"},
		{"gzip", write("gz", []byte("\x1f\x8b\x08\x00rest")), ErrNotDB, "compressed with gzip; unpack it first (gunzip)"},
		{"xz", write("xz", []byte("\xfd7zXZ\x00rest")), ErrNotDB, "compressed with xz"},
		{"zstd of text", write("text.zst", packed(t, []byte(strings.Repeat("not a database\n", 5000)))), ErrNotDB, "text.zst"},
		{"zstd of nothing", write("empty.zst", packed(t, nil)), ErrNotDB, "is empty"},
		{"zstd twice", write("twice.zst", packed(t, packed(t, []byte("x")))), ErrNotDB, "compressed twice"},
		{"text", write("text", []byte(strings.Repeat("not a database\n", 5000))), ErrNotDB, "text"},
		{"bbolt of somebody else", other, ErrNotDB, "no bucket \"key\""},
	} {
		f, err := Open(tt.path, Options{})
		if f != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "missing.db")); err == nil {
		t.Error("a missing file was created")
	}
}

func TestMalformedRevisionKey(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]string{
		"short":          "\x00\x00",
		"short and last": "\x00short",
		"no separator":   strings.Repeat("\x00", 17),
		"negative":       "\xff" + strings.Repeat("\x00", 7) + "_" + strings.Repeat("\x00", 8),
		"unknown mark":   string(Position{3, 9}.bytes()) + "x",
	} {
		path := makeDB(t, history(), nil)
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("key")).Put([]byte(key), []byte("v")) })
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path, Options{})
		if err == nil {
			_, err = f.Count(t.Context(), "", "\x00", 0)
			_ = f.Close()
		}
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadingChangesNothing(t *testing.T) {
	t.Parallel()
	path := unzstd(t, zooFixture)
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	before, err := SHA256(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	if err := errors.Join(readAll(t.Context(), f), f.Close()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if after := fmt.Sprintf("%x", sha256.Sum256(raw)); after != before {
		t.Errorf("sha256 %s before reading, %s after", before, after)
	}
}

func TestCancelledContext(t *testing.T) {
	t.Parallel()
	path := makeDB(t, history(), nil)
	f := open(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"Scan":    f.Scan(ctx, "", "\x00", 0, nil),
		"Entries": f.Entries(ctx, nil),
		"Check":   f.Check(ctx),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := SHA256(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("SHA256: %v", err)
	}
}
