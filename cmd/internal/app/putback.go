package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

const (
	operationPutBack = "put-back"
	flagReplace      = "replace"
)

func putBackCommand() *command {
	return &command{
		name: operationPutBack, args: "RESOURCE [NAME…] --from FILE", maxArgs: -1, source: true,
		summary: "preview putting back objects from a file; with --execute do it",
		about: "Puts what is selected in FILE and missing in etcd back under its own key, byte for byte and with its UID, namespaces and owners first, each by a transaction of its own. " +
			"What is there with other bytes is compared and left alone, unless --replace is given: then its bytes are archived and replaced, if they are still the ones that were compared. " +
			"--rev reads a snapshot or db file at an earlier revision, for what was changed or deleted before it was taken. Namespaces come with everything in them. Without a resource everything in an archive is selected. " +
			"While an API server lives, owned objects are put back only with --unsafe-live-controllers, as by undo.",
		examples: []string{
			"etcd-rescue put-back deployment web -n a --from night.db --with-dependents",
			"etcd-rescue put-back configmap conf -n a --from night.db --replace --execute",
			"etcd-rescue put-back secrets -n a -l app=web --from night.db --rev 1207",
			"etcd-rescue put-back --from etcd-rescue-20261122T171501Z-1f0c2a9b.db --replace",
		},
		flags: slices.Concat(approvalFlags("put back"), []cli.Flag{
			&cli.StringFlag{Name: flagFrom, Usage: "take the objects from the snapshot, db file or archive `FILE`", Category: catSelection},
			&cli.TimestampFlag{Name: flagNow, Layout: time.RFC3339, Usage: "`TIME` (RFC 3339) that ages count from (default: the newest in the file)", Category: catSelection},
			&cli.Int64Flag{Name: flagRev, Usage: "read the file as it was at `REVISION`, if it still holds that (see history)", Category: catSelection},
			&cli.BoolFlag{Name: flagReplace, Usage: "also replace what is there with other bytes, archived first", Category: catApproval},
			&cli.BoolFlag{Name: flagWithOwners, Usage: "also put back the owners that the file holds of the selected objects", Category: catSelection},
			&cli.BoolFlag{Name: flagWithDependents, Usage: "also put back what the selected objects own in the file, directly or through others, of any resource", Category: catSelection},
			&cli.BoolFlag{Name: flagContentsOnly, Usage: "of namespaces put back what is in them, and leave the Namespaces", Category: catSelection},
			&cli.BoolFlag{Name: flagWithoutContents, Usage: "of namespaces put back only their own keys", Category: catSelection},
			&cli.BoolFlag{Name: flagWithLeased, Usage: "also put back objects that had a lease (events), under a new lease of the same length", Category: catSelection},
			&cli.StringFlag{Name: flagPlan, Usage: "save the plan as `FILE` (without --execute), for apply", Category: catOutput},
			&cli.BoolFlag{Name: flagShowSecrets, Usage: "show the data of Secrets where they differ, instead of a marker", Category: catOutput},
			unsafeLiveFlag(),
			&cli.StringSliceFlag{Name: flagUnsafeKind, Usage: "also put back what is blocked as `KIND`, such as persistentvolumes", Category: catPace},
		}, paceFlags(), outputFlags("table, json, yaml"), selectionFlags(), connectionFlags()),
		run: runPutBack,
	}
}

// puttingBack is one call of put-back. Its session is that of the store which
// is changed.
type puttingBack struct {
	*session
	data   *session // of the file
	rev    int64    // that the file is read at
	path   string   // of the file, absolute
	uid    string   // of the file's cluster, "" if the file does not say
	sel    filter.Selection
	plane  *controlPlane
	differ *differences

	overrides filter.Overrides
}

func runPutBack(ctx context.Context, inv *invocation) error {
	if err := inv.checkPutBack(); err != nil {
		return err
	}
	kinds, err := inv.unsafeKinds()
	if err != nil {
		return err
	}
	p := &puttingBack{path: absolute(inv.String(flagFrom)), overrides: filter.Overrides{Kinds: kinds}}
	f, err := snapshots.OpenContext(ctx, p.path, snapshots.Options{Tolerant: true})
	if err != nil {
		return err
	}
	defer f.Close()
	inv.files = append(inv.files, f)
	if len(inv.args) == 0 && len(inv.StringSlice(flagExactKey)) == 0 && !f.IsArchive() {
		return usage("name a resource and say which of its objects: NAMEs, -n, -l, --owner …", "put-back takes a resource, or --%s", flagExactKey)
	}
	src, err := inv.revisionOf(f)
	if err != nil {
		return err
	}
	if p.session, err = inv.open(ctx); err != nil {
		return err
	}
	defer p.close()
	p.rev = src.Revision()
	p.data = &session{inv: inv, log: p.log, reader: p.reader, file: f, mainSource: src, target: p.session}
	return p.run(ctx)
}

// checkPutBack looks at the flags before anything is opened.
func (inv *invocation) checkPutBack() error {
	if inv.String(flagFrom) == "" {
		return usage("add --from FILE: a snapshot, a db file or an archive", "put-back takes the objects from a file")
	}
	if err := inv.checkFormat("table", "json", "yaml"); err != nil {
		return err
	}
	if err := inv.checkApproval(false); err != nil {
		return err
	}
	if inv.Bool(flagExecute) && inv.String(flagPlan) != "" {
		return usage("--execute saves its plan by itself", "--%s and --execute contradict each other", flagPlan)
	}
	_, err := inv.pace()
	return err
}

// revisionOf is the file at the revision asked for.
func (inv *invocation) revisionOf(f *snapshots.File) (*keyspace.File, error) {
	if !inv.IsSet(flagRev) {
		return keyspace.FromFile(f), nil
	}
	rev := inv.Int64(flagRev)
	switch {
	case rev < 1:
		return nil, usage("the history command lists the revisions of an object", "--%s %d: the first revision is 1", flagRev, rev)
	case f.IsArchive():
		return nil, usage("leave it out", "--%s: an archive holds its objects as they were when they were archived, and no revision as a whole", flagRev)
	}
	src, err := keyspace.FromFileAt(f, rev)
	var compacted *keyspace.CompactedError
	if errors.As(err, &compacted) {
		return nil, &failure{exitFailed, fmt.Errorf("%s: %w", f.Path(), err), "take an older snapshot, or a revision from there on"}
	}
	return src, err
}

func (p *puttingBack) run(ctx context.Context) error {
	if err := p.checkOrigin(ctx); err != nil {
		return err
	}
	if err := p.selectObjects(ctx); err != nil {
		return err
	}
	holds := p.resource()
	now, _, etcd := p.sourceFor(holds)
	if err := p.checkEtcd(etcd); err != nil {
		return err
	}
	var err error
	if p.plane, err = p.controlPlane(ctx, etcd); err != nil {
		return err
	}
	j, err := p.newJob(ctx, holds, p.inv.newRun(), verbPuttingBack, p.plane)
	if err != nil {
		return err
	}
	defer j.close()
	req, err := p.request(now, etcd)
	if err != nil {
		return err
	}
	if p.inv.Bool(flagExecute) {
		return p.execute(ctx, j, req)
	}
	return p.preview(ctx, j, req)
}

// checkOrigin refuses a file of another cluster, and one that does not say
// which it is from.
func (p *puttingBack) checkOrigin(ctx context.Context) error {
	if info, ok := p.data.file.Archive(); ok {
		if info.Prefix != p.reader.Prefix {
			return refuse("check --"+flagPrefix, "the archive's keys lie below %s, here they lie below %s", info.Prefix, p.reader.Prefix)
		}
		p.uid = info.ClusterUID
	} else {
		var err error
		if p.uid, err = optionalUID(p.data.identity(ctx)); err != nil {
			return err
		}
	}
	here, err := optionalUID(p.identity(ctx))
	if err != nil {
		return err
	}
	allowed := p.inv.String(flagUnsafeCluster)
	switch {
	case p.uid == "" && allowed == "":
		return refuse("check --"+flagPrefix+"; a snapshot of an etcd that holds only events has none: if the file belongs here, pass --"+flagUnsafeCluster+" none",
			"in %s there is no kube-system Namespace below %s, by which a cluster is known", p.path, p.reader.Prefix)
	case p.uid == "" || p.uid == here || p.uid == allowed:
		return nil
	case here == "":
		return refuse("check --endpoints and --"+flagPrefix+"; if the Namespace kube-system itself is lost, pass --"+flagUnsafeCluster+" "+p.uid,
			"below %s there is no kube-system Namespace here, by which a cluster is known; in the file it has UID %q", p.reader.Prefix, p.uid)
	}
	return refuse("check --endpoints; to put it back here all the same, pass --"+flagUnsafeCluster+" "+p.uid,
		"the file comes from the cluster whose kube-system has UID %q, here it is %q", p.uid, here)
}

// optionalUID takes "" for the UID of a store without one.
func optionalUID(uid string, err error) (string, error) {
	if errors.Is(err, keyspace.ErrNoIdentity) {
		return "", nil
	}
	return uid, err
}

// selectObjects reads the selection. Names are looked up in the file: it may
// know kinds that the cluster has lost. Owners are looked up in both.
func (p *puttingBack) selectObjects(ctx context.Context) error {
	if err := p.data.learn(ctx); err != nil {
		return err
	}
	if err := p.checkKeys(p.inv.StringSlice(flagExactKey), p.inv.args); err != nil {
		return err
	}
	var err error
	if p.sel, err = p.data.selection(ctx, p.inv.args); err != nil {
		return err
	}
	if p.sel.Resource == "" && len(p.sel.Keys) == 0 {
		return nil // all that the archive holds, as far as the flags narrow it
	}
	if err := p.checkNarrow(p.sel); err != nil {
		return err
	}
	p.sel.Contents, err = p.data.contents(ctx, p.sel)
	return err
}

// resource is the one by which the etcd is chosen.
func (p *puttingBack) resource() (events *codec.Resource) {
	info, ok := p.data.file.Archive()
	if ok && info.Etcd == etcdEvents && p.sel.Resource == "" {
		events, _, _ = p.reader.Catalog.Lookup("events")
		return events
	}
	return p.holds(p.sel)
}

// checkEtcd refuses an archive of the other etcd.
func (p *puttingBack) checkEtcd(etcd string) error {
	info, ok := p.data.file.Archive()
	if !ok || info.Etcd == etcd {
		return nil
	}
	return refuse("give the etcd that holds events by --"+flagEventsEndpoints, "the archive comes from the %s etcd, this is the %s one", info.Etcd, etcd)
}

func (p *puttingBack) request(now keyspace.Source, etcd string) (plan.PutBackRequest, error) {
	f, owners, err := p.data.filter(p.sel, p.data.mainSource)
	p.differ = newDifferences(p.session)
	req := plan.PutBackRequest{
		File: p.data.file, From: p.data.mainSource, Filter: f, Owners: owners, Now: now, Reader: p.reader, Prefix: p.reader.Prefix,
		Main: p.mainSource, Overrides: p.overrides, WithOwners: p.inv.Bool(flagWithOwners), WithDependents: p.inv.Bool(flagWithDependents),
		Replace: p.inv.Bool(flagReplace), WithLeased: p.inv.Bool(flagWithLeased), Differs: p.differ.add,
	}
	if p.eventsSource != nil {
		req.Elsewhere = func(key string) bool {
			return strings.HasPrefix(key, p.reader.Prefix+"events/") != (etcd == etcdEvents)
		}
	}
	return req, err
}

// plan makes the plan; path "" makes none (nil), and only tells what it would
// be. The caller closes or aborts it.
func (p *puttingBack) plan(ctx context.Context, j *job, req plan.PutBackRequest, path string) (*plan.Writer, *plan.Summary, error) {
	if err := p.data.checkNamespace(ctx, req.From, req.Filter); err != nil {
		return nil, nil, err
	}
	if path == "" {
		sum, err := plan.PutBack(ctx, req, nil)
		return nil, sum, err
	}
	h := j.header(operationPutBack, 1, req.Now.Revision())
	h.WithOwners, h.WithDependents, h.Overrides = req.WithOwners, req.WithDependents, req.Overrides
	sha, err := snapshots.SHA256(ctx, p.path)
	if err != nil {
		return nil, nil, err
	}
	h.Sources = []plan.SourceFile{{Path: p.path, SHA256: sha}}
	out, err := plan.Create(path, h)
	if errors.Is(err, fs.ErrExist) {
		return nil, nil, usage("name another file, or remove it", "%w", err)
	}
	if err != nil {
		return nil, nil, err
	}
	sum, err := plan.PutBack(ctx, req, out)
	if err != nil {
		out.Abort()
		return nil, nil, err
	}
	return out, sum, nil
}
