package apply

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// item is a step on its way.
type item struct {
	n     int64 // of the step in the plan, from 0
	stage int
	step  plan.Step
	// kv is what has been archived of a key that is to be deleted or
	// replaced, without the value, so that many steps may wait for a worker
	// while the next batch is prepared.
	kv *mvccpb.KeyValue
}

// decision is how a step ended.
type decision struct {
	outcome  Outcome
	why      string
	revision int64 // of etcd
}

// engine is the state of one Run. A batch of steps goes from feed, which reads
// the present bytes, through hand, which archives them, to the workers.
type engine struct {
	Run
	ctx     context.Context
	stop    context.CancelCauseFunc
	batches chan batch
	work    chan item
	pending sync.WaitGroup // batches and items that are not finished
	now     *keyspace.Live // reads the newest

	mu        sync.Mutex
	result    *Result
	budget    *budget
	ownerLeft bool
	held      map[string]bool // namespaces in which something that was to go is left

	writes, reads silence
	bare          sync.Mutex // held by the one delete without a guard

	ttls    once // of leases, looked up for the archive
	granted once // new lease by old one
}

const (
	// batchSteps and batchBytes bound what is read ahead and archived in
	// one go: two syncs of the disk for each batch, and little memory.
	batchSteps = 1024
	batchBytes = 4 << 20
	// replacedBytes is what a replacement counts for at least: how large the
	// object is that it replaces the plan does not say, and etcd takes 1.5 MiB.
	replacedBytes = 128 << 10
)

// weight is how much of a batch a step takes.
func weight(s plan.Step) int64 {
	if s.Replaces() {
		return max(s.Size, replacedBytes)
	}
	return s.Size
}

// batch is what is archived at once.
type batch struct {
	stage int
	items []item
}

func newEngine(ctx context.Context, r Run, steps int64) *engine {
	e := &engine{
		Run: r, result: &Result{Steps: steps}, budget: newBudget(r.Options),
		batches: make(chan batch), work: make(chan item, batchSteps),
		now:  keyspace.Current(r.Store, keyspace.Options{Timeout: r.Timeout, Kine: r.Kine}),
		held: map[string]bool{},
	}
	e.ctx, e.stop = context.WithCancelCause(ctx)
	return e
}

// run carries the plan out and returns when nothing is in flight any more.
func (e *engine) run(p *plan.Plan) error {
	var hander, workers sync.WaitGroup
	hander.Go(e.hand)
	for range e.InFlight {
		workers.Go(e.worker)
	}
	err := e.feed(p)
	close(e.batches)
	hander.Wait()
	close(e.work)
	workers.Wait()
	e.flushJournal()
	return err
}

// feed reads the plan and the present bytes, batch by batch. A stage is
// finished before the next begins.
func (e *engine) feed(p *plan.Plan) error {
	var steps []item
	var held, n int64
	current := 0
	flush := func() error {
		err := e.send(current, steps)
		steps, held = steps[:0], 0
		return err
	}
	err := p.Steps(e.ctx, func(stage int, _ string, s plan.Step) error {
		if stage != current {
			if err := flush(); err != nil {
				return err
			}
			if err := e.endStage(); err != nil {
				return err
			}
			current = stage
		}
		steps = append(steps, item{n: n, stage: stage, step: s})
		n++
		held += weight(s)
		if len(steps) >= e.batchSteps() || held >= batchBytes {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	return err
}

// endStage waits until all that was begun is finished.
func (e *engine) endStage() error {
	e.pending.Wait()
	e.mu.Lock()
	left := e.ownerLeft
	e.mu.Unlock()
	if left {
		return e.halt(ErrOwner)
	}
	return nil
}

// batchSteps keeps what is archived ahead of time small when the pace is
// slow, so that few objects change between their archiving and their deletion.
func (e *engine) batchSteps() int {
	if e.Pacer == nil {
		return batchSteps
	}
	return int(min(max(e.Pacer.PerSecond()/4, 8), batchSteps))
}

// send prepares a batch and gives it to hand, which works on the one before
// meanwhile.
func (e *engine) send(stage int, steps []item) error {
	if len(steps) == 0 {
		return nil
	}
	items, err := e.prepare(steps)
	if err != nil {
		return err
	}
	e.pending.Add(1)
	select {
	case e.batches <- batch{stage, items}:
		return nil
	case <-e.ctx.Done():
		e.pending.Done()
		return context.Cause(e.ctx)
	}
}

// hand archives the batches and hands their steps to the workers.
func (e *engine) hand() {
	for b := range e.batches {
		if e.ctx.Err() == nil {
			if err := e.handOut(b); err != nil {
				e.stop(err)
			}
			e.flushJournal()
		}
		e.pending.Done()
	}
}

// handOut is where the order of rule and deed is kept: an item that is not
// archived never reaches a worker.
func (e *engine) handOut(b batch) error {
	if err := e.archive(b.stage, b.items); err != nil {
		return err
	}
	for _, it := range b.items {
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
		if e.turn() {
			it, d := e.execute(it)
			e.record(it, d)
		}
		e.pending.Done()
	}
}

// turn waits until the pace lets a worker begin. It is the worker that waits,
// so that nothing is let through for later. False: the run was stopped.
func (e *engine) turn() bool {
	if e.Pacer != nil && e.Pacer.Wait(e.ctx) != nil {
		return false
	}
	return e.ctx.Err() == nil
}

// halt stops the run: nothing more is begun. It returns the reason, which is
// another if it was stopped before.
func (e *engine) halt(err error) error {
	e.stop(err)
	return context.Cause(e.ctx)
}

// record counts a finished step and notes it in the journal.
func (e *engine) record(it item, d decision) {
	d = e.before(it, d)
	e.mu.Lock()
	e.result.Counts[d.outcome]++
	if d.outcome.troubled() && len(e.result.Problems) < maxProblems {
		e.result.Problems = append(e.result.Problems, Problem{it.step, d.outcome, d.why})
	}
	e.ownerLeft = e.ownerLeft || (d.outcome == Failed && it.step.Role == plan.Owner)
	if it.step.Role == plan.Content && (d.outcome == Failed || d.outcome == Skipped) {
		e.held[it.step.Namespace] = true
	}
	err := e.budget.add(d.outcome == Failed, d.why)
	e.mu.Unlock()
	if e.Observer != nil {
		e.Observer.Finished(it.step, d.outcome)
	}
	if err != nil {
		e.stop(err)
	}
	e.note(it, d)
}

// before tells what an earlier run of the plan did from what another did.
func (e *engine) before(it item, d decision) decision {
	if e.Journal == nil || !e.Journal.Before(it.n) {
		return d
	}
	switch {
	case d.outcome == Gone || d.outcome == Present:
		d.outcome = Before
	case d.outcome == Skipped && it.step.Replaces():
		d.why += ", after an earlier run of this plan had replaced it"
	}
	return d
}

func (e *engine) note(it item, d decision) {
	if e.Journal == nil {
		return
	}
	var archived int64
	if it.kv != nil {
		archived = it.kv.ModRevision
	}
	err := e.Journal.Decided(Decision{it.n, it.stage, it.step, d.outcome, d.why, archived, d.revision})
	if err != nil {
		e.stop(err)
	}
}

func (e *engine) flushJournal() {
	if e.Journal == nil {
		return
	}
	if err := e.Journal.Flush(); err != nil {
		e.stop(err)
	}
}

// answered notes how a change was answered. Once the store has been silent for
// too long the run stops: a dead etcd must not be tried for ever, step by step.
func (e *engine) answered(began time.Time, err error) {
	now := e.Now()
	if e.Pacer != nil {
		e.Pacer.Answered(now.Sub(began), err)
	}
	e.stopSilent(e.writes.note(err, now), err)
}

func (e *engine) stopSilent(lasted time.Duration, err error) {
	if lasted > e.Patience {
		e.stop(fmt.Errorf("%w: not for %s, the last error: %w", ErrSilent, lasted.Round(time.Second), err))
	}
}

func (e *engine) retried() {
	e.mu.Lock()
	e.result.Retries++
	e.mu.Unlock()
}

func (e *engine) resolved() {
	e.mu.Lock()
	e.result.Resolved++
	e.mu.Unlock()
}
