package apply_test

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

const (
	prefix     = "/registry/"
	podsPrefix = "/registry/pods/ops-tools/"
	jobKey     = "/registry/jobs/ops-tools/error-ret"
	podCount   = 300
)

// store is a real etcd with the incident in it, made small.
type store struct {
	*clientv3.Client
	t      *testing.T
	before map[string]*mvccpb.KeyValue
}

func newStore(t *testing.T) *store {
	t.Helper()
	return newStoreIn(t, sandbox.Options{Mode: sandbox.InProcess})
}

func newStoreIn(t *testing.T, opt sandbox.Options) *store {
	t.Helper()
	taken := map[string]bool{}
	opt.Fixture, opt.NoFsync = sandbox.Runaway30k, true
	opt.Keep = func(key string) bool {
		if !strings.HasPrefix(key, podsPrefix) {
			return !strings.Contains(key, "leases/") && !strings.HasPrefix(key, "/registry/events/")
		}
		if len(taken) < podCount {
			taken[key] = true
		}
		return taken[key]
	}
	_, client := lab.Box(t, opt)
	s := &store{Client: client, t: t}
	s.before = s.all()
	return s
}

// all reads every key there is.
func (s *store) all() map[string]*mvccpb.KeyValue {
	s.t.Helper()
	src, err := keyspace.Pin(s.t.Context(), s.Client, prefix, keyspace.Options{Timeout: 10 * time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	all := map[string]*mvccpb.KeyValue{}
	err = src.Scan(s.t.Context(), keyspace.Prefix("/"), false, func(kv *mvccpb.KeyValue) error {
		all[string(kv.Key)] = kv
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

func (s *store) revision() int64 {
	s.t.Helper()
	resp, err := s.Get(s.t.Context(), prefix)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Header.Revision
}

func (s *store) filter(sel filter.Selection) (*filter.Filter, *filter.Owners, keyspace.Source) {
	s.t.Helper()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	src, err := keyspace.Pin(s.t.Context(), s.Client, prefix, keyspace.Options{Timeout: 10 * time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	owners := filter.NewOwners(src, reader, nil)
	f, err := filter.New(sel, reader, owners)
	if err != nil {
		s.t.Fatal(err)
	}
	return f, owners, src
}

func selection() filter.Selection {
	return filter.Selection{
		Resource: "pods", Namespace: "ops-tools", Owner: &filter.OwnerRef{Group: "batch", Kind: "Job", Name: "error-ret"},
	}
}

func selectionOf(names ...string) filter.Selection {
	return filter.Selection{Resource: "pods", Namespace: "ops-tools", Names: names}
}

// plan makes a plan that deletes the pods, and their Job before them.
func (s *store) plan() *plan.Plan {
	s.t.Helper()
	p := s.planOf(selection(), true)
	if n := p.Trailer().Steps; n != podCount+1 {
		s.t.Fatalf("plan has %d steps, want %d", n, podCount+1)
	}
	return p
}

func (s *store) planOf(sel filter.Selection, withOwners bool) *plan.Plan {
	s.t.Helper()
	f, owners, src := s.filter(sel)
	path := filepath.Join(s.t.TempDir(), "plan.jsonl")
	w, err := plan.Create(path, plan.Header{Operation: "delete", Prefix: prefix})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := plan.Deletes(s.t.Context(), plan.Request{Source: src, Filter: f, Owners: owners, Prefix: prefix, WithOwners: withOwners}, w); err != nil {
		s.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
	p, err := plan.Open(s.t.Context(), path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { p.Close() })
	return p
}

func (s *store) archive() *snapshots.Archive {
	s.t.Helper()
	a, err := snapshots.CreateArchive(filepath.Join(s.t.TempDir(), "archive.db"), snapshots.ArchiveInfo{Run: "test", Prefix: prefix, Time: time.Now()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { a.Close() })
	return a
}

func (s *store) judge(sel filter.Selection) plan.Judge {
	f, _, _ := s.filter(sel)
	return plan.Judge{Filter: f, Guard: f.Guard(keyspace.Current(s.Client, keyspace.Options{Timeout: time.Minute}))}
}

func (s *store) run(a apply.Archive) apply.Run {
	return apply.Run{
		Store: s.Client, Archive: a, Judge: s.judge(selection()),
		Options: apply.Options{Prefix: prefix, Backoff: func(context.Context, int) error { return nil }},
	}
}

func (s *store) execute(r apply.Run, p *plan.Plan) *apply.Result {
	s.t.Helper()
	result, err := r.Plan(s.t.Context(), p)
	if err != nil {
		s.t.Fatal(err)
	}
	return result
}

// archived reads an archive that is closed first.
func (s *store) archived(a *snapshots.Archive) map[string]*mvccpb.KeyValue {
	s.t.Helper()
	if err := a.Close(); err != nil {
		s.t.Fatal(err)
	}
	f, err := snapshots.Open(a.Path(), snapshots.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	found := map[string]*mvccpb.KeyValue{}
	err = f.Entries(s.t.Context(), func(_ snapshots.Position, kv *mvccpb.KeyValue) error {
		found[string(kv.Key)] = kv
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

// mustHoldAll checks that archive and store together hold every object that
// there was, with its bytes.
func (s *store) mustHoldAll(a *snapshots.Archive) {
	s.t.Helper()
	kept, now := s.archived(a), s.all()
	for key, kv := range s.before {
		if got := now[key]; got != nil && bytes.Equal(got.Value, kv.Value) {
			continue
		}
		if got := kept[key]; got == nil || !bytes.Equal(got.Value, kv.Value) {
			s.t.Errorf("%s is lost: neither in etcd nor in the archive", key)
		}
	}
}

func wantCounts(t *testing.T, r *apply.Result, want map[apply.Outcome]int64) {
	t.Helper()
	for o, got := range r.Counts {
		if got != want[apply.Outcome(o)] {
			t.Errorf("outcome %d: %d steps, want %d (problems: %v)", o, got, want[apply.Outcome(o)], r.Problems[:min(3, len(r.Problems))])
		}
	}
}

// faulty is a store whose transactions fail on demand.
type faulty struct {
	*clientv3.Client
	mu    sync.Mutex
	calls int
	// fault tells the error of the n-th transaction, and whether it is
	// applied all the same.
	fault func(n int) (err error, applied bool)
}

func (f *faulty) Txn(ctx context.Context) clientv3.Txn {
	return &faultyTxn{f: f, inner: f.Client.Txn(ctx)}
}

type faultyTxn struct {
	f     *faulty
	inner clientv3.Txn
}

func (t *faultyTxn) If(cs ...clientv3.Cmp) clientv3.Txn   { t.inner = t.inner.If(cs...); return t }
func (t *faultyTxn) Then(ops ...clientv3.Op) clientv3.Txn { t.inner = t.inner.Then(ops...); return t }
func (t *faultyTxn) Else(ops ...clientv3.Op) clientv3.Txn { t.inner = t.inner.Else(ops...); return t }
func (t *faultyTxn) Commit() (*clientv3.TxnResponse, error) {
	t.f.mu.Lock()
	t.f.calls++
	err, applied := t.f.fault(t.f.calls)
	t.f.mu.Unlock()
	if err != nil && !applied {
		return nil, err
	}
	resp, innerErr := t.inner.Commit()
	if err != nil {
		return nil, err
	}
	return resp, innerErr
}

// smallBatches is a Pacer that delays nothing and keeps the batches small.
type smallBatches struct{}

func (smallBatches) Wait(ctx context.Context) error { return ctx.Err() }
func (smallBatches) Answered(time.Duration, error)  {}
func (smallBatches) PerSecond() float64             { return 400 }
func (smallBatches) Why() string                    { return "" }
