package app

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// preview shows what would be done, and saves it with --plan.
func (p *puttingBack) preview(ctx context.Context, j *job, req plan.PutBackRequest) error {
	path := p.inv.String(flagPlan)
	out, sum, err := p.plan(ctx, j, req, path)
	if err != nil {
		return err
	}
	if out != nil {
		defer out.Abort()
	}
	missing, err := p.missing(ctx, sum, req)
	if err != nil {
		return err
	}
	switch {
	case len(missing) > 0:
		path = "" // it is not what was asked for
	case out != nil:
		if err := out.Close(); err != nil {
			return err
		}
	}
	if err := p.inv.showPreview(p.newPreview(sum, req, path)); err != nil {
		return err
	}
	if err := p.verdict(sum, req, missing); err != nil {
		return err
	}
	return p.inv.somethingToDo(sum.Steps)
}

// missing are the names and keys asked for that the file does not hold. What
// lay in a namespace may have outlived it.
func (p *puttingBack) missing(ctx context.Context, sum *plan.Summary, req plan.PutBackRequest) (missing []string, err error) {
	found := sum.Steps + sum.Present + sum.Differing + sum.Leased + int64(len(sum.Blocked))
	if len(p.sel.Names)+len(p.sel.Keys) == 0 || p.sel.Contents != nil && found > 0 {
		return nil, nil
	}
	for _, r := range req.Filter.Ranges() { // one for each of them
		kv, err := req.From.Get(ctx, r.Start)
		if err != nil {
			return nil, err
		}
		if kv == nil {
			missing = append(missing, strings.TrimPrefix(r.Start, p.reader.Prefix))
		}
	}
	return missing, nil
}

// verdict is what is not well with a preview.
func (p *puttingBack) verdict(sum *plan.Summary, req plan.PutBackRequest, missing []string) error {
	undecided := p.undecided(sum, req)
	if len(missing) > 0 {
		return p.notFound(missing)
	}
	if err := p.blocked(sum); err != nil {
		return err
	}
	if sum.Differing > 0 {
		return partial("--"+flagReplace+" puts the file's bytes there, after archiving these", "%s under whose key something else is now: left alone", objects(sum.Differing))
	}
	return undecided
}

// undecided says what the selection could not be decided on: an error if there
// is any, because it may be just what was to come back.
func (p *puttingBack) undecided(sum *plan.Summary, req plan.PutBackRequest) error {
	if sum.Undecided == 0 {
		return nil
	}
	p.inv.say("warning: %s not decided, and so not selected", objects(sum.Undecided))
	return partial(p.inv.sayUndecided(req.Filter), "%s not decided, and not put back", objects(sum.Undecided))
}

// notFound refuses names that the file does not hold.
func (p *puttingBack) notFound(missing []string) error {
	hint := ""
	if !p.data.file.IsArchive() {
		hint = "what was deleted earlier may still be in the file's past: etcd-rescue history RESOURCE NAME --from " + quoteWord(p.path) + ", then --" + flagRev
	}
	return refuse(hint, "%s not found in %s: %s", objects(int64(len(missing))), p.where(), joinWords(firstOf(missing)))
}

func firstOf(names []string) []string {
	if len(names) <= topFew {
		return names
	}
	return append(names[:topFew:topFew], "…")
}

// blocked says what was left out: an error if there is any.
func (p *puttingBack) blocked(sum *plan.Summary) error {
	if len(sum.Blocked) == 0 {
		return nil
	}
	var reasons, allow []string
	for _, b := range sum.Blocked {
		reasons = append(reasons, fmt.Sprintf("%s blocked and left out: %s", objects(b.Count), b.Reason))
		if b.Allow != "" && !slices.Contains(allow, b.Allow) {
			allow = append(allow, b.Allow)
		}
	}
	hint := ""
	if len(allow) > 0 {
		hint = "to put them back all the same add " + strings.Join(allow, " ")
	}
	if sum.Steps == 0 {
		return refuse(hint, "%s", strings.Join(reasons, "; "))
	}
	return partial(hint, "%s", strings.Join(reasons, "; "))
}

func (p *puttingBack) newPreview(sum *plan.Summary, req plan.PutBackRequest, path string) *preview {
	pace, _ := p.inv.pace() // checked before
	pv := &preview{
		operation: operationPutBack, sum: sum, selection: p.sel.String(), revision: req.Now.Revision(), now: p.inv.Now(), pace: pace,
		planPath: path, free: -1, plane: p.plane, differ: p.differ, from: p.where(),
	}
	if sum.Replacing > 0 {
		pv.locate(p.inv)
	}
	p.describe(pv)
	return pv
}

// where says where the objects come from.
func (p *puttingBack) where() string {
	if p.data.file.IsArchive() {
		return p.path
	}
	return fmt.Sprintf("%s at revision %d", p.path, p.rev)
}

// replacingNote goes on from a number of objects.
const replacingNote = " replaced if their bytes are then still the ones compared; those are archived first"

// describe adds the notes, and what the document has beside.
func (p *puttingBack) describe(pv *preview) {
	sum := pv.sum
	note := func(n int64, text string) {
		if n > 0 {
			pv.notes = append(pv.notes, objects(n)+" "+text)
		}
	}
	note(sum.Present, "there already with the same bytes: done")
	note(sum.Differing, "under whose key something else is now: left alone; --"+flagReplace+" would replace it")
	if sum.Replacing > 0 {
		pv.notes = append(pv.notes, objects(sum.Replacing)+replacingNote)
	}
	note(sum.Leased, "left out because of their lease (events): --"+flagWithLeased+" puts back those whose length is known")
	if sum.Spaces > 0 {
		pv.notes = append(pv.notes, fmt.Sprintf("%s owned by these is not among them; with what is in it: etcd-rescue put-back namespace%s --from %s",
			term.Plural(sum.Spaces, "Namespace"), spaceWords(sum), quoteWord(p.path)))
	}
	if sum.Owned > 0 {
		pv.notes = append(pv.notes, p.plane.note(sum.Owned))
	}
	pv.add("from", map[string]any{"path": p.path, "revision": p.rev, "cluster": p.uid})
}

func (p *puttingBack) execute(ctx context.Context, j *job, req plan.PutBackRequest) error {
	if err := j.checkSpace(&plan.Summary{}); err != nil {
		return err
	}
	path := j.planPath(1)
	out, sum, err := p.plan(ctx, j, req, path)
	if err != nil {
		return err
	}
	defer out.Abort()
	missing, err := p.missing(ctx, sum, req)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return p.notFound(missing)
	}
	undecided := p.undecided(sum, req)
	p.inv.sayDamage() // what is missing, or older than it should be, is known before the question
	blocked := p.blocked(sum)
	if blocked != nil && sum.Steps == 0 {
		return blocked
	}
	if err := j.putBack(ctx, out, path, p.newPreview(sum, req, ""), p.data.file); err != nil {
		return err
	}
	return cmp.Or(blocked, undecided)
}

// mostUnmade is how many keys a command names.
const mostUnmade = 20

// findUnmake notes the command that deletes what a put-back has created: by
// keys, if all that was to be created was, and they fit on a line.
func (j *job) findUnmake(ctx context.Context, p *plan.Plan, creates int64) error {
	created := j.report.count(apply.Created)
	if created == 0 {
		return nil
	}
	if created != creates || created > mostUnmade {
		j.report.notes = append(j.report.notes, fmt.Sprintf("The journal names the %s that were created.", objects(created)))
		return nil
	}
	command := "etcd-rescue delete"
	err := p.Steps(ctx, func(_ int, _ string, s plan.Step) error {
		if !s.Replaces() {
			command += " --" + flagExactKey + " " + quoteWord(s.Key)
		}
		return nil
	})
	j.report.unmake = command + " --execute" + j.words()
	return err
}
