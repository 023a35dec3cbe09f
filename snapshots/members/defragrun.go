package members

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	defaultPatience = time.Minute
	defaultSettle   = 2 * time.Minute
	// leastLooks is how often the gate is tried at least: a difference may be one of the moment.
	leastLooks = 3
	gatePause  = time.Second
	// mostMoves bounds how often the leadership is moved: each time it may come back by itself.
	mostMoves = 3
)

// Defrag carries out the steps, one member at a time, and returns what became of each that was touched, in order. Before
// each all members must pass [FitToDefrag], none may be defragmenting already, and the member's disk must have the room;
// after each it waits until that member answers again, however long that takes, since a request that timed out goes on all
// the same. So no two members are ever stopped at once by it.
//
// When ctx ends, the member that is under way is waited for, and no other is begun; the error is then ctx's. Any other
// error ends it, too: the members after it are not touched.
func Defrag(ctx context.Context, opt DefragOptions, observe DefragObserver) ([]Defragmented, error) {
	d := &defragmenter{DefragOptions: opt.withDefaults(), observe: observe, left: slices.Clone(opt.Steps), of: len(opt.Steps)}
	err := d.run(ctx)
	return d.done, err
}

func (o DefragOptions) withDefaults() DefragOptions {
	for _, d := range []struct {
		set *time.Duration
		to  time.Duration
	}{{&o.Timeout, defaultTimeout}, {&o.Patience, defaultPatience}, {&o.Settle, defaultSettle}} {
		if *d.set <= 0 {
			*d.set = d.to
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Room == nil {
		o.Room = func(DefragStep) error { return nil }
	}
	return o
}

// defragmenter is one call of Defrag.
type defragmenter struct {
	DefragOptions
	observe DefragObserver
	left    []DefragStep
	done    []Defragmented
	of      int
	moves   int
	step    DefragStep // that is under way, or comes next
}

func (d *defragmenter) tell(e DefragEvent) {
	if d.observe == nil {
		return
	}
	e.N, e.Of = min(len(d.done)+1, d.of), d.of
	if e.Member.ID == 0 {
		e.Member = d.step.Member
	}
	d.observe(e)
}

func (d *defragmenter) run(ctx context.Context) error {
	for len(d.left) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		members, err := d.gate(ctx)
		if err != nil {
			return err
		}
		moved, err := d.next(ctx, members)
		if err != nil {
			return err
		}
		if moved {
			continue // what the gate saw is no longer so
		}
		result, err := d.one(ctx)
		if result != nil {
			d.tell(DefragEvent{Stage: DefragDone, Result: result})
			d.done = append(d.done, *result)
		}
		if err != nil {
			return err
		}
		d.left = slices.DeleteFunc(d.left, func(s DefragStep) bool { return s.Member.ID == d.step.Member.ID })
		if err := d.pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// gate returns the members when they are well. After a member is done it gives them time, for that one has to catch up.
func (d *defragmenter) gate(ctx context.Context) ([]Member, error) {
	begun := d.Now()
	for look := 1; ; look++ {
		members, err := d.look(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil || errors.Is(err, ErrInflight) {
			return members, err
		}
		if look >= leastLooks && (len(d.done) == 0 || d.Now().Sub(begun) >= d.Settle) {
			return nil, err
		}
		d.tell(DefragEvent{Stage: DefragGate, Text: err.Error()})
		if err := sleep(ctx, gatePause); err != nil {
			return nil, err
		}
	}
}

// look asks all members once.
func (d *defragmenter) look(ctx context.Context) ([]Member, error) {
	members, err := List(ctx, d.Client, Options{Endpoints: d.Endpoints, Timeout: d.Timeout})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnfit, err)
	}
	if m := d.inflight(ctx, members); m != nil {
		return nil, fmt.Errorf("%s %w, and only one member may be at a time", m.Label(), ErrInflight)
	}
	if err := FitToDefrag(members); err != nil {
		return nil, err
	}
	// Status tells what each believes, a read through the leader that most of them still hear each other.
	if !HasQuorum(ctx, d.Client, d.Timeout) {
		return nil, fmt.Errorf("%w: a read that takes a quorum fails", ErrUnfit)
	}
	return members, nil
}

// next sets the step to carry out now, as its member is by now: a follower if one is left, else the leader. It moves the
// leadership away from that first if it is to; then nothing is set yet.
func (d *defragmenter) next(ctx context.Context, members []Member) (moved bool, err error) {
	var now []DefragStep
	for _, s := range d.left {
		i := slices.IndexFunc(members, func(m Member) bool { return m.ID == s.Member.ID })
		if i < 0 || members[i].Learner {
			return false, fmt.Errorf("%w: %s is no voting member any more", ErrUnfit, s.Member.Label())
		}
		now = append(now, DefragStep{members[i], EstimateStop(members[i].InUse)})
	}
	sortSteps(now)
	d.step = now[0]
	if to := heir(members, d.step.Member.ID, d.left); d.MoveLeader && d.step.Member.IsLeader() && to != nil {
		return true, d.moveLeader(ctx, *to)
	}
	return false, d.Room(d.step)
}

func (d *defragmenter) moveLeader(ctx context.Context, to Member) error {
	from := d.step.Member
	if d.moves++; d.moves > mostMoves {
		return fmt.Errorf("%w: %s leads again and again, after the leadership was moved", ErrUnfit, from.Label())
	}
	client, err := d.Dial(ctx, from.Endpoint)
	if err != nil {
		return fmt.Errorf("move the leadership from %s to %s: %w", from.Label(), to.Label(), err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, max(d.Timeout, 10*time.Second)) // etcd itself gives up after two elections
	defer cancel()
	_, err = client.MoveLeader(ctx, to.ID)
	switch {
	case errors.Is(err, rpctypes.ErrNotLeader): // it went by itself
		return nil
	case err != nil:
		return fmt.Errorf("move the leadership from %s to %s: %w", from.Label(), to.Label(), err)
	}
	d.tell(DefragEvent{Stage: DefragMoved, Member: from, To: to})
	return nil
}

// pause leaves the members alone before the next.
func (d *defragmenter) pause(ctx context.Context) error {
	if len(d.left) == 0 || d.Wait <= 0 {
		return nil
	}
	d.tell(DefragEvent{Stage: DefragPause, For: d.Wait})
	return sleep(ctx, d.Wait)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
