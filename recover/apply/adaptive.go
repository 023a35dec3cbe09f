package apply

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Member is the state of the member, or members, that answer the run.
type Member interface {
	// Lag is how many raft entries are committed, or known, but not yet
	// applied: raft index minus applied index, the largest of all members
	// asked.
	Lag(ctx context.Context) (entries int64, err error)
}

// Clock is the time that an Adaptive goes by. After's channel may also fire
// early.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// AdaptiveOptions bound an Adaptive. Zero values are replaced by the ones
// named; where they contradict each other Max wins.
type AdaptiveOptions struct {
	Min, Max, Start float64 // changes a second; 20, 1000, 50
	Member          Member  // nil: only our own latencies are looked at
	Clock           Clock   // nil: the real one
}

// What counts as trouble.
const (
	// A commit is slow from slowFactor times the quickest of late, but not
	// below slowCommit, which a disk that is merely shared may take, and
	// always from hopeless on, where elections begin (etcd's
	// --election-timeout).
	slowCommit = 50 * time.Millisecond
	slowFactor = 4
	hopeless   = time.Second
	// maxLag is far below the 5,000 entries at which etcd refuses requests
	// (server/etcdserver/v3_server.go, maxGapBetweenApplyAndCommitIndex).
	maxLag = 500
	// reaction is how often the pace changes at most, and how long nothing
	// may succeed while there are errors before the run pauses.
	reaction = time.Second
	// firstProbe and maxProbe are the time between changes let through to
	// see whether etcd is back.
	firstProbe = time.Second
	maxProbe   = 5 * time.Second
	// quiet is how long a change goes unanswered before Why says so.
	quiet = 2 * time.Second
	// lookTimeout is for one question to Member.
	lookTimeout = 2 * time.Second
)

// How the pace rises again. A pace at which etcd was at its limit lies a
// little above what it can do, so kneeShare of it is where the rise is
// slowest.
const (
	kneeShare = 0.9
	approach  = 4   // the part of the way to the knee that one step goes
	leave     = 2   // the same of the way from it
	creep     = 128 // the part of the pace that each step adds at least
)

// Adaptive is a Pacer that looks for the pace which etcd can bear beside its
// other clients. Once a second it judges by the answers of that second: while
// commits are quick and no member lags the pace rises, else it falls by half.
// The first rise doubles; once a limit has been met the pace returns to just
// below it in a few steps, creeps past it, and leaves it faster and faster if
// it is no limit any more. When nothing succeeds at all it pauses, lets one
// change through now and then, and resumes at Min once one is answered.
//
// All methods may be called from several goroutines.
type Adaptive struct {
	opt AdaptiveOptions

	mu    sync.Mutex
	pace  float64
	knee  float64       // just below where etcd was at its limit; 0: not met yet
	next  time.Time     // when the next change may go, at the earliest
	calm  time.Duration // quickest commit of late
	cutAt time.Time     // last fall of the pace, or end of a pause
	was   float64       // the pace before it
	why   string        // its cause

	lastGood time.Time // last answer that was no trouble
	asked    time.Time // first change that was let through after the last answer
	lag      int64     // what Member said last
	lagRises bool      // it is new, and not less than before

	paused  bool
	probe   time.Time     // when the next one is let through
	probing time.Duration // from that one to the one after
	resumed chan struct{} // closed at the end of the pause

	seen window
}

// window is what was seen since the last decision.
type window struct {
	began    time.Time
	opened   time.Time // first answer that counts
	sent     int       // changes let through
	answers  int
	slow     int
	slowTime time.Duration // all slow answers together
	worst    trouble       // of the errors
}

// trouble is why the pace falls, the more telling the higher.
type trouble int

const (
	none trouble = iota
	slow
	lagging
	unanswered
	leaderless
	newLeader
	refused
)

// NewAdaptive returns a Pacer that starts at opt.Start. The caller runs Run
// beside it if there is a Member.
func NewAdaptive(opt AdaptiveOptions) *Adaptive {
	orDefault := func(v *float64, d float64) {
		if !(*v > 0) { // NaN as well
			*v = d
		}
	}
	orDefault(&opt.Min, 20)
	orDefault(&opt.Max, 1000)
	orDefault(&opt.Start, 50)
	const most = 1e6 // the clock's grain is not far off
	opt.Max = min(opt.Max, most)
	opt.Min = min(opt.Min, opt.Max)
	opt.Start = min(max(opt.Start, opt.Min), opt.Max)
	if opt.Clock == nil {
		opt.Clock = systemClock{}
	}
	now := opt.Clock.Now()
	return &Adaptive{opt: opt, pace: opt.Start, lastGood: now, seen: window{began: now}}
}

// Wait returns when the next change may be made, or ctx's error once ctx has
// ended. The pace is even: at most a twentieth of a second's worth comes at
// once.
func (a *Adaptive) Wait(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		delay, resumed := a.take()
		if delay <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-resumed:
		case <-a.opt.Clock.After(delay):
		}
	}
}

// take lets a change through, or says how long to wait before asking again.
// Nothing is reserved, so a change of the pace holds at once.
func (a *Adaptive) take() (delay time.Duration, resumed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.opt.Clock.Now()
	if a.paused {
		if delay = a.probe.Sub(now); delay > 0 {
			return delay, a.resumed
		}
		a.probe = now.Add(a.probing)
		a.probing = min(2*a.probing, maxProbe)
	} else {
		if delay = a.next.Sub(now); delay > 0 {
			return delay, nil
		}
		gap := time.Duration(float64(time.Second) / a.pace)
		if earliest := now.Add(-max(time.Second/20-gap, 0)); a.next.Before(earliest) {
			a.next = earliest
		}
		a.next = a.next.Add(gap)
	}
	a.seen.sent++
	if a.asked.IsZero() {
		a.asked = now
	}
	return 0, nil
}

// Answered tells how long a transaction took and how it ended. An answer that
// is the transaction's own fault, such as a missing permission, counts as one
// without error: etcd answers.
func (a *Adaptive) Answered(latency time.Duration, err error) {
	if errors.Is(err, context.Canceled) {
		return // says nothing about etcd
	}
	kind := troubleOf(err)
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.opt.Clock.Now()
	a.asked = time.Time{}
	switch {
	case kind == none:
		a.lastGood = now
		a.resume(now)
	case now.Sub(a.lastGood) >= reaction:
		a.pause(now)
		return
	}
	if now.Add(-latency).Before(a.cutAt) {
		return // sent at the old pace, it says nothing about the new one
	}
	a.note(now, latency, kind)
	// The first trouble after a calm second is not kept waiting.
	if now.Sub(a.seen.opened) >= reaction || (kind != none && now.Sub(a.cutAt) >= reaction) {
		a.decide(now)
	}
}

// troubleOf says what an error tells about etcd's load.
func troubleOf(err error) trouble {
	if err == nil {
		return none
	}
	err = rpctypes.Error(err)
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case is(rpctypes.ErrTooManyRequests):
		return refused
	case is(rpctypes.ErrLeaderChanged, rpctypes.ErrNotLeader, rpctypes.ErrTimeoutDueToLeaderFail):
		return newLeader
	case is(rpctypes.ErrNoLeader):
		return leaderless
	}
	code := codes.Unknown
	if e := (rpctypes.EtcdError{}); errors.As(err, &e) {
		code = e.Code()
	} else if s, ok := status.FromError(err); ok {
		code = s.Code()
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted, codes.Internal, codes.Unknown:
		return unanswered
	}
	return none
}

// note counts one answer.
func (a *Adaptive) note(now time.Time, latency time.Duration, kind trouble) {
	w := &a.seen
	if w.opened.IsZero() {
		w.opened = now
	}
	if kind != none {
		w.worst = max(w.worst, kind)
		return
	}
	if a.calm == 0 || latency < a.calm {
		a.calm = latency
	}
	w.answers++
	if latency >= min(max(slowCommit, slowFactor*a.calm), hopeless) {
		w.slow++
		w.slowTime += latency
	}
}

// decide changes the pace by what was seen and begins anew.
func (a *Adaptive) decide(now time.Time) {
	w := a.seen
	kind := w.worst
	switch {
	case kind != none:
	case a.lagRises && a.lag > maxLag:
		kind = lagging
	case 2*w.slow > w.answers: // one stall of the disk is no more than a few answers
		kind = slow
	}
	used := a.pace // in a window too short to tell
	if took := now.Sub(w.began); took >= reaction {
		used = min(used, float64(w.sent)/took.Seconds())
	}
	switch {
	case kind != none:
		a.cut(now, kind, used)
	case a.lag <= maxLag && used >= a.pace/2:
		a.rise()
	}
	a.calm += a.calm / 64 // what was long ago may not be possible now
	a.lagRises = false
	a.seen = window{began: now}
}

// cut halves the pace, or rather what was made use of: where the transactions
// in flight are the narrower limit, a mere number would be halved.
func (a *Adaptive) cut(now time.Time, kind trouble, used float64) {
	a.was, a.cutAt = used, now
	a.why = a.reason(kind)
	if kind == slow || kind == lagging || kind == refused {
		// Below the knee it may have been a passing disturbance, which must
		// not take what was learnt.
		a.knee = max(kneeShare*used, (a.knee+used)/2)
	}
	a.pace = max(used/2, a.opt.Min)
}

// rise takes one step up, the smaller the closer the knee is. A pace that is
// not made use of is not raised: nothing shows that etcd could bear it.
func (a *Adaptive) rise() {
	step := a.pace
	switch {
	case a.knee == 0:
	case a.pace < a.knee:
		step = min(step, (a.knee-a.pace)/approach+a.pace/creep)
	default:
		step = min(step, (a.pace-a.knee)/leave+a.pace/creep)
	}
	a.pace = min(a.pace+step, a.opt.Max)
	if a.pace == a.opt.Max || a.pace > a.was*4/3 {
		a.why = ""
	}
}

func (a *Adaptive) pause(now time.Time) {
	if a.paused {
		return
	}
	a.paused, a.resumed = true, make(chan struct{})
	a.probe, a.probing = now.Add(firstProbe), 2*firstProbe
	a.was, a.why = a.pace, a.reason(unanswered)
}

func (a *Adaptive) resume(now time.Time) {
	if !a.paused {
		return
	}
	a.paused = false
	close(a.resumed)
	a.pace, a.next, a.cutAt = a.opt.Min, now, now
	a.seen = window{began: now}
}

// PerSecond is the pace now, 0 during a pause.
func (a *Adaptive) PerSecond() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.paused {
		return 0
	}
	return a.pace
}

// Why says in a few words what keeps the pace below Max, "" when nothing does:
// it is there, or on its way.
func (a *Adaptive) Why() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.paused:
		return "waiting for etcd to answer"
	case !a.asked.IsZero() && a.opt.Clock.Now().Sub(a.asked) >= quiet:
		return a.reason(unanswered)
	}
	return a.why
}

// reason says kind in words.
func (a *Adaptive) reason(kind trouble) string {
	switch kind {
	case slow:
		mean := a.seen.slowTime / time.Duration(max(a.seen.slow, 1))
		return fmt.Sprintf("etcd takes %s to commit", mean.Round(10*time.Millisecond))
	case lagging:
		return fmt.Sprintf("a member lags %s entries behind", grouped(a.lag))
	case leaderless:
		return "etcd has no leader"
	case newLeader:
		return "the leader changed"
	case refused:
		return "etcd has too many requests"
	}
	return "etcd does not answer"
}

// grouped writes n, which is not negative, as 1,234,567.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Run asks the Member for its lag once a second until ctx ends. Without a
// Member it returns at once.
func (a *Adaptive) Run(ctx context.Context) {
	for a.opt.Member != nil {
		select {
		case <-ctx.Done():
			return
		case <-a.opt.Clock.After(time.Second):
		}
		a.look(ctx)
	}
}

// look notes the lag. A member that does not say counts as one without: our
// own transactions tell soon enough whether etcd answers.
func (a *Adaptive) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	lag, err := a.opt.Member.Lag(ctx)
	if err != nil {
		lag = 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// A backlog that shrinks already needs time, not a lower pace.
	a.lagRises = lag >= a.lag
	a.lag = lag
}
