package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// etcd does not know when a revision was made. What tells is what clients
// write at the moment of writing: the renewTime of a Lease, which nodes and
// leaders renew every few seconds, and the creationTimestamp of an Event. Either
// is a lower bound: the revision that holds it is not older than it says.

// revisionTime says that a revision was made at a time, or soon after.
type revisionTime struct {
	revision int64
	time     time.Time
	by       string // key of the object that says so
}

const (
	// mostTimed is how many objects are looked at for times.
	mostTimed = 5000
	// timingLeases is how many Leases the past is searched by: some of them
	// may have had pauses.
	timingLeases = 8
	// ahead is by how much a clock elsewhere may be ahead of ours.
	ahead = time.Minute
)

// revisionClock finds revisions by time in one store.
type revisionClock struct {
	reader *codec.Reader
	src    keyspace.Historian
	now    time.Time
	floor  int64 // the oldest revision that can be read
	keys   []string
}

// older returns the newest revision that is older than age for all that is
// known; ok is false if nothing in the store tells. The revision may be one that
// is compacted already.
//
// Where somebody may watch, the age counts from the newest time in the store, if
// that is before ours: our own clock may be ahead, and what is younger then looks
// old enough.
func (c *revisionClock) older(ctx context.Context, age time.Duration) (at revisionTime, ok bool, err error) {
	leases, err := c.sample(ctx, "leases/", c.renewed)
	if err != nil {
		return at, false, err
	}
	if len(leases) == 0 {
		points, err := c.sample(ctx, "events/", c.created)
		at, ok := newestBefore(points, c.latest(points).Add(-age))
		return at, ok, err
	}
	slices.SortFunc(leases, func(a, b revisionTime) int { return b.time.Compare(a.time) })
	for _, l := range leases[:min(len(leases), timingLeases)] {
		c.keys = append(c.keys, l.by)
	}
	now, alive := c.now, false
	if alive, err = c.served(ctx); err != nil {
		return at, false, err
	}
	if alive {
		now = c.latest(leases)
	}
	if cutoff := now.Add(-age); leases[0].time.After(cutoff) {
		return c.search(ctx, cutoff)
	}
	return leases[0], true, nil // nothing was renewed since
}

// served says that an API server lives: its own key is on a lease of etcd's, of
// 15 seconds by etcd's clock.
func (c *revisionClock) served(ctx context.Context) (alive bool, err error) {
	err = c.src.Scan(ctx, keyspace.Prefix(c.reader.Prefix+"masterleases/"), true, func(*mvccpb.KeyValue) error {
		alive = true
		return errEnough
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return alive, err
}

// latest is the newest time that is told, or ours if that is earlier.
func (c *revisionClock) latest(points []revisionTime) time.Time {
	var newest time.Time
	for _, p := range points {
		if p.time.After(newest) {
			newest = p.time
		}
	}
	if newest.After(c.now) {
		return c.now
	}
	return newest
}

// search bisects the revisions that can be read for the last at which no Lease
// had been renewed after the cutoff, and returns the newest renewal before it.
func (c *revisionClock) search(ctx context.Context, cutoff time.Time) (at revisionTime, ok bool, err error) {
	low, high := c.floor, c.src.Revision()
	at, ok, err = c.at(ctx, low)
	if err != nil || ok && at.time.After(cutoff) {
		// All that can be read is younger; so is the floor itself.
		return revisionTime{revision: low, time: at.time, by: at.by}, true, err
	}
	for low+1 < high {
		mid := low + (high-low)/2
		then, seen, err := c.at(ctx, mid)
		switch {
		case err != nil:
			return at, false, err
		case seen && then.time.After(cutoff):
			high = mid
		default:
			low = mid
			if seen {
				at, ok = then, true
			}
		}
	}
	return at, ok, nil
}

// at is the newest renewal that the store showed at a revision.
func (c *revisionClock) at(ctx context.Context, rev int64) (newest revisionTime, ok bool, err error) {
	for _, key := range c.keys {
		kv, err := c.src.At(ctx, key, rev)
		if err != nil {
			return newest, false, err
		}
		if kv == nil {
			continue
		}
		if t, told := c.renewed(ctx, kv); told && t.time.After(newest.time) {
			newest, ok = t, true
		}
	}
	return newest, ok, nil
}

// sample reads the times of the first objects below a place. Those of clocks
// that are ahead are left out.
func (c *revisionClock) sample(ctx context.Context, place string, read func(context.Context, *mvccpb.KeyValue) (revisionTime, bool)) (points []revisionTime, err error) {
	seen := 0
	err = c.src.Scan(ctx, keyspace.Prefix(c.reader.Prefix+place), false, func(kv *mvccpb.KeyValue) error {
		if t, ok := read(ctx, kv); ok && t.time.Before(c.now.Add(ahead)) {
			points = append(points, t)
		}
		if seen++; seen == mostTimed {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return points, err
}

// renewed is when a Lease says that it was renewed.
func (c *revisionClock) renewed(ctx context.Context, kv *mvccpb.KeyValue) (revisionTime, bool) {
	v := c.reader.Read(ctx, string(kv.Key), kv.Value)
	if v.Head.Err != nil {
		return revisionTime{}, false
	}
	obj, err := codec.Decode(v.Plain, kv.ModRevision)
	if err != nil {
		return revisionTime{}, false
	}
	m, err := codec.Render(obj, codec.RenderOptions{})
	if err != nil {
		return revisionTime{}, false
	}
	spec, _ := m["spec"].(map[string]any)
	text, _ := spec["renewTime"].(string)
	t, err := time.Parse(time.RFC3339Nano, text)
	return revisionTime{kv.ModRevision, t, string(kv.Key)}, err == nil
}

// created is when an object says that it was made.
func (c *revisionClock) created(ctx context.Context, kv *mvccpb.KeyValue) (revisionTime, bool) {
	head := c.reader.Read(ctx, string(kv.Key), kv.Value).Head
	return revisionTime{kv.CreateRevision, head.Meta.Created, string(kv.Key)}, head.Err == nil && !head.Meta.Created.IsZero()
}

// newestBefore picks the newest point that is not after the cutoff, below all
// revisions that are after it.
func newestBefore(points []revisionTime, cutoff time.Time) (revisionTime, bool) {
	slices.SortFunc(points, func(a, b revisionTime) int { return cmp.Compare(a.revision, b.revision) })
	var last revisionTime
	for _, p := range points {
		if p.time.After(cutoff) {
			break
		}
		last = p
	}
	return last, last.revision > 0
}

// String says what the revision's age rests on. It is as the store has it, and
// not fit for a terminal.
func (t revisionTime) String() string {
	key := t.by[strings.LastIndex(t.by, "/")+1:]
	return fmt.Sprintf("%s, as %s says", t.time.UTC().Format(time.RFC3339), shortened(key))
}

// age is for people.
func (t revisionTime) age(now time.Time) string {
	return term.Duration(now.Sub(t.time).Truncate(time.Second))
}
