package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// job carries out plans: the passes of one delete, a saved plan, an undo.
type job struct {
	s       *session
	inv     *invocation
	client  *clientv3.Client
	etcd    string // "main" or "events"
	uid     string // of the cluster
	lost    bool   // the store does not tell it
	run     string
	dir     string // of archive and plan, absolute
	verb    string // for the progress: verbDeleting or verbPuttingBack
	plane   *controlPlane
	pacer   apply.Pacer
	sources []apply.Bytes
	files   []*snapshots.File // sources that the job itself opened
	archive *snapshots.Archive
	report  *runReport
}

const (
	verbDeleting    = "deleting"
	verbPuttingBack = "putting back"
)

// newJob prepares the execution of plans against the etcd that holds r.
func (s *session) newJob(ctx context.Context, r *codec.Resource, run, verb string, plane *controlPlane) (*job, error) {
	dir, err := filepath.Abs(s.inv.String(flagArchiveDir))
	if err != nil {
		return nil, err
	}
	pace, err := s.inv.pace()
	if err != nil {
		return nil, err
	}
	uid, lost, err := s.clusterUID(ctx)
	if err != nil {
		return nil, err
	}
	_, client, etcd := s.sourceFor(r)
	s.allowUnguarded()
	return &job{
		s: s, inv: s.inv, client: client, etcd: etcd, uid: uid, lost: lost, run: run, dir: dir, verb: verb, plane: plane,
		pacer:  pace.pacer(plane.served(), lagging{client}),
		report: &runReport{run: run, cluster: uid, started: s.inv.Now()},
	}, nil
}

// allowUnguarded begins to count what --unsafe-unguarded allows for all that
// the command does.
func (s *session) allowUnguarded() {
	if s.unguarded != nil || !s.inv.has(flagUnsafeUnguarded) {
		return
	}
	if n := s.inv.Int64(flagUnsafeUnguarded); n > 0 {
		s.unguarded = new(atomic.Int64)
		s.unguarded.Store(n)
	}
}

// noCluster is what --unsafe-cluster calls a store, plan or archive without an
// identity.
const noCluster = "none"

// allowsCluster reports whether --unsafe-cluster names the identity of a plan or
// an archive, which may be "". Without the flag it names none.
func (inv *invocation) allowsCluster(uid string) bool {
	return inv.String(flagUnsafeCluster) == cmp.Or(uid, noCluster)
}

// clusterUID is the identity that plans and archives carry. A store that does not
// tell it is no Kubernetes store, or has lost its kube-system Namespace: then the
// operator says which it is, so that they fit once that Namespace is back.
func (s *session) clusterUID(ctx context.Context) (uid string, lost bool, err error) {
	uid, err = s.identity(ctx)
	if !errors.Is(err, keyspace.ErrNoIdentity) {
		return uid, false, err
	}
	switch allowed := s.inv.String(flagUnsafeCluster); allowed {
	case "":
		return "", true, refuse("check --endpoints and --"+flagPrefix+"; if the Namespace kube-system itself is lost, pass --"+flagUnsafeCluster+" none",
			"below %s there is no kube-system Namespace, by which a cluster is known", s.reader.Prefix)
	case noCluster:
		return "", true, nil
	default:
		return allowed, true, nil
	}
}

// words are the flags that a later command for this cluster needs.
func (j *job) words() string {
	words := j.inv.connectionWords()
	if j.lost {
		words += " --" + flagUnsafeCluster + " " + quoteWord(j.inv.String(flagUnsafeCluster))
	}
	return words
}

// header begins a plan of this job.
func (j *job) header(operation string, pass int, rev int64) plan.Header {
	return plan.Header{
		Tool: toolVersion(), Run: j.run, Pass: pass, Operation: operation, Created: j.inv.Now().UTC(),
		Command: j.inv.commandLine(), ClusterUID: j.uid, Etcd: j.etcd, Prefix: j.s.reader.Prefix, Revision: rev,
	}
}

func (j *job) archivePath() string { return filepath.Join(j.dir, "etcd-rescue-"+j.run+".db") }

func (j *job) planPath(pass int) string {
	name := "etcd-rescue-" + j.run
	if pass > 1 {
		name += fmt.Sprintf(".pass%d", pass)
	}
	return filepath.Join(j.dir, name+".plan.jsonl")
}

// carryOut executes one plan and adds how it went to the report. The error is
// about what stopped it before it could begin.
func (j *job) carryOut(ctx context.Context, p *plan.Plan, judge plan.Judge) (*apply.Result, error) {
	if j.report.operation = p.Header().Operation; !j.report.begun() {
		j.report.started = j.inv.Now() // what came before was reading and asking
	}
	needed, err := apply.NeedsArchive(ctx, p)
	if err == nil && needed && j.archive == nil {
		err = j.openArchive(p.Header())
	}
	if err != nil {
		return nil, err
	}
	past := "put back"
	if j.verb == verbDeleting {
		past = "deleted"
	}
	progress := term.NewProgress(j.inv.Streams, term.ProgressOptions{
		Total: p.Trailer().Steps, Verb: j.verb, Past: past, Quiet: j.inv.Bool(flagQuiet), JSON: j.inv.json(), Now: j.inv.Now,
	})
	run := apply.Run{
		Store: j.client, Leases: j.leases(), Sources: j.sources, Judge: judge, Observer: observer{progress},
		Volumes: plan.Volumes{
			Reader: j.s.reader, Now: keyspace.Current(j.s.main.Client, j.s.optionsOf(j.s.main)),
			Overrides: p.Header().Overrides, Undo: p.Header().Operation == operationUndo,
		},
		Options: apply.Options{
			Pacer: j.pacer, Prefix: j.s.reader.Prefix, Timeout: min(j.s.timeout, 10*time.Second), Kine: j.s.options(j.client).Kine,
			Strict: j.inv.has(flagStrict) && j.inv.Bool(flagStrict), Unguarded: j.s.unguarded,
		},
	}
	if j.archive != nil {
		run.Archive = j.archive
	}
	journal, err := j.openJournal(p)
	if err != nil {
		progress.Finish()
		return nil, err
	}
	run.Journal, j.report.journal = journal, journal.Path()
	unhook := context.AfterFunc(ctx, func() {
		progress.Message("interrupted: finishing what is in flight; Ctrl-C again leaves at once")
	})
	follow, stop := context.WithCancel(ctx)
	watching := j.watchPace(follow, progress)
	result, err := run.Plan(ctx, p)
	stop()
	watching.Wait()
	unhook()
	progress.Finish()
	err = errors.Join(err, closeJournal(journal, result))
	if result != nil {
		j.report.add(j.resumable(p), result)
	}
	return result, err
}

// closeJournal ends a journal. An error of it goes with the reason why the run
// was stopped, unless that is the same.
func closeJournal(journal *apply.JournalFile, result *apply.Result) error {
	err := journal.Close(result)
	switch {
	case err == nil || result == nil || result.Stopped == nil:
		return err
	case errors.Is(result.Stopped, apply.ErrJournal):
		return nil
	}
	return errors.Join(result.Stopped, err)
}

// resumable is the path of the plan to go on with: its copy beside the archive,
// by which apply finds the archive again from any folder. Where an earlier
// archive lies beside the plan itself, that one finds both.
func (j *job) resumable(p *plan.Plan) string {
	if j.report.earlier != "" {
		return absolute(p.Path())
	}
	return j.planPath(p.Header().Pass)
}

// watchPace lets an adaptive pace follow the members, and says in the progress
// why it is slow, until ctx ends. Without a pace the progress only shows that
// nothing gets done when nothing does.
func (j *job) watchPace(ctx context.Context, progress *term.Progress) *sync.WaitGroup {
	var watching sync.WaitGroup
	why := func() string { return "" }
	if j.pacer != nil {
		why = j.pacer.Why
	}
	if adaptive, ok := j.pacer.(*apply.Adaptive); ok {
		watching.Go(func() { adaptive.Run(ctx) })
	}
	watching.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				progress.Note(why())
			case <-ctx.Done():
				return
			}
		}
	})
	return &watching
}

// unguarded is how many deletes may still go without a guard, where etcd takes
// none.
func (j *job) unguarded() int64 {
	if j.s.unguarded == nil {
		return 0
	}
	return j.s.unguarded.Load()
}

// openJournal goes on with the journal of this run, or makes it.
func (j *job) openJournal(p *plan.Plan) (*apply.JournalFile, error) {
	h := p.Header()
	return apply.OpenJournal(filepath.Join(j.dir, "etcd-rescue-"+j.run+".journal.jsonl"), apply.JournalHeader{
		Time: j.inv.Now().UTC(), Tool: toolVersion(), Command: j.inv.commandLine(), Run: j.run, Pass: h.Pass, Plan: absolute(p.Path()),
		PlanSHA256: p.Trailer().SHA256, Steps: p.Trailer().Steps, Rate: j.inv.String(flagRate),
	}, j.inv.Now)
}

// openArchive makes the archive of this run, or goes on with it when the plan
// is carried out again.
func (j *job) openArchive(h plan.Header) error {
	who := "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	host, _ := os.Hostname() // information only
	info := snapshots.ArchiveInfo{
		Tool: toolVersion(), Run: j.run, User: who, Host: host, Command: h.Command,
		ClusterUID: j.uid, ClusterID: h.ClusterID, Etcd: j.etcd, Prefix: j.s.reader.Prefix, Time: j.inv.Now().UTC(),
	}
	path := j.archivePath()
	a, err := j.createArchive(path, info)
	for n := 2; errors.Is(err, snapshots.ErrNotArchive) && n < 10; n++ {
		// A run that was killed while it made the archive leaves such a
		// file, without an entry. It stays: what it is cannot be proved.
		next := fmt.Sprintf("%s.%d.db", strings.TrimSuffix(j.archivePath(), ".db"), n)
		j.inv.say("note: %s is no archive, as when a run is killed while making it; the archive is %s", path, next)
		path = next
		a, err = j.createArchive(path, info)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", apply.ErrArchive, err)
	}
	j.archive, j.report.archive = a, a.Path()
	return nil
}

func (j *job) createArchive(path string, info snapshots.ArchiveInfo) (*snapshots.Archive, error) {
	a, err := snapshots.CreateArchive(path, info)
	if errors.Is(err, fs.ErrExist) {
		return j.reopenArchive(path)
	}
	return a, err
}

func (j *job) reopenArchive(path string) (*snapshots.Archive, error) {
	a, err := snapshots.OpenArchive(path, 5*time.Second)
	if err != nil {
		return nil, err
	}
	if info := a.Info(); info.Run != j.run || info.ClusterUID != j.uid {
		a.Close()
		return nil, fmt.Errorf("%s belongs to run %s of another cluster or plan", path, info.Run)
	}
	remark := fmt.Sprintf("%s %s", j.inv.Now().UTC().Format(time.RFC3339), j.inv.commandLine())
	if err := a.Note("carried on", []byte(remark)); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// close ends the archive; what was appended is on disk already.
func (j *job) close() {
	if j.archive != nil {
		j.archive.Close()
		j.archive = nil
	}
	for _, f := range j.files {
		f.Close()
	}
	j.files = nil
}

// checkSpace refuses to begin what cannot be archived.
func (j *job) checkSpace(sum *plan.Summary) error {
	info, err := os.Stat(j.dir)
	if err != nil {
		return fmt.Errorf("%w: %w", apply.ErrArchive, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%w: %s is not a folder", apply.ErrArchive, j.dir)
	}
	free, ok := freeSpace(j.dir)
	if need := archiveSize(sum); ok && need > free {
		return fmt.Errorf("%w: it needs about %s, and %s has %s left", apply.ErrArchive, term.Bytes(need), j.dir, term.Bytes(free))
	}
	return nil
}

// archiveSize estimates the archive, rather too large than too small: values
// of one or two kilobytes leave a fifth of their pages unused.
func archiveSize(sum *plan.Summary) int64 { return sum.Bytes*5/4 + 256*sum.Steps + 128<<10 }

// judgeFor prepares judging again by a plan's own selection.
func (j *job) judgeFor(sel *filter.Selection, overrides filter.Overrides) (plan.Judge, error) {
	if sel == nil {
		return plan.Judge{}, nil
	}
	now := keyspace.Current(j.client, j.s.options(j.client))
	f, _, err := j.s.filter(*sel, now)
	return plan.Judge{Filter: f, Guard: j.s.guard(now, *sel, overrides)}, err
}

// guard guards what sel finds in src. What an object of an etcd for events
// hangs on is looked up in the main one, as it is now.
func (s *session) guard(src keyspace.Source, sel filter.Selection, allowed filter.Overrides) *filter.Guard {
	if _, _, etcd := s.sourceOf(sel); etcd == etcdEvents {
		src = keyspace.Current(s.main.Client, s.optionsOf(s.main))
	}
	return filter.NewGuard(s.reader, src, allowed)
}

func (j *job) leases() apply.Leases {
	if j.s.options(j.client).Kine {
		return kineLeases{}
	}
	return apply.LiveLeases{Client: j.client}
}

// kineLeases are no leases: what kine gives for a key's lease is its TTL, and
// it looks none up (kine, pkg/server/lease.go).
type kineLeases struct{}

// GrantedTTL implements apply.Leases.
func (kineLeases) GrantedTTL(_ context.Context, id int64) (int64, error) { return id, nil }

// observer shows the outcome of steps as progress.
type observer struct{ progress *term.Progress }

// Finished implements apply.Observer.
func (o observer) Finished(_ plan.Step, outcome apply.Outcome) {
	switch outcome {
	case apply.Skipped:
		o.progress.Add(0, 1, 0)
	case apply.Failed:
		o.progress.Add(0, 0, 1)
	default:
		o.progress.Add(1, 0, 0)
	}
}

// copyFile copies a plan beside its archive, unless it stands there already. A
// copy that was cut short, as by a full disk, is replaced.
func copyFile(from, to string) error {
	if a, err := filepath.Abs(from); err == nil && a == to {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), filepath.Base(to)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err == nil {
		err = os.Rename(out.Name(), to)
	}
	if err != nil {
		return errors.Join(err, os.Remove(out.Name()))
	}
	return nil
}
