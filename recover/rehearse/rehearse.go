// Package rehearse carries out a plan on a throwaway etcd that holds a
// snapshot, says what the plan would leave there, and proves that undo brings
// everything back.
//
// Its invariant: it never talks to any etcd but the one that it has started
// itself, and everything it makes lies in that one's directory, which goes away
// with it, also when this process is killed.
package rehearse

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// ErrArchive refuses an archive as the snapshot: it holds some objects of a
// cluster, and no etcd can start from it.
var ErrArchive = errors.New("this is an archive of deleted objects, from which no etcd can start")

// Phase is a part of a rehearsal that takes its time.
type Phase int

// The phases, in their order. Undoing is left out where nothing was archived.
const (
	Restoring Phase = iota // total: bytes of the snapshot
	Running                // total: steps of the plan
	Undoing                // total: steps of the undo
)

// Observer is told how far a rehearsal is.
type Observer interface {
	// Begin begins a phase, and ends the one before.
	Begin(p Phase, total int64)
	// Observer is told of steps while Running and while Undoing.
	apply.Observer
}

// Store is the throwaway etcd as the caller understands it.
type Store struct {
	Client *clientv3.Client
	Reader *codec.Reader // of its keys and values
	Judge  apply.Judge   // of what changed since the plan was made
	Leases apply.Leases
	Close  func()
}

// Options say what to rehearse.
type Options struct {
	Plan *plan.Plan
	// File is the snapshot or db file to run it on, opened by a path that still
	// names it. The caller closes it.
	File *snapshots.File
	// Temporary says that the path of File goes once the etcd has a copy of its
	// own, so that nothing is left behind however this process ends.
	Temporary bool
	// Open connects to the etcd and prepares what its data mean.
	Open func(ctx context.Context, endpoint string) (*Store, error)
	// Sources are what the plan's puts take their bytes from.
	Sources []apply.Bytes
	// Strict skips what changed since the plan was made.
	Strict   bool
	Observer Observer         // nil: none
	Tool     string           // for the archive
	Dir      string           // for all files, "" is os.TempDir; Space says how much it needs
	Now      func() time.Time // nil: time.Now
}

// Report is what a rehearsal found.
type Report struct {
	Header   plan.Header
	Revision int64 // of the snapshot
	// Expired is why the plan would be refused for its age, nil if it is young
	// enough. It is rehearsed all the same.
	Expired error
	// Unidentified says that the snapshot does not tell which cluster it is of,
	// which only that of an etcd for events may do.
	Unidentified bool
	Alarms       []string // that the snapshot carries; they are off in the rehearsal

	Steps    int64
	Bytes    int64 // of the values that the steps are about
	Summary  *plan.Summary
	Warnings []Warning
	Drift    Drift
	Effect   Effect

	Result  *apply.Result
	Archive int64 // bytes of the archive, 0 if nothing was archived
	Undo    *Undo // nil if there was nothing to undo

	Restored, Ran, Took time.Duration // the last in all
}

// Done tells whether every step of the plan was carried out.
func (r *Report) Done() bool {
	c := r.Result.Counts
	return r.Result.Stopped == nil && r.Result.Remaining() == 0 && c[apply.Skipped]+c[apply.Failed]+c[apply.Raced] == 0
}

// Proven tells whether everything that the plan took away or replaced could be
// brought back byte for byte, and nothing else was touched.
func (r *Report) Proven() bool {
	if r.Undo == nil {
		return r.Effect.Strays+r.Effect.Gone+r.Effect.Replaced == 0
	}
	return r.Effect.Strays == 0 && r.Undo.proven(r.Effect)
}

// Space is how many bytes a rehearsal needs at most in Options.Dir: two copies
// of the snapshot while it is restored, the archive, what is put back in etcd's
// log and its db, and two files of that log.
func Space(f *snapshots.File, p *plan.Plan) int64 {
	t := p.Trailer()
	return 2*f.Size() + 4*t.Bytes + 2048*t.Steps + 128<<20
}

// forever is an age that no plan has.
const forever = time.Duration(math.MaxInt64)

// requestTimeout is for one request to the throwaway etcd. It is on this
// machine, which may be busy.
const requestTimeout = 30 * time.Second

// rehearsal is one Run.
type rehearsal struct {
	Options
	report *Report
	before *keyspace.File
	box    *sandbox.Sandbox
	store  *Store
	dir    string // for archive, journal and plan
	// archived is the archive, nil if nothing was archived.
	archived *snapshots.File
	// changing is how many steps replace what is there or delete it.
	changing int64
}

// Run rehearses a plan. It returns an error that wraps plan.ErrForeign for a
// snapshot of another cluster, ErrArchive for an archive, snapshots.ErrDamaged
// for a snapshot that no etcd should be started from, and ctx's error if it is
// cancelled; nothing is left behind in any case. How the plan fared, and
// whether undo is proven, stands in the Report.
func Run(ctx context.Context, opt Options) (report *Report, err error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	h, t := opt.Plan.Header(), opt.Plan.Trailer()
	r := &rehearsal{Options: opt, before: keyspace.FromFile(opt.File), report: &Report{
		Header: h, Revision: opt.File.Revision(), Steps: t.Steps, Bytes: t.Bytes,
	}}
	began := r.Now()
	if err := r.check(ctx); err != nil {
		return nil, err
	}
	if err := r.survey(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	for _, part := range []func(context.Context) error{r.start, r.run, r.measure, r.undo} {
		if err := part(ctx); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, err
		}
	}
	r.report.Took = r.Now().Sub(began)
	return r.report, nil
}

// check refuses what the plan is not for.
func (r *rehearsal) check(ctx context.Context) error {
	if r.File.IsArchive() {
		return fmt.Errorf("%s: %w", r.File.Path(), ErrArchive)
	}
	h := r.report.Header
	uid, err := keyspace.ClusterUID(ctx, r.before, h.Prefix)
	switch {
	case errors.Is(err, keyspace.ErrNoIdentity) && h.Etcd != "main":
		// Only the main etcd knows the kube-system Namespace.
		uid, r.report.Unidentified = h.ClusterUID, true
	case errors.Is(err, keyspace.ErrNoIdentity):
		uid = ""
	case err != nil:
		return err
	}
	err = h.Check(uid, h.Prefix, r.Now(), forever)
	if errors.Is(err, plan.ErrExpired) {
		r.report.Expired, err = err, nil
	}
	return err
}

// start restores the snapshot.
func (r *rehearsal) start(ctx context.Context) (err error) {
	began := r.Now()
	r.begin(Restoring, r.File.Size())
	r.box, err = sandbox.Start(ctx, sandbox.Options{
		Snapshot: r.File.Path(), NoFsync: true, Dir: r.Dir, Disarm: true, // else it would take no puts, and no undo could be shown
		QuotaBytes: 2*r.File.Size() + 4*r.report.Bytes + 2<<30, // what is put back must not hit it
	})
	if err != nil {
		return err
	}
	r.report.Alarms = r.box.Disarmed()
	if r.Temporary {
		if err := os.Remove(r.File.Path()); err != nil {
			return err
		}
	}
	r.dir = filepath.Join(r.box.Dir(), "rehearsal")
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return err
	}
	if r.store, err = r.Open(ctx, r.box.Endpoints()[0]); err != nil {
		return err
	}
	r.report.Restored = r.Now().Sub(began)
	return nil
}

// close ends the etcd; its files go with it.
func (r *rehearsal) close() error {
	var err error
	if r.archived != nil {
		err = r.archived.Close()
	}
	if r.store != nil {
		r.store.Close()
	}
	if r.box != nil {
		err = errors.Join(err, r.box.Close())
	}
	return err
}

func (r *rehearsal) begin(p Phase, total int64) {
	if r.Observer != nil {
		r.Observer.Begin(p, total)
	}
}
