package apply_test

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// fault is what happens at one call of the store, or of the archive.
type fault int

const (
	noFault     fault = iota
	failBefore        // an error, and nothing is done
	failAfter         // it is done, and an error comes all the same
	hangBefore        // no answer in time, and nothing is done
	hangAfter         // it is done, and no answer comes in time
	interrupt         // the run is cancelled, and the call goes on
	dieBefore         // from now on every call fails
	changeFirst       // another client changes the first object
	remakeFirst       // another client makes the first object anew
	faultKinds
)

func (f fault) String() string {
	return [...]string{"none", "error", "error after", "timeout", "timeout after", "cancel", "dead", "changed", "recreated"}[f]
}

// chaos is a store and an archive of which the n-th call goes wrong.
type chaos struct {
	*clientv3.Client
	archive *snapshots.Archive
	kind    fault
	n       int64
	calls   atomic.Int64
	cancel  context.CancelFunc
	other   func(f fault)
}

func errGone() error { return status.Error(codes.Unavailable, "connection reset") }

// begin is the first half of a call: what is wrong with it, and its error if it
// is not to be made.
func (c *chaos) begin() (fault, error) {
	n := c.calls.Add(1)
	if n != c.n && (c.kind != dieBefore || n < c.n) {
		return noFault, nil
	}
	switch c.kind {
	case failBefore, dieBefore:
		return c.kind, errGone()
	case hangBefore:
		return c.kind, context.DeadlineExceeded
	case interrupt:
		c.cancel()
	case changeFirst, remakeFirst:
		c.other(c.kind)
	}
	return c.kind, nil
}

// end is the second half: the error that is reported although it was made.
func (c *chaos) end(f fault, err error) error {
	switch f {
	case failAfter:
		return errGone()
	case hangAfter:
		return context.DeadlineExceeded
	}
	return err
}

func (c *chaos) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	f, err := c.begin()
	if err != nil {
		return nil, err
	}
	resp, err := c.Client.Get(ctx, key, opts...)
	return resp, c.end(f, err)
}

func (c *chaos) Txn(ctx context.Context) clientv3.Txn {
	return &chaosTxn{c.Client.Txn(ctx), c}
}

type chaosTxn struct {
	clientv3.Txn
	c *chaos
}

func (t *chaosTxn) If(cs ...clientv3.Cmp) clientv3.Txn   { t.Txn = t.Txn.If(cs...); return t }
func (t *chaosTxn) Then(ops ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Then(ops...); return t }
func (t *chaosTxn) Else(ops ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(ops...); return t }
func (t *chaosTxn) Commit() (*clientv3.TxnResponse, error) {
	f, err := t.c.begin()
	if err != nil {
		return nil, err
	}
	resp, err := t.Txn.Commit()
	if err = t.c.end(f, err); err != nil {
		return nil, err
	}
	return resp, nil
}

// Append fails like the store does.
func (c *chaos) Append(stage int, kvs []*mvccpb.KeyValue, ttl map[int64]int64) error {
	f, err := c.begin()
	if err != nil {
		return err
	}
	return c.end(f, c.archive.Append(stage, kvs, ttl))
}

const chaosPods = 5

// chaosKeys are a few of the pods, and the Job.
func chaosKeys(s *store) []string {
	var keys []string
	for key := range s.before {
		if strings.HasPrefix(key, podsPrefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return append(keys[:chaosPods:chaosPods], jobKey)
}

// restore makes the objects what they were.
func (s *store) restore(keys []string) {
	s.t.Helper()
	for _, key := range keys {
		if _, err := s.Put(s.t.Context(), key, string(s.before[key].Value)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// deletePlan deletes these keys, the last one in a stage before the others.
func (s *store) deletePlan(keys []string) *plan.Plan {
	s.t.Helper()
	var names []string
	for _, key := range keys[:chaosPods] {
		names = append(names, strings.TrimPrefix(key, podsPrefix))
	}
	f, owners, src := s.filter(selectionOf(names...))
	path := filepath.Join(s.t.TempDir(), "plan.jsonl")
	w, err := plan.Create(path, plan.Header{Operation: "delete", Prefix: prefix})
	if err != nil {
		s.t.Fatal(err)
	}
	sum, err := plan.Deletes(s.t.Context(), plan.Request{Source: src, Filter: f, Owners: owners, Prefix: prefix, WithOwners: true}, w)
	if err != nil || sum.Steps != chaosPods+1 {
		s.t.Fatalf("%d steps, %v", sum.Steps, err)
	}
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
	p, err := plan.Open(s.t.Context(), path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { p.Close() })
	return p
}

// chaosRun has a clock that only goes on when it is looked at, so that a dead
// store is given up soon, and a slow machine is none.
func (s *store) chaosRun(c *chaos, keys []string) apply.Run {
	var names []string
	for _, key := range keys[:chaosPods] {
		names = append(names, strings.TrimPrefix(key, podsPrefix))
	}
	f, _, _ := s.filter(selectionOf(names...))
	var clock atomic.Int64
	return apply.Run{
		Store: c, Archive: c, Judge: plan.Judge{Filter: f, Guard: f.Guard(keyspace.Current(s.Client, keyspace.Options{Timeout: time.Minute}))},
		Options: apply.Options{
			Prefix: prefix, Timeout: time.Minute, Retries: 2, Patience: 100 * time.Second,
			Now:     func() time.Time { return time.Unix(clock.Add(1), 0) },
			Backoff: func(context.Context, int) error { return nil },
		},
	}
}

// everyFault calls test with each fault at each call, until a run is over
// before the fault comes; in short mode at every third.
func everyFault(t *testing.T, test func(t *testing.T, s *store, kind fault, n int64) (calls int64)) {
	s := newStore(t)
	step := int64(1)
	if testing.Short() {
		step = 3
	}
	for kind := failBefore; kind < faultKinds; kind++ {
		t.Run(kind.String(), func(t *testing.T) { // one after another, in one store
			s := &store{s.Client, t, s.before}
			for n := int64(1); ; n += step {
				if test(t, s, kind, n) < n {
					if n < chaosPods {
						t.Errorf("a run has only %d calls", n-1)
					}
					return
				}
				if t.Failed() {
					t.Fatalf("at call %d", n)
				}
			}
		})
	}
}

// TestFaultAtEachCallOfADelete: afterwards archive and store hold every object
// with its last bytes, nothing is deleted that has another UID, and a second
// run finishes.
func TestFaultAtEachCallOfADelete(t *testing.T) {
	t.Parallel()
	everyFault(t, func(t *testing.T, s *store, kind fault, n int64) int64 {
		keys := chaosKeys(s)
		s.restore(keys)
		last, foreign := map[string][]byte{}, map[string]bool{}
		for _, key := range keys {
			last[key] = s.before[key].Value
		}
		p, a := s.deletePlan(keys), s.archive()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := &chaos{Client: s.Client, archive: a, kind: kind, n: n, cancel: cancel, other: func(f fault) {
			key := keys[0]
			last[key] = bytes.ReplaceAll(last[key], []byte("Pending"), []byte("Running"))
			if f == remakeFirst {
				last[key], foreign[key] = otherUID(last[key]), true
			}
			if _, err := s.Put(t.Context(), key, string(last[key])); err != nil {
				t.Error(err)
			}
		}}
		first, err := s.chaosRun(c, keys).Plan(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		calls := c.calls.Load()
		check := func() (left int) {
			now, kept := s.all(), entriesOf(t, a)
			for _, key := range keys {
				there := now[key] != nil
				switch {
				case there && !bytes.Equal(now[key].Value, last[key]):
					t.Errorf("%s was changed", key)
				case there && !foreign[key]:
					left++
				case !there && foreign[key]:
					t.Errorf("%s was deleted although its UID is another", key)
				case !there && !slices.ContainsFunc(kept[key], func(v []byte) bool { return bytes.Equal(v, last[key]) }):
					t.Errorf("%s is lost: its last bytes are neither in etcd nor in the archive", key)
				}
			}
			for key := range s.before {
				if now[key] == nil && !slices.Contains(keys, key) {
					t.Errorf("%s was deleted and is not in the plan", key)
				}
			}
			return left
		}
		if left := check(); int64(left) > first.Remaining()+first.Counts[apply.Failed] && kind != changeFirst {
			t.Errorf("%d are left, the result says %v and %d remaining", left, first.Counts, first.Remaining())
		}
		again := &chaos{Client: s.Client, archive: s.reopen(a)}
		a = again.archive
		r := s.chaosRun(again, keys)
		if second := s.execute(r, p); second.Stopped != nil || second.Counts[apply.Failed] > 0 {
			t.Errorf("a second run: %v, stopped by %v", second.Counts, second.Stopped)
		}
		if left := check(); left != 0 {
			t.Errorf("a second run leaves %d", left)
		}
		return calls
	})
}

// reopen opens an archive for a second run, as another process would.
func (s *store) reopen(a *snapshots.Archive) *snapshots.Archive {
	s.t.Helper()
	if err := a.Close(); err != nil {
		s.t.Fatal(err)
	}
	again, err := snapshots.OpenArchive(a.Path(), time.Second)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { again.Close() })
	return again
}

// entriesOf reads all entries of an archive, by key. It closes the archive.
func entriesOf(t *testing.T, a *snapshots.Archive) map[string][][]byte {
	t.Helper()
	f := reopened(t, a)
	defer f.Close()
	found := map[string][][]byte{}
	err := f.Entries(t.Context(), func(_ snapshots.Position, kv *mvccpb.KeyValue) error {
		found[string(kv.Key)] = append(found[string(kv.Key)], kv.Value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestFaultAtEachCallOfAnUndo: afterwards every key is absent, or has the bytes
// that the archive holds or those that somebody else put there, and a second
// run finishes.
func TestFaultAtEachCallOfAnUndo(t *testing.T) {
	t.Parallel()
	everyFault(t, func(t *testing.T, s *store, kind fault, n int64) int64 {
		keys := chaosKeys(s)
		s.restore(keys)
		a := s.archive()
		c := &chaos{Client: s.Client, archive: a}
		r := s.chaosRun(c, keys)
		wantCounts(t, s.execute(r, s.deletePlan(keys)), map[apply.Outcome]int64{apply.Deleted: chaosPods + 1})
		f := reopened(t, a)
		defer f.Close()
		p, _ := s.undoPlan(false, f)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		theirs := false
		c = &chaos{Client: s.Client, kind: kind, n: n, cancel: cancel, other: func(fault) {
			theirs = true
			if _, err := s.Put(t.Context(), keys[0], "theirs"); err != nil {
				t.Error(err)
			}
		}}
		r = s.chaosRun(c, keys)
		r.Archive, r.Sources = nil, []apply.Bytes{f}
		if _, err := r.Plan(ctx, p); err != nil {
			t.Fatal(err)
		}
		calls := c.calls.Load()
		check := func() (absent int) {
			now := s.all()
			for _, key := range keys {
				want := s.before[key].Value
				if theirs && key == keys[0] {
					want = []byte("theirs")
				}
				if now[key] == nil {
					absent++
				} else if !bytes.Equal(now[key].Value, want) {
					t.Errorf("%s has other bytes", key)
				}
			}
			return absent
		}
		check()
		r.Store = &chaos{Client: s.Client}
		if second := s.execute(r, p); second.Stopped != nil || second.Counts[apply.Failed] > 0 {
			t.Errorf("a second run: %v, stopped by %v", second.Counts, second.Stopped)
		}
		if absent := check(); absent != 0 {
			t.Errorf("a second run leaves %d absent", absent)
		}
		return calls
	})
}
