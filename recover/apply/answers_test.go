package apply_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// watcher is a Pacer that notes what it is told.
type watcher struct {
	mu           sync.Mutex
	waits        int
	good, failed int
	latency      time.Duration
}

func (w *watcher) Wait(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waits++
	return ctx.Err()
}

func (w *watcher) Answered(latency time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latency += latency
	if err == nil {
		w.good++
	} else {
		w.failed++
	}
}

func (*watcher) PerSecond() float64 { return math.Inf(1) }
func (*watcher) Why() string        { return "" }

// TestPacerLearnsOfEveryAnswer: and waits before every change, also one that
// is sent again.
func TestPacerLearnsOfEveryAnswer(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(s.archive())
	w := &watcher{}
	r.Pacer, r.InFlight = w, 1
	r.Store = &faulty{Client: s.Client, fault: func(n int) (error, bool) {
		switch {
		case n%10 != 0 || n > 200:
			return nil, false
		case n%20 != 0:
			return rpctypes.ErrTooManyRequests, false
		}
		return rpctypes.ErrTimeout, true
	}}
	result := s.execute(r, s.plan())
	wantCounts(t, result, map[apply.Outcome]int64{apply.Deleted: podCount + 1})
	if result.Retries != 20 || result.Resolved != 10 {
		t.Errorf("%d retries and %d resolved, want 20 and 10", result.Retries, result.Resolved)
	}
	if w.good != podCount+1 || w.failed != 20 || w.waits != podCount+1+20 || w.latency <= 0 {
		t.Errorf("%d good, %d failed, %d waits, %s", w.good, w.failed, w.waits, w.latency)
	}
}

// otherAnswers is a store that answers a transaction on one key in a way of its
// own.
type otherAnswers struct {
	*clientv3.Client
	key    string
	answer func() *clientv3.TxnResponse
	err    error // instead of the answer
}

func (o *otherAnswers) Txn(ctx context.Context) clientv3.Txn {
	return &otherTxn{Txn: o.Client.Txn(ctx), o: o}
}

type otherTxn struct {
	clientv3.Txn
	o   *otherAnswers
	own bool
}

func (t *otherTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	t.own = string(cs[0].KeyBytes()) == t.o.key
	t.Txn = t.Txn.If(cs...)
	return t
}
func (t *otherTxn) Then(ops ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Then(ops...); return t }
func (t *otherTxn) Else(ops ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(ops...); return t }
func (t *otherTxn) Commit() (*clientv3.TxnResponse, error) {
	if t.own {
		return t.o.answer(), t.o.err
	}
	return t.Txn.Commit()
}

// TestAnswersOfKine: it says of a key that is absent that it deleted it, and
// old releases answer Else(Get) with another key.
func TestAnswersOfKine(t *testing.T) {
	t.Parallel()
	header := &pb.ResponseHeader{Revision: 7}
	tests := []struct {
		name   string
		gone   bool
		answer *clientv3.TxnResponse
	}{
		{"absent", true, &clientv3.TxnResponse{Header: header, Succeeded: true, Responses: []*pb.ResponseOp{
			{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{}}},
		}}},
		{"absent, another key is answered", true, &clientv3.TxnResponse{Header: header, Responses: []*pb.ResponseOp{
			{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{
				{Key: []byte("/registry/pods/ops-tools/another"), ModRevision: 1, CreateRevision: 1, Value: []byte("other")},
			}}}},
		}}},
		{"no answer in it", false, &clientv3.TxnResponse{Header: header}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			key := firstPod(s)
			p := s.plan()
			r := s.run(s.archive())
			r.Retries = 1
			r.Patience = time.Nanosecond
			r.Store = &otherAnswers{Client: s.Client, key: key, answer: func() *clientv3.TxnResponse {
				if tt.gone {
					if _, err := s.Delete(context.Background(), key); err != nil {
						t.Error(err)
					}
				}
				return tt.answer
			}}
			result := s.execute(r, p)
			want := map[apply.Outcome]int64{apply.Deleted: podCount, apply.Gone: 1}
			if !tt.gone {
				want = map[apply.Outcome]int64{apply.Deleted: podCount, apply.Failed: 1}
			}
			wantCounts(t, result, want)
		})
	}
}

// bareStore refuses guarded deletes under NOSPACE, as an old etcd does.
type bareStore struct {
	*clientv3.Client
	mu       sync.Mutex
	inFlight int
	most     int
	before   func(key string)                           // right before a bare delete
	fail     func(key string) (err error, applied bool) // of a bare delete
}

func (b *bareStore) Txn(ctx context.Context) clientv3.Txn { return refusedTxn{b.Client.Txn(ctx)} }

type refusedTxn struct{ clientv3.Txn }

func (t refusedTxn) If(...clientv3.Cmp) clientv3.Txn        { return t }
func (t refusedTxn) Then(...clientv3.Op) clientv3.Txn       { return t }
func (t refusedTxn) Else(...clientv3.Op) clientv3.Txn       { return t }
func (t refusedTxn) Commit() (*clientv3.TxnResponse, error) { return nil, rpctypes.ErrNoSpace }

func (b *bareStore) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	b.mu.Lock()
	b.inFlight++
	b.most = max(b.most, b.inFlight)
	b.mu.Unlock()
	defer func() { b.mu.Lock(); b.inFlight--; b.mu.Unlock() }()
	if b.before != nil {
		b.before(key)
	}
	if b.fail != nil {
		if err, applied := b.fail(key); err != nil {
			if applied {
				if _, err := b.Client.Delete(ctx, key); err != nil {
					return nil, err
				}
			}
			return nil, err
		}
	}
	return b.Client.Delete(ctx, key, opts...)
}

func TestGuardIsLeftOutOnlyUnderNoSpaceAndOnlyIfAllowed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p, a := s.plan(), s.archive()
	r := s.run(a)
	r.Store = &bareStore{Client: s.Client}
	if result := s.execute(r, p); result.Stopped == nil || len(s.all()) != len(s.before) {
		t.Errorf("not allowed: %v, stopped by %v", result.Counts, result.Stopped)
	}
	// Allowed, but another error.
	r.Unguarded = counted(podCount + 1 + 1)
	r.Store = &faulty{Client: s.Client, fault: func(int) (error, bool) { return rpctypes.ErrRequestTooLarge, false }}
	s.execute(r, p)
	if len(s.all()) != len(s.before) {
		t.Error("something was deleted because of another error")
	}
	bare := &bareStore{Client: s.Client}
	r.Store = bare
	from := s.revision()
	wantCounts(t, s.execute(r, p), map[apply.Outcome]int64{apply.Deleted: podCount + 1})
	if bare.most != 1 || s.revision() != from+podCount+1 {
		t.Errorf("%d at a time, %d revisions", bare.most, s.revision()-from)
	}
	if r.Unguarded.Load() != 1 {
		t.Errorf("%d more are allowed, want 1", r.Unguarded.Load())
	}
	s.mustHoldAll(a)
}

func counted(n int64) *atomic.Int64 {
	var c atomic.Int64
	c.Store(n)
	return &c
}

// TestNoMoreIsDeletedUnguardedThanAllowed: also when NOSPACE came after the
// run had begun, which nobody could count beforehand.
func TestNoMoreIsDeletedUnguardedThanAllowed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p, a := s.plan(), s.archive()
	r := s.run(a)
	r.Store, r.Unguarded = &bareStore{Client: s.Client}, counted(5)
	result := s.execute(r, p)
	if deleted := len(s.before) - len(s.all()); deleted != 5 || result.Counts[apply.Deleted] != 5 || r.Unguarded.Load() != 0 {
		t.Errorf("%d are gone, %v, %d more are allowed", deleted, result.Counts, r.Unguarded.Load())
	}
	if !errors.Is(result.Stopped, apply.ErrOldNoSpace) {
		t.Errorf("stopped by %v, want ErrOldNoSpace", result.Stopped)
	}
	s.mustHoldAll(a)
}

func TestUnguardedDeleteKeepsWhatItDeleted(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		before bool // the key changes before the delete of another one, not right before its own
		value  func([]byte) []byte
		fail   error
		done   bool
		want   apply.Outcome
	}{
		{"changed right before", false, running, nil, false, apply.Raced},
		{"made anew right before", false, otherUID, nil, false, apply.Raced},
		{"changed earlier", true, running, nil, false, apply.Deleted},
		{"made anew earlier", true, otherUID, nil, false, apply.Skipped},
		{"no clear answer, done", false, nil, rpctypes.ErrTimeout, true, apply.Deleted},
		{"no clear answer, not done", false, nil, rpctypes.ErrTimeout, false, apply.Failed},
	}
	s := newStore(t)
	keys := chaosKeys(s)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { // one after another, in one store
			s := &store{s.Client, t, s.before}
			s.restore(keys)
			key := keys[chaosPods-1]
			p, a := s.deletePlan(keys), s.archive()
			last := s.before[key].Value
			change := func() {
				if tt.value == nil {
					return
				}
				last = tt.value(last)
				if _, err := s.Put(context.Background(), key, string(last)); err != nil {
					t.Error(err)
				}
			}
			r := s.chaosRun(nil, keys)
			r.Archive, r.Unguarded, r.InFlight = a, counted(1000), 1
			r.Store = &bareStore{Client: s.Client, before: func(k string) {
				if (tt.before && k == keys[0]) || (!tt.before && k == key) {
					change()
				}
			}, fail: func(k string) (error, bool) {
				if k == key {
					return tt.fail, tt.done
				}
				return nil, false
			}}
			result := s.execute(r, p)
			want := map[apply.Outcome]int64{apply.Deleted: chaosPods}
			want[tt.want]++
			wantCounts(t, result, want)
			if troubled := tt.want != apply.Deleted; troubled != (len(result.Problems) == 1) {
				t.Errorf("problems %v", result.Problems)
			}
			kept, now := entriesOf(t, a)[key], s.all()[key]
			if there := now != nil; there != (tt.want == apply.Skipped || tt.want == apply.Failed) {
				t.Errorf("the key is there: %v", there)
			}
			if now == nil && (len(kept) == 0 || string(kept[len(kept)-1]) != string(last)) {
				t.Error("the last bytes are not in the archive")
			}
		})
	}
}

func running(value []byte) []byte {
	return []byte(strings.ReplaceAll(string(value), "Pending", "Running"))
}

// TestOutageWithinPatienceFailsNothing: while nobody answers at all the attempts
// are not counted.
func TestOutageWithinPatienceFailsNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	a := s.archive()
	r := s.run(a)
	r.InFlight, r.Retries = 4, 2
	r.Now = func() time.Time { return time.Unix(1_700_000_000, 0) }
	r.Store = &faulty{Client: s.Client, fault: func(n int) (error, bool) {
		if n < 50 || n > 150 {
			return nil, false
		}
		return status.Error(codes.Unavailable, "connection refused"), false
	}}
	result := s.execute(r, s.plan())
	wantCounts(t, result, map[apply.Outcome]int64{apply.Deleted: podCount + 1})
	if result.Retries != 101 || result.Stopped != nil {
		t.Errorf("%d retries, stopped by %v", result.Retries, result.Stopped)
	}
}

// TestOneKeyWithoutAnswersIsGivenUp: the attempts are counted as long as others
// are answered.
func TestOneKeyWithoutAnswersIsGivenUp(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	key := firstPod(s)
	r := s.run(s.archive())
	r.InFlight, r.Retries = 4, 2
	var tries atomic.Int64
	answered := make(chan struct{}, podCount+1)
	r.Store = &otherAnswers{Client: s.Client, key: key, err: status.Error(codes.Internal, "some trouble"), answer: func() *clientv3.TxnResponse {
		tries.Add(1)
		return nil
	}}
	r.Observer = told(answered)
	// Between two attempts another step is always answered.
	r.Backoff = func(context.Context, int) error { <-answered; return nil }
	result := s.execute(r, s.plan())
	wantCounts(t, result, map[apply.Outcome]int64{apply.Deleted: podCount, apply.Failed: 1})
	if tries.Load() < 3 || result.Stopped != nil || !strings.Contains(result.Problems[0].Why, "may have been done") {
		t.Errorf("%d tries, problems %v, stopped by %v", tries.Load(), result.Problems, result.Stopped)
	}
}

// told is an Observer that tells a channel of each step.
type told chan struct{}

func (c told) Finished(plan.Step, apply.Outcome) { c <- struct{}{} }

// TestLeaseThatEndedIsGrantedAgain: between its grant and the put.
func TestLeaseThatEndedIsGrantedAgain(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	key := prefix + "events/team/leased"
	a := s.archive()
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: []byte("value"), ModRevision: 5, CreateRevision: 5, Version: 1, Lease: 0x1234}
	if err := a.Append(0, []*mvccpb.KeyValue{kv}, map[int64]int64{kv.Lease: 3600}); err != nil {
		t.Fatal(err)
	}
	f := reopened(t, a)
	p, _ := s.undoPlan(true, f)
	r := undoRun(s, f)
	r.Store = &faulty{Client: s.Client, fault: func(n int) (error, bool) {
		if n > 1 {
			return nil, false
		}
		list, err := s.Leases(t.Context())
		if err != nil {
			t.Error(err)
			return nil, false
		}
		for _, l := range list.Leases {
			if _, err := s.Revoke(t.Context(), l.ID); err != nil {
				t.Error(err)
			}
		}
		return nil, false
	}}
	result := s.execute(r, p)
	wantCounts(t, result, map[apply.Outcome]int64{apply.Created: 1})
	if now := s.all()[key]; now == nil || now.Lease == 0 || result.Retries != 1 {
		t.Errorf("the key is %v after %d retries", now, result.Retries)
	}
}

// silentGrants is a store that never answers a grant.
type silentGrants struct{ *clientv3.Client }

func (silentGrants) Grant(context.Context, int64) (*clientv3.LeaseGrantResponse, error) {
	return nil, status.Error(codes.Unavailable, "gone")
}

func TestGrantsWithoutAnswersStopTheRun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	a := s.archive()
	kv := &mvccpb.KeyValue{Key: []byte(prefix + "events/team/leased"), Value: []byte("value"), ModRevision: 5, CreateRevision: 5, Version: 1, Lease: 0x1234}
	if err := a.Append(0, []*mvccpb.KeyValue{kv}, map[int64]int64{kv.Lease: 3600}); err != nil {
		t.Fatal(err)
	}
	f := reopened(t, a)
	p, _ := s.undoPlan(true, f)
	r := undoRun(s, f)
	var clock atomic.Int64
	r.Now = func() time.Time { return time.Unix(clock.Add(10), 0) }
	r.Store = silentGrants{s.Client}
	if result := s.execute(r, p); !errors.Is(result.Stopped, apply.ErrSilent) {
		t.Errorf("stopped by %v, want ErrSilent", result.Stopped)
	}
}

// silentJudge never gets an answer, and counts how often it was asked.
type silentJudge struct{ asked atomic.Int64 }

func (j *silentJudge) StillMeant(context.Context, plan.Step, *mvccpb.KeyValue) (bool, string, error) {
	j.asked.Add(1)
	return false, "", context.DeadlineExceeded
}

// TestNothingIsJudgedOnceTheRunStopped: a store that is dead is not asked again
// for each object of a batch, which would keep an interrupted run for hours.
func TestNothingIsJudgedOnceTheRunStopped(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p := s.plan()
	for key, kv := range s.before {
		if strings.HasPrefix(key, podsPrefix) {
			if _, err := s.Put(t.Context(), key, string(kv.Value)); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := s.run(s.archive())
	judge := &silentJudge{}
	var clock atomic.Int64
	r.Judge, r.Now = judge, func() time.Time { return time.Unix(clock.Add(10), 0) }
	result := s.execute(r, p)
	if !errors.Is(result.Stopped, apply.ErrSilent) || judge.asked.Load() > 10 || result.Counts[apply.Failed] != 0 {
		t.Errorf("stopped by %v after %d judgements, %v", result.Stopped, judge.asked.Load(), result.Counts)
	}
}
