package apply

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	_ Pacer = (*Fixed)(nil)
	_ Pacer = (*Adaptive)(nil)
)

// stopped is a Clock that a test moves itself.
type stopped struct{ now time.Time }

func (c *stopped) Now() time.Time                       { return c.now }
func (c *stopped) After(time.Duration) <-chan time.Time { return nil }

// lags is a Member that says so.
type lags struct {
	entries atomic.Int64
	asked   atomic.Int64
	err     error
}

func (l *lags) Lag(context.Context) (int64, error) {
	l.asked.Add(1)
	return l.entries.Load(), l.err
}

func newStopped(opt AdaptiveOptions) (*Adaptive, *stopped) {
	c := &stopped{time.Unix(1_700_000_000, 0)}
	opt.Clock = c
	return NewAdaptive(opt), c
}

// pass lets a second go by in which the whole pace is used and each commit
// takes d.
func pass(a *Adaptive, c *stopped, d time.Duration) {
	n := int(a.PerSecond())
	for range n {
		c.now = c.now.Add(time.Second/time.Duration(n) + 1)
		a.take()
		a.Answered(d, nil)
	}
}

func TestFixedPaceStaysWhatItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewFixed(40)
		began := time.Now()
		for range 82 { // two at once
			if err := p.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.Answered(time.Minute, rpctypes.ErrTooManyRequests)
		}
		if took := time.Since(began).Round(time.Millisecond); took != 2*time.Second {
			t.Errorf("82 changes at 40 a second took %s, want 2s", took)
		}
		if p.PerSecond() != 40 || p.Why() != "" {
			t.Errorf("pace %v, why %q; want 40 and nothing", p.PerSecond(), p.Why())
		}
	})
}

func TestPaceIsEven(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pace    float64
		atOnce  int
		inASec  int
		restful time.Duration
	}{
		{pace: 20, atOnce: 1, inASec: 21},
		{pace: 20, atOnce: 1, inASec: 21, restful: time.Hour},
		{pace: 200, atOnce: 10, inASec: 210, restful: time.Hour},
		{pace: 1000, atOnce: 50, inASec: 1050, restful: time.Hour},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.pace, " after ", tt.restful), func(t *testing.T) {
			t.Parallel()
			a, c := newStopped(AdaptiveOptions{Min: tt.pace, Max: tt.pace})
			a.take()
			c.now = c.now.Add(tt.restful)
			end := c.now.Add(time.Second)
			atOnce, all := 0, 0
			for {
				delay, _ := a.take()
				if delay == 0 {
					all++
					if c.now.Equal(end.Add(-time.Second)) {
						atOnce++
					}
					continue
				}
				if c.now = c.now.Add(delay); c.now.After(end) {
					break
				}
			}
			if tt.restful == 0 { // the one before
				atOnce, all = atOnce+1, all+1
			}
			if atOnce != tt.atOnce || all < tt.inASec-2 || all > tt.inASec {
				t.Errorf("%d at once, %d in a second; want %d and %d", atOnce, all, tt.atOnce, tt.inASec)
			}
		})
	}
}

func TestTroubleHalvesThePaceOnce(t *testing.T) {
	t.Parallel()
	tests := []struct {
		err  error
		why  string
		calm bool // the pace is not touched
	}{
		{err: rpctypes.ErrGRPCRequestTooManyRequests, why: "etcd has too many requests"},
		{err: fmt.Errorf("delete: %w", rpctypes.ErrTooManyRequests), why: "etcd has too many requests"},
		{err: status.Error(codes.Unknown, "etcdserver: too many requests"), why: "etcd has too many requests"},
		{err: rpctypes.ErrLeaderChanged, why: "the leader changed"},
		{err: rpctypes.ErrNotLeader, why: "the leader changed"},
		{err: rpctypes.ErrTimeoutDueToLeaderFail, why: "the leader changed"},
		{err: rpctypes.ErrNoLeader, why: "etcd has no leader"},
		{err: context.DeadlineExceeded, why: "etcd does not answer"},
		{err: rpctypes.ErrTimeout, why: "etcd does not answer"},
		{err: rpctypes.ErrTimeoutDueToConnectionLost, why: "etcd does not answer"},
		{err: rpctypes.ErrStopped, why: "etcd does not answer"},
		{err: status.Error(codes.Unavailable, "connection refused"), why: "etcd does not answer"},
		{err: errors.New("of a kind nobody knows"), why: "etcd does not answer"},
		{err: rpctypes.ErrPermissionDenied, calm: true},
		{err: rpctypes.ErrNoSpace, calm: true},
		{err: context.Canceled, calm: true},
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			t.Parallel()
			a, c := newStopped(AdaptiveOptions{Start: 200})
			a.Answered(time.Millisecond, nil)
			c.now = c.now.Add(reaction / 2)
			a.take()
			for range simInFlight {
				a.Answered(time.Millisecond, tt.err)
				c.now = c.now.Add(1)
			}
			want := 100.0
			if tt.calm {
				want = 200
			}
			if a.PerSecond() != want || a.Why() != tt.why {
				t.Errorf("pace %v because %q, want %v and %q", a.PerSecond(), a.Why(), want, tt.why)
			}
		})
	}
}

func TestPauseEndsWithAnAnswer(t *testing.T) {
	t.Parallel()
	for _, answer := range []error{nil, rpctypes.ErrPermissionDenied} {
		a, c := newStopped(AdaptiveOptions{})
		began := c.now.Add(5 * time.Second)
		c.now = began
		a.Answered(5*time.Second, context.DeadlineExceeded)
		var probes []time.Duration
		for len(probes) < 6 {
			delay, resumed := a.take()
			if delay == 0 {
				probes = append(probes, c.now.Sub(began))
				a.Answered(time.Second, context.DeadlineExceeded)
			} else if resumed == nil {
				t.Fatal("whoever waits does not notice the end of the pause")
			}
			c.now = c.now.Add(delay)
		}
		want := []time.Duration{1 * time.Second, 3 * time.Second, 7 * time.Second, 12 * time.Second, 17 * time.Second, 22 * time.Second}
		if !slices.Equal(probes, want) {
			t.Errorf("probes after %s, want %s", probes, want)
		}
		if a.PerSecond() != 0 || a.Why() != "waiting for etcd to answer" {
			t.Errorf("pace %v, why %q", a.PerSecond(), a.Why())
		}
		delay, resumed := a.take()
		a.Answered(time.Minute, answer)
		select {
		case <-resumed:
		default:
			t.Errorf("%v: who waits for %s goes on waiting", answer, delay)
		}
		if delay, _ = a.take(); a.PerSecond() != 20 || a.Why() != "etcd does not answer" || delay != 0 {
			t.Errorf("%v: pace %v, why %q, next after %s; want 20 at once", answer, a.PerSecond(), a.Why(), delay)
		}
	}
}

func TestSilenceIsNamedBeforeAnythingTimesOut(t *testing.T) {
	t.Parallel()
	a, c := newStopped(AdaptiveOptions{})
	a.take()
	c.now = c.now.Add(quiet - 1)
	if a.Why() != "" {
		t.Errorf("too early: %q", a.Why())
	}
	c.now = c.now.Add(1)
	if a.Why() != "etcd does not answer" {
		t.Errorf("why %q", a.Why())
	}
	a.Answered(quiet, nil)
	if a.Why() != "" {
		t.Errorf("after an answer %q", a.Why())
	}
}

func TestPaceThatIsNotUsedIsNotRaised(t *testing.T) {
	t.Parallel()
	a, c := newStopped(AdaptiveOptions{})
	for range 100 { // ten a second
		c.now = c.now.Add(100 * time.Millisecond)
		a.take()
		a.Answered(time.Millisecond, nil)
	}
	if a.PerSecond() != 50 {
		t.Errorf("pace %v, want 50", a.PerSecond())
	}
	pass(a, c, time.Millisecond)
	pass(a, c, time.Millisecond)
	if a.PerSecond() <= 50 {
		t.Errorf("pace %v although 50 a second went well", a.PerSecond())
	}
}

func TestBacklogThatShrinksIsGivenTime(t *testing.T) {
	t.Parallel()
	member := &lags{}
	a, c := newStopped(AdaptiveOptions{Member: member, Start: 400})
	steps := []struct {
		lag  int64
		pace float64
		why  string
	}{
		{400, 800, ""},
		{1200, 400, "a member lags 1,200 entries behind"},
		{900, 400, "a member lags 1,200 entries behind"},
		{600, 400, "a member lags 1,200 entries behind"},
		{1234567, 200, "a member lags 1,234,567 entries behind"},
		{1234567, 100, "a member lags 1,234,567 entries behind"},
		{0, 200, "a member lags 1,234,567 entries behind"},
	}
	for i, s := range steps {
		member.entries.Store(s.lag)
		a.look(t.Context())
		before := a.PerSecond()
		for n := 0; n < 2000 && (n == 0 || a.seen.answers > 0); n++ { // until it has decided
			c.now = c.now.Add(time.Duration(float64(time.Second)/before) + 1)
			a.take()
			a.Answered(time.Millisecond, nil)
		}
		if i == len(steps)-1 && a.PerSecond() > before {
			continue // how far it rises is not the matter here
		}
		if math.Abs(a.PerSecond()-s.pace) > 2 || a.Why() != s.why {
			t.Errorf("lag %d: pace %v because %q, want %v and %q", s.lag, a.PerSecond(), a.Why(), s.pace, s.why)
		}
	}
}

func TestPaceOptions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name                      string
		opt                       AdaptiveOptions
		wantMin, wantMax, wantNow float64
	}{
		{"defaults", AdaptiveOptions{}, 20, 1000, 50},
		{"ceiling below the floor", AdaptiveOptions{Max: 5}, 5, 5, 5},
		{"floor above the start", AdaptiveOptions{Min: 300}, 300, 1000, 300},
		{"nonsense", AdaptiveOptions{Min: -1, Max: -1, Start: -1}, 20, 1000, 50},
	}
	for _, tt := range tests {
		a, _ := newStopped(tt.opt)
		if a.opt.Min != tt.wantMin || a.opt.Max != tt.wantMax || a.PerSecond() != tt.wantNow {
			t.Errorf("%s: from %v to %v, starting at %v; want %v, %v, %v", tt.name,
				a.opt.Min, a.opt.Max, a.PerSecond(), tt.wantMin, tt.wantMax, tt.wantNow)
		}
	}
}

func TestCancelEndsEveryWait(t *testing.T) {
	t.Parallel()
	for _, paused := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a := NewAdaptive(AdaptiveOptions{Min: 0.001, Max: 0.001})
			if paused {
				time.Sleep(time.Minute)
				a.Answered(time.Minute, context.DeadlineExceeded)
			} else if err := a.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var waiting sync.WaitGroup
			for range simInFlight {
				waiting.Go(func() {
					if err := a.Wait(ctx); !errors.Is(err, context.Canceled) {
						t.Errorf("ended with %v", err)
					}
				})
			}
			synctest.Wait()
			cancel()
			began := time.Now()
			waiting.Wait()
			if took := time.Since(began); took != 0 {
				t.Errorf("paused %v: it took %s more", paused, took)
			}
			if err := a.Wait(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("with a context that has ended: %v", err)
			}
		})
	}
}

func TestManyGoroutinesKeepThePaceTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		member := &lags{}
		a := NewAdaptive(AdaptiveOptions{Member: member})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Millisecond)
		defer cancel()
		var done atomic.Int64
		var running sync.WaitGroup
		running.Go(func() { a.Run(ctx) })
		for range simInFlight {
			running.Go(func() {
				for a.Wait(ctx) == nil {
					began := time.Now()
					time.Sleep(3 * time.Millisecond)
					a.Answered(time.Since(began), nil)
					done.Add(1)
					_, _ = a.Why(), a.PerSecond()
				}
			})
		}
		time.Sleep(20 * time.Second)
		before := done.Load()
		time.Sleep(10 * time.Second)
		if n := done.Load() - before; n < 9900 || n > 10100 || a.Why() != "" {
			t.Errorf("%d changes in 10 s at 1000 a second, why %q", n, a.Why())
		}
		member.entries.Store(5000)
		time.Sleep(10 * time.Second)
		before = done.Load()
		time.Sleep(10 * time.Second)
		if n := done.Load() - before; n < 199 || n > 202 || a.Why() != "a member lags 5,000 entries behind" {
			t.Errorf("%d changes in 10 s at 20 a second, why %q", n, a.Why())
		}
		running.Wait()
		if n := member.asked.Load(); n != 60 {
			t.Errorf("the member was asked %d times in a minute", n)
		}
		member.err = errors.New("no answer")
		a.look(t.Context())
		if a.lag != 0 {
			t.Errorf("a lag of %d although the member does not say", a.lag)
		}
	})
}
