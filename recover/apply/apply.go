// Package apply carries out plans. It is the only writer of keys.
//
// Its invariants, each held here and proved by a test of the same words:
// every change is one transaction on one key, guarded by its mod revision;
// the bytes of an object are in the archive, synced, before it is deleted or
// replaced;
// an ambiguous answer is resolved by reading; stopping at any instant leaves
// extra data, never lost data.
//
// The one exception to the guard is Options.Unguarded.
package apply

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// Store is the part of etcd's client that changing keys takes. Delete is
// called under Options.Unguarded only.
type Store interface {
	Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)
	Txn(ctx context.Context) clientv3.Txn
	Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error)
	Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error)
}

// Archive keeps the bytes of objects. Append returns nil only when they are
// on disk and synced; nothing is deleted or replaced otherwise. It is called from several
// goroutines.
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

// Volumes tells of a PersistentVolume why it must not be put, as things are
// right before: "" if it may be. plan.Volumes does.
type Volumes interface {
	Unsafe(ctx context.Context, kv *mvccpb.KeyValue) (why string, err error)
}

// Pacer delays each change, and learns from the answers how etcd bears it. Its
// methods are called from several goroutines.
type Pacer interface {
	// Wait returns when the next change may be sent, or ctx's error when it
	// is cancelled.
	Wait(ctx context.Context) error
	// Answered tells how long a transaction of the run took and how it
	// ended.
	Answered(latency time.Duration, err error)
	// PerSecond is the pace now, math.Inf(1) without a limit.
	PerSecond() float64
	// Why says why it is slower than its ceiling, "" if it is not.
	Why() string
}

// Observer is told of every finished step; calls come from several
// goroutines.
type Observer interface {
	Finished(s plan.Step, o Outcome)
}

// Options are the limits that a run keeps to. Zero values are replaced by
// the ones named.
type Options struct {
	Pacer    Pacer         // nil: as fast as it goes
	InFlight int           // transactions at a time, 64
	Timeout  time.Duration // for one request, 10 s
	Kine     bool          // the store is kine, where only whole prefixes are right ranges
	Strict   bool          // skip what changed instead of judging it again
	// Unguarded is how many deletes that an etcd before 3.4.20 or 3.5.7
	// refuses under the NOSPACE alarm may be sent without their guard: the
	// key is read again, and deleted if it is what was archived, one at a
	// time. It is counted down, so that runs can share it; nil: none.
	Unguarded *atomic.Int64
	Prefix    string // no key outside it is touched
	// Retries is how often a step is tried again after answers that leave
	// its outcome open, 8. While no answers come at all it is tried until
	// Patience ends.
	Retries   int
	MaxFailed int // steps that fail one after another before the run stops, 2*InFlight
	// Window and MaxShare stop a run when more than that share of the last
	// Window steps has failed: 8*InFlight and 0.5.
	Window   int
	MaxShare float64
	Patience time.Duration // without any answer before the run stops, 30 s
	Now      func() time.Time
	Backoff  func(ctx context.Context, attempt int) error
}

// Run is one execution of a plan.
type Run struct {
	Store    Store
	Archive  Archive // nil for a plan that needs none, see NeedsArchive
	Journal  Journal // nil: none is kept
	Leases   Leases  // nil where no leases are looked up
	Sources  []Bytes // by the index that put steps name
	Judge    Judge
	Volumes  Volumes // nil: they are put as the plan says
	Observer Observer
	Options
}

// The reasons to stop a run before its plan ends. Result.Stopped wraps one of
// them, or is the context's error.
var (
	// ErrFailing stops a run in which nothing, or too little, succeeds.
	ErrFailing = errors.New("too many changes fail")
	// ErrOwner stops a run whose owners could not be deleted: they would
	// make the objects below them again.
	ErrOwner = errors.New("not all owners could be deleted, so what they own is left alone")
	// ErrSilent stops a run because the store has not answered for longer
	// than Options.Patience.
	ErrSilent = errors.New("etcd does not answer any more")
	// ErrArchive stops a run because the archive cannot be written.
	ErrArchive = errors.New("the archive cannot be written")
	// ErrJournal stops a run because its journal cannot be written. It is
	// an ErrArchive as well: both lie in the same folder.
	ErrJournal error = journalError{}
	// ErrCorruptAlarm stops a run because etcd refuses every change while
	// its members disagree.
	ErrCorruptAlarm = errors.New("etcd refuses all changes: it has the CORRUPT alarm")
	// ErrDenied stops a run because etcd does not let this user change keys.
	ErrDenied = errors.New("etcd denies the change")
	// ErrNoSpace stops a run of puts because the store is over its quota.
	ErrNoSpace = errors.New("etcd has no space left for puts: it has the NOSPACE alarm")
	// ErrOldNoSpace stops a run of deletes because the store is over its
	// quota, and is of a release that refuses guarded deletes then: before
	// 3.4.20 and 3.5.7 (server/etcdserver/api/v3rpc/quota.go).
	ErrOldNoSpace = errors.New("this release of etcd refuses guarded deletes while it has the NOSPACE alarm")
)

// NeedsArchive tells whether a step of p deletes or replaces a key. A Run of
// such a plan without an Archive is stopped by ErrArchive before that step.
func NeedsArchive(ctx context.Context, p *plan.Plan) (bool, error) {
	found := errors.New("found")
	err := p.Steps(ctx, func(_ int, _ string, s plan.Step) error {
		if s.Destroys() {
			return found
		}
		return nil
	})
	if errors.Is(err, found) {
		return true, nil
	}
	return false, err
}

type journalError struct{}

func (journalError) Error() string        { return "the journal cannot be written" }
func (journalError) Is(target error) bool { return target == ErrArchive }

// Plan executes p. When ctx is cancelled no new step is begun, those in
// flight are finished, and Result.Stopped holds ctx's error. The returned
// error is about the plan itself; how the steps went stands in the Result.
func (r Run) Plan(ctx context.Context, p *plan.Plan) (*Result, error) {
	r.defaults()
	e := newEngine(ctx, r, p.Trailer().Steps)
	defer e.stop(nil)
	err := e.run(p)
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
	if r.Window == 0 {
		r.Window = 8 * r.InFlight
	}
	if r.MaxShare == 0 {
		r.MaxShare = 0.5
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
