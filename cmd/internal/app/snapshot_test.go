package app

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const someUID = "1f0c2a9b-54b1-4d6f-9c3e-0a5d6c7e8f90"

func TestSnapshotNames(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 67e6, time.FixedZone("", 3600))
	for _, tc := range []struct{ uid, compress, want string }{
		{someUID, "", "etcd-rescue-snapshot-1f0c2a9b-20260102T020405.067Z.db"},
		{someUID, "zstd", "etcd-rescue-snapshot-1f0c2a9b-20260102T020405.067Z.db.zst"},
		{"", "", "etcd-rescue-snapshot-000000000000beef-20260102T020405.067Z.db"},
		{"../../etc/passwd", "", "etcd-rescue-snapshot-000000000000beef-20260102T020405.067Z.db"},
	} {
		id := snapshotID(tc.uid, 0xbeef)
		got := snapshotName(id, at, tc.compress)
		theirs, then, ok := ownSnapshot(got)
		if got != tc.want || theirs != id || then != "20260102T020405.067Z" || !ok {
			t.Errorf("%q: got %q, taken apart as %q, %q, %v", tc.uid, got, theirs, then, ok)
		}
	}
	for _, name := range []string{
		"etcd-rescue-20260102T020405Z-1f0c2a9b.db", "etcd-rescue-snapshot-1f0c2a9b-20260102T020405.067Z.db.part",
		"etcd-rescue-snapshot-1f0c2a9b-20260102T020405.067Z.db.2.part", "etcd-rescue-snapshot-1f0c2a9b-20260102T020405Z.db",
		"etcd-rescue-snapshot-1F0C2A9B-20260102T020405.067Z.db", "my-etcd-rescue-snapshot-1f0c2a9b-20260102T020405.067Z.db",
		"etcd-rescue-snapshot-1f0c2a9b-20260102T020405.067Z.db.zst.1", "etcd-rescue-snapshot--20260102T020405.067Z.db", "snapshot.db", "",
		"etcd-rescue-snapshot-1f0c2a9b-20260102T020405x067Z.db", "etcd-rescue-snapshot-1f0c2a9b-20260102T020405.067Z.db\n",
	} {
		if _, _, ok := ownSnapshot(name); ok {
			t.Errorf("%q is taken for one of ours", name)
		}
	}
}

// TestPrunable: only what is ours, of the same cluster, older and beyond the
// number, is ever named.
func TestPrunable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := func(id string, day int, compress string) string {
		return snapshotName(id, time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC), compress)
	}
	for _, file := range []string{
		name("1f0c2a9b", 1, ""), name("1f0c2a9b", 2, "zstd"), name("1f0c2a9b", 3, ""), name("1f0c2a9b", 4, ""), name("1f0c2a9b", 9, ""),
		name("00000000", 1, ""), name("000000000000beef", 1, ""), "etcd-rescue-20260101T000000Z-1f0c2a9b.db",
		name("1f0c2a9b", 1, "") + ".part", "a.db",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, name("1f0c2a9b", 5, "")), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a.db", filepath.Join(dir, name("1f0c2a9b", 5, "zstd"))); err != nil {
		t.Fatal(err)
	}
	all := []string{name("1f0c2a9b", 1, ""), name("1f0c2a9b", 2, "zstd"), name("1f0c2a9b", 3, ""), name("1f0c2a9b", 4, "")}
	for _, tc := range []struct {
		newest string
		keep   int
		want   []string
	}{
		{name("1f0c2a9b", 6, ""), 1, all},
		{name("1f0c2a9b", 6, "zstd"), 3, all[:2]},
		{name("1f0c2a9b", 6, ""), 5, nil},
		{name("1f0c2a9b", 6, ""), 0, nil},
		{name("1f0c2a9b", 3, ""), 1, all[:2]}, // a clock that went back
		{name("11111111", 6, ""), 1, nil},
		{"a.db", 1, nil},
	} {
		paths, err := prunable(filepath.Join(dir, tc.newest), tc.keep)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range paths {
			got = append(got, filepath.Base(p))
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s, keep %d: -want +got:\n%s", tc.newest, tc.keep, diff)
		}
	}
}

func TestUnfinished(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	own := "etcd-rescue-snapshot-1f0c2a9b-20260102T020405.067Z.db"
	for _, file := range []string{own + ".part", own + ".2.part", own + ".zst.part", own, "a.db.part", "a.db.7.part", "b.db.part", "a.db"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, path := range unfinished(filepath.Join(dir, "a.db")) {
		got = append(got, filepath.Base(path))
	}
	want := []string{"a.db.7.part", "a.db.part", own + ".2.part", own + ".part", own + ".zst.part"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
