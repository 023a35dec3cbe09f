package plan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

const (
	cronKey = prefix + "cronjobs/a/c"
	jobKey  = prefix + "jobs/a/j"
	podKey  = prefix + "pods/a/p"
)

func at(hour int) time.Time { return time.Date(2026, 11, 22, hour, 0, 0, 0, time.UTC) }

// pods are n pods of the Job, with the revisions after rev.
func pods(name string, n int, rev int64) (kvs []*mvccpb.KeyValue) {
	for i := range n {
		o := thing{key: fmt.Sprintf("%s-%s-%04d", podKey, name, i), kind: "v1 Pod", owners: []codec.Owner{owner("batch/v1 Job", jobKey)}}
		kvs = append(kvs, o.entry(rev+int64(i)+1))
	}
	return kvs
}

func cron(rev int64) []*mvccpb.KeyValue {
	return []*mvccpb.KeyValue{thing{key: cronKey, kind: "batch/v1 CronJob"}.entry(rev)}
}

func job(rev int64) []*mvccpb.KeyValue {
	return []*mvccpb.KeyValue{thing{key: jobKey, kind: "batch/v1 Job", owners: []codec.Owner{owner("batch/v1 CronJob", cronKey)}}.entry(rev)}
}

// undone plans the undo of archives twice, as a preview and into a plan,
// asserts that both say the same and that every entry is accounted for, and
// returns what was planned.
func undone(t *testing.T, req UndoRequest) (*Summary, []line) {
	t.Helper()
	req.Now, req.Reader = strict{req.Now, t}, &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	preview, err := Undo(t.Context(), req, nil)
	if err != nil {
		t.Fatal(err)
	}
	var sum *Summary
	lines := throughFile(t, func(out *Writer) error {
		sum, err = Undo(t.Context(), req, out)
		return err
	})
	if diff := cmp.Diff(preview, sum, cmpopts.IgnoreUnexported(LiveOwner{})); diff != "" {
		t.Errorf("the preview differs (-preview +plan):\n%s", diff)
	}
	checkStages(t, sum, lines)
	var entries int64
	for _, f := range req.Archives {
		err := f.Entries(t.Context(), func(snapshots.Position, *mvccpb.KeyValue) error { entries++; return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := sum.Steps + sum.Present + sum.Differing + sum.Leased + sum.Superseded; got != entries {
		t.Errorf("%d entries are accounted for, the archives hold %d", got, entries)
	}
	return sum, lines
}

// strict holds callers of GetAll to what a live etcd needs.
type strict struct {
	keyspace.Source
	t *testing.T
}

func (s strict) GetAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	if !slices.IsSorted(keys) || len(keys) > undoBatch {
		s.t.Errorf("asked for %d keys, sorted %v", len(keys), slices.IsSorted(keys))
	}
	return s.Source.GetAll(ctx, keys)
}

// empty is a store without a key.
func empty(t *testing.T) keyspace.Source { return made(t).src }

// TestUndoFollowsTheArchive: its order and its stages, which are owners first.
func TestUndoFollowsTheArchive(t *testing.T) {
	t.Parallel()
	children := pods("x", 3, 20)
	f := archive(t, at(1), nil, cron(7), job(8), []*mvccpb.KeyValue{children[2], children[0], children[1]})
	sum, lines := undone(t, UndoRequest{Archives: []*snapshots.File{f}, Now: empty(t)})
	if diff := cmp.Diff([]string{
		"0 restored cronjobs/a/c", "1 restored jobs/a/j", "2 restored pods/a/p-x-0002", "2 restored pods/a/p-x-0000", "2 restored pods/a/p-x-0001",
	}, order(lines)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]StageInfo{{"cronjob", 1}, {"job", 1}, {"pod", 3}}, sum.Stages); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	value := job(8)[0].Value
	want := Step{
		Type: "step", Action: Put, Key: jobKey, UID: uidOf(jobKey), Resource: "job", Namespace: "a", Name: "j", Size: int64(len(value)),
		Role: Restored, Reason: "archived at revision 8", Position: "2_0", SourceModRevision: 8, Owned: true,
	}
	if diff := cmp.Diff(line{1, "job", want}, lines[1]); diff != "" {
		t.Errorf("step (-want +got):\n%s", diff)
	}
	if sum.Owned != 4 || sum.Namespaces.of("a") != 5 || sum.Resources.of("pods") != 3 {
		t.Errorf("%d owned, namespaces %v, resources %v", sum.Owned, sum.Namespaces, sum.Resources)
	}
}

// TestNamespacesAndClaimsComeBackFirst, from whichever archive: nothing can be
// made without its namespace, and a volume whose claim is missing is reclaimed.
func TestNamespacesAndClaimsComeBackFirst(t *testing.T) {
	t.Parallel()
	entry := func(key, kind string, rev int64) []*mvccpb.KeyValue {
		return []*mvccpb.KeyValue{thing{key: prefix + key, kind: kind}.entry(rev)}
	}
	older := archive(t, at(1), nil, entry("persistentvolumeclaims/a/old", "v1 PersistentVolumeClaim", 5))
	newer := archive(t, at(2), nil, entry("persistentvolumes/v", "v1 PersistentVolume", 7), pods("x", 1, 20),
		entry("persistentvolumeclaims/a/c", "v1 PersistentVolumeClaim", 8), entry("namespaces/a", "v1 Namespace", 9))
	sum, lines := undone(t, UndoRequest{Archives: []*snapshots.File{older, newer}, Now: empty(t)})
	if diff := cmp.Diff([]string{
		"0 restored namespaces/a", "1 restored persistentvolumeclaims/a/c", "1 restored persistentvolumeclaims/a/old",
		"2 restored persistentvolumes/v", "3 restored pods/a/p-x-0000",
	}, order(lines)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if len(sum.Stages) != 4 || sum.Stages[1] != (StageInfo{"persistentvolumeclaim", 2}) {
		t.Errorf("stages %v", sum.Stages)
	}
}

// TestNewestArchiveIsUndoneFirst, whatever order they are named in.
func TestNewestArchiveIsUndoneFirst(t *testing.T) {
	t.Parallel()
	older := archive(t, at(1), nil, cron(7), pods("old", 2, 20))
	newer := archive(t, at(2), nil, job(30), pods("new", 2, 40))
	want := []string{
		"0 restored jobs/a/j", "1 restored pods/a/p-new-0000", "1 restored pods/a/p-new-0001",
		"2 restored cronjobs/a/c", "3 restored pods/a/p-old-0000", "3 restored pods/a/p-old-0001",
	}
	for _, files := range [][]*snapshots.File{{older, newer}, {newer, older}} {
		sum, lines := undone(t, UndoRequest{Archives: files, Now: empty(t)})
		if diff := cmp.Diff(want, order(lines)); diff != "" {
			t.Errorf("steps (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]StageInfo{{"job", 1}, {"pod", 2}, {"cronjob", 1}, {"pod", 2}}, sum.Stages); diff != "" {
			t.Errorf("stages (-want +got):\n%s", diff)
		}
		for i, l := range lines {
			if got := files[l.Step.Source]; (got == newer) != (i < 3) {
				t.Errorf("%s comes from %s", l.Step.Key, got.Path())
			}
		}
	}
}

// TestOnlyTheNewestBytesOfAKeyCount: within an archive its last entry, of
// several archives that of the newest.
func TestOnlyTheNewestBytesOfAKeyCount(t *testing.T) {
	t.Parallel()
	entry := func(name string, rev int64) *mvccpb.KeyValue {
		kv := thing{key: podKey + "-" + name, kind: "v1 Pod", labels: fmt.Sprintf("rev=%d", rev)}.entry(rev)
		return kv
	}
	older := archive(t, at(1), nil, []*mvccpb.KeyValue{entry("a", 1), entry("b", 2)}, []*mvccpb.KeyValue{entry("a", 3), entry("c", 4)})
	newer := archive(t, at(2), nil, []*mvccpb.KeyValue{entry("b", 5), entry("b", 6)})
	sum, lines := undone(t, UndoRequest{Archives: []*snapshots.File{older, newer}, Now: empty(t)})
	got := map[string]int64{}
	for _, l := range lines {
		got[l.Step.Name] = l.Step.SourceModRevision
	}
	if diff := cmp.Diff(map[string]int64{"p-a": 3, "p-b": 6, "p-c": 4}, got); diff != "" || sum.Superseded != 3 {
		t.Errorf("%d superseded, want 3; revisions (-want +got):\n%s", sum.Superseded, diff)
	}
	for _, l := range lines {
		kv, err := []*snapshots.File{older, newer}[l.Step.Source].At(position(t, l.Step.Position))
		if err != nil || string(kv.Key) != l.Step.Key || kv.ModRevision != l.Step.SourceModRevision {
			t.Errorf("%s: its position %s holds %s at %d, %v", l.Step.Key, l.Step.Position, kv.GetKey(), kv.GetModRevision(), err)
		}
	}
}

// TestUndoOfRandomArchives: several archives with keys in common, against a
// map.
func TestUndoOfRandomArchives(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 4))
	for range 20 {
		var files []*snapshots.File
		newest := map[string]int64{} // key to the revision that counts
		var entries, rev int64
		for hour := range 1 + r.IntN(4) {
			var batches [][]*mvccpb.KeyValue
			for range 1 + r.IntN(5) {
				var batch []*mvccpb.KeyValue
				for range 1 + r.IntN(12) {
					rev++
					o := thing{key: fmt.Sprintf("%s-%d", podKey, r.IntN(40)), kind: "v1 Pod"}
					batch = append(batch, o.entry(rev))
					newest[o.key] = rev
					entries++
				}
				batches = append(batches, batch)
			}
			files = append(files, archive(t, at(hour), nil, batches...))
		}
		r.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
		sum, lines := undone(t, UndoRequest{Archives: files, Now: empty(t)})
		got := map[string]int64{}
		for _, l := range lines {
			got[l.Step.Key] = l.Step.SourceModRevision
		}
		if diff := cmp.Diff(newest, got); diff != "" || len(lines) != len(newest) || sum.Superseded != entries-int64(len(newest)) {
			t.Fatalf("%d steps, %d superseded of %d; revisions (-want +got):\n%s", len(lines), sum.Superseded, entries, diff)
		}
	}
}

func position(t *testing.T, s string) snapshots.Position {
	t.Helper()
	p, err := snapshots.ParsePosition(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestUndoLeavesAloneWhatIsThere: identical bytes are done, others are not
// ours to replace, even where the revisions are the same.
func TestUndoLeavesAloneWhatIsThere(t *testing.T) {
	t.Parallel()
	same := thing{key: podKey + "-same", kind: "v1 Pod"}
	other := thing{key: podKey + "-other", kind: "v1 Pod"}
	changed := thing{key: other.key, kind: "v1 Pod", labels: "app=other"}
	absent := thing{key: podKey + "-absent", kind: "v1 Pod"}
	now := made(t, thing{key: podKey, kind: "v1 Pod"}, changed, same).src
	f := archive(t, at(1), nil, []*mvccpb.KeyValue{same.entry(9), other.entry(2), absent.entry(11)})
	sum, lines := undone(t, UndoRequest{Archives: []*snapshots.File{f}, Now: now})
	if diff := cmp.Diff([]string{"0 restored pods/a/p-absent"}, order(lines)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if sum.Present != 1 || sum.Differing != 1 || !cmp.Equal(sum.DifferingKeys, []string{other.key}) {
		t.Errorf("%d present, %d differing: %v", sum.Present, sum.Differing, sum.DifferingKeys)
	}
}

func TestOnlyTheFirstDifferingKeysAreNamed(t *testing.T) {
	t.Parallel()
	const n = maxDiffering + 5
	var there []thing
	for _, kv := range pods("x", n, 0) {
		there = append(there, thing{key: string(kv.Key), kind: "v1 Pod", labels: "app=other"})
	}
	f := archive(t, at(1), nil, pods("x", n, 0))
	sum, lines := undone(t, UndoRequest{Archives: []*snapshots.File{f}, Now: made(t, there...).src})
	if len(lines) != 0 || sum.Differing != n || len(sum.DifferingKeys) != maxDiffering || sum.DifferingKeys[0] != there[0].key {
		t.Errorf("%d steps, %d differing, %d of them named: %v", len(lines), sum.Differing, len(sum.DifferingKeys), sum.DifferingKeys)
	}
}

// TestLeasedObjects come back only when asked for, and only where the archive
// knows how long their lease was.
func TestLeasedObjects(t *testing.T) {
	t.Parallel()
	entries := pods("x", 3, 10)
	entries[1].Lease, entries[2].Lease = 77, 78
	for _, tt := range []struct {
		name       string
		withLeased bool
		ttl        map[int64]int64
		leased     int64
		want       map[int64]int64 // TTL by lease, of the steps
	}{
		{"not asked for", false, map[int64]int64{77: 3600, 78: 60}, 2, map[int64]int64{0: 0}},
		{"asked for", true, map[int64]int64{77: 3600, 78: 60}, 0, map[int64]int64{0: 0, 77: 3600, 78: 60}},
		{"one of unknown length", true, map[int64]int64{78: 60}, 1, map[int64]int64{0: 0, 78: 60}},
		{"none known", true, nil, 2, map[int64]int64{0: 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := archive(t, at(1), tt.ttl, entries)
			sum, lines := undone(t, UndoRequest{Archives: []*snapshots.File{f}, Now: empty(t), WithLeased: tt.withLeased})
			got := map[int64]int64{}
			for _, l := range lines {
				got[l.Step.Lease] = l.Step.LeaseTTL
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || sum.Leased != tt.leased {
				t.Errorf("%d left out, want %d; leases (-want +got):\n%s", sum.Leased, tt.leased, diff)
			}
		})
	}
}

// TestUndoOfManyBatches: the comparison goes in batches, the plan does not
// show it.
func TestUndoOfManyBatches(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, undoBatch - 1, undoBatch, undoBatch + 1, 3*undoBatch + 7} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			all := pods("x", n, 10)
			f := archive(t, at(1), nil, job(1), all)
			// Every third is there.
			there := []thing{{key: prefix + "configmaps/a/m", kind: "v1 ConfigMap"}}
			var want []string
			for i, kv := range all {
				if i%3 == 0 {
					there = append(there, thing{key: string(kv.Key), kind: "v1 Pod", owners: []codec.Owner{owner("batch/v1 Job", jobKey)}})
				} else {
					want = append(want, "1 restored "+string(kv.Key)[len(prefix):])
				}
			}
			sum, lines := undone(t, UndoRequest{Archives: []*snapshots.File{f}, Now: made(t, there...).src})
			if diff := cmp.Diff(append([]string{"0 restored jobs/a/j"}, want...), order(lines)); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			if sum.Present != int64(len(there)-1) || sum.Differing != 0 {
				t.Errorf("%d present, %d differing; want %d and 0", sum.Present, sum.Differing, len(there)-1)
			}
		})
	}
}

// TestUndoOfWhatCannotBeRead: bytes need no meaning to be put back.
func TestUndoOfWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	kv := func(key, value string) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: 5}
	}
	f := archive(t, at(1), nil, []*mvccpb.KeyValue{
		kv(prefix+"strange", "\x00\xff"), kv(prefix+"secrets/a/s", "k8s:enc:aescbc:v1:key1:xyz"), kv(prefix+"configmaps/a/empty", ""),
	})
	sum, lines := undone(t, UndoRequest{Archives: []*snapshots.File{f}, Now: empty(t)})
	if len(lines) != 3 || lines[0].Step.Resource != "" || lines[1].Step.Resource != "secret" || lines[1].Step.UID != "" {
		t.Errorf("steps %+v", lines)
	}
	if diff := cmp.Diff(tallyOf(map[string]int64{"undecodable": 2, "encrypted": 1}), sum.Statuses); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]StageInfo{{"object", 3}}, sum.Stages); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}

// silent is a store that cannot be compared with.
type silent struct{ keyspace.Source }

func (silent) GetAll(context.Context, []string) (map[string]*mvccpb.KeyValue, error) {
	return nil, errLost
}

func TestUndoWithoutAStoreIsNoPlan(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, undoBatch, undoBatch + 1} {
		f := archive(t, at(1), nil, pods("x", n, 10))
		req := UndoRequest{Archives: []*snapshots.File{f}, Now: silent{empty(t)}, Reader: &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}}
		if sum, err := Undo(t.Context(), req, nil); !errors.Is(err, errLost) || sum != nil {
			t.Errorf("%d entries: %v, %v; want the error", n, sum, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := archive(t, at(1), nil, pods("x", 3, 10))
	if _, err := Undo(ctx, UndoRequest{Archives: []*snapshots.File{f}, Now: empty(t), Reader: &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
