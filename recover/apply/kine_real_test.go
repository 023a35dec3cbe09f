//go:build servers

package apply_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

const kineValue = "the same in every key"

// kine is a real kine with what a test puts into it.
type kine struct {
	*clientv3.Client
	*testing.T
	marks *atomic.Int64 // keys made to know what a read has seen
}

// onEveryKine runs a test on each kine that answers in its own way.
func onEveryKine(t *testing.T, test func(k kine, name string)) {
	for _, name := range lab.Kines() {
		t.Run(name, func(t *testing.T) {
			client, err := clientv3.New(clientv3.Config{Endpoints: []string{lab.Kine(t, name)}, Logger: zap.NewNop()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { client.Close() })
			test(kine{client, t, new(atomic.Int64)}, name)
		})
	}
}

// create makes a key as an API server does, and returns its revision. All have
// the same value.
func (k kine) create(key string) int64 {
	k.Helper()
	resp, err := k.Txn(k.Context()).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, kineValue)).Commit()
	if err != nil || !resp.Succeeded {
		k.Fatalf("create %s: %v", key, err)
	}
	return resp.Header.Revision
}

// remove deletes a key as an API server does.
func (k kine) remove(key string, rev int64) error {
	resp, err := k.Txn(k.Context()).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
		Then(clientv3.OpDelete(key)).
		Else(clientv3.OpGet(key)).Commit()
	if err == nil && !resp.Succeeded {
		err = errors.New("it is at another revision")
	}
	return err
}

// below reads what lies below a prefix, by a range that every kine
// understands. Kine on SQLite may answer from just before a change that it has
// acknowledged, so a read counts only if it has seen a key made before it.
func (k kine) below(dir string) map[string]*mvccpb.KeyValue {
	k.Helper()
	mark := k.create(fmt.Sprintf("/registry/mark-%d", k.marks.Add(1)))
	resp, err := k.Get(k.Context(), dir, clientv3.WithPrefix())
	for err == nil && resp.Header.Revision < mark {
		resp, err = k.Get(k.Context(), dir, clientv3.WithPrefix())
	}
	if err != nil {
		k.Fatal(err)
	}
	found := map[string]*mvccpb.KeyValue{}
	for _, kv := range resp.Kvs {
		found[string(kv.Key)] = kv
	}
	return found
}

// delete carries out a plan that deletes keys at the revisions given.
func (k kine) delete(through apply.Store, keys map[string]int64) (*apply.Result, *snapshots.Archive) {
	k.Helper()
	var steps []plan.Step
	for key, rev := range keys {
		steps = append(steps, plan.Step{Action: plan.Delete, Key: key, ModRevision: rev})
	}
	a := (&store{t: k.T}).archive()
	return k.carryOut(apply.Run{Store: through, Archive: a}, steps...), a
}

// carryOut carries out steps. Whatever changed is meant all the same: what
// happens to other keys is not for the judge to prevent.
func (k kine) carryOut(r apply.Run, steps ...plan.Step) *apply.Result {
	k.Helper()
	path := filepath.Join(k.TempDir(), "plan.jsonl")
	w, err := plan.Create(path, plan.Header{Prefix: prefix})
	if err != nil {
		k.Fatal(err)
	}
	for _, s := range steps {
		if err := w.Add(0, "objects", s); err != nil {
			k.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		k.Fatal(err)
	}
	p, err := plan.Open(k.Context(), path)
	if err != nil {
		k.Fatal(err)
	}
	defer p.Close()
	r.Judge = lenient{}
	r.Options = apply.Options{Prefix: prefix, Kine: true, Backoff: func(context.Context, int) error { return nil }}
	result, err := r.Plan(k.Context(), p)
	if err != nil {
		k.Fatal(err)
	}
	return result
}

// lenient means everything.
type lenient struct{}

func (lenient) StillMeant(context.Context, plan.Step, *mvccpb.KeyValue) (bool, string, error) {
	return true, "", nil
}

// TestRealKineCountsWhatItDeleted: up to 0.13 kine says of the delete of a key
// that is deleted already that it succeeded. Who was first is told apart.
func TestRealKineCountsWhatItDeleted(t *testing.T) {
	onEveryKine(t, func(k kine, _ string) {
		keys := map[string]int64{}
		rival := &rival{Client: k.Client, k: k, first: map[string]int64{}}
		for n := range 20 {
			key := fmt.Sprintf("/registry/configmaps/default/map-%02d", n)
			keys[key] = k.create(key)
			if n%2 == 0 {
				rival.first[key] = keys[key]
			}
		}
		result, a := k.delete(rival, keys)
		wantCounts(k.T, result, map[apply.Outcome]int64{apply.Deleted: 10, apply.Gone: 10})
		if left := k.below("/registry/configmaps/default/"); len(left) != 0 {
			k.Errorf("%d keys are left", len(left))
		}
		if kept := (&store{t: k.T}).archived(a); len(kept) != len(keys) {
			k.Errorf("%d of %d keys are archived", len(kept), len(keys))
		}
	})
}

// rival deletes some keys just before we do.
type rival struct {
	*clientv3.Client
	k     kine
	mu    sync.Mutex
	first map[string]int64 // keys it deletes, and their revisions
}

func (r *rival) Txn(ctx context.Context) clientv3.Txn {
	return &rivalTxn{Txn: r.Client.Txn(ctx), rival: r}
}

type rivalTxn struct {
	clientv3.Txn
	rival *rival
	key   string
}

func (t *rivalTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	t.Txn = t.Txn.If(cs...)
	return t
}

func (t *rivalTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	t.Txn, t.key = t.Txn.Then(ops...), string(ops[0].KeyBytes())
	return t
}

func (t *rivalTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	t.Txn = t.Txn.Else(ops...)
	return t
}

func (t *rivalTxn) Commit() (*clientv3.TxnResponse, error) {
	t.rival.mu.Lock()
	rev, wanted := t.rival.first[t.key]
	delete(t.rival.first, t.key)
	t.rival.mu.Unlock()
	if wanted {
		if err := t.rival.k.remove(t.key, rev); err != nil {
			t.rival.k.Errorf("delete %s before the run does: %v", t.key, err)
		}
	}
	return t.Txn.Commit()
}

// What kine up to 0.13 takes for one another: it looks a key up by LIKE, to
// which "_" is any letter.
const (
	likeDir = "/registry/clusterroles/"
	meant   = likeDir + "a_b"
	other   = likeDir + "aXb"
)

// TestRealKineKeepsToTheKey: kine may answer about another key, and on 0.13 it
// deletes that one if its revision is named. It is left alone, and nothing is
// said to be deleted that is still there.
func TestRealKineKeepsToTheKey(t *testing.T) {
	for _, gone := range []bool{false, true} { // the other one
		t.Run(fmt.Sprintf("the other one is gone %v", gone), func(t *testing.T) {
			onEveryKine(t, func(k kine, name string) {
				rev := k.create(meant)
				before := k.createOther(gone)
				result, a := k.delete(k.Client, map[string]int64{meant: rev})
				now := k.below(likeDir)
				k.mustBeTheSame(before, now[other])
				deleted := result.Counts[apply.Deleted] == 1
				if isGone := now[meant] == nil; isGone != deleted || (name == "kine" && !deleted) {
					k.Errorf("it counts %v, and that the key is gone is %v", result.Counts, isGone)
				}
				if !deleted && result.Counts[apply.Failed]+result.Counts[apply.Skipped] != 1 {
					k.Errorf("it counts %v of a key that is still there", result.Counts)
				}
				kept := (&store{t: k.T}).archived(a)
				if kv := kept[meant]; kv == nil || string(kv.Value) != kineValue || len(kept) != 1 {
					k.Errorf("archived is %v", kept)
				}
			})
		})
	}
}

// createOther makes the other key, and deletes it again if it shall be gone.
func (k kine) createOther(gone bool) *mvccpb.KeyValue {
	k.Helper()
	rev := k.create(other)
	if gone {
		if err := k.remove(other, rev); err != nil {
			k.Fatal(err)
		}
	}
	return k.below(likeDir)[other]
}

func (k kine) mustBeTheSame(before, now *mvccpb.KeyValue) {
	k.Helper()
	if before.GetModRevision() != now.GetModRevision() {
		k.Errorf("the other key was %v and is %v", before, now)
	}
}

// TestRealKinePutsBackTheKey: that another key holds the same bytes does not
// make an object present.
func TestRealKinePutsBackTheKey(t *testing.T) {
	for _, gone := range []bool{false, true} { // the other one
		t.Run(fmt.Sprintf("the other one is gone %v", gone), func(t *testing.T) {
			onEveryKine(t, func(k kine, name string) {
				_, a := k.delete(k.Client, map[string]int64{meant: k.create(meant)})
				before := k.createOther(gone)
				file, step := k.putStep(a)
				result := k.carryOut(apply.Run{Store: k.Client, Sources: []apply.Bytes{file}}, step)
				now := k.below(likeDir)
				k.mustBeTheSame(before, now[other])
				created := result.Counts[apply.Created] == 1
				if isThere := now[meant] != nil; isThere != created || (name == "kine" && !created) {
					k.Errorf("it counts %v, and that the key is there is %v", result.Counts, isThere)
				}
				if !created && result.Counts[apply.Failed]+result.Counts[apply.Skipped] != 1 {
					k.Errorf("it counts %v of a key that is not there", result.Counts)
				}
			})
		})
	}
}

// putStep puts back the one object of an archive, which it closes.
func (k kine) putStep(a *snapshots.Archive) (file *snapshots.File, s plan.Step) {
	k.Helper()
	if err := a.Close(); err != nil {
		k.Fatal(err)
	}
	file, err := snapshots.Open(a.Path(), snapshots.Options{})
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { file.Close() })
	err = file.Entries(k.Context(), func(at snapshots.Position, kv *mvccpb.KeyValue) error {
		s = plan.Step{Action: plan.Put, Key: string(kv.Key), Position: at.String(), SourceModRevision: kv.ModRevision}
		return nil
	})
	if err != nil || s.Key != meant {
		k.Fatalf("the archive holds %q, %v", s.Key, err)
	}
	return file, s
}
