package rehearse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// Undo is what undoing the plan's archive has brought back.
type Undo struct {
	Result *apply.Result
	// Back are objects that the plan had taken away and that are there again,
	// byte for byte, under another revision.
	Back int64
	// Held are objects that the plan has replaced, which undo leaves alone, and
	// whose former bytes the archive holds.
	Held int64
	// Leased are objects that had a lease, which undo puts back only if it is
	// told to; Expired are those of them whose new lease ran out meanwhile, or
	// of whose lease the length is not known.
	Leased, Expired int64
	// Lost counts objects that are not as they were, and that the archive does
	// not hold so; Keys are the first of them.
	Lost int64
	Keys []string
	Took time.Duration
}

func (u *Undo) proven(e Effect) bool {
	return u.Lost == 0 && u.Back+u.Expired == e.Gone && u.Held == e.Replaced
}

// run carries out the plan as apply does, as fast as it goes.
func (r *rehearsal) run(ctx context.Context) error {
	r.begin(Running, r.report.Steps)
	began := r.Now()
	path := filepath.Join(r.dir, "archive.db")
	run := r.prepare(r.report.Header.Operation, r.Sources, r.store.Judge)
	var archive *snapshots.Archive
	if r.changing > 0 {
		var err error
		if archive, err = r.createArchive(path); err != nil {
			return err
		}
		run.Archive = archive
	}
	result, err := r.carryOut(ctx, run, r.Plan, "run")
	r.report.Ran = r.Now().Sub(began)
	if archive != nil {
		err = errors.Join(err, archive.Close())
	}
	if err != nil {
		return err
	}
	r.report.Result = result
	if archive == nil || archive.Len() == 0 {
		return nil
	}
	return r.openArchive(path)
}

func (r *rehearsal) createArchive(path string) (*snapshots.Archive, error) {
	h := r.report.Header
	return snapshots.CreateArchive(path, snapshots.ArchiveInfo{
		Tool: r.Tool, Run: h.Run, Command: h.Command, ClusterUID: h.ClusterUID, ClusterID: h.ClusterID,
		Etcd: h.Etcd, Prefix: h.Prefix, Time: r.Now().UTC(),
	})
}

func (r *rehearsal) openArchive(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	r.report.Archive = info.Size()
	r.archived, err = snapshots.Open(path, snapshots.Options{})
	return err
}

// prepare is a run on the throwaway etcd.
func (r *rehearsal) prepare(operation string, sources []apply.Bytes, judge apply.Judge) apply.Run {
	run := apply.Run{
		Store: r.store.Client, Leases: r.store.Leases, Sources: sources, Judge: judge,
		Volumes: plan.Volumes{
			Reader: r.store.Reader, Now: keyspace.Current(r.store.Client, keyspace.Options{Timeout: requestTimeout}),
			Overrides: r.report.Header.Overrides, Undo: operation == undoing,
		},
		Options: apply.Options{Prefix: r.report.Header.Prefix, Strict: r.Strict, Timeout: requestTimeout},
	}
	if r.Observer != nil {
		run.Observer = r.Observer
	}
	return run
}

// carryOut runs a plan with a journal, as every run has one. An interrupt is an
// error; other reasons to stop stand in the result.
func (r *rehearsal) carryOut(ctx context.Context, run apply.Run, p *plan.Plan, name string) (*apply.Result, error) {
	journal, err := apply.OpenJournal(filepath.Join(r.dir, name+".journal.jsonl"), apply.JournalHeader{
		Time: r.Now().UTC(), Tool: r.Tool, Plan: p.Path(), PlanSHA256: p.Trailer().SHA256, Steps: p.Trailer().Steps,
	}, r.Now)
	if err != nil {
		return nil, err
	}
	run.Journal = journal
	result, err := run.Plan(ctx, p)
	return result, errors.Join(err, journal.Close(result), ctx.Err())
}

// undo puts back what the archive holds, and compares all that the plan has
// touched with the snapshot.
func (r *rehearsal) undo(ctx context.Context) error {
	if r.archived == nil {
		return nil
	}
	began := r.Now()
	u := &Undo{Result: &apply.Result{}}
	path := filepath.Join(r.dir, "undo.plan.jsonl")
	sum, err := r.planUndo(ctx, path)
	if err != nil {
		return fmt.Errorf("plan the undo: %w", err)
	}
	if sum.Steps > 0 {
		r.begin(Undoing, sum.Steps)
		if u.Result, err = r.runUndo(ctx, path, u); err != nil {
			return fmt.Errorf("undo: %w", err)
		}
	}
	if err := r.prove(ctx, u); err != nil {
		return fmt.Errorf("compare with the snapshot: %w", err)
	}
	u.Took = r.Now().Sub(began)
	r.report.Undo = u
	return nil
}

// undoing is the operation of a plan that undoes another.
const undoing = "undo"

func (r *rehearsal) planUndo(ctx context.Context, path string) (*plan.Summary, error) {
	now, err := r.now(ctx)
	if err != nil {
		return nil, err
	}
	sum, err := snapshots.SHA256(ctx, r.archived.Path())
	if err != nil {
		return nil, err
	}
	h := r.report.Header
	h.Operation, h.Pass, h.Created, h.Revision = undoing, 1, r.Now().UTC(), now.Revision()
	h.Selection, h.Sources = nil, []plan.SourceFile{{Path: r.archived.Path(), SHA256: sum}}
	out, err := plan.Create(path, h)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	summary, err := plan.Undo(ctx, plan.UndoRequest{
		Archives: []*snapshots.File{r.archived}, Now: now, Reader: r.store.Reader, WithLeased: true,
	}, out)
	if err != nil {
		return nil, err
	}
	return summary, out.Close()
}

func (r *rehearsal) runUndo(ctx context.Context, path string, u *Undo) (*apply.Result, error) {
	p, err := plan.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	err = p.Steps(ctx, func(_ int, _ string, s plan.Step) error {
		if s.Lease != 0 {
			u.Leased++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r.carryOut(ctx, r.prepare(undoing, []apply.Bytes{r.archived}, plan.Judge{}), p, "undo")
}

// proving compares values of keys that were written.
type proving struct {
	*rehearsal
	u       *Undo
	after   keyspace.Source
	pending []rewritten
}

// rewritten is a key that has another revision than in the snapshot.
type rewritten struct {
	key string
	// anew says that it began a new life: it was deleted and put back.
	anew bool
}

// prove compares all that is not as the snapshot has it.
func (r *rehearsal) prove(ctx context.Context, u *Undo) error {
	after, err := r.now(ctx)
	if err != nil {
		return err
	}
	p := &proving{rehearsal: r, u: u, after: after}
	err = merge(ctx, r.before, after, func(key string, was, is *mvccpb.KeyValue) error {
		switch {
		case was == nil || is != nil && was.ModRevision == is.ModRevision:
			return nil // what the plan made, which undo leaves, or what nobody touched
		case is == nil:
			return p.missing(ctx, was)
		}
		p.pending = append(p.pending, rewritten{key, was.CreateRevision != is.CreateRevision})
		if len(p.pending) == batch {
			return p.compare(ctx)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.compare(ctx)
}

func (p *proving) missing(ctx context.Context, was *mvccpb.KeyValue) error {
	archived, err := p.holds(ctx, was.Key)
	switch {
	case err != nil:
		return err
	case was.Lease == 0:
		p.lose(string(was.Key))
	case archived:
		p.u.Expired++
	}
	return nil
}

func (p *proving) lose(key string) {
	if p.u.Lost++; len(p.u.Keys) < mostKeys {
		p.u.Keys = append(p.u.Keys, key)
	}
}

// compare looks at the values of the pending keys.
func (p *proving) compare(ctx context.Context) error {
	names := make([]string, len(p.pending))
	for i, w := range p.pending {
		names[i] = w.key
	}
	was, err := p.before.GetAll(ctx, names)
	if err != nil {
		return err
	}
	is, err := p.after.GetAll(ctx, names)
	if err != nil {
		return err
	}
	for _, w := range p.pending {
		if err := p.one(ctx, w, was[w.key], is[w.key]); err != nil {
			return err
		}
	}
	p.pending = p.pending[:0]
	return nil
}

func (p *proving) one(ctx context.Context, w rewritten, was, is *mvccpb.KeyValue) error {
	if w.anew {
		if was == nil || is == nil || !bytes.Equal(was.Value, is.Value) {
			p.lose(w.key)
		} else {
			p.u.Back++
		}
		return nil
	}
	at, ok, err := p.archived.Find(ctx, []byte(w.key))
	if err != nil {
		return err
	}
	if ok {
		kv, err := p.archived.At(at)
		if err != nil {
			return err
		}
		ok = was != nil && bytes.Equal(kv.Value, was.Value)
	}
	if !ok {
		p.lose(w.key)
		return nil
	}
	p.u.Held++
	return nil
}
