package heat_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/heat"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// patience ends a test that hangs; nothing is measured by it.
const patience = time.Minute

func TestMain(m *testing.M) { lab.Main(m) }

func start(t *testing.T, mode sandbox.Mode) (*sandbox.Sandbox, *clientv3.Client) {
	t.Helper()
	return lab.Box(t, sandbox.Options{NoFsync: true, Mode: mode})
}

// cut makes each segment of a key a level.
func cut(key string) (ends []int) {
	for i := range key {
		if key[i] == '/' && i > 0 {
			ends = append(ends, i+1)
		}
	}
	return ends
}

func options() heat.Options {
	return heat.Options{
		Levels: cut, Timeout: patience, Settle: patience, Now: time.Now,
		By: func(_ context.Context, _ string, value []byte) string { return string(value) },
	}
}

func sampler(t *testing.T, client *clientv3.Client) *heat.Sampler {
	t.Helper()
	s, err := heat.Start(t.Context(), []heat.Store{{Watcher: client, Connection: client.ActiveConnection(), Prefix: "/registry/"}}, options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := c.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

// TestSampler: what is written after the start and below the prefix is
// counted, all of it, and nothing else.
func TestSampler(t *testing.T) {
	t.Parallel()
	_, c := start(t, sandbox.InProcess)
	put(t, c, "/registry/pods/team/a", "before")
	s := sampler(t, c)
	put(t, c, "/registry/pods/team/a", "kubelet")
	put(t, c, "/registry/pods/team/a", "kubelet")
	put(t, c, "/registry/pods/team/b", "job")
	put(t, c, "/elsewhere", "x")
	put(t, c, "/registryx/pods/team/a", "x")
	if _, err := c.Delete(t.Context(), "/registry/pods/team/b"); err != nil {
		t.Fatal(err)
	}
	sample := s.Take()
	if got, want := sample.Total(), (heat.Writes{Creates: 1, Updates: 2, Deletes: 1, Bytes: 17}); got != want || sample.Keys() != 2 {
		t.Errorf("%+v of %d keys, want %+v", got, sample.Keys(), want)
	}
	if sample.Took() <= 0 {
		t.Errorf("took %s", sample.Took())
	}
	if top := sample.Tree(0, 0); top.By != "job" && top.By != "kubelet" {
		t.Errorf("written by %q", top.By)
	}
	// The next sample begins where this one ended.
	const n = 1000
	for i := range n {
		put(t, c, fmt.Sprintf("/registry/pods/team/n%d", i), "job")
	}
	if sample = s.Take(); sample.Total() != (heat.Writes{Creates: n, Bytes: 3 * n}) {
		t.Errorf("%+v, want %d creates", sample.Total(), n)
	}
	if sample = s.Take(); sample.Total() != (heat.Writes{}) {
		t.Errorf("%+v, and nothing was written", sample.Total())
	}
	select {
	case err := <-s.Lost():
		t.Errorf("lost: %v", err)
	default:
	}
}

// TestTwoStores: both are counted in one sample.
func TestTwoStores(t *testing.T) {
	t.Parallel()
	_, one := start(t, sandbox.InProcess)
	_, two := start(t, sandbox.InProcess)
	s, err := heat.Start(t.Context(), []heat.Store{{Watcher: one, Prefix: "/registry/"}, {Watcher: two, Prefix: "/registry/"}}, options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, one, "/registry/pods/a", "x")
	put(t, two, "/registry/events/a", "x")
	if got := s.Take().Total(); got != (heat.Writes{Creates: 2, Bytes: 2}) {
		t.Errorf("%+v of two stores", got)
	}
}

// TestLostConnection: when etcd dies the sampler says so, and has what it
// counted.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	box, c := start(t, sandbox.Child)
	s := sampler(t, c)
	put(t, c, "/registry/pods/a", "x")
	if got := s.Take().Total(); got.Creates != 1 {
		t.Fatalf("%+v", got)
	}
	put(t, c, "/registry/pods/b", "x")
	if err := box.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.Lost():
		var lost *heat.LostError
		if !errors.As(err, &lost) || !strings.Contains(err.Error(), "connection to etcd was lost") {
			t.Errorf("lost: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("nothing says that the connection was lost")
	}
	if got := s.Take().Total(); got.Creates > 1 { // whether it came before the end is etcd's affair
		t.Errorf("%+v", got)
	}
}

// fake is a watch whose answers the test makes.
type fake struct{ answers chan clientv3.WatchResponse }

func (f fake) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	if op := clientv3.OpGet(key, opts...); op.Rev() != 0 || string(op.RangeBytes()) != "/registry0" {
		panic(fmt.Sprintf("watches to %q from revision %d", op.RangeBytes(), op.Rev()))
	}
	return f.answers
}

func (f fake) RequestProgress(ctx context.Context) error { return errors.New("not known here") }

// TestCancelled: a watch that etcd cancels is an error at the start, and lost
// later.
func TestCancelled(t *testing.T) {
	t.Parallel()
	cancelled := clientv3.WatchResponse{Canceled: true, CancelReason: "permission denied"}
	compacted := clientv3.WatchResponse{Canceled: true, CompactRevision: 7}
	for _, tc := range []struct {
		name    string
		answers []clientv3.WatchResponse
		started bool
		want    string
	}{
		{"at the start", []clientv3.WatchResponse{cancelled}, false, "permission denied"},
		{"closed at the start", nil, false, "etcd closed it"},
		{"later", []clientv3.WatchResponse{{Created: true}, cancelled}, true, "permission denied"},
		{"compacted", []clientv3.WatchResponse{{Created: true}, compacted}, true, "compacted"},
		{"closed", []clientv3.WatchResponse{{Created: true}}, true, "etcd closed it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			answers := make(chan clientv3.WatchResponse, len(tc.answers))
			for _, a := range tc.answers {
				answers <- a
			}
			close(answers)
			s, err := heat.Start(t.Context(), []heat.Store{{Watcher: fake{answers}, Prefix: "/registry/"}}, options())
			if (err == nil) != tc.started {
				t.Fatalf("start: %v", err)
			}
			if err == nil {
				defer s.Close()
				err = <-s.Lost()
				s.Take() // does not wait for a server that cannot be asked
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
}

// TestStartEnds: with its context, and with its time.
func TestStartEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	never := neverBegins{}
	if _, err := heat.Start(ctx, []heat.Store{{Watcher: never, Prefix: "/registry/"}}, options()); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	opt := options()
	opt.Timeout = time.Nanosecond
	if _, err := heat.Start(t.Context(), []heat.Store{{Watcher: never, Prefix: "/registry/"}}, opt); err == nil || !strings.Contains(err.Error(), "did not begin") {
		t.Errorf("in no time: %v", err)
	}
}

// neverBegins is an etcd that does not answer.
type neverBegins struct{}

func (neverBegins) Watch(ctx context.Context, _ string, _ ...clientv3.OpOption) clientv3.WatchChan {
	answers := make(chan clientv3.WatchResponse)
	context.AfterFunc(ctx, func() { close(answers) })
	return answers
}

func (neverBegins) RequestProgress(context.Context) error { return nil }

// TestWhole: only etcd's word tells that everything was sent; one that says
// nothing must not look like one that nothing is written to.
func TestWhole(t *testing.T) {
	t.Parallel()
	_, client := start(t, sandbox.InProcess)
	if s := sampler(t, client).Take(); !s.Whole() {
		t.Error("a healthy etcd was asked, and its sample is not whole")
	}
	answers := make(chan clientv3.WatchResponse, 1)
	answers <- clientv3.WatchResponse{Created: true}
	opt := options()
	opt.Settle = time.Millisecond
	s, err := heat.Start(t.Context(), []heat.Store{{Watcher: fake{answers}, Prefix: "/registry/"}}, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	defer close(answers)
	if s.Take().Whole() {
		t.Error("etcd said nothing, and the sample is whole")
	}
}
