package plan

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// altered is a source without some keys, and with other bytes under some.
type altered struct {
	keyspace.Source
	gone, changed map[string]bool
}

func (a altered) now(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	switch {
	case kv == nil || a.gone[string(kv.Key)]:
		return nil
	case a.changed[string(kv.Key)]:
		return &mvccpb.KeyValue{Key: kv.Key, Value: append(bytes.Clone(kv.Value), ' '), CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision + 1_000_000}
	}
	return kv
}

func (a altered) Scan(ctx context.Context, r keyspace.Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	return a.Source.Scan(ctx, r, keysOnly, func(kv *mvccpb.KeyValue) error {
		if kv = a.now(kv); kv == nil {
			return nil
		}
		return fn(kv)
	})
}

func (a altered) Get(ctx context.Context, key string) (*mvccpb.KeyValue, error) {
	kv, err := a.Source.Get(ctx, key)
	return a.now(kv), err
}

func (a altered) GetAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	all, err := a.Source.GetAll(ctx, keys)
	for key, kv := range all {
		if all[key] = a.now(kv); all[key] == nil {
			delete(all, key)
		}
	}
	return all, err
}

// TestEveryObjectOfTheZooIsOneThing: created, replaced, present, differing,
// leased or blocked, whatever is missing and whatever is other; and no owner
// comes after what it owns.
func TestEveryObjectOfTheZooIsOneThing(t *testing.T) {
	t.Parallel()
	f := zooAt(t)
	from := keyspace.FromFile(f)
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 1))
		now := altered{from, map[string]bool{}, map[string]bool{}}
		all := map[string]*mvccpb.KeyValue{}
		err := from.Scan(t.Context(), keyspace.Prefix(prefix), false, func(kv *mvccpb.KeyValue) error {
			key := string(kv.Key)
			all[key] = kv
			now.gone[key], now.changed[key] = rng.IntN(3) == 0, rng.IntN(4) == 0
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		req := putRequest(t, f, from, now, everything())
		req.Replace, req.WithLeased, req.WithOwners, req.WithDependents = seed%2 == 0, seed%3 == 0, seed%4 == 0, seed%5 == 0
		sum, lines := putsBack(t, req)
		accounted := sum.Steps + sum.Present + sum.Differing + sum.Leased
		for _, b := range sum.Blocked {
			accounted += b.Count
		}
		if accounted != int64(len(all)) || sum.Steps == 0 || sum.Present == 0 || len(sum.Blocked) == 0 {
			t.Errorf("seed %d: %d objects are accounted for, the zoo holds %d", seed, accounted, len(all))
		}
		checkPuts(t, req, now, all, lines)
		checkOwnersFirst(t, req, lines)
	}
}

// checkPuts asserts of each step what it must find in the store.
func checkPuts(t *testing.T, req PutBackRequest, now altered, all map[string]*mvccpb.KeyValue, lines []line) {
	t.Helper()
	planned := map[string]bool{}
	for _, l := range lines {
		there := now.now(all[l.Step.Key])
		switch {
		case there == nil && (l.Step.ModRevision != 0 || l.Step.CreateRevision != 0),
			there != nil && (l.Step.ModRevision != there.ModRevision || l.Step.CreateRevision != there.CreateRevision):
			t.Errorf("%s: guarded by revision %d, there is %v", l.Step.Key, l.Step.ModRevision, there)
		case there != nil && (!req.Replace || !now.changed[l.Step.Key]):
			t.Errorf("%s is there and would be put", l.Step.Key)
		}
		planned[l.Step.Key] = true
	}
	for key, kv := range all {
		o := filter.NewObject(t.Context(), req.Reader, kv)
		if !now.gone[key] || planned[key] || kv.Lease != 0 || filter.NeverPutBack(prefix, o) != nil || o.Key.Resource.String() == "persistentvolumes" {
			continue
		}
		t.Errorf("%s is missing and not planned", key)
	}
}

// checkOwnersFirst asserts that an object whose owner is planned stands in a
// later stage, claims apart.
func checkOwnersFirst(t *testing.T, req PutBackRequest, lines []line) {
	t.Helper()
	stages := map[string]int{}
	for _, l := range lines {
		stages[l.Step.UID] = l.Stage
	}
	owned := 0
	for _, l := range lines {
		kv, err := req.File.At(position(t, l.Step.Position))
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range filter.NewObject(t.Context(), req.Reader, kv).Head.Meta.Owners {
			at, planned := stages[ref.UID]
			if !planned || l.Step.Resource == "persistentvolumeclaim" {
				continue
			}
			if owned++; at >= l.Stage {
				t.Errorf("%s stands in stage %d, its owner %s in stage %d", l.Step.Key, l.Stage, ref.Name, at)
			}
		}
	}
	if owned == 0 {
		t.Error("no object has a planned owner")
	}
}

// TestZooIsPutBackWhole into an empty store: nothing is said but of what the zoo
// itself lacks. The zoo is not decrypted, holds a pod without its ReplicaSet,
// and one object or key of each kind that is never put back.
func TestZooIsPutBackWhole(t *testing.T) {
	t.Parallel()
	f := zooAt(t)
	sum, _ := putsBack(t, putRequest(t, f, keyspace.FromFile(f), empty(t), everything()))
	again, _ := putsBack(t, putRequest(t, f, keyspace.FromFile(f), keyspace.FromFile(f), everything()))
	if again.Steps != 0 || again.Present == 0 || again.PutWarnings != nil || again.Differing != 0 {
		t.Errorf("over itself: %d steps, %d differing, warnings %q", again.Steps, again.Differing, reasons(again))
	}
	for i := range sum.PutWarnings {
		sum.PutWarnings[i].First, sum.PutWarnings[i].Detail = "", ""
	}
	if diff := cmp.Diff([]PutWarning{{Reason: unchecked, Count: 69}, {Reason: noOwner, Count: 1}, {Reason: namespaceLeaving, Count: 7}, {Reason: leaving, Count: 19}}, sum.PutWarnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	var blocked int64
	for _, b := range sum.Blocked {
		blocked += b.Count
	}
	if blocked != 7 || len(sum.Blocked) != 7 {
		t.Errorf("blocked: %+v", sum.Blocked)
	}
}

// saved takes a snapshot as etcdctl does.
func saved(t *testing.T, client *clientv3.Client) string {
	t.Helper()
	in, err := client.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	raw, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "saved.db")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPutBackOfAnEarlierRevision: a db file's history is put back into the etcd
// that it comes from, without changing that.
func TestPutBackOfAnEarlierRevision(t *testing.T) {
	t.Parallel()
	_, client := lab.Box(t, sandbox.Options{Mode: sandbox.InProcess, NoFsync: true})
	put := func(k kept) int64 {
		kv := k.entry(t, 1)
		resp, err := client.Put(t.Context(), k.key, string(kv.Value))
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Revision
	}
	put(space())
	version := func(text string) kept { return aConfigMap(fields{"data": fields{"k": text}}) }
	first := put(version("first"))
	web, db := deployment("web"), deployment("db")
	both, err := client.Txn(t.Context()).Then( // one revision, two places in the file
		clientv3.OpPut(web.key, string(web.value())), clientv3.OpPut(db.key, string(db.value()))).Commit()
	if err != nil {
		t.Fatal(err)
	}
	gone := both.Header.Revision
	put(version("second"))
	if _, err := client.Delete(t.Context(), prefix+"deployments/a/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	last := put(version("third"))
	f := openFile(t, saved(t, client))

	src, err := keyspace.Pin(t.Context(), client, prefix, keyspace.Options{Timeout: testTimeout})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		rev  int64
		want map[string]int64 // the source's revisions, by name
	}{
		{0, map[string]int64{}}, {last, map[string]int64{}}, {first, map[string]int64{"m": first}}, {gone, map[string]int64{"m": first, "web": gone, "db": gone}},
	} {
		from, err := keyspace.FromFileAt(f, tt.rev)
		if err != nil {
			t.Fatal(err)
		}
		req := putRequest(t, f, from, src, everything())
		req.Replace = true
		_, lines := putsBack(t, req)
		got := map[string]int64{}
		for _, l := range lines {
			got[l.Step.Name] = l.Step.SourceModRevision
			if l.Step.Name == "m" && l.Step.ModRevision != last {
				t.Errorf("at %d the guard is %d, want %d", tt.rev, l.Step.ModRevision, last)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("at revision %d (-want +got):\n%s", tt.rev, diff)
		}
	}
	resp, err := client.Get(t.Context(), "x")
	if err != nil || resp.Header.Revision != last {
		t.Errorf("revision %d became %v, %v", last, resp, err)
	}
}

// TestFloodIsPutBack: 30,000 pods and their Job, read in bounded parts.
func TestFloodIsPutBack(t *testing.T) {
	t.Parallel()
	path, err := sandbox.FixtureFile(t.Context(), sandbox.Runaway30k, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := openFile(t, path)
	req := putRequest(t, f, keyspace.FromFile(f), empty(t), filter.Selection{Resource: "jobs.batch", Namespace: "ops-tools", Names: []string{"error-ret"}})
	req.WithDependents, req.WithOwners = true, true
	sum, lines := putsBack(t, req)
	if sum.Steps != 30_001 || lines[0].Step.Resource != "job" || !slices.Equal(reasons(sum), []string{noNamespace, noNode}) {
		t.Errorf("%d steps, the first one %s, warnings %q", sum.Steps, lines[0].Step, reasons(sum))
	}
}
