package apply

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// Fixed is a Pacer of so many changes a second, whatever etcd says.
type Fixed struct{ limiter *rate.Limiter }

// NewFixed returns a Pacer for perSecond changes a second, which must be
// positive. The pace is even: at most a twentieth of a second's worth comes at
// once.
func NewFixed(perSecond float64) *Fixed {
	return &Fixed{rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond/20)))}
}

// Wait implements Pacer.
func (f *Fixed) Wait(ctx context.Context) error { return f.limiter.Wait(ctx) }

// Answered implements Pacer; it changes nothing.
func (f *Fixed) Answered(time.Duration, error) {}

// PerSecond is the pace.
func (f *Fixed) PerSecond() float64 { return float64(f.limiter.Limit()) }

// Why is always empty: the pace is what was asked for.
func (f *Fixed) Why() string { return "" }
