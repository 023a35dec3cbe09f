package rehearse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

const (
	prefix  = "/registry/"
	zooFile = "../../testdata/zoo-1.36/snapshot.db.zst"
)

// world is a snapshot to rehearse on.
type world struct {
	t    *testing.T
	dir  string // for all that a rehearsal makes
	file *snapshots.File
	src  *keyspace.File
	uid  string
}

// zoo is a real cluster with many kinds of objects, encrypted, broken and with
// leases.
func zoo(t *testing.T) *world {
	t.Helper()
	path := filepath.Join(t.TempDir(), "zoo.db")
	in, err := os.Open(zooFile)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := zstd.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, z)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
	return newWorld(t, path)
}

func newWorld(t *testing.T, path string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), file: open(t, path)}
	w.src = keyspace.FromFile(w.file)
	uid, err := keyspace.ClusterUID(t.Context(), w.src, prefix)
	if err != nil && !errors.Is(err, keyspace.ErrNoIdentity) {
		t.Fatal(err)
	}
	w.uid = uid
	return w
}

func open(t *testing.T, path string) *snapshots.File {
	t.Helper()
	f, err := snapshots.Open(path, snapshots.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// below are the keys of the snapshot that begin so.
func (w *world) below(start string) []*mvccpb.KeyValue {
	w.t.Helper()
	var kvs []*mvccpb.KeyValue
	err := w.src.Scan(w.t.Context(), keyspace.Prefix(start), false, func(kv *mvccpb.KeyValue) error {
		kvs = append(kvs, kv)
		return nil
	})
	if err != nil || len(kvs) == 0 {
		w.t.Fatalf("%d keys below %s, %v", len(kvs), start, err)
	}
	return kvs
}

// deletes are steps that delete them.
func deletes(kvs ...*mvccpb.KeyValue) (steps []plan.Step) {
	for _, kv := range kvs {
		steps = append(steps, plan.Step{
			Action: plan.Delete, Key: string(kv.Key), ModRevision: kv.ModRevision, CreateRevision: kv.CreateRevision,
			Size: int64(len(kv.Value)), Role: plan.Selected, Reason: "test",
		})
	}
	return steps
}

func (w *world) header() plan.Header {
	return plan.Header{
		Tool: "test", Run: "run", Pass: 1, Operation: "delete", Created: time.Now().UTC(), ClusterUID: w.uid,
		Etcd: "main", Prefix: prefix, Revision: w.file.Revision(),
	}
}

func (w *world) plan(h plan.Header, steps ...plan.Step) *plan.Plan {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "plan.jsonl")
	out, err := plan.Create(path, h)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range steps {
		s.Type = "step"
		if err := out.Add(0, "key", s); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		w.t.Fatal(err)
	}
	p, err := plan.Open(w.t.Context(), path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { p.Close() })
	return p
}

// options are those of a rehearsal with nothing special. client is set when it
// has connected.
func (w *world) options(p *plan.Plan, client **clientv3.Client) Options {
	return Options{Plan: p, File: w.file, Dir: w.dir, Tool: "test", Open: func(ctx context.Context, endpoint string) (*Store, error) {
		c, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second})
		if err != nil {
			return nil, err
		}
		if client != nil {
			*client = c
		}
		return &Store{
			Client: c, Reader: &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix},
			Judge: judge{}, Leases: ttls{c}, Close: func() { c.Close() },
		}, nil
	}}
}

// rehearse runs it, and demands that nothing is left behind and the snapshot is
// what it was.
func (w *world) rehearse(opt Options) (*Report, error) {
	w.t.Helper()
	before, err := os.ReadFile(w.file.Path())
	if err != nil {
		w.t.Fatal(err)
	}
	report, err := Run(w.t.Context(), opt)
	w.empty()
	if opt.Temporary {
		if _, err := os.Stat(w.file.Path()); !errors.Is(err, os.ErrNotExist) {
			w.t.Errorf("a temporary snapshot is still there: %v", err)
		}
		return report, err
	}
	if after, err := os.ReadFile(w.file.Path()); err != nil || !bytes.Equal(before, after) {
		w.t.Errorf("the snapshot is not what it was: %v", err)
	}
	return report, err
}

func (w *world) empty() {
	w.t.Helper()
	if left, err := os.ReadDir(w.dir); err != nil || len(left) > 0 {
		w.t.Errorf("left behind: %v, %v", left, err)
	}
}

// judge skips what ends in "-skipped" and lets the rest pass.
type judge struct{}

func (judge) StillMeant(_ context.Context, s plan.Step, _ *mvccpb.KeyValue) (bool, string, error) {
	return !strings.HasSuffix(s.Reason, "-skipped"), "not meant any more", nil
}

type ttls struct{ *clientv3.Client }

func (l ttls) GrantedTTL(ctx context.Context, id int64) (int64, error) {
	resp, err := l.TimeToLive(ctx, clientv3.LeaseID(id))
	if err != nil {
		return 0, err
	}
	return max(resp.GrantedTTL, 0), nil
}

// watcher tells of the phases and calls what a test wants done in them.
type watcher struct {
	mu     sync.Mutex
	phases []string
	steps  int
	begin  func(Phase)
	finish func(n int)
}

func (o *watcher) Begin(p Phase, total int64) {
	o.phases = append(o.phases, fmt.Sprint(p, total > 0))
	if o.begin != nil {
		o.begin(p)
	}
}

func (o *watcher) Finished(plan.Step, apply.Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.steps++; o.finish != nil {
		o.finish(o.steps)
	}
}
