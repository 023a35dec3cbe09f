// Package restore makes an etcd data directory from a snapshot, with etcd's own code for it, etcdutl's. It starts no
// server and never touches a directory that exists.
//
// Its invariant: under its final name the directory appears only when it is complete, checked and on disk. Until then
// everything stands in a directory beside it, whose name ends in ".part", and which goes away after an error.
package restore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

var (
	// ErrOptions says that the options contradict each other; nothing was touched.
	ErrOptions = errors.New("these options do not go together")
	// ErrExists says that the data directory is there already.
	ErrExists = errors.New("data directory exists")
	// ErrPart says that the directory beside it is there: another restore writes it, or one that was killed left it.
	ErrPart = errors.New("unfinished data directory exists")
	// ErrArchive says that the file is an archive of deleted objects, from which no etcd can start.
	ErrArchive = errors.New("this is an archive of deleted objects, from which no etcd can start")
	// ErrNoHash says that the file ends without a hash that vouches for it.
	ErrNoHash = errors.New("file has no hash at its end")
)

// Hash says what is expected of the sha256 that "etcdctl snapshot save" appends to a file. A copy of a member's db has
// none. Pages and entries are checked whatever it says.
type Hash int

const (
	// HashRequired takes only a file with the right hash.
	HashRequired Hash = iota
	// HashIfThere takes a file without one, too.
	HashIfThere
	// HashIgnored does not look at it.
	HashIgnored
)

// The values that Kubernetes wants: watchers that lived through a restore hold revisions of the time that it took back,
// and must find all of these compacted, which makes them list anew. See https://github.com/etcd-io/etcd/issues/16028.
const (
	// DefaultBump is how far the revision is moved on: further than any cluster goes between two snapshots.
	DefaultBump = 1_000_000_000
	// DefaultName, DefaultPeerURL and DefaultToken are etcdutl's.
	DefaultName    = "default"
	DefaultPeerURL = "http://localhost:2380"
	DefaultToken   = "etcd-cluster"
)

// maxRevision leaves room for whatever follows.
const maxRevision = 1 << 62

// Options says what to restore, and into which member of which cluster.
type Options struct {
	// Snapshot is the path of a snapshot, or of a member's db, plain or compressed with zstd. It is only read.
	Snapshot string
	// Hash is what is expected of its end.
	Hash Hash
	// Look, if set, is shown the checked file before anything is made of it. Its error ends the restore, and is
	// returned as it is.
	Look func(*snapshots.File) error

	// DataDir is the directory to make. Its parent must exist.
	DataDir string
	// Name is the member's; empty means DefaultName.
	Name string
	// InitialCluster are all members, "NAME=URL,NAME=URL"; empty means Name alone, at PeerURLs.
	InitialCluster string
	// InitialClusterToken goes into the ids of cluster and members; empty means DefaultToken.
	InitialClusterToken string
	// PeerURLs are those of this member; empty means what InitialCluster says, or DefaultPeerURL.
	PeerURLs []string

	// BumpRevision is how far the revision is moved on; with MarkCompacted, and only then, above zero.
	BumpRevision int64
	// MarkCompacted makes all revisions up to the new one count as compacted.
	MarkCompacted bool
}

// Result says what was made.
type Result struct {
	// DataDir is absolute.
	DataDir string
	Name    string
	// Members are all of the cluster, sorted by name.
	Members []Member
	Token   string
	// SnapshotRevision is the newest one in the file, Revision that in the data directory, and Compacted the one
	// that is compacted there; 0 if none.
	SnapshotRevision, Revision, Compacted int64
	// HashKV is what every member answers to HashKV at Revision, as long as no other is compacted.
	HashKV *snapshots.HashKV
	// Keys is how many are alive.
	Keys int64
	// Bytes is the size of the db.
	Bytes int64
	// DB is the path of the db within DataDir.
	DB string
	// HasHash says whether the file had a hash, and HashChecked whether it was looked at.
	HasHash, HashChecked bool
	// EtcdVersion is the release, such as 3.6, of the cluster that the db is of; empty where it does not tell. From 3.6
	// on no etcd starts on the db of a newer release; those before do not look.
	EtcdVersion string
	// Alarms are those that the snapshot brings along, such as NOSPACE; the new cluster has them until they are disarmed.
	Alarms []string
}

// Member is one of the new cluster.
type Member struct {
	Name     string
	PeerURLs []string
}

// Restore makes a data directory, for one member. Every member of a new cluster needs one, from the same file and with
// the same InitialCluster, InitialClusterToken, BumpRevision and MarkCompacted.
//
// The file is checked first: etcd's own restore ends the process on a damaged one. Errors wrap one of this package's,
// one of package snapshots, or what the operating system said. After an error, and when ctx ends, nothing is left
// behind; only a killed process leaves a directory whose name ends in ".part". A goroutine may outlive a call whose ctx
// has ended, for a moment, or one after an error of the disk: etcd's code cannot be stopped.
func Restore(ctx context.Context, opt Options) (*Result, error) {
	members, err := opt.complete()
	if err != nil {
		return nil, err
	}
	dir, err := begin(opt.DataDir)
	if err != nil {
		return nil, err
	}
	r := &Result{DataDir: dir.final, Name: opt.Name, Members: members, Token: opt.InitialClusterToken}
	err = r.make(ctx, opt, dir)
	return r, errors.Join(err, dir.end(err == nil))
}

// complete fills in what is left out, and checks what is there before anything is done. etcd would ask name servers
// whether two URLs are the same; here they must be written alike.
func (o *Options) complete() ([]Member, error) {
	if o.BumpRevision < 0 || o.BumpRevision > maxRevision || (o.BumpRevision > 0) != o.MarkCompacted {
		return nil, fmt.Errorf("%w: the revision is moved on by %d, and marked as compacted: %t; it takes both or neither", ErrOptions, o.BumpRevision, o.MarkCompacted)
	}
	if o.DataDir == "" {
		return nil, fmt.Errorf("%w: no data directory is named", ErrOptions)
	}
	if o.Name == "" {
		o.Name = DefaultName
	}
	if o.InitialClusterToken == "" {
		o.InitialClusterToken = DefaultToken
	}
	if o.InitialCluster == "" {
		if len(o.PeerURLs) == 0 {
			o.PeerURLs = []string{DefaultPeerURL}
		}
		for i, u := range o.PeerURLs {
			if i > 0 {
				o.InitialCluster += ","
			}
			o.InitialCluster += o.Name + "=" + u
		}
	}
	all, err := types.NewURLsMap(o.InitialCluster)
	if err != nil {
		return nil, fmt.Errorf("%w: initial cluster %q: %w", ErrOptions, o.InitialCluster, err)
	}
	own, ok := all[o.Name]
	if !ok {
		return nil, fmt.Errorf("%w: initial cluster %q has no member %q", ErrOptions, o.InitialCluster, o.Name)
	}
	if len(o.PeerURLs) == 0 {
		o.PeerURLs = own.StringSlice()
	}
	peers, err := types.NewURLs(o.PeerURLs)
	if err != nil {
		return nil, fmt.Errorf("%w: peer URLs %q: %w", ErrOptions, o.PeerURLs, err)
	}
	own.Sort()
	if !slices.Equal(peers.StringSlice(), own.StringSlice()) {
		return nil, fmt.Errorf("%w: initial cluster %q has member %q at %q, and not at %q", ErrOptions, o.InitialCluster, o.Name, own.StringSlice(), peers.StringSlice())
	}
	var members []Member
	for name, urls := range all {
		members = append(members, Member{name, urls.StringSlice()})
	}
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return members, nil
}

// make does everything below dir.part.
func (r *Result) make(ctx context.Context, opt Options, dir *directory) error {
	src, err := open(ctx, opt, dir)
	if err != nil {
		return err
	}
	err = r.restore(ctx, opt, dir, src)
	if err = errors.Join(err, src.file.Close()); err != nil {
		return err
	}
	r.DB = filepath.Join(dir.final, dbPath)
	return r.inspect(ctx, opt, filepath.Join(dir.data(), dbPath))
}

// restore checks the file, which stays locked meanwhile, and makes a data directory of it.
func (r *Result) restore(ctx context.Context, opt Options, dir *directory, src *source) error {
	f := src.file
	if err := Check(ctx, f, opt.Hash); err != nil {
		return err
	}
	var err error
	if r.Keys, err = f.Count(ctx, "", "\x00", 0); err != nil {
		return err
	}
	r.SnapshotRevision, r.HasHash, r.HashChecked = f.Revision(), f.HasHash(), f.HasHash() && opt.Hash != HashIgnored
	if r.SnapshotRevision > maxRevision-opt.BumpRevision {
		return fmt.Errorf("%w: revision %d cannot be moved on by %d", ErrOptions, r.SnapshotRevision, opt.BumpRevision)
	}
	if opt.Look != nil {
		if err := opt.Look(f); err != nil {
			return err
		}
	}
	if err := dir.room(f.Size() + overhead); err != nil {
		return err
	}
	return runEtcd(ctx, snapshot.RestoreConfig{
		SnapshotPath: src.path, OutputDataDir: dir.data(), SkipHashCheck: true, // it was checked
		Name: opt.Name, PeerURLs: opt.PeerURLs, InitialCluster: opt.InitialCluster, InitialClusterToken: opt.InitialClusterToken,
		RevisionBump: uint64(opt.BumpRevision), MarkCompacted: opt.MarkCompacted,
	})
}

// dbPath is where etcd has its db below a data directory.
var dbPath = filepath.Join("member", "snap", "db")

// inspect reads what was made, and compares it with what was in the file.
func (r *Result) inspect(ctx context.Context, opt Options, db string) error {
	if err := r.readEtcd(db); err != nil {
		return err
	}
	report, err := snapshots.Verify(ctx, db, snapshots.VerifyOptions{Written: true})
	if err != nil {
		return fmt.Errorf("what was made of it: %w", err)
	}
	r.Revision, r.Compacted, r.Bytes, r.HashKV = report.Revision, report.Compacted, report.Bytes, report.HashKV
	switch {
	case report.Keys != r.Keys:
		return fmt.Errorf("%d keys were restored of %d", report.Keys, r.Keys)
	case opt.MarkCompacted && (r.Revision <= r.SnapshotRevision || r.Compacted != r.Revision):
		return fmt.Errorf("revision %d became %d, compacted up to %d", r.SnapshotRevision, r.Revision, r.Compacted)
	case !opt.MarkCompacted && r.Revision != r.SnapshotRevision:
		return fmt.Errorf("revision %d became %d", r.SnapshotRevision, r.Revision)
	}
	return nil
}
