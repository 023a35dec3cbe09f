package apply

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// budget is how much may fail before a run stops. It is not safe for several
// goroutines.
type budget struct {
	inARow, most int     // failures one after another
	recent       []bool  // the last steps, a ring
	seen, failed int     // steps noted in all; failures in recent
	share        float64 // of recent
}

func newBudget(o Options) *budget {
	return &budget{most: o.MaxFailed, recent: make([]bool, o.Window), share: o.MaxShare}
}

// add notes a step. The error, if any, stops the run.
func (b *budget) add(failed bool, why string) error {
	at := &b.recent[b.seen%len(b.recent)]
	if *at {
		b.failed--
	}
	*at = failed
	b.seen++
	if !failed {
		b.inARow = 0
		return nil
	}
	b.failed++
	b.inARow++
	if b.inARow >= b.most {
		return fmt.Errorf("%w: %d in a row, the last one: %s", ErrFailing, b.inARow, why)
	}
	if b.seen >= len(b.recent) && float64(b.failed) > b.share*float64(len(b.recent)) {
		return fmt.Errorf("%w: %d of the last %d, the last one: %s", ErrFailing, b.failed, len(b.recent), why)
	}
	return nil
}

// silence measures for how long there was no answer.
type silence struct{ since atomic.Int64 } // Unix nanoseconds, 0: it answers

// note takes the error of a request, and the time when it came. It returns how
// long nothing has been answered.
func (s *silence) note(err error, now time.Time) time.Duration {
	if err == nil || !silent(err) {
		s.since.Store(0)
		return 0
	}
	if s.since.CompareAndSwap(0, now.UnixNano()) {
		return 0
	}
	if since := s.since.Load(); since != 0 {
		return now.Sub(time.Unix(0, since))
	}
	return 0
}

func (s *silence) lasts() bool { return s.since.Load() != 0 }

// Backoff waits longer from attempt to attempt, from 50 ms to about 3 s, with
// jitter so that many waiters do not come back together.
func Backoff(ctx context.Context, attempt int) error {
	d := min(50*time.Millisecond<<min(attempt, 6), 3*time.Second)
	d = d/2 + rand.N(d)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
