package restore_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/zap"

	bolt "go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/restore"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// TestLikeEtcdutl: a server on our data directory, and one on that of etcdutl with the same flags, hold the same, by
// etcd's own hash and key by key.
func TestLikeEtcdutl(t *testing.T) {
	t.Parallel()
	file := zoo(t)
	whole := read(t, file)
	member := write(t, whole[:len(whole)-sha256.Size])
	for _, tt := range []struct {
		name string
		opt  restore.Options
		rev  int64
	}{
		{"as Kubernetes wants", restore.Options{Snapshot: file, BumpRevision: restore.DefaultBump, MarkCompacted: true}, zooRevision + restore.DefaultBump},
		{"as it was", restore.Options{Snapshot: file}, zooRevision},
		{"copy of a member's db", restore.Options{Snapshot: member, Hash: restore.HashIfThere, BumpRevision: 5, MarkCompacted: true}, zooRevision + 5},
		{"hash ignored", restore.Options{Snapshot: write(t, flipped(whole, len(whole)-1)), Hash: restore.HashIgnored}, zooRevision},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if testing.Short() && !tt.opt.MarkCompacted {
				t.Skip("what is slow here is etcd's own code")
			}
			t.Parallel()
			box, c := lab.Box(t, sandbox.Options{NoFsync: true})
			p := vacate(t, box, c)
			r := mustRestore(t, p.into(tt.opt))
			if r.Revision != tt.rev || r.SnapshotRevision != zooRevision || r.Keys != zooKeys {
				t.Errorf("got %+v", r)
			}
			if err := box.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			ours := viewOf(t, client(t, box), box.Endpoints()[0], tt.rev)
			if r.HashKV == nil || ours.Hash != int64(r.HashKV.Hash) || ours.Compacted != r.HashKV.CompactRevision {
				t.Errorf("etcd's hash is %d, compacted up to %d; the restore said %+v", ours.Hash, ours.Compacted, r.HashKV)
			}
			if len(ours.Keys) != zooKeys || tt.opt.MarkCompacted != (ours.Compacted == tt.rev) {
				t.Errorf("%d keys, compacted up to %d", len(ours.Keys), ours.Compacted)
			}
			if err := box.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(p.dir, p.dir+".ours"); err != nil {
				t.Fatal(err)
			}
			etcdutl(t, p, tt.opt)
			if err := box.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			same(t, "ours against etcdutl's", ours, viewOf(t, client(t, box), box.Endpoints()[0], tt.rev))
		})
	}
}

// etcdutl restores as the command of that name does, with the same flags.
func etcdutl(t *testing.T, p place, opt restore.Options) {
	t.Helper()
	_, url, _ := strings.Cut(p.cluster, "=")
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: opt.Snapshot, SkipHashCheck: opt.Hash != restore.HashRequired,
		Name: p.name, OutputDataDir: p.dir, PeerURLs: []string{url}, InitialCluster: p.cluster, InitialClusterToken: token,
		RevisionBump: uint64(opt.BumpRevision), MarkCompacted: opt.MarkCompacted,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func client(t *testing.T, box *sandbox.Sandbox) *clientv3.Client {
	t.Helper()
	c, err := box.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestCompactedForWatchers: who watches from a revision of before the restore, or of the time that it took back, is
// told that it is compacted.
func TestCompactedForWatchers(t *testing.T) {
	t.Parallel()
	box, c := lab.Box(t, sandbox.Options{NoFsync: true})
	put(t, c, "/a", "1")
	file := save(t, c)
	put(t, c, "/a", "2")
	future := put(t, c, "/b", "1")
	p := vacate(t, box, c)
	r := mustRestore(t, p.into(restore.Options{Snapshot: file, BumpRevision: restore.DefaultBump, MarkCompacted: true}))
	if err := box.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	c = client(t, box)
	for _, from := range []int64{future, future + 1, r.Revision - 1} {
		ctx, cancel := context.WithCancel(t.Context())
		got := <-c.Watch(ctx, "/", clientv3.WithPrefix(), clientv3.WithRev(from))
		cancel()
		if got.CompactRevision != r.Revision {
			t.Errorf("a watch from %d hears of %d compacted, %v; want %d", from, got.CompactRevision, got.Err(), r.Revision)
		}
	}
	if next := put(t, c, "/c", "1"); next != r.Revision+1 {
		t.Errorf("the next revision is %d, want one more than %d", next, r.Revision)
	}
}

func put(t *testing.T, c *clientv3.Client, key, value string) int64 {
	t.Helper()
	r, err := c.Put(t.Context(), key, value)
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

// TestClusterOfThree: three members from one compressed file find each other, agree, and take writes.
func TestClusterOfThree(t *testing.T) {
	if testing.Short() {
		t.Skip("what is slow here is etcd's own code")
	}
	t.Parallel()
	c, err := sandbox.StartCluster(t.Context(), sandbox.ClusterOptions{Options: sandbox.Options{NoFsync: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	places := vacateAll(t, c)
	const rev = zooRevision + restore.DefaultBump
	for _, p := range places {
		r := mustRestore(t, p.into(restore.Options{Snapshot: zooSnapshot, BumpRevision: restore.DefaultBump, MarkCompacted: true}))
		if r.Revision != rev || len(r.Members) != 3 || r.Name != p.name || r.EtcdVersion != "3.6" {
			t.Errorf("got %+v", r)
		}
	}
	var all sync.WaitGroup
	for i := range c.Members() {
		all.Go(func() {
			if err := c.Member(i).Restart(t.Context()); err != nil {
				t.Errorf("member %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	if _, err := c.Leader(t.Context()); err != nil {
		t.Fatal(err)
	}
	var views []view
	for i := range c.Members() {
		m, err := c.Member(i).Client(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		views = append(views, viewOf(t, m, m.Endpoints()[0], rev))
		put(t, m, "/written-by/"+strconv.Itoa(i), "1")
	}
	same(t, "member 1 against member 0", views[1], views[0])
	same(t, "member 2 against member 0", views[2], views[0])
	if len(views[0].Keys) != zooKeys {
		t.Errorf("%d keys, want %d", len(views[0].Keys), zooKeys)
	}
}

func vacateAll(t *testing.T, c *sandbox.Cluster) []place {
	t.Helper()
	m, err := c.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	list, err := m.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	places := make([]place, c.Members())
	var initial []string
	for _, member := range list.Members {
		initial = append(initial, member.Name+"="+member.PeerURLs[0])
		for i := range places {
			if c.Member(i).ID() == member.ID {
				places[i] = place{dir: filepath.Join(c.Dir(), strconv.Itoa(i), "data"), name: member.Name}
			}
		}
	}
	for i := range places {
		places[i].cluster = strings.Join(initial, ",")
		if err := c.Member(i).Kill(); err != nil {
			t.Fatal(err)
		}
		moveAway(t, places[i].dir)
	}
	return places
}

// TestWhatIsMade: modes as etcd wants them, nothing beside it, and the file as it was.
func TestWhatIsMade(t *testing.T) {
	t.Parallel()
	file := zoo(t)
	before := sha256.Sum256(read(t, file))
	parent := t.TempDir()
	r := mustRestore(t, restore.Options{Snapshot: file, DataDir: filepath.Join(parent, "new"), Name: "m2",
		InitialCluster: "m2=https://10.0.0.2:2380,m1=https://10.0.0.1:2380,m1=https://10.0.0.9:2380", BumpRevision: 7, MarkCompacted: true})
	want := &restore.Result{
		DataDir: filepath.Join(parent, "new"), DB: filepath.Join(parent, "new", "member", "snap", "db"), Name: "m2",
		Members: []restore.Member{
			{Name: "m1", PeerURLs: []string{"https://10.0.0.1:2380", "https://10.0.0.9:2380"}}, {Name: "m2", PeerURLs: []string{"https://10.0.0.2:2380"}},
		},
		Token: restore.DefaultToken, SnapshotRevision: zooRevision, Revision: zooRevision + 7, Compacted: zooRevision + 7,
		HashKV: r.HashKV, Keys: zooKeys, Bytes: r.Bytes, HasHash: true, HashChecked: true, EtcdVersion: "3.6",
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if sha256.Sum256(read(t, file)) != before {
		t.Error("the file was changed")
	}
	only(t, parent, "new")
	only(t, filepath.Join(parent, "new"), "member")
	only(t, filepath.Join(parent, "new", "member"), "snap", "wal")
	for _, dir := range []string{"", "member", "member/snap", "member/wal"} {
		if st, err := os.Stat(filepath.Join(parent, "new", dir)); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%q: %v, %v", dir, st, err)
		}
	}
	if st, err := os.Stat(r.DB); err != nil || st.Mode().Perm() != 0o600 || st.Size() != r.Bytes {
		t.Errorf("db: %v, %v", st, err)
	}
}

// bare makes a db with no more than these buckets, and keys.
func bare(t *testing.T, keys map[string]string, buckets ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bare.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		for k, v := range keys {
			if err := tx.Bucket([]byte("key")).Put([]byte(k), []byte(v)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBareDB: of a db that has next to nothing, etcd makes what is missing.
func TestBareDB(t *testing.T) {
	t.Parallel()
	one := map[string]string{"\x00\x00\x00\x00\x00\x00\x00\x05_\x00\x00\x00\x00\x00\x00\x00\x00": "\x0a\x02/a\x10\x05\x18\x05\x20\x01"}
	for name, keys := range map[string]map[string]string{"no key": nil, "one key": one} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opt := restore.Options{Snapshot: bare(t, keys, "key", "meta"), Hash: restore.HashIfThere, BumpRevision: 10, MarkCompacted: true}
			box, c := lab.Box(t, sandbox.Options{NoFsync: true})
			r := mustRestore(t, vacate(t, box, c).into(opt))
			if r.Keys != int64(len(keys)) || r.EtcdVersion != "" || r.Alarms != nil {
				t.Errorf("got %+v", r)
			}
			if err := box.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if v := viewOf(t, client(t, box), box.Endpoints()[0], r.Revision); len(v.Keys) != len(keys) || v.Hash != int64(r.HashKV.Hash) {
				t.Errorf("etcd has %+v, want hash %d", v, r.HashKV.Hash)
			}
		})
	}
}

// TestZeros: a value that is zeros for whole pages, such as a tar archive in a Secret, keeps nobody from a restore.
func TestZeros(t *testing.T) {
	t.Parallel()
	_, c := lab.Box(t, sandbox.Options{NoFsync: true})
	if _, err := c.Put(t.Context(), "/registry/secrets/default/tar", "k8s\x00"+strings.Repeat("\x00", 100_000)+"end"); err != nil {
		t.Fatal(err)
	}
	if r := mustRestore(t, restore.Options{Snapshot: save(t, c), DataDir: filepath.Join(t.TempDir(), "new")}); r.Keys != 1 {
		t.Errorf("got %+v", r)
	}
}

// TestAlarmsComeAlong: a snapshot of a full cluster makes a cluster that is full from the start.
func TestAlarmsComeAlong(t *testing.T) {
	t.Parallel()
	_, c := lab.Box(t, sandbox.Options{NoFsync: true, QuotaBytes: 1 << 20})
	value := strings.Repeat("x", 512<<10)
	for i := 0; ; i++ {
		if _, err := c.Put(t.Context(), "/k", value); err != nil {
			break
		} else if i == 100 {
			t.Fatal("the store never becomes full")
		}
	}
	r := mustRestore(t, restore.Options{Snapshot: save(t, c), DataDir: filepath.Join(t.TempDir(), "new")})
	if diff := cmp.Diff([]string{"NOSPACE"}, r.Alarms); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRefused: whatever is wrong, it is said, and nothing is left.
func TestRefused(t *testing.T) {
	t.Parallel()
	good := zoo(t)
	whole := read(t, good)
	a, err := snapshots.CreateArchive(filepath.Join(t.TempDir(), "archive.db"), snapshots.ArchiveInfo{})
	if err != nil || a.Close() != nil {
		t.Fatal(err)
	}
	looked := errors.New("looked")
	type opt = restore.Options
	for _, tt := range []struct {
		name string
		opt  opt
		is   error
		text string
	}{
		{"missing", opt{Snapshot: "/no/such/file"}, fs.ErrNotExist, "/no/such/file"},
		{"directory", opt{Snapshot: t.TempDir()}, snapshots.ErrNotDB, "not a regular file"},
		{"empty", opt{Snapshot: write(t, nil)}, snapshots.ErrNotDB, "empty"},
		{"rubbish", opt{Snapshot: write(t, []byte(strings.Repeat("rubbish ", 9000)))}, snapshots.ErrNotDB, ""},
		{"archive", opt{Snapshot: a.Path(), Hash: restore.HashIgnored}, restore.ErrArchive, ""},
		{"no hash", opt{Snapshot: write(t, whole[:len(whole)-sha256.Size])}, restore.ErrNoHash, ""},
		{"cut short", opt{Snapshot: write(t, whole[:len(whole)/2])}, nil, ""},
		{"flipped bit", opt{Snapshot: write(t, flipped(whole, len(whole)/2))}, snapshots.ErrDamaged, "sha256"},
		{"flipped hash", opt{Snapshot: write(t, flipped(whole, len(whole)-1)), Hash: restore.HashIfThere}, snapshots.ErrDamaged, "sha256"},
		{"cut short, unseen by its hash", opt{Snapshot: write(t, whole[:1<<20]), Hash: restore.HashIgnored}, snapshots.ErrDamaged, ""},
		{"zstd cut short", opt{Snapshot: write(t, read(t, zooSnapshot)[:100_000])}, snapshots.ErrDamaged, "cut short"},
		{"zstd of zstd", opt{Snapshot: write(t, packed(t, read(t, zooSnapshot)))}, snapshots.ErrNotDB, "twice"},
		{"zstd of rubbish", opt{Snapshot: write(t, packed(t, []byte(strings.Repeat("rubbish ", 9000))))}, snapshots.ErrNotDB, ""},
		{"no bucket meta", opt{Snapshot: bare(t, nil, "key"), Hash: restore.HashIfThere}, nil, "etcd gave up: failed to find a bucket"},
		{"refused by who looks", opt{Snapshot: good, Look: func(*snapshots.File) error { return looked }}, looked, ""},
		{"bump alone", opt{Snapshot: good, BumpRevision: 1}, restore.ErrOptions, "both or neither"},
		{"mark alone", opt{Snapshot: good, MarkCompacted: true}, restore.ErrOptions, "both or neither"},
		{"backwards", opt{Snapshot: good, BumpRevision: -1, MarkCompacted: true}, restore.ErrOptions, "moved on by -1"},
		{"beyond all revisions", opt{Snapshot: good, BumpRevision: 1 << 62, MarkCompacted: true}, restore.ErrOptions, "cannot be moved on"},
		{"not a member", opt{Snapshot: good, Name: "m3", InitialCluster: "m1=http://a:1,m2=http://b:1"}, restore.ErrOptions, `no member "m3"`},
		{"no URL", opt{Snapshot: good, InitialCluster: "default=a"}, restore.ErrOptions, "initial cluster"},
		{"no peer URL", opt{Snapshot: good, PeerURLs: []string{"a"}}, restore.ErrOptions, "a"},
		{"another peer URL", opt{Snapshot: good, InitialCluster: "default=http://127.0.0.1:1", PeerURLs: []string{"http://127.0.0.1:2"}}, restore.ErrOptions, "not at"},
		{"two members at one URL", opt{Snapshot: good, InitialCluster: "default=http://127.0.0.1:1,b=http://127.0.0.1:1"}, nil, "duplicate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			tt.opt.DataDir = filepath.Join(parent, "new")
			_, err := restore.Restore(t.Context(), tt.opt)
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v, %q", err, tt.is, tt.text)
			}
			only(t, parent)
		})
	}
}

func packed(t *testing.T, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// TestNeverOver: a directory that is there stays as it is, empty or not, and so does a file or a link.
func TestNeverOver(t *testing.T) {
	t.Parallel()
	file := zoo(t)
	for name, make := range map[string]func(path string) error{
		"empty directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"file":            func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"dangling link":   func(path string) error { return os.Symlink("nowhere", path) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			path := filepath.Join(parent, "new")
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := restore.Restore(t.Context(), restore.Options{Snapshot: file, DataDir: path}); !errors.Is(err, restore.ErrExists) {
				t.Errorf("got %v", err)
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) || after.Mode() != before.Mode() {
				t.Errorf("it became %v, %v", after, err)
			}
			only(t, parent, "new")
		})
	}
}

// TestMadeMeanwhile: what appears under the name while the restore runs is not replaced either.
func TestMadeMeanwhile(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	path := filepath.Join(parent, "new")
	_, err := restore.Restore(t.Context(), restore.Options{Snapshot: zoo(t), DataDir: path, Look: func(*snapshots.File) error { return os.Mkdir(path, 0o700) }})
	if !errors.Is(err, restore.ErrExists) {
		t.Errorf("got %v", err)
	}
	only(t, parent, "new")
	only(t, path)
}

// TestPart: neither the directory of a running restore nor that of a killed one is touched, and which it is, is said.
func TestPart(t *testing.T) {
	t.Parallel()
	file, parent := zoo(t), t.TempDir()
	path := filepath.Join(parent, "new")
	again := func(*snapshots.File) error {
		_, err := restore.Restore(t.Context(), restore.Options{Snapshot: file, DataDir: path})
		return err
	}
	_, err := restore.Restore(t.Context(), restore.Options{Snapshot: file, DataDir: path, Look: again})
	if !errors.Is(err, restore.ErrPart) || !strings.Contains(err.Error(), "is being written by another restore") {
		t.Errorf("beside a running one: %v", err)
	}
	only(t, parent)
	if err := os.MkdirAll(filepath.Join(path+".part", "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := again(nil); !errors.Is(err, restore.ErrPart) || !strings.Contains(err.Error(), "was left by a restore that did not end") {
		t.Errorf("after a killed one: %v", err)
	}
	only(t, parent, "new.part")
	only(t, path+".part", "data")
}

// TestInterrupted: nothing stays when ctx ends, before, or in the middle.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{"plain": zoo(t), "zstd": zooSnapshot} {
		parent := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		opt := restore.Options{Snapshot: file, DataDir: filepath.Join(parent, "new"), Look: func(*snapshots.File) error { cancel(); return nil }}
		for _, when := range []string{"in the middle", "before"} {
			if _, err := restore.Restore(ctx, opt); !errors.Is(err, context.Canceled) {
				t.Errorf("%s, %s: %v", name, when, err)
			}
			only(t, parent)
		}
	}
}
