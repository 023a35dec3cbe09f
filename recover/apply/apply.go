// Package apply carries out plans. It is the only writer of keys.
//
// Its invariants, each held here and proved by a test of the same words:
// every change is one transaction on one key, guarded by its mod revision;
// the bytes of an object are in the archive, synced, before it is deleted;
// an ambiguous answer is resolved by reading; stopping at any instant leaves
// extra data, never lost data.
package apply

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// Store is the part of etcd's client that changing keys takes.
type Store interface {
	Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)
	Txn(ctx context.Context) clientv3.Txn
	Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error)
}

// Archive keeps the bytes of objects. Append returns nil only when they are
// on disk and synced; nothing is deleted otherwise.
type Archive interface {
	Append(stage int, kvs []*mvccpb.KeyValue, leaseTTL map[int64]int64) error
}

// Leases tells the TTL, in seconds, that a lease was granted with; 0 when it
// does not exist any more.
type Leases interface {
	GrantedTTL(ctx context.Context, lease int64) (int64, error)
}

// Bytes yields what a put step writes; a snapshots.File does.
type Bytes interface {
	At(p snapshots.Position) (*mvccpb.KeyValue, error)
}

// Judge decides again on a step whose key changed since the plan was made.
type Judge interface {
	StillMeant(ctx context.Context, s plan.Step, kv *mvccpb.KeyValue) (meant bool, why string, err error)
}

// Pacer delays each change.
type Pacer interface {
	Wait(ctx context.Context) error            // before each change; ctx's error when it is cancelled
	Answered(latency time.Duration, err error) // after each transaction of the run; any goroutine
	PerSecond() float64                        // the pace now; math.Inf(1) without a limit
	Why() string                               // why it is slower than its ceiling, "" if it is not
}

// Observer is told of every finished step; calls come from several
// goroutines.
type Observer interface {
	Finished(s plan.Step, o Outcome)
}

// Outcome is how a step ended.
type Outcome int

// The outcomes. Gone and Present are done as well as Deleted and Created:
// the store is as the plan wants it.
const (
	Deleted Outcome = iota
	Gone            // it was not there any more
	Created
	Present // it was there already with identical bytes
	Skipped // it changed and is not meant any more, or other bytes are there
	Failed
)

// Options are the limits that a run keeps to. Zero values are replaced by
// the ones named.
type Options struct {
	Pacer     Pacer         // nil: as fast as it goes
	InFlight  int           // transactions at a time, 64
	Timeout   time.Duration // for one request, 10 s
	Kine      bool          // the store is kine, where only whole prefixes are right ranges
	Strict    bool          // skip what changed instead of judging it again
	Prefix    string        // no key outside it is touched
	Retries   int           // of one step, 8
	MaxFailed int           // steps that fail one after another before the run stops, 2*InFlight
	Patience  time.Duration // without any answer before the run stops, 30 s
	Now       func() time.Time
	Backoff   func(ctx context.Context, attempt int) error
}

// Run is one execution of a plan.
type Run struct {
	Store    Store
	Archive  Archive // nil for a plan without deletes
	Leases   Leases  // nil where no leases are looked up
	Sources  []Bytes // by the index that put steps name
	Judge    Judge
	Observer Observer
	Options
}

// Problem is a step that did not end as the plan wanted.
type Problem struct {
	Step    plan.Step
	Outcome Outcome
	Why     string
}

// maxProblems is how many problems a Result names; it counts all of them.
const maxProblems = 1000

// Result counts how the steps ended.
type Result struct {
	Steps    int64 // in the plan
	Counts   [Failed + 1]int64
	Problems []Problem
	// Stopped says why the run ended before the plan did; nil if it went
	// through. Steps that were not begun are in no count.
	Stopped error
}

// Remaining is the number of steps that were not begun.
func (r *Result) Remaining() int64 {
	left := r.Steps
	for _, n := range r.Counts {
		left -= n
	}
	return left
}

var (
	// ErrFailing stops a run in which nothing succeeds any more.
	ErrFailing = errors.New("every change fails")
	// ErrOwner stops a run whose owners could not be deleted: they would
	// make the objects below them again.
	ErrOwner = errors.New("not all owners could be deleted, so what they own is left alone")
	// ErrSilent stops a run because the store has not answered for longer
	// than Options.Patience.
	ErrSilent = errors.New("etcd does not answer any more")
	// ErrArchive stops a run because the archive cannot be written.
	ErrArchive = errors.New("the archive cannot be written")
)

// Plan executes p. When ctx is cancelled no new step is begun, those in
// flight are finished, and Result.Stopped holds ctx's error. The returned
// error is about the plan itself; how the steps went stands in the Result.
func (r Run) Plan(ctx context.Context, p *plan.Plan) (*Result, error) {
	r.defaults()
	e := &engine{
		Run: r, ctx: ctx, result: &Result{Steps: p.Trailer().Steps},
		work: make(chan item, batchSteps), leases: map[int64]int64{}, granted: map[int64]clientv3.LeaseID{},
	}
	var cancel context.CancelCauseFunc
	e.ctx, cancel = context.WithCancelCause(ctx)
	e.stop = cancel
	defer cancel(nil)
	var workers sync.WaitGroup
	for range r.InFlight {
		workers.Go(e.worker)
	}
	err := e.feed(p)
	close(e.work)
	workers.Wait()
	if cause := context.Cause(e.ctx); cause != nil {
		e.result.Stopped = cause
		if errors.Is(err, context.Canceled) || errors.Is(err, cause) {
			err = nil
		}
	}
	return e.result, err
}

func (r *Run) defaults() {
	if r.InFlight == 0 {
		r.InFlight = 64
	}
	if r.Timeout == 0 {
		r.Timeout = 10 * time.Second
	}
	if r.Retries == 0 {
		r.Retries = 8
	}
	if r.MaxFailed == 0 {
		r.MaxFailed = 2 * r.InFlight
	}
	if r.Patience == 0 {
		r.Patience = 30 * time.Second
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	if r.Backoff == nil {
		r.Backoff = Backoff
	}
}

type item struct {
	stage int
	step  plan.Step
	// kv is what a delete has archived, without the value, so that many
	// steps may wait for a worker while the next batch is prepared.
	kv *mvccpb.KeyValue
}

// engine is the state of one Run.
type engine struct {
	Run
	ctx     context.Context
	stop    context.CancelCauseFunc
	work    chan item
	pending sync.WaitGroup // items handed to the workers

	mu        sync.Mutex
	result    *Result
	failing   int
	ownerLeft bool

	silentSince atomic.Int64 // first request without an answer, Unix nanoseconds, 0 = it answers

	leaseMu sync.Mutex
	leases  map[int64]int64            // TTLs looked up for the archive
	granted map[int64]clientv3.LeaseID // new lease by old one
}

const (
	// batchSteps and batchBytes bound what is read ahead and archived in
	// one go: one sync of the disk for each batch, and little memory.
	batchSteps = 256
	batchBytes = 4 << 20
)

// feed reads the plan, archives batch by batch and hands the steps to the
// workers. A stage is finished before the next begins.
func (e *engine) feed(p *plan.Plan) error {
	var batch []plan.Step
	var weight int64
	current := 0
	flush := func() error {
		err := e.batch(current, batch)
		batch, weight = batch[:0], 0
		return err
	}
	err := p.Steps(e.ctx, func(stage int, _ string, s plan.Step) error {
		if stage != current {
			if err := flush(); err != nil {
				return err
			}
			e.pending.Wait()
			if e.ownersLeft() {
				e.stop(ErrOwner)
				return ErrOwner
			}
			current = stage
		}
		batch = append(batch, s)
		weight += s.Size
		if len(batch) >= e.batchSteps() || weight >= batchBytes {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	return err
}

// batchSteps keeps what is archived ahead of time small when the pace is
// slow, so that few objects change between their archiving and their deletion.
func (e *engine) batchSteps() int {
	if e.Pacer != nil {
		return int(min(max(e.Pacer.PerSecond()/4, 8), batchSteps))
	}
	return batchSteps
}

func (e *engine) batch(stage int, steps []plan.Step) error {
	if len(steps) == 0 {
		return nil
	}
	items, err := e.prepare(stage, steps)
	if err != nil {
		return err
	}
	for _, it := range items {
		if e.Pacer != nil {
			if err := e.Pacer.Wait(e.ctx); err != nil {
				return err
			}
		}
		e.pending.Add(1)
		select {
		case e.work <- it:
		case <-e.ctx.Done():
			e.pending.Done()
			return context.Cause(e.ctx)
		}
	}
	return nil
}

// worker finishes every item that it took, also after the run was stopped;
// items that still wait in the channel then are left.
func (e *engine) worker() {
	for it := range e.work {
		if e.ctx.Err() == nil {
			e.finish(it)
		}
		e.pending.Done()
	}
}

func (e *engine) finish(it item) {
	outcome, why := e.execute(it)
	e.record(it.step, outcome, why)
}

func (e *engine) record(s plan.Step, o Outcome, why string) {
	e.mu.Lock()
	e.result.Counts[o]++
	if o == Failed || o == Skipped {
		if len(e.result.Problems) < maxProblems {
			e.result.Problems = append(e.result.Problems, Problem{s, o, why})
		}
		e.ownerLeft = e.ownerLeft || (o == Failed && s.Role == plan.Owner)
	}
	if o == Failed {
		e.failing++
	} else {
		e.failing = 0
	}
	failing := e.failing >= e.MaxFailed
	e.mu.Unlock()
	if e.Observer != nil {
		e.Observer.Finished(s, o)
	}
	if failing {
		e.stop(fmt.Errorf("%w: %d in a row, the last one: %s", ErrFailing, e.MaxFailed, why))
	}
}

// answered notes whether the store gave an answer, good or bad. Once it has
// been silent for too long the run stops: a dead etcd must not be tried for
// minutes, step by step.
func (e *engine) answered(err error) {
	if err == nil || classify(err) != ambiguous {
		e.silentSince.Store(0)
		return
	}
	now := e.Now()
	if e.silentSince.CompareAndSwap(0, now.UnixNano()) {
		return
	}
	if silent := now.Sub(time.Unix(0, e.silentSince.Load())); silent > e.Patience {
		e.stop(fmt.Errorf("%w: not for %s, the last error: %w", ErrSilent, silent.Round(time.Second), err))
	}
}

func (e *engine) ownersLeft() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ownerLeft
}
