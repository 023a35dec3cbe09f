package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

const (
	flagMember   = "member"
	flagKeep     = "keep"
	flagCompress = "compress"
)

func snapshotSaveCommand() *command {
	return &command{
		name: "snapshot save", args: "[FILE|-]", maxArgs: 1,
		summary: "take a snapshot of one member, and read it back",
		about: "Takes it from a follower that is healthy and not behind, so that the leader is spared, else from the leader, and without a leader from the " +
			"member that has got furthest, which is said; --member chooses another. It works while NOSPACE is raised. A learner is refused.\n\n" +
			"The bytes go to FILE.part, which only its owner may read; etcd's sha256 is checked as they come; they are synced, and all pages and keys are read " +
			"back; then the file gets its name, and replaces nothing. Whatever ends it before leaves no file that looks finished. Without FILE, and in FILE if that " +
			"is a directory, the name is etcd-rescue-snapshot-CLUSTER-TIME.db, CLUSTER being the beginning of the UID of namespace kube-system (of " +
			"etcd's cluster id where there is none), TIME that at which it began, in UTC.\n\n" +
			"- writes the bytes to standard output and the result to standard error. Then only the sha256 is checked; if it is wrong, or the " +
			"connection breaks, the exit code says so (in a pipe: set -o pipefail).\n\nNothing is changed in etcd.",
		examples: []string{
			"etcd-rescue snapshot save",
			"etcd-rescue snapshot save /backup --keep 14 --compress zstd",
			"etcd-rescue snapshot save before-upgrade.db --member master-2",
			"etcd-rescue snapshot save - --compress zstd",
		},
		flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: flagMember, Usage: "take it from `MEMBER`: an id, a name or a client URL", Category: catOther},
			&cli.IntFlag{Name: flagKeep, Usage: "when it is done, keep the newest `N` snapshots of this cluster in its directory and remove older ones; only files with a name of the pattern above are ever looked at", Category: catOther},
			&cli.StringFlag{Name: flagCompress, Usage: "compress with `METHOD`: zstd; the file's name ends in .zst", Category: catOther},
		}, outputFlags("table, json, yaml"), memberFlags()),
		run: runSnapshotSave,
	}
}

func runSnapshotSave(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat(formatTable, formatJSON, formatYAML); err != nil {
		return err
	}
	if err := inv.checkLogLevel(); err != nil {
		return err
	}
	s := &saving{inv: inv, compress: inv.String(flagCompress)}
	if err := s.validate(); err != nil {
		return err
	}
	defer s.close()
	if err := s.connect(ctx); err != nil {
		return err
	}
	defer frugal()()
	return s.run(ctx)
}

// frugal has garbage collected early, until what it returns is called. Every
// piece of a snapshot is garbage once it is written, and little else lives.
// Earlier still, collecting costs more than receiving.
func frugal() (restore func()) {
	const percent, limit = 200, 48 << 20
	before, most := debug.SetGCPercent(percent), debug.SetMemoryLimit(limit)
	return func() {
		debug.SetGCPercent(before)
		debug.SetMemoryLimit(most)
	}
}

// saving is one snapshot save.
type saving struct {
	inv      *invocation
	compress string
	path     string // the file's; empty: it gets a name in dir
	dir      string // empty: standard output

	found  connect.Found
	conn   *connect.Conn // to all members
	one    *connect.Conn // to the one that was chosen
	member *etcdmembers.Member
	why    string
	alarms []etcdmembers.Alarm
	quorum bool

	progress *term.Progress
}

func (s *saving) stdout() bool { return s.dir == "" }

// validate decides where the snapshot goes, before etcd is asked for anything.
func (s *saving) validate() error {
	inv := s.inv
	if s.compress != "" && s.compress != snapshots.Zstd {
		return usage("it can be: "+snapshots.Zstd, "--%s: unknown method %q", flagCompress, s.compress)
	}
	file := "."
	if len(inv.args) > 0 {
		file = inv.args[0]
	}
	switch info, err := os.Stat(file); {
	case file == "":
		return usage("leave it out for a name in this directory", "the name of the file is empty")
	case file == toStdout && inv.Streams.OutTTY:
		return usage("send it to a file or a program: … snapshot save - > FILE", "a snapshot is not written to a terminal")
	case file == toStdout:
	case err == nil && info.IsDir(), strings.HasSuffix(file, "/"):
		s.dir = absolute(file)
	default:
		if s.compress != "" && !strings.HasSuffix(file, zstdSuffix) {
			file += zstdSuffix
		} else if s.compress == "" && strings.HasSuffix(file, zstdSuffix) {
			return usage("add --"+flagCompress+" zstd, or leave out the ending", "%q would not be compressed", file)
		}
		s.path = absolute(file)
		s.dir = filepath.Dir(s.path)
	}
	return s.checkPlace()
}

func (s *saving) checkPlace() error {
	inv := s.inv
	if inv.IsSet(flagKeep) {
		if n := inv.Int(flagKeep); n < 1 {
			return usage("the new one counts", "--%s must be 1 or more, got %d", flagKeep, n)
		}
		if s.stdout() || s.path != "" {
			return usage("name a directory, or nothing", "--%s is for snapshots whose names are made here, not for %s", flagKeep, inv.args[0])
		}
	}
	if s.stdout() {
		return nil
	}
	if info, err := os.Stat(s.dir); err != nil {
		return fmt.Errorf("the place for the snapshot: %w", err)
	} else if !info.IsDir() {
		return usage("", "%q is not a directory", s.dir)
	}
	if s.path != "" {
		if _, err := os.Lstat(s.path); err == nil {
			return s.exists()
		}
	}
	return nil
}

func (s *saving) exists() error {
	return refuse("give another name, or a directory, in which a name is made", "%s exists already, and a snapshot never replaces a file", s.path)
}

// connect finds the members and connects to one of them.
func (s *saving) connect(ctx context.Context) error {
	inv := s.inv
	found, err := connect.Resolve(inv.settings(), connect.Node{Root: inv.Root, Getenv: inv.Getenv})
	if err != nil {
		return settingFailure(err)
	}
	s.found = found
	inv.say("%s", found.Why)
	if len(found.EventsEndpoints) > 0 {
		inv.say("note: events are in an etcd of their own, and not in this snapshot; for them give --%s %s", flagEndpoints, joinWords(found.EventsEndpoints))
	}
	if s.conn, err = s.dial(ctx, found.Endpoints); err != nil {
		return err
	}
	if s.conn.Kine {
		return &failure{exitFailed, fmt.Errorf("this is kine, not etcd: it has no snapshots"), "back up the database behind it, with its own tools (sqlite3 FILE .backup, pg_dump, mysqldump)"}
	}
	if err := s.choose(ctx); err != nil {
		return err
	}
	// A client that knows one member only: the snapshot is of no other.
	if s.one, err = s.dial(ctx, []string{s.member.Endpoint}); err != nil {
		return err
	}
	s.quorum = etcdmembers.HasQuorum(ctx, s.one.Client, 0)
	return ctx.Err()
}

func (s *saving) dial(ctx context.Context, endpoints []string) (*connect.Conn, error) {
	conn, err := connect.Dial(ctx, s.found.Settings, endpoints, s.inv.logger())
	if err != nil {
		return nil, settingFailure(err)
	}
	for _, w := range conn.Warnings {
		s.inv.say("warning: %s", w)
	}
	return conn, nil
}

func (s *saving) close() {
	for _, c := range []*connect.Conn{s.conn, s.one} {
		if c != nil {
			c.Close()
		}
	}
}

func (s *saving) choose(ctx context.Context) error {
	endpoints, name := s.conn.Endpoints, s.inv.String(flagMember)
	if strings.Contains(name, "://") {
		endpoints = append(slices.Clone(endpoints), name)
	}
	all, err := etcdmembers.List(ctx, s.conn.Client, etcdmembers.Options{Endpoints: endpoints})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.inv.say("warning: only the given endpoints are looked at: %v", err)
	}
	s.alarms = etcdmembers.Alarms(all)
	if s.inv.IsSet(flagMember) {
		s.member, err = etcdmembers.Named(all, name)
		s.why = "as --" + flagMember + " says"
	} else {
		s.member, s.why, err = etcdmembers.Choose(all)
	}
	return memberFailure(err)
}

// run takes the snapshot.
func (s *saving) run(ctx context.Context) error {
	began := s.inv.Now()
	if !s.stdout() && s.path == "" {
		s.path = filepath.Join(s.dir, snapshotName(s.identity(ctx), began, s.compress))
	}
	s.sayBefore()
	if err := s.room(s.member.DBSize); err != nil {
		return err
	}
	defer func() { s.progress.Finish() }()
	opt := snapshots.SaveOptions{
		Compress: s.compress, Stall: s.found.CommandTimeout, Room: s.begin,
		Received: func(n int, _ int64) { s.progress.Add(n, 0, 0) },
		Verifying: func() {
			if s.progress.Finish(); s.inv.Streams.ErrTTY {
				s.inv.say("reading it back")
			}
		},
	}
	if s.stdout() {
		opt.Out = s.inv.Streams.Out
	} else {
		opt.Path = s.path
	}
	saved, err := snapshots.Save(ctx, etcdmembers.Snapshots(s.one.Client), opt)
	s.progress.Finish()
	if err != nil {
		return s.explain(ctx, err)
	}
	r := &savedReport{saving: s, saved: saved, began: began}
	r.prune()
	return r.show()
}

// identity names the cluster in the file's name. What this member holds will
// do: the UID never changes.
func (s *saving) identity(ctx context.Context) string {
	src := keyspace.Current(s.one.Client, keyspace.Options{Timeout: min(s.found.CommandTimeout, 5*time.Second), Serializable: true})
	uid, err := keyspace.ClusterUID(ctx, src, s.found.Prefix)
	if err != nil {
		uid = ""
	}
	return snapshotID(uid, s.member.Cluster)
}

func (s *saving) sayBefore() {
	inv := s.inv
	inv.say("member %s, %s", s.memberText(), s.why)
	if !s.quorum {
		inv.say("warning: etcd has no quorum: the snapshot holds what this member has, and others may have more")
	}
	for _, a := range s.alarms {
		switch a.Type {
		case "CORRUPT":
			inv.say("warning: member %x has raised the alarm CORRUPT: the members do not hold the same; compare snapshots of all of them before one is used", a.Member)
		default:
			inv.say("note: member %x has raised the alarm %s", a.Member, a.Type)
		}
	}
	if s.stdout() {
		return
	}
	for _, path := range unfinished(s.path) {
		inv.say("note: %s is unfinished: of a run that was killed, or still goes on; if none does, it can be removed", path)
	}
	if data := sharedEtcdDevice(inv.Root, s.dir); data != "" {
		inv.say("warning: %s shares the disk of etcd's own data (%s): if it runs full, etcd stops", s.dir, data)
	}
}

// memberText is "master-1 (8e9e05c52164694d, https://10.0.0.1:2379)".
func (s *saving) memberText() string {
	m := s.member
	if m.Name == "" {
		return fmt.Sprintf("%x (%s)", m.ID, m.Endpoint)
	}
	return fmt.Sprintf("%s (%x, %s)", m.Name, m.ID, m.Endpoint)
}

// sharedReserve is what is left to an etcd on the same disk.
const sharedReserve = 256 << 20

// room refuses what would not fit. A compressed snapshot is unpacked beside
// itself to be read back, which leaves more of the disk free.
func (s *saving) room(total int64) error {
	if s.stdout() {
		return nil
	}
	free, ok := freeSpace(s.dir)
	if ok && sharedEtcdDevice(s.inv.Root, s.dir) != "" {
		free -= sharedReserve
	}
	if n, err := snapshots.UnpackRoom(s.dir); ok && s.compress != "" && err == nil {
		free = min(free, n)
	}
	if !ok || free >= total {
		return nil
	}
	return &failure{exitFailed, fmt.Errorf("the snapshot takes %s, and %s has room for %s", term.Bytes(total), s.dir, term.Bytes(max(free, 0))), s.moreRoom()}
}

// moreRoom is what to do where there is too little.
func (s *saving) moreRoom() string {
	if s.compress != "" && !s.stdout() {
		return "to be read back it is unpacked there: name a place with room, leave out --" + flagCompress + ", or send it elsewhere: … snapshot save - --compress zstd | ssh HOST 'cat > FILE'"
	}
	return "name a place with room, or send it elsewhere: … snapshot save - | ssh HOST 'cat > FILE'"
}

// begin is told how long the snapshot is before its first byte is written.
func (s *saving) begin(total int64) error {
	if err := s.room(total); err != nil {
		return err
	}
	s.progress = term.NewProgress(s.inv.Streams, term.ProgressOptions{
		Total: total, Verb: "saving", Past: "received", Bytes: true, Quiet: s.inv.Bool(flagQuiet), JSON: s.inv.json(), Now: s.inv.Now,
	})
	return nil
}
