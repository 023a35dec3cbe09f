package app

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
)

const (
	// rateAdaptive and rateMax are the words that --rate takes besides numbers.
	rateAdaptive = "adaptive"
	rateMax      = "max"

	slowestPace = 20 // changes a second below which the adaptive pace waits instead
	// ceilingAlive is as fast as the adaptive pace gets while an API server
	// lives: each change is an event to every watch that it and its clients
	// hold. ceilingDead is etcd's own measure.
	ceilingAlive = 1000
	ceilingDead  = 10000
)

// pacing is how fast keys are changed, as the flags say.
type pacing struct {
	unlimited       bool
	fixed           float64 // changes a second; 0: it adapts itself
	lowest, highest float64 // between which it adapts itself; 0: the defaults
}

func rateFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: flagRate, Usage: "changes a second: `N`, max, or adaptive, which follows how quickly etcd answers", Value: rateAdaptive, Category: catPace},
		&cli.Float64Flag{Name: flagMinRate, Usage: "the adaptive rate waits for etcd to recover rather than go below `N` changes a second (default 20)", Category: catPace},
		&cli.Float64Flag{Name: flagMaxRate, Usage: "the adaptive rate goes no higher than `N` changes a second (default 1000 while an API server lives, else 10000)", Category: catPace},
	}
}

// pace reads --rate, --min-rate and --max-rate.
func (inv *invocation) pace() (pacing, error) {
	var p pacing
	switch text := inv.String(flagRate); text {
	case rateMax:
		p.unlimited = true
	case rateAdaptive:
	default:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || !(n > 0 && n <= 1e6) {
			return p, usage("write a number of changes a second, max, or adaptive", "--%s %q is no pace", flagRate, text)
		}
		p.fixed = n
	}
	for name, bound := range map[string]*float64{flagMinRate: &p.lowest, flagMaxRate: &p.highest} {
		if !inv.IsSet(name) {
			continue
		}
		if p.unlimited || p.fixed > 0 {
			return p, usage("leave one of them out", "--%s %s is fixed, so that --%s says nothing", flagRate, inv.String(flagRate), name)
		}
		if *bound = inv.Float64(name); !(*bound > 0 && *bound <= 1e6) {
			return p, usage("write a number of changes a second", "--%s %g is no pace", name, *bound)
		}
	}
	if p.highest > 0 && p.highest < p.least() {
		return p, usage("", "--%s %g is less than the lowest rate, %g (--%s)", flagMaxRate, p.highest, p.least(), flagMinRate)
	}
	return p, nil
}

func (p pacing) least() float64 {
	if p.lowest > 0 {
		return p.lowest
	}
	return slowestPace
}

// ceiling is how fast it may get; served says that an API server lives, or may.
func (p pacing) ceiling(served bool) float64 {
	switch {
	case p.unlimited:
		return math.Inf(1)
	case p.fixed > 0:
		return p.fixed
	case p.highest > 0:
		return p.highest
	case served:
		return max(ceilingAlive, p.least())
	}
	return max(ceilingDead, p.least())
}

// pacer makes it real. A nil Pacer is no limit.
func (p pacing) pacer(served bool, member apply.Member) apply.Pacer {
	switch {
	case p.unlimited:
		return nil
	case p.fixed > 0:
		return apply.NewFixed(p.fixed)
	}
	return apply.NewAdaptive(apply.AdaptiveOptions{Min: p.least(), Max: p.ceiling(served), Member: member})
}

// time tells in a preview how long n changes take.
func (p pacing) time(n int64, served bool) string {
	fastest := p.ceiling(served)
	least := time.Duration(float64(n) / fastest * float64(time.Second))
	switch {
	case p.unlimited:
		return "as fast as etcd takes it (--rate max)"
	case p.fixed > 0:
		return fmt.Sprintf("about %s at %g a second (--rate)", term.Duration(least), p.fixed)
	}
	least = max(least.Round(time.Second), time.Second) // it begins slowly
	return fmt.Sprintf("at least %s: the rate follows how quickly etcd answers, up to %s a second (--%s)", term.Duration(least), term.Count(int64(fastest)), flagMaxRate)
}

// document is the pace as docs/json.md has it.
func (p pacing) document(doc map[string]any, n int64, served bool) {
	switch {
	case p.unlimited:
		doc["pace"] = rateMax
		return
	case p.fixed > 0:
		doc["pace"] = "fixed"
	default:
		doc["pace"], doc["minRate"] = rateAdaptive, p.least()
	}
	doc["rate"], doc["seconds"] = p.ceiling(served), int64(float64(n)/p.ceiling(served))
}

// lagging tells the adaptive pace how far etcd's members are behind.
type lagging struct{ client *clientv3.Client }

// Lag implements apply.Member: the largest distance between what is committed
// and what is applied, of the members that say it. At 5,000 etcd refuses
// requests (server/etcdserver/v3_server.go).
func (m lagging) Lag(ctx context.Context) (int64, error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	var worst int64
	var failed error
	answered := 0
	for _, endpoint := range m.client.Endpoints() {
		all.Go(func() {
			status, err := m.client.Status(ctx, endpoint)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				return
			}
			answered++
			worst = max(worst, int64(status.RaftIndex)-int64(status.RaftAppliedIndex))
		})
	}
	all.Wait()
	if answered == 0 {
		return 0, failed
	}
	return worst, nil
}
