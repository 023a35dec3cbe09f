package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/restore"
)

const (
	flagDataDir       = "data-dir"
	flagName          = "name"
	flagCluster       = "initial-cluster"
	flagPeerURLs      = "initial-advertise-peer-urls"
	flagClusterToken  = "initial-cluster-token"
	flagBump          = "bump-revision"
	flagMarkCompacted = "mark-compacted"
	flagSkipHash      = "skip-hash-check"
	flagUnsafeNoBump  = "unsafe-no-bump"
)

func snapshotRestoreCommand() *command {
	str := func(name, usage string) cli.Flag {
		return &cli.StringFlag{Name: name, Usage: usage, Category: catOther}
	}
	return &command{
		name: "snapshot restore", args: "FILE", minArgs: 1, maxArgs: 1,
		summary: "make a new etcd data directory from a snapshot",
		about: "Takes a whole cluster back to a snapshot: makes a new data directory, with etcd's own code for it, and prints the steps that go before and after. " +
			"It stops and starts nothing, and never touches a directory that exists. FILE is checked first: its hash, its pages, every entry. " +
			"It may be compressed with zstd.\n\n" +
			"Every member of the new cluster needs a data directory of its own, from the same file and with the same values; never start one beside members of the old cluster.\n\n" +
			"A restore takes revisions back, and whatever watched Kubernetes before it remembers some that are not there yet: kubelets, controllers and proxies would " +
			"miss every change until then, and act on objects that are gone. So the revision is moved on by a thousand million, and all before counts as compacted, " +
			"which makes them list everything anew. Without that a file that holds Kubernetes objects is refused.\n\n" +
			"To bring back single objects into a running cluster there is put-back.",
		examples: []string{
			"etcd-rescue snapshot restore night.db --data-dir /var/lib/etcd-new",
			"etcd-rescue snapshot restore night.db.zst --data-dir /var/lib/etcd-new \\\n    --name m1 --initial-cluster m1=https://cp-1:2380,m2=https://cp-2:2380",
			"etcd-rescue snapshot restore member/snap/db --skip-hash-check --data-dir new",
		},
		flags: slices.Concat([]cli.Flag{
			str(flagDataDir, "`DIR` to make; it must not exist"),
			str(flagName, "`NAME` of this member (default default)"),
			str(flagCluster, "all members, as `NAME=URL,…` with their peer URLs (default this one alone)"),
			str(flagPeerURLs, "comma-separated peer `URLS` of this member (default as in --initial-cluster, else http://localhost:2380)"),
			str(flagClusterToken, "`TOKEN` that goes into the ids of cluster and members (default etcd-cluster)"),
			&cli.BoolFlag{Name: flagSkipHash, Usage: "do not look for the hash at the end of the file: a copy of a member's db has none. Pages and entries are checked all the same", Category: catOther},
			&cli.Int64Flag{Name: flagBump, Usage: "move the revision on by `N`", Value: restore.DefaultBump, Category: catPace},
			&cli.BoolFlag{Name: flagMarkCompacted, Usage: "count all revisions before as compacted (default; --mark-compacted=false and --bump-revision 0 are the same)", Value: true, Category: catPace},
			&cli.StringFlag{Name: flagUnsafeNoBump, Usage: "do neither with a file of the cluster whose kube-system has `UID`", Category: catPace},
			&cli.StringFlag{Name: flagPrefix, Usage: "`PREFIX` of Kubernetes' keys (default /registry)", Category: catOther},
		}, outputFlags("table, json, yaml")),
		run: runSnapshotRestore,
	}
}

// restoring is one run of the command.
type restoring struct {
	inv  *invocation
	opt  restore.Options
	node *etcdPod // what this node's own etcd is, nil if nothing tells

	result     *restore.Result
	uid        string // of kube-system in the file
	kubernetes bool
	took       time.Duration
}

func runSnapshotRestore(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat(formatTable, formatJSON, formatYAML); err != nil {
		return err
	}
	if err := inv.checkLogLevel(); err != nil {
		return err
	}
	r := &restoring{inv: inv, node: readEtcdPod(inv.Root)}
	if err := r.options(); err != nil {
		return err
	}
	r.opt.Look = func(f *snapshots.File) error { return r.look(ctx, f) }
	r.suggest()
	began := inv.Now()
	var err error
	if r.result, err = restore.Restore(ctx, r.opt); err != nil {
		return r.explain(ctx, err)
	}
	r.took = inv.Now().Sub(began)
	if inv.format() != formatTable {
		return inv.document(r.document())
	}
	return r.print()
}

// options turns flags into what package restore takes.
func (r *restoring) options() error {
	inv := r.inv
	r.opt = restore.Options{
		Snapshot: inv.args[0], DataDir: inv.String(flagDataDir), Name: inv.String(flagName),
		InitialCluster: inv.String(flagCluster), InitialClusterToken: inv.String(flagClusterToken),
		BumpRevision: inv.Int64(flagBump), MarkCompacted: inv.Bool(flagMarkCompacted),
	}
	if r.opt.DataDir == "" {
		return usage("such as --"+flagDataDir+" /var/lib/etcd-new", "snapshot restore needs --%s", flagDataDir)
	}
	if urls := inv.String(flagPeerURLs); urls != "" {
		r.opt.PeerURLs = strings.Split(urls, ",")
	}
	if inv.Bool(flagSkipHash) {
		r.opt.Hash = restore.HashIgnored
	}
	// Either without the other means nothing to etcd, so saying no to one is enough.
	if !inv.IsSet(flagMarkCompacted) && r.opt.BumpRevision == 0 {
		r.opt.MarkCompacted = false
	}
	if !inv.IsSet(flagBump) && !r.opt.MarkCompacted {
		r.opt.BumpRevision = 0
	}
	if (r.opt.BumpRevision > 0) != r.opt.MarkCompacted || r.opt.BumpRevision < 0 {
		return usage("leave out both, which does both", "--%s %d and --%s=%t do not go together", flagBump, r.opt.BumpRevision, flagMarkCompacted, r.opt.MarkCompacted)
	}
	if inv.IsSet(flagUnsafeNoBump) && r.opt.MarkCompacted {
		return usage("add --"+flagBump+" 0, or leave it out", "--%s is for --%s 0", flagUnsafeNoBump, flagBump)
	}
	return nil
}

// noUID is what --unsafe-no-bump takes for a file without kube-system, such as that of an etcd for events.
const noUID = "none"

// look refuses Kubernetes' data at revisions that have been before.
func (r *restoring) look(ctx context.Context, f *snapshots.File) error {
	if err := r.identify(ctx, f); err != nil {
		return err
	}
	want := cmp.Or(r.uid, noUID)
	if !r.kubernetes || r.opt.MarkCompacted || r.inv.String(flagUnsafeNoBump) == want {
		return nil
	}
	hint := fmt.Sprintf("leave out --%s and --%s. If nothing that watched this cluster is left, not even a kubelet, pass --%s=%s", flagBump, flagMarkCompacted, flagUnsafeNoBump, want)
	if given := r.inv.String(flagUnsafeNoBump); given != "" {
		return refuse(hint, "--%s names %q, but the file is of the cluster %q", flagUnsafeNoBump, given, want)
	}
	return refuse(hint, "the file holds Kubernetes objects, and their revisions would be taken back: what watched them misses changes, or believes in objects that are gone")
}

// identify finds out whether the file is of Kubernetes, and of which cluster.
func (r *restoring) identify(ctx context.Context, f *snapshots.File) error {
	prefixes := []string{"/registry/", "/kubernetes.io/"} // of OpenShift
	if p := r.inv.String(flagPrefix); p != "" {
		prefixes = []string{codec.NormalizePrefix(p)}
	}
	for _, prefix := range prefixes {
		src := keyspace.FromFile(f)
		uid, err := keyspace.ClusterUID(ctx, src, prefix)
		if err != nil && !errors.Is(err, keyspace.ErrNoIdentity) {
			return err
		}
		r.uid = cmp.Or(r.uid, uid)
		err = src.Scan(ctx, keyspace.Prefix(prefix), true, func(*mvccpb.KeyValue) error { return errEnough })
		if errors.Is(err, errEnough) {
			r.kubernetes, err = true, nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// explain gives an error of the engine its exit code and advice.
func (r *restoring) explain(ctx context.Context, err error) error {
	hint := ""
	code := exitRefused
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, restore.ErrOptions):
		return usage("see: etcd-rescue snapshot restore --help", "%w", err)
	case errors.Is(err, restore.ErrExists):
		hint = "name another one. If etcd is to find it under this name, stop etcd, rename the old directory, and keep that until all is well. Where the name is a mount point, restore below it"
	case errors.Is(err, restore.ErrPart):
		hint = "if no other restore is running, remove it, and run this again"
	case errors.Is(err, restore.ErrArchive):
		hint = "undo puts back what an archive holds, and put-back some of it"
	case errors.Is(err, restore.ErrNoHash):
		hint = "a snapshot without it was cut short: take another one. A copy of a stopped member's db never has one: add --" + flagSkipHash
	case errors.Is(err, snapshots.ErrNoSpace):
		code, hint = exitFailed, "name a --"+flagDataDir+" where there is room; a compressed snapshot needs it twice, once to unpack it"
	default:
		return err
	}
	return &failure{code, err, hint}
}

// suggest says how this node's own etcd is called, if the flags leave that open.
func (r *restoring) suggest() {
	n := r.node
	if n == nil || n.name == "" || r.opt.Name != "" || r.opt.InitialCluster != "" {
		return
	}
	words := []string{"--" + flagName, quoteWord(n.name)}
	if n.peerURLs != "" {
		words = append(words, "--"+flagCluster, quoteWord(n.name+"="+strings.ReplaceAll(n.peerURLs, ",", ","+n.name+"=")))
	}
	r.inv.say("note: for a cluster of this node's etcd alone, as %s has it, that would be %s; with several members name all of them", n.path, strings.Join(words, " "))
}

// words repeats the flags that all members need alike.
func (r *restoring) words() string {
	var words []string
	for _, name := range []string{flagClusterToken, flagBump, flagUnsafeNoBump, flagPrefix} {
		if r.inv.IsSet(name) {
			words = append(words, "--"+name, quoteWord(r.inv.String(name)))
		}
	}
	if r.inv.IsSet(flagMarkCompacted) {
		words = append(words, fmt.Sprintf("--%s=%t", flagMarkCompacted, r.inv.Bool(flagMarkCompacted)))
	}
	if r.inv.Bool(flagSkipHash) {
		words = append(words, "--"+flagSkipHash)
	}
	if len(words) == 0 {
		return ""
	}
	return " " + strings.Join(words, " ")
}

func (r *restoring) print() error {
	res := r.result
	out := r.inv.Streams.Out
	fmt.Fprintf(out, "restored: %s\n", res.DataDir)
	var names []string
	for _, m := range res.Members {
		names = append(names, term.Clean(m.Name))
	}
	fmt.Fprintf(out, "member:   %s of %s: %s\n", term.Clean(res.Name), term.Plural(int64(len(names)), "member"), joinWords(names))
	revision := fmt.Sprintf("revision: %d", res.Revision)
	if res.Revision != res.SnapshotRevision {
		revision += fmt.Sprintf(", in the snapshot %d", res.SnapshotRevision)
	}
	if res.Compacted > 0 {
		revision += fmt.Sprintf("; compacted up to %d", res.Compacted)
	}
	fmt.Fprintln(out, revision)
	fmt.Fprintf(out, "content:  %s, %s, hash %d, in %s\n", term.Plural(res.Keys, "key"), term.Bytes(res.Bytes), res.HashKV.Hash, term.Duration(r.took.Round(time.Millisecond)))
	for _, note := range r.notes() {
		fmt.Fprintln(out, term.Wrap("note: "+note, width(r.inv.Streams.OutWidth)))
	}
	fmt.Fprintln(out, "\nNothing was started or stopped. The steps around it, on every node:")
	for i, s := range r.steps() {
		fmt.Fprintln(out, term.Wrap(fmt.Sprintf("%d. %s", i+1, s.Text), width(r.inv.Streams.OutWidth)))
		for _, c := range s.Commands {
			fmt.Fprintf(out, "     %s\n", term.Clean(c))
		}
	}
	return nil
}

func (r *restoring) document() map[string]any {
	res := r.result
	members := []map[string]any{}
	for _, m := range res.Members {
		members = append(members, map[string]any{"name": m.Name, "peerURLs": m.PeerURLs})
	}
	steps := []map[string]any{}
	for _, s := range r.steps() {
		steps = append(steps, map[string]any{"text": s.Text, "commands": append([]string{}, s.Commands...)})
	}
	doc := map[string]any{
		"version": 1, "kind": "snapshotRestore",
		"file": r.inv.args[0], "dataDir": res.DataDir, "db": res.DB,
		"name": res.Name, "members": members, "clusterToken": res.Token,
		"snapshotRevision": res.SnapshotRevision, "revision": res.Revision, "compacted": res.Compacted,
		"keys": res.Keys, "bytes": res.Bytes, "hashKV": res.HashKV, "hashChecked": res.HashChecked,
		"alarms": append([]string{}, res.Alarms...), "notes": append([]string{}, r.notes()...), "steps": steps,
		"milliseconds": r.took.Milliseconds(),
	}
	if r.uid != "" {
		doc["cluster"] = r.uid
	}
	if res.EtcdVersion != "" {
		doc["etcdVersion"] = res.EtcdVersion
	}
	return doc
}
