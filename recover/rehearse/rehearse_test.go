package rehearse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// Everything that a plan deletes comes back, byte for byte: encrypted, broken
// and leased objects as well.
func TestDeletesAreUndone(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	var kvs []*mvccpb.KeyValue
	counts := map[string]int64{}
	for name, start := range map[string]string{"secrets": "secrets/", "configmaps": "configmaps/", "events": "events/", "pods": "pods/"} {
		found := w.below(prefix + start)
		kvs = append(kvs, found...)
		counts[name] = int64(len(found))
	}
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return slices.Compare(a.Key, b.Key) })
	o := &watcher{}
	opt := w.options(w.plan(w.header(), deletes(kvs...)...), nil)
	opt.Observer = o
	rep, err := w.rehearse(opt)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(len(kvs))
	if !rep.Done() || !rep.Proven() {
		t.Errorf("done %v, proven %v: %+v, %+v", rep.Done(), rep.Proven(), rep.Result, rep.Undo)
	}
	if want := (Drift{Same: n}); !cmp.Equal(rep.Drift, want) {
		t.Errorf("drift %+v, want %+v", rep.Drift, want)
	}
	if u := rep.Undo; u.Back != n || u.Leased != leased(kvs) || u.Leased == 0 || rep.Archive == 0 {
		t.Errorf("of %d objects, %d with leases, undo says %+v; archive %d bytes", n, leased(kvs), u, rep.Archive)
	}
	for _, c := range rep.Effect.Resources {
		if counts[c.Name] > 0 && c.Before-c.After != counts[c.Name] {
			t.Errorf("%+v, want %d fewer", c, counts[c.Name])
		}
		delete(counts, c.Name)
	}
	if len(counts) > 0 {
		t.Errorf("not counted: %v", counts)
	}
	if e := rep.Effect; e.Gone != n || e.Made+e.Replaced+e.Strays != 0 || e.Total.Before-e.Total.After != n {
		t.Errorf("effect %+v, want %d gone", e, n)
	}
	if want := []string{"0 true", "1 true", "2 true"}; !slices.Equal(o.phases, want) || o.steps != 2*len(kvs) {
		t.Errorf("phases %v, %d steps", o.phases, o.steps)
	}
}

func leased(kvs []*mvccpb.KeyValue) (n int64) {
	for _, kv := range kvs {
		if kv.Lease != 0 {
			n++
		}
	}
	return n
}

// A put of what is absent makes it; a put of what is there replaces it, and the
// archive holds the former bytes.
func TestPutsAndReplacements(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	present, same := w.below(prefix + "configmaps/")[0], w.below(prefix + "configmaps/")[1]
	path := filepath.Join(t.TempDir(), "source.db")
	a, err := snapshots.CreateArchive(path, snapshots.ArchiveInfo{})
	if err != nil {
		t.Fatal(err)
	}
	kvs := []*mvccpb.KeyValue{
		{Key: []byte(prefix + "configmaps/default/new"), Value: []byte("new"), ModRevision: 7},
		{Key: present.Key, Value: []byte("other"), ModRevision: 8},
		{Key: same.Key, Value: same.Value, ModRevision: 9},
	}
	if err := errors.Join(a.Append(0, kvs, nil), a.Close()); err != nil {
		t.Fatal(err)
	}
	var steps []plan.Step
	for i, kv := range kvs {
		steps = append(steps, plan.Step{
			Action: plan.Put, Key: string(kv.Key), Role: plan.Restored, Reason: "test", Size: int64(len(kv.Value)), Namespace: "default",
			Position: snapshots.Position{Main: int64(i + 1)}.String(), SourceModRevision: kv.ModRevision,
		})
	}
	steps[1].ModRevision = present.ModRevision
	h := w.header()
	h.Operation, h.Sources = "put-back", []plan.SourceFile{{Path: path}}
	opt := w.options(w.plan(h, steps...), nil)
	opt.Sources = []apply.Bytes{open(t, path)}
	rep, err := w.rehearse(opt)
	if err != nil {
		t.Fatal(err)
	}
	if e := rep.Effect; e.Made != 1 || e.Replaced != 1 || e.Gone+e.Strays != 0 {
		t.Errorf("effect %+v", e)
	}
	if want := (Drift{Same: 2, There: 1, Keys: []string{string(same.Key)}}); !cmp.Equal(rep.Drift, want) {
		t.Errorf("drift %+v, want %+v", rep.Drift, want)
	}
	if !rep.Done() || !rep.Proven() || rep.Undo == nil || rep.Undo.Held != 1 || rep.Undo.Back != 0 {
		t.Errorf("done %v, proven %v: %+v, %+v", rep.Done(), rep.Proven(), rep.Result, rep.Undo)
	}
	want := []Count{{Name: "configmaps", Changed: 1}}
	if got := rep.Effect.Resources; !cmp.Equal(got, want, cmpopts.IgnoreFields(Count{}, "Before", "After")) || got[0].After != got[0].Before+1 {
		t.Errorf("resources %+v", got)
	}
}

// What is only put has no archive, and nothing to undo.
func TestPutsAloneNeedNoUndo(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	kv := &mvccpb.KeyValue{Key: []byte(prefix + "configmaps/default/new"), Value: []byte("new"), ModRevision: 7}
	opt := w.options(w.plan(w.header(), plan.Step{
		Action: plan.Put, Key: string(kv.Key), Role: plan.Restored, Position: "1_0", SourceModRevision: 7,
	}), nil)
	opt.Sources = []apply.Bytes{one{kv}}
	rep, err := w.rehearse(opt)
	if err != nil {
		t.Fatal(err)
	}
	if !rep.Done() || !rep.Proven() || rep.Undo != nil || rep.Archive != 0 || rep.Effect.Made != 1 {
		t.Errorf("%+v", rep)
	}
}

// A plan without steps changes nothing, which is as it should be.
func TestNothingToDo(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	rep, err := w.rehearse(w.options(w.plan(w.header()), nil))
	if err != nil {
		t.Fatal(err)
	}
	if e := rep.Effect; !rep.Done() || !rep.Proven() || rep.Undo != nil || e.Total.Before == 0 || !e.Total.same() || len(e.Resources) > 0 {
		t.Errorf("%+v", rep)
	}
}

type one struct{ kv *mvccpb.KeyValue }

func (o one) At(snapshots.Position) (*mvccpb.KeyValue, error) { return o.kv, nil }

// The report says what the snapshot has that the plan did not see.
func TestDrift(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	pods := w.below(prefix + "pods/")
	steps := deletes(pods[:3]...)
	steps[1].ModRevision--                        // written since
	steps[2].ModRevision--                        // written since, and not meant any more
	steps[2].Reason = "is-skipped"                // see judge
	steps[0].Warnings = []string{"beware", "too"} //
	steps[1].Warnings = []string{"beware"}
	steps = append(steps, deletes(&mvccpb.KeyValue{Key: []byte(prefix + "pods/default/gone"), ModRevision: 5})...)
	h := w.header()
	h.Created = time.Now().Add(-30 * time.Hour)
	rep, err := w.rehearse(w.options(w.plan(h, steps...), nil))
	if err != nil {
		t.Fatal(err)
	}
	want := Drift{Same: 1, Changed: 2, Missing: 1, Keys: []string{steps[1].Key, steps[2].Key, steps[3].Key}}
	if diff := cmp.Diff(want, rep.Drift); diff != "" {
		t.Error(diff)
	}
	counts := apply.Counts{apply.Deleted: 2, apply.Skipped: 1, apply.Gone: 1}
	if rep.Result.Counts != counts || rep.Done() || !rep.Proven() || rep.Undo.Back != 2 {
		t.Errorf("counts %v, done %v, undo %+v", rep.Result.Counts, rep.Done(), rep.Undo)
	}
	warnings := []Warning{{"beware", 2, steps[0].String()}, {"too", 1, steps[0].String()}}
	if diff := cmp.Diff(warnings, rep.Warnings); diff != "" {
		t.Error(diff)
	}
	opt := w.options(w.plan(h, steps...), nil)
	opt.Strict, opt.Temporary = true, true
	if rep, err = w.rehearse(opt); err != nil {
		t.Fatal(err)
	}
	counts = apply.Counts{apply.Deleted: 1, apply.Skipped: 2, apply.Gone: 1}
	if rep.Result.Counts != counts {
		t.Errorf("strict: counts %v", rep.Result.Counts)
	}
}

// A plan of any age is rehearsed; one from the future is what apply refuses.
func TestAge(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	h := w.header()
	h.Created = time.Now().Add(time.Hour)
	rep, err := w.rehearse(w.options(w.plan(h, deletes(w.below(prefix + "pods/")[0])...), nil))
	if err != nil || !errors.Is(rep.Expired, plan.ErrExpired) {
		t.Errorf("%v, %v", rep, err)
	}
}

// When undo does not bring back what was there, or more changes than the plan
// says, the report says so.
func TestNotProven(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		phase  Phase
		key    string
		lost   int64
		strays int64
	}{
		"another object is there":       {Undoing, "pods/", 1, 0},
		"something else changes":        {Running, "configmaps/", 1, 1},
		"something else changes, later": {Undoing, "configmaps/", 1, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := zoo(t)
			var client *clientv3.Client
			opt := w.options(w.plan(w.header(), deletes(w.below(prefix+"pods/")...)...), &client)
			key := string(w.below(prefix + tt.key)[0].Key)
			opt.Observer = &watcher{begin: func(p Phase) {
				if p != tt.phase {
					return
				}
				if _, err := client.Put(t.Context(), key, "other"); err != nil {
					t.Error(err)
				}
			}}
			rep, err := w.rehearse(opt)
			if err != nil {
				t.Fatal(err)
			}
			if rep.Proven() || rep.Undo.Lost != tt.lost || rep.Effect.Strays != tt.strays {
				t.Errorf("proven %v, %+v, strays %d", rep.Proven(), rep.Undo, rep.Effect.Strays)
			}
			if want := []string{key}; !slices.Equal(rep.Undo.Keys, want) {
				t.Errorf("keys %v, want %v", rep.Undo.Keys, want)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(w *world, h *plan.Header)
		want   error
	}{
		"another cluster":  {func(_ *world, h *plan.Header) { h.ClusterUID = "another" }, plan.ErrForeign},
		"no cluster there": {func(_ *world, h *plan.Header) { h.Prefix = "/other/" }, plan.ErrForeign},
		"an archive": {func(w *world, _ *plan.Header) {
			path := filepath.Join(w.t.TempDir(), "archive.db")
			a, err := snapshots.CreateArchive(path, snapshots.ArchiveInfo{})
			if err := errors.Join(err, a.Close()); err != nil {
				w.t.Fatal(err)
			}
			w.file = open(w.t, path)
		}, ErrArchive},
		"a damaged snapshot": {func(w *world, _ *plan.Header) {
			b, err := os.ReadFile(w.file.Path())
			if err != nil {
				w.t.Fatal(err)
			}
			b[len(b)-1] ^= 1 // of the sha256 at its end
			path := filepath.Join(w.t.TempDir(), "damaged.db")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				w.t.Fatal(err)
			}
			w.file = open(w.t, path)
		}, snapshots.ErrDamaged},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := zoo(t)
			h, steps := w.header(), deletes(w.below(prefix+"pods/")...)
			tt.change(w, &h)
			if rep, err := w.rehearse(w.options(w.plan(h, steps...), nil)); !errors.Is(err, tt.want) {
				t.Errorf("%v, %v, want %v", rep, err, tt.want)
			}
		})
	}
}

// An etcd for events does not know its cluster; its alarms are switched off.
func TestEventsAndAlarms(t *testing.T) {
	t.Parallel()
	_, client := lab.Box(t, sandbox.Options{Mode: sandbox.InProcess, NoFsync: true})
	ctx := t.Context()
	if _, err := client.Put(ctx, prefix+"events/default/e", "event"); err != nil {
		t.Fatal(err)
	}
	raise := &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: etcdserverpb.AlarmType_NOSPACE}
	if _, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Alarm(ctx, raise); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, save(t, client))
	h := w.header()
	h.Etcd, h.ClusterUID = "events", "of the main one"
	rep, err := w.rehearse(w.options(w.plan(h, deletes(w.below(prefix)...)...), nil))
	if err != nil {
		t.Fatal(err)
	}
	if !rep.Unidentified || !slices.Equal(rep.Alarms, []string{"NOSPACE"}) || !rep.Done() || !rep.Proven() {
		t.Errorf("%+v", rep)
	}
}

// What goes because nobody renews its lease is no work of the plan.
func TestLeasesRunOut(t *testing.T) {
	t.Parallel()
	_, client := lab.Box(t, sandbox.Options{Mode: sandbox.InProcess, NoFsync: true})
	ctx, leasedKey := t.Context(), prefix+"masterleases/10.0.0.1"
	lease, err := client.Grant(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(ctx, leasedKey, "lease", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(ctx, prefix+"pods/default/p", "pod"); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, save(t, client))
	h := w.header()
	h.Etcd = "events" // has no identity
	var inside *clientv3.Client
	opt := w.options(w.plan(h, deletes(w.below(prefix+"pods/")...)...), &inside)
	opt.Observer = &watcher{begin: func(p Phase) {
		for p == Running {
			resp, err := inside.Get(ctx, leasedKey)
			if err != nil {
				t.Error(err)
			}
			if err != nil || resp.Count == 0 {
				return
			}
		}
	}}
	rep, err := w.rehearse(opt)
	if err != nil {
		t.Fatal(err)
	}
	if e := rep.Effect; e.Expired != 1 || e.Gone != 1 || e.Strays != 0 || e.Total != (Count{Before: 2, After: 1}) {
		t.Errorf("%+v", e)
	}
	if !rep.Proven() || rep.Undo.Back != 1 || rep.Undo.Expired != 0 {
		t.Errorf("%+v", rep.Undo)
	}
}

func save(t *testing.T, client *clientv3.Client) string {
	t.Helper()
	r, err := client.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, err := os.Create(filepath.Join(t.TempDir(), "snapshot.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.ReadFrom(r)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// Whenever it is interrupted, it ends with that and leaves nothing behind.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, phase := range []Phase{Restoring, Running, Undoing} {
		for _, after := range []int{0, 5} {
			t.Run(fmt.Sprint(phase, after), func(t *testing.T) {
				t.Parallel()
				w := zoo(t)
				kvs := w.below(prefix + "secrets/")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				opt := w.options(w.plan(w.header(), deletes(kvs...)...), nil)
				o := &watcher{}
				o.begin = func(p Phase) {
					if p != phase {
						return
					}
					if after == 0 || p == Restoring {
						cancel()
						return
					}
					begun := 0
					o.finish = func(int) {
						if begun++; begun == after {
							cancel()
						}
					}
				}
				opt.Observer = o
				if rep, err := Run(ctx, opt); !errors.Is(err, context.Canceled) || rep != nil {
					t.Errorf("%v, %v", rep, err)
				}
				w.empty()
			})
		}
	}
}

func TestWarningsAreBounded(t *testing.T) {
	t.Parallel()
	rep := &Report{}
	for i := range 3 * mostWarnings {
		rep.warn(plan.Step{Warnings: []string{fmt.Sprint("warning ", i)}})
	}
	var sum int64
	for _, w := range rep.Warnings {
		sum += w.Count
	}
	last := rep.Warnings[len(rep.Warnings)-1]
	if len(rep.Warnings) != mostWarnings || sum != 3*mostWarnings || last.Text != "other warnings" || last.Count != 2*mostWarnings+1 {
		t.Errorf("%d warnings, %d in all, the last %+v", len(rep.Warnings), sum, last)
	}
}
