package keyspace_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

const (
	hotKey     = prefix + "configmaps/team/hot"
	rotatedKey = prefix + "secrets/team/rotated"
	zooNewest  = 1718
)

var (
	_ keyspace.Historian = (*keyspace.Live)(nil)
	_ keyspace.Historian = (*keyspace.File)(nil)
)

// change is one revision of a key: an entry, or a deletion.
type change struct {
	Mod     int64
	Deleted bool
	Entry   entry
}

func changeOf(v keyspace.Version) change {
	c := change{Mod: v.ModRevision, Deleted: v.Deleted}
	if v.KV != nil {
		c.Entry = entryOf(v.KV)
	}
	return c
}

// walk reads all revisions of all keys with bbolt alone, newest first.
func walk(t *testing.T, path string) map[string][]change {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	all := map[string][]change{}
	err = db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("key")).ForEach(func(rev, data []byte) error {
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(data, &kv); err != nil {
				return err
			}
			c := change{Mod: int64(binary.BigEndian.Uint64(rev)), Deleted: len(rev) == 18}
			if !c.Deleted {
				c.Entry = entryOf(&kv)
			}
			all[string(kv.Key)] = append(all[string(kv.Key)], c)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, changes := range all {
		slices.Reverse(changes)
	}
	return all
}

func history(t *testing.T, src keyspace.Historian, key string, most int) ([]change, keyspace.Extent) {
	t.Helper()
	var got []change
	extent, err := src.History(t.Context(), key, most, func(v keyspace.Version) error {
		got = append(got, changeOf(v))
		return nil
	})
	if err != nil {
		t.Fatalf("history of %s: %v", key, err)
	}
	return got, extent
}

// eventful are the keys that were changed, deleted, or made again.
func eventful(all map[string][]change) (keys []string) {
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if len(all[key]) > 1 {
			keys = append(keys, key)
		}
	}
	return keys
}

func TestHistoryOfAFile(t *testing.T) {
	t.Parallel()
	f := zoo(t)
	src, all := keyspace.FromFile(f), walk(t, f.Path())
	for key, n := range map[string]int{hotKey: 4, rotatedKey: 3, prefix + "configmaps/team-x/tmp-3": 2, prefix + "none": 0} {
		if len(all[key]) < n || (n == 0) != (len(all[key]) == 0) {
			t.Errorf("the fixture has %d revisions of %s", len(all[key]), key)
		}
	}
	for _, key := range append(eventful(all), prefix+"none", prefix, "talos:v1:x", "") {
		got, extent := history(t, src, key, 0)
		if diff := changesDiffer(all[key], got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
		if extent != (keyspace.Extent{Oldest: 1}) {
			t.Errorf("%s: extent %+v", key, extent)
		}
	}
}

// life is a part of a history, newest first: from the deletion, if there was
// one, to the making.
func lives(all []change) (parts [][]change) {
	for i, c := range all {
		if c.Deleted || i == 0 {
			parts = append(parts, nil)
		}
		last := len(parts) - 1
		parts[last] = append(parts[last], c)
	}
	return parts
}

// readable is what etcd can tell of a history after a compaction.
func readable(all []change, compacted int64) (left []change) {
	for _, c := range all {
		if c.Mod > compacted {
			left = append(left, c)
			continue
		}
		if !c.Deleted {
			left = append(left, c)
		}
		break
	}
	return left
}

// checkSampled compares what etcd tells with all that it could: lives are told
// whole or not at all, and only short ones may be missing. It returns how many.
func checkSampled(t *testing.T, key string, want, got []change, compacted int64, extent keyspace.Extent) (missing int) {
	t.Helper()
	var expected []change
	for i, life := range lives(want) {
		present := i == 0 && !life[0].Deleted
		told := slices.Contains(got, life[0])
		if told || present {
			expected = append(expected, life...)
			continue
		}
		missing++
		from := max(life[len(life)-1].Mod, compacted, 1)
		if lasted := life[0].Mod - from; lasted >= extent.Step {
			t.Errorf("%s: a life of %d revisions from %d on is missing, though the step is %d", key, lasted, from, extent.Step)
		}
	}
	if diff := changesDiffer(expected, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", key, diff)
	}
	return missing
}

// TestHistoryOfEtcd compares etcd with the snapshot that it was started from,
// before and after compactions.
func TestHistoryOfEtcd(t *testing.T) {
	t.Parallel()
	all := walk(t, zoo(t).Path())
	keys := append(eventful(all), prefix+"none")
	hot := all[hotKey]
	for _, compacted := range []int64{0, hot[len(hot)/2].Mod, hot[len(hot)/2].Mod + 1, 1200, zooNewest} {
		t.Run(fmt.Sprintf("compacted at %d", compacted), func(t *testing.T) {
			t.Parallel()
			s := start(t, sandbox.Options{Snapshot: zooFile})
			if compacted > 0 {
				if _, err := s.Compact(t.Context(), compacted); err != nil {
					t.Fatal(err)
				}
			}
			src, missing, told := s.pin(s), 0, 0
			for _, key := range keys {
				got, extent := history(t, src, key, 0)
				missing += checkSampled(t, key, readable(all[key], compacted), got, compacted, extent)
				told += len(lives(got))
				if extent.Oldest != 0 && extent.Oldest != max(compacted, 1) || extent.Cut || extent.Step > zooNewest/32+1 {
					t.Errorf("%s: extent %+v, compacted at %d", key, extent, compacted)
				}
			}
			if told < 100 && compacted < zooNewest {
				t.Errorf("only %d lives were found, %d missed", told, missing)
			}
			for _, key := range []string{hotKey, rotatedKey} {
				checkEveryRevision(t, src, key, all[key], compacted)
			}
		})
	}
}

// at is what a history says of one revision: the key, nil, or that nobody
// knows any more.
func at(all []change, rev, compacted int64) (want *change, known bool) {
	newer := int64(zooNewest + 1)
	for _, c := range all {
		if c.Mod > rev {
			newer = c.Mod
			continue
		}
		if rev < compacted && (newer <= compacted || c.Deleted) {
			return nil, false
		}
		if c.Deleted {
			return nil, true
		}
		return &c, true
	}
	return nil, rev >= compacted
}

// checkEveryRevision asks for the key right at, before and after each of its
// revisions.
func checkEveryRevision(t *testing.T, src keyspace.Historian, key string, all []change, compacted int64) {
	t.Helper()
	revs := []int64{1, max(compacted-1, 1), max(compacted, 1), compacted + 1, src.Revision()}
	for _, c := range all {
		revs = append(revs, c.Mod-1, c.Mod, c.Mod+1)
	}
	for _, rev := range revs {
		if rev > src.Revision() {
			continue
		}
		kv, err := src.At(t.Context(), key, rev)
		want, known := at(all, rev, compacted)
		if !known {
			var gone *keyspace.CompactedError
			if !errors.As(err, &gone) || *gone != (keyspace.CompactedError{Revision: rev, Oldest: compacted}) {
				t.Errorf("%s at %d: %v, %v; want CompactedError from %d on", key, rev, kv, err, compacted)
			}
			continue
		}
		if err != nil || (kv == nil) != (want == nil) || kv != nil && entryOf(kv) != want.Entry {
			t.Errorf("%s at %d: %v, %v; want %v", key, rev, kv.GetModRevision(), err, want)
		}
	}
	for rev, newest := range map[int64]int64{src.Revision() + 1: src.Revision(), 1 << 60: src.Revision()} {
		var future *keyspace.FutureError
		if kv, err := src.At(t.Context(), key, rev); kv != nil || !errors.As(err, &future) || *future != (keyspace.FutureError{Revision: rev, Newest: newest}) {
			t.Errorf("%s at %d: %v, %v; want FutureError", key, rev, kv, err)
		}
	}
	for _, rev := range []int64{0, -1} {
		if kv, err := src.At(t.Context(), key, rev); kv != nil || err == nil || !strings.Contains(err.Error(), "the first one is 1") {
			t.Errorf("%s at %d: %v, %v; want an error", key, rev, kv, err)
		}
	}
}

func TestAtOfAFile(t *testing.T) {
	t.Parallel()
	f := zoo(t)
	src, all := keyspace.FromFile(f), walk(t, f.Path())
	for _, key := range []string{hotKey, rotatedKey, prefix + "configmaps/team-x/tmp-3", prefix + "none"} {
		checkEveryRevision(t, src, key, all[key], 0)
	}
}

// TestSnapshotOfACompactedStore: a file says what etcd says.
func TestSnapshotOfACompactedStore(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{Snapshot: zooFile})
	all := walk(t, zoo(t).Path())
	// etcd keeps a deletion that stands at the compacted revision itself.
	deletion := all[rotatedKey][1]
	compacted, kept := deletion.Mod, 0
	if _, err := s.Compact(t.Context(), compacted, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	src := keyspace.FromFile(saved(t, s))
	for _, key := range eventful(all) {
		got, extent := history(t, src, key, 0)
		if n := len(got); n > 0 && got[n-1] == deletion {
			got, kept = got[:n-1], kept+1
		}
		if diff := changesDiffer(readable(all[key], compacted), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
		if extent.Oldest != compacted || extent.Step > 1 {
			t.Errorf("%s: extent %+v", key, extent)
		}
	}
	if !deletion.Deleted || kept == 0 {
		t.Errorf("revision %d is no kept deletion", compacted)
	}
	for _, key := range []string{hotKey, rotatedKey} {
		checkEveryRevision(t, src, key, all[key], compacted)
	}
}

func changesDiffer(want, got []change) string {
	if slices.Equal(want, got) {
		return ""
	}
	return cmp.Diff(want, got)
}

// saved is a snapshot of a store.
func saved(t *testing.T, s *store) *snapshots.File {
	t.Helper()
	in, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	path := filepath.Join(t.TempDir(), "saved.db")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
	return openFile(t, path)
}
