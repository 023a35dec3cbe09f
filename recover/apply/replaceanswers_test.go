package apply_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
)

// became is what became of a key around a transaction whose answer was lost.
type became struct {
	name   string
	before func(s *store, key string) // the transaction
	apply  bool
	after  func(s *store, key string)
	// want is the outcome if the answer leaves open whether it was applied.
	want  apply.Outcome
	value string // then, as mustHold takes it
	// over is the outcome if the answer was NOSPACE.
	over apply.Outcome
}

func becomings() []became {
	changed := func(s *store, key string) { s.put(key, "theirs") }
	twice := func(s *store, key string) { s.put(key, "theirs"); s.put(key, "later") }
	removed := func(s *store, key string) { s.remove(key) }
	anew := func(s *store, key string) { s.remove(key); s.put(key, "theirs") }
	many := func(s *store, key string) {
		for n := range 10 {
			s.put(key, fmt.Sprint("theirs ", n))
		}
		s.put(key, "theirs")
	}
	asOften := func(s *store, key string) { // its version is that of the replacement again
		version := s.all()[key].Version
		s.remove(key)
		for range version {
			s.put(key, "theirs")
		}
	}
	same := func(s *store, key string) { s.put(key, string(s.before[key].Value)) }
	return []became{
		{"not applied", nil, false, nil, apply.Replaced, "before", apply.Failed},
		{"applied", nil, true, nil, apply.Replaced, "before", apply.Replaced},
		{"applied, then changed", nil, true, changed, apply.Replaced, "theirs", apply.Replaced},
		{"applied, then changed twice", nil, true, twice, apply.Replaced, "later", apply.Replaced},
		{"applied, then changed often", nil, true, many, apply.Replaced, "theirs", apply.Replaced},
		{"applied, then deleted", nil, true, removed, apply.Replaced, "", apply.Failed},
		{"applied, then made anew", nil, true, anew, apply.Replaced, "theirs", apply.Replaced},
		{"applied, then made anew and changed as often", nil, true, asOften, apply.Replaced, "theirs", apply.Replaced},
		{"not applied, changed", changed, false, nil, apply.Skipped, "theirs", apply.Skipped},
		{"not applied, changed twice", twice, true, nil, apply.Skipped, "later", apply.Skipped},
		{"not applied, deleted", removed, true, nil, apply.Skipped, "", apply.Failed},
		{"not applied, made anew", anew, true, nil, apply.Skipped, "theirs", apply.Skipped},
		{"not applied, later the same", func(s *store, key string) { changed(s, key); same(s, key) }, true, nil, apply.Present, "before", apply.Present},
		{"not applied, made anew the same", func(s *store, key string) { removed(s, key); same(s, key) }, true, nil, apply.Present, "before", apply.Present},
	}
}

func ambiguousAnswers() []error {
	return []error{
		context.DeadlineExceeded, rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost,
		rpctypes.ErrLeaderChanged, rpctypes.ErrStopped, status.Error(codes.Unavailable, "connection reset"), status.Error(codes.Internal, "some trouble"),
	}
}

// replaceOne carries out a plan of three replacements. What b says happens to
// the second of them, whose transaction is answered with err.
func (s *store) replaceOne(b became, err error, versionless bool) (*apply.Result, string) {
	s.t.Helper()
	keys := replaceKeys(s, 3)
	f := s.changed(keys)
	p, key := s.replacePlan(f), keys[1]
	told := func(what func(*store, string)) func() {
		return func() {
			if what != nil {
				what(s, key)
			}
		}
	}
	r := s.replaceRun(f, s.archive())
	r.InFlight = 1
	r.Store = &atFirst{Client: s.Client, key: key, err: err, apply: b.apply, before: told(b.before), after: told(b.after), versionless: versionless}
	return s.execute(r, p), key
}

// TestReplacementResolvesAmbiguousAnswers: exactly, by the versions of the key
// or, where there are none as on kine, by its history.
func TestReplacementResolvesAmbiguousAnswers(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	errs, n := ambiguousAnswers(), 0
	for _, versionless := range []bool{false, true} {
		for _, b := range becomings() {
			err := errs[n%len(errs)]
			n++
			t.Run(fmt.Sprintf("%s/versionless %v", b.name, versionless), func(t *testing.T) { // one after another, in one store
				s := &store{s.Client, t, s.before}
				result, key := s.replaceOne(b, err, versionless)
				want := map[apply.Outcome]int64{apply.Replaced: 2}
				want[b.want]++
				wantCounts(t, result, want)
				s.mustHold(key, b.value)
				if result.Stopped != nil || result.Resolved != 1 || result.Retries != 1 {
					t.Errorf("stopped by %v, %d resolved, %d retries", result.Stopped, result.Resolved, result.Retries)
				}
			})
		}
	}
}

// TestEveryAnswerToAReplacement: of each class of errors at the transaction.
func TestEveryAnswerToAReplacement(t *testing.T) {
	t.Parallel()
	type answer struct {
		name    string
		err     error
		want    apply.Outcome
		stopped error
	}
	var tests []answer
	for _, err := range ambiguousAnswers() {
		tests = append(tests, answer{"ambiguous", err, apply.Replaced, nil})
	}
	for _, err := range []error{rpctypes.ErrTooManyRequests, rpctypes.ErrNoLeader, rpctypes.ErrNotCapable, rpctypes.ErrGRPCNotSupportedForLearner, rpctypes.ErrAuthOldRevision, rpctypes.ErrLeaseNotFound} {
		tests = append(tests, answer{"not applied", err, apply.Replaced, nil})
	}
	for _, err := range []error{rpctypes.ErrRequestTooLarge, rpctypes.ErrDuplicateKey, status.Error(codes.Unimplemented, "unknown method")} {
		tests = append(tests, answer{"fatal", err, apply.Failed, nil})
	}
	for _, err := range []error{rpctypes.ErrPermissionDenied, rpctypes.ErrInvalidAuthToken, status.Error(codes.Unauthenticated, "who are you?")} {
		tests = append(tests, answer{"denied", err, apply.Failed, apply.ErrDenied})
	}
	tests = append(tests, answer{"corrupt", rpctypes.ErrCorrupt, apply.Failed, apply.ErrCorruptAlarm}, answer{"no space", rpctypes.ErrNoSpace, apply.Failed, apply.ErrNoSpace})
	s := newStore(t)
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s/%v", tt.name, tt.err), func(t *testing.T) { // one after another, in one store
			s := &store{s.Client, t, s.before}
			result, key := s.replaceOne(became{}, tt.err, false)
			want := map[apply.Outcome]int64{apply.Replaced: 2}
			if tt.stopped != nil {
				want[apply.Replaced] = 1
			}
			want[tt.want]++
			wantCounts(t, result, want)
			if !errors.Is(result.Stopped, tt.stopped) || (result.Stopped == nil) != (tt.stopped == nil) {
				t.Errorf("stopped by %v, want %v", result.Stopped, tt.stopped)
			}
			value := "before"
			if tt.want == apply.Failed {
				value = "changed"
				if why := result.Problems[0].Why; why != tt.err.Error() {
					t.Errorf("failed because %q, want %q", why, tt.err)
				}
			}
			s.mustHold(key, value)
		})
	}
}

// TestNoSpaceAfterAReplacementIsResolvedByReading: etcd may carry it out and
// still answer that there is no space. No other is begun.
func TestNoSpaceAfterAReplacementIsResolvedByReading(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, b := range becomings() {
		t.Run(b.name, func(t *testing.T) { // one after another, in one store
			s := &store{s.Client, t, s.before}
			result, key := s.replaceOne(b, rpctypes.ErrNoSpace, false)
			want := map[apply.Outcome]int64{apply.Replaced: 1}
			want[b.over]++
			wantCounts(t, result, want)
			if !errors.Is(result.Stopped, apply.ErrNoSpace) || result.Remaining() != 1 {
				t.Errorf("stopped by %v with %d remaining", result.Stopped, result.Remaining())
			}
			value := b.value
			if b.name == "not applied" {
				value = "changed"
			}
			s.mustHold(key, value)
		})
	}
}

// TestLostHistoryLeavesAReplacementOpen: what was written over and compacted
// nobody can tell any more. What is there with the file's bytes is done.
func TestLostHistoryLeavesAReplacementOpen(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	compact := func(s *store, _ string) {
		if _, err := s.Compact(context.WithoutCancel(s.t.Context()), s.revision()); err != nil {
			s.t.Error(err)
		}
	}
	becomings := becomings()
	tests := []struct {
		became
		want apply.Outcome
	}{
		{becomings[1], apply.Replaced}, // its version tells
		{becomings[3], apply.Failed},
		{becomings[5], apply.Failed},
		{becomings[6], apply.Failed},
		{becomings[8], apply.Skipped}, // its version tells
		{becomings[9], apply.Failed},
		{becomings[12], apply.Present},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { // one after another, in one store
			s := &store{s.Client, t, s.before}
			b, after := tt.became, tt.after
			b.after = func(s *store, key string) {
				if after != nil {
					after(s, key)
				}
				compact(s, key)
			}
			result, key := s.replaceOne(b, rpctypes.ErrLeaderChanged, false)
			want := map[apply.Outcome]int64{apply.Replaced: 2}
			want[tt.want]++
			wantCounts(t, result, want)
			s.mustHold(key, b.value)
			if tt.want == apply.Failed && !strings.Contains(result.Problems[0].Why, "may have been done all the same: what became of it cannot be read any more") {
				t.Errorf("failed because %q", result.Problems[0].Why)
			}
		})
	}
}

// TestCompactionAfterAReplacementHarmsNothing: what is asked for lies behind
// it, although the plan is older.
func TestCompactionAfterAReplacementHarmsNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	compact := func(s *store, key string) {
		for range 20 {
			s.put(prefix+"configmaps/team/other", "x")
		}
		if _, err := s.Compact(context.WithoutCancel(s.t.Context()), s.revision()); err != nil {
			s.t.Error(err)
		}
	}
	b := becomings()[3]
	b.before = compact
	result, key := s.replaceOne(b, rpctypes.ErrTimeout, false)
	wantCounts(t, result, map[apply.Outcome]int64{apply.Replaced: 3})
	s.mustHold(key, b.value)
}

// TestLostReadsLeaveAReplacementOpen: the history cannot be read for another
// reason.
func TestLostReadsLeaveAReplacementOpen(t *testing.T) {
	t.Parallel()
	for _, err := range []error{rpctypes.ErrPermissionDenied, status.Error(codes.Unavailable, "gone")} {
		s := newStore(t)
		keys := replaceKeys(s, 3)
		f := s.changed(keys)
		p := s.replacePlan(f)
		r := s.replaceRun(f, s.archive())
		var clock atomic.Int64
		r.InFlight, r.Now, r.Patience = 1, func() time.Time { return time.Unix(clock.Add(1), 0) }, 100*time.Second
		twice := func() { s.put(keys[1], "theirs"); s.put(keys[1], "later") }
		r.Store = pastless{&atFirst{Client: s.Client, key: keys[1], err: rpctypes.ErrTimeout, apply: true, after: twice}, err}
		result := s.execute(r, p)
		if result.Counts[apply.Failed] != 1 || !strings.Contains(result.Problems[0].Why, "no clear answer") {
			t.Errorf("%v: %v, %v", err, result.Counts, result.Problems)
		}
		s.mustHold(keys[1], "later")
	}
}

// pastless does not tell what was.
type pastless struct {
	*atFirst
	err error
}

func (p pastless) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	op := clientv3.OpGet(key, opts...)
	if op.Rev() > 0 {
		return nil, p.err
	}
	return p.atFirst.Get(ctx, key, opts...)
}
