package apply_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

func TestEveryChangeIsOneTransactionOnOneKey(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p := s.plan()
	from := s.revision()
	watch := s.Watch(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithRev(from+1))
	result := s.execute(s.run(s.archive()), p)
	wantCounts(t, result, map[apply.Outcome]int64{apply.Deleted: podCount + 1})
	if got := s.revision() - from; got != podCount+1 {
		t.Errorf("%d deletes took %d revisions", podCount+1, got)
	}
	seen := map[int64]string{}
	for len(seen) < podCount+1 {
		resp := <-watch
		for _, e := range resp.Events {
			if other, twice := seen[e.Kv.ModRevision]; twice {
				t.Fatalf("revision %d changed %s and %s", e.Kv.ModRevision, other, e.Kv.Key)
			}
			seen[e.Kv.ModRevision] = string(e.Kv.Key)
		}
	}
	if first := seen[from+1]; first != jobKey {
		t.Errorf("the first to go was %s, want the owner %s", first, jobKey)
	}
	now := s.all()
	for key := range s.before {
		if gone := now[key] == nil; gone != (strings.HasPrefix(key, podsPrefix) || key == jobKey) {
			t.Errorf("%s: gone %v", key, gone)
		}
	}
}

// failingArchive fails at the n-th Append and from then on.
type failingArchive struct {
	*snapshots.Archive
	n     int64
	calls atomic.Int64
}

var errDisk = errors.New("no space left on device")

func (a *failingArchive) Append(stage int, kvs []*mvccpb.KeyValue, ttl map[int64]int64) error {
	if a.calls.Add(1) >= a.n {
		return errDisk
	}
	return a.Archive.Append(stage, kvs, ttl)
}

func TestNothingIsDeletedThatIsNotArchived(t *testing.T) {
	t.Parallel()
	for n := int64(1); n <= 3; n++ {
		t.Run(fmt.Sprintf("append %d fails", n), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			a := s.archive()
			r := s.run(&failingArchive{Archive: a, n: n})
			r.Pacer = smallBatches{}
			result := s.execute(r, s.plan())
			if !errors.Is(result.Stopped, apply.ErrArchive) || !errors.Is(result.Stopped, errDisk) {
				t.Errorf("stopped by %v, want ErrArchive", result.Stopped)
			}
			s.mustHoldAll(a)
			if n == 1 && len(s.all()) != len(s.before) {
				t.Error("something was deleted although nothing was archived")
			}
		})
	}
}

// faults is how many of the first transactions may fail: among the last few a
// regular pattern could hit the same step until it is given up.
const faults = 200

func TestAmbiguousAnswerIsResolvedByReading(t *testing.T) {
	t.Parallel()
	ambiguous := []error{context.DeadlineExceeded, rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrLeaderChanged, rpctypes.ErrStopped}
	tests := []struct {
		name    string
		applied bool
		errs    []error
	}{
		{"applied", true, ambiguous},
		{"not applied", false, ambiguous},
		{"refused before", false, []error{rpctypes.ErrTooManyRequests, rpctypes.ErrNoLeader}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			r := s.run(s.archive())
			r.Store = &faulty{Client: s.Client, fault: func(n int) (error, bool) {
				if n%3 != 0 || n > faults {
					return nil, false
				}
				return tt.errs[n/3%len(tt.errs)], tt.applied
			}}
			result := s.execute(r, s.plan())
			wantCounts(t, result, map[apply.Outcome]int64{apply.Deleted: podCount + 1})
			for key := range s.all() {
				if strings.HasPrefix(key, podsPrefix) {
					t.Errorf("%s is still there", key)
				}
			}
		})
	}
}

func TestKeyThatChangedIsJudgedAgain(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		strict bool
		change func(value []byte) []byte
		want   apply.Outcome
	}{
		{"same object, still selected", false, bytes.Clone, apply.Deleted},
		{"same object, strict", true, bytes.Clone, apply.Skipped},
		{"made again with another UID", false, otherUID, apply.Skipped},
		{"owned by another Job now", false, func(v []byte) []byte {
			return bytes.ReplaceAll(v, []byte("error-ret"), []byte("other-ret"))
		}, apply.Skipped},
		{"cannot be decoded any more", false, func([]byte) []byte { return []byte("rubbish") }, apply.Skipped},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			p := s.plan()
			key := firstPod(s)
			changed := tt.change(s.before[key].Value)
			put, err := s.Put(t.Context(), key, string(changed))
			if err != nil {
				t.Fatal(err)
			}
			a := s.archive()
			r := s.run(a)
			r.Strict = tt.strict
			result := s.execute(r, p)
			want := map[apply.Outcome]int64{apply.Deleted: podCount}
			want[tt.want]++
			wantCounts(t, result, want)
			kv, kept := s.all()[key], s.archived(a)[key]
			if tt.want == apply.Skipped {
				if kv == nil || !bytes.Equal(kv.Value, changed) {
					t.Errorf("the skipped key is %v", kv)
				}
				return
			}
			if kv != nil {
				t.Error("the key is still there")
			}
			if kept == nil || kept.ModRevision != put.Header.Revision {
				t.Error("the archive does not hold the last bytes of what was deleted")
			}
		})
	}
}

// TestKeyThatChangesUnderTheTransaction changes a key between its archiving
// and its delete, so that only the guard can notice.
func TestKeyThatChangesUnderTheTransaction(t *testing.T) {
	t.Parallel()
	for _, recreated := range []bool{false, true} {
		t.Run(fmt.Sprintf("recreated %v", recreated), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			p := s.plan()
			key := firstPod(s)
			value := s.before[key].Value
			if recreated {
				value = otherUID(value)
			}
			a := s.archive()
			r := s.run(&changeAfter{Archive: a, n: 2, change: func() {
				if _, err := s.Put(t.Context(), key, string(value)); err != nil {
					t.Error(err)
				}
			}})
			result := s.execute(r, p)
			want := map[apply.Outcome]int64{apply.Deleted: podCount + 1}
			if recreated {
				want = map[apply.Outcome]int64{apply.Deleted: podCount, apply.Skipped: 1}
			}
			wantCounts(t, result, want)
			if there := s.all()[key] != nil; there != recreated {
				t.Errorf("the key is there: %v, want %v", there, recreated)
			}
			s.mustHoldAll(a)
		})
	}
}

// TestMadeAnewAfterAnAmbiguousAnswer: the delete without an answer was made, and
// the object that is there now is another one.
func TestMadeAnewAfterAnAmbiguousAnswer(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p, a, key := s.plan(), s.archive(), firstPod(s)
	r := s.run(a)
	r.InFlight = 1
	r.Store = &faulty{Client: s.Client, fault: func(n int) (error, bool) {
		if n == 2 { // after the Job
			return rpctypes.ErrTimeout, true
		}
		return nil, false
	}}
	r.Backoff = func(ctx context.Context, _ int) error {
		_, err := s.Put(ctx, key, string(otherUID(s.before[key].Value)))
		return err
	}
	result := s.execute(r, p)
	wantCounts(t, result, map[apply.Outcome]int64{apply.Deleted: podCount + 1})
	if result.Resolved != 1 || s.all()[key] == nil {
		t.Errorf("%d resolved; the new object is there: %v", result.Resolved, s.all()[key] != nil)
	}
	s.mustHoldAll(a)
}

// changeAfter calls change right after the n-th batch is archived.
type changeAfter struct {
	*snapshots.Archive
	n      int64
	calls  atomic.Int64 // the workers archive too, what changed under them
	change func()
}

func (a *changeAfter) Append(stage int, kvs []*mvccpb.KeyValue, ttl map[int64]int64) error {
	err := a.Archive.Append(stage, kvs, ttl)
	if a.calls.Add(1) == a.n {
		a.change()
	}
	return err
}

func firstPod(s *store) string {
	first := ""
	for key := range s.before {
		if strings.HasPrefix(key, podsPrefix) && (first == "" || key < first) {
			first = key
		}
	}
	return first
}

// otherUID changes the object's own UID and nothing else.
func otherUID(value []byte) []byte {
	uid := codec.DecodeHead(value).Meta.UID
	return bytes.ReplaceAll(value, []byte(uid), []byte("00000000"+uid[8:]))
}

// cancelAfter cancels a run when n steps are finished.
type cancelAfter struct {
	mu     sync.Mutex
	n      int
	cancel context.CancelFunc
}

func (c *cancelAfter) Finished(plan.Step, apply.Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.n == 0 {
		c.cancel()
	}
}

func TestStoppingLeavesExtraDataNeverLostData(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 70, 200, podCount} {
		t.Run(fmt.Sprintf("after %d", n), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			p, a := s.plan(), s.archive()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := s.run(a)
			r.Observer = &cancelAfter{n: n, cancel: cancel}
			result, err := r.Plan(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			if !errors.Is(result.Stopped, context.Canceled) {
				t.Errorf("stopped by %v, want context.Canceled", result.Stopped)
			}
			deleted := int64(len(s.before) - len(s.all()))
			if deleted != result.Counts[apply.Deleted] || result.Remaining() != podCount+1-deleted {
				t.Errorf("%d are gone; the result says %d deleted and %d remaining", deleted, result.Counts[apply.Deleted], result.Remaining())
			}
			s.mustHoldAll(a)
			again, err := snapshots.OpenArchive(a.Path(), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			second := s.execute(s.run(again), p)
			wantCounts(t, second, map[apply.Outcome]int64{apply.Deleted: podCount + 1 - deleted, apply.Gone: deleted})
			s.mustHoldAll(again)
		})
	}
}

func TestOwnersThatCannotGoKeepTheirObjects(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(s.archive())
	r.Store = &faulty{Client: s.Client, fault: func(int) (error, bool) { return rpctypes.ErrTooManyRequests, false }}
	result := s.execute(r, s.plan())
	if !errors.Is(result.Stopped, apply.ErrOwner) {
		t.Errorf("stopped by %v, want ErrOwner", result.Stopped)
	}
	wantCounts(t, result, map[apply.Outcome]int64{apply.Failed: 1})
	if len(s.all()) != len(s.before) {
		t.Error("something was deleted")
	}
}

func TestRunThatOnlyFailsStops(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(s.archive())
	r.MaxFailed = 20
	r.Store = &faulty{Client: s.Client, fault: func(n int) (error, bool) {
		if n == 1 {
			return nil, false // the owner
		}
		return rpctypes.ErrRequestTooLarge, false
	}}
	result := s.execute(r, s.plan())
	if !errors.Is(result.Stopped, apply.ErrFailing) || !strings.Contains(result.Stopped.Error(), "20 in a row") {
		t.Errorf("stopped by %v, want ErrFailing after 20 in a row", result.Stopped)
	}
	if result.Remaining() == 0 {
		t.Error("every step was tried")
	}
}

func TestRunThatMostlyFailsStops(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(s.archive())
	r.InFlight, r.MaxFailed, r.Window, r.MaxShare = 1, 10, 40, 0.5
	r.Store = &faulty{Client: s.Client, fault: func(n int) (error, bool) {
		if n == 1 || n%3 == 0 {
			return nil, false
		}
		return rpctypes.ErrRequestTooLarge, false
	}}
	p, a := s.plan(), r.Archive.(*snapshots.Archive)
	result := s.execute(r, p)
	if !errors.Is(result.Stopped, apply.ErrFailing) || !strings.Contains(result.Stopped.Error(), "of the last 40") {
		t.Errorf("stopped by %v, want ErrFailing for a share of the last 40", result.Stopped)
	}
	failed := result.Counts[apply.Failed]
	if failed == 0 || int64(len(result.Problems)) != failed || result.Remaining() < podCount/2 {
		t.Errorf("%d failed, %d problems, %d remaining", failed, len(result.Problems), result.Remaining())
	}
	s.mustHoldAll(a)
	// What failed is tried again, like what was not begun.
	second := s.execute(s.run(s.archive()), p)
	wantCounts(t, second, map[apply.Outcome]int64{
		apply.Gone: result.Counts[apply.Deleted], apply.Deleted: failed + result.Remaining(),
	})
}

// TestErrorsForEveryKeyStopTheRun: going on key by key would be senseless.
func TestErrorsForEveryKeyStopTheRun(t *testing.T) {
	t.Parallel()
	tests := []struct {
		err  error
		want error
	}{
		{rpctypes.ErrCorrupt, apply.ErrCorruptAlarm},
		{rpctypes.ErrPermissionDenied, apply.ErrDenied},
		{rpctypes.ErrInvalidAuthToken, apply.ErrDenied},
		{rpctypes.ErrNoSpace, apply.ErrOldNoSpace},
	}
	for _, tt := range tests {
		t.Run(tt.want.Error(), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			a := s.archive()
			r := s.run(a)
			r.InFlight = 4
			r.Store = &faulty{Client: s.Client, fault: func(n int) (error, bool) {
				if n < 100 {
					return nil, false
				}
				return tt.err, false
			}}
			result := s.execute(r, s.plan())
			if !errors.Is(result.Stopped, tt.want) || !errors.Is(result.Stopped, tt.err) {
				t.Errorf("stopped by %v, want %v", result.Stopped, tt.want)
			}
			failed := result.Counts[apply.Failed]
			if result.Counts[apply.Deleted] != 99 || failed == 0 || failed > 4 || result.Remaining() != podCount+1-99-failed {
				t.Errorf("counts %v, remaining %d", result.Counts, result.Remaining())
			}
			s.mustHoldAll(a)
		})
	}
}

func TestRunWithoutAnswersStops(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(s.archive())
	r.MaxFailed, r.Retries, r.InFlight = 1000, 1, 4
	var clock atomic.Int64
	r.Now = func() time.Time { return time.Unix(clock.Add(10), 0) }
	r.Store = &faulty{Client: s.Client, fault: func(n int) (error, bool) {
		if n == 1 {
			return nil, false // the owner
		}
		return context.DeadlineExceeded, n%2 == 0
	}}
	a := r.Archive.(*snapshots.Archive)
	result := s.execute(r, s.plan())
	if !errors.Is(result.Stopped, apply.ErrSilent) {
		t.Errorf("stopped by %v, want ErrSilent", result.Stopped)
	}
	if result.Remaining() < podCount/2 {
		t.Errorf("only %d steps were left alone", result.Remaining())
	}
	s.mustHoldAll(a)
}

func TestKeyOutsideThePrefixIsNeverTouched(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if _, err := s.Put(t.Context(), "/other/key", "value"); err != nil {
		t.Fatal(err)
	}
	kv := s.all()["/other/key"]
	path := filepath.Join(t.TempDir(), "plan.jsonl")
	w, err := plan.Create(path, plan.Header{Operation: "delete", Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	step := plan.Step{Action: plan.Delete, Key: "/other/key", ModRevision: kv.ModRevision, CreateRevision: kv.CreateRevision, Role: plan.Selected}
	if err := w.Add(0, "keys", step); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := plan.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	result := s.execute(s.run(s.archive()), p)
	if result.Stopped == nil || !strings.Contains(result.Stopped.Error(), "outside /registry/") {
		t.Errorf("stopped by %v", result.Stopped)
	}
	if s.all()["/other/key"] == nil {
		t.Error("the key is gone")
	}
}
