package keyspace_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// fails answers every read with an error.
type fails struct{ err error }

func (f fails) Get(context.Context, string, ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return nil, f.err
}

// TestNoLeader: what a leader could have answered is told from the rest, so
// that people hear of the reads that need none.
func TestNoLeader(t *testing.T) {
	t.Parallel()
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		opt  keyspace.Options
		err  error
		want bool
	}{
		{"no leader", t.Context(), keyspace.Options{}, rpctypes.ErrNoLeader, true},
		{"the server gave up", t.Context(), keyspace.Options{}, rpctypes.ErrTimeout, true},
		{"no answer", t.Context(), keyspace.Options{}, context.DeadlineExceeded, true},
		{"interrupted", stopped, keyspace.Options{}, context.DeadlineExceeded, false},
		{"denied", t.Context(), keyspace.Options{}, rpctypes.ErrPermissionDenied, false},
		{"serializable", t.Context(), keyspace.Options{Serializable: true}, context.DeadlineExceeded, false},
		{"kine", t.Context(), keyspace.Options{Kine: true}, context.DeadlineExceeded, false},
	} {
		tt.opt.Timeout = timeout
		_, err := keyspace.Current(fails{tt.err}, tt.opt).Get(tt.ctx, prefix)
		var none *keyspace.NoLeaderError
		if got := errors.As(err, &none); got != tt.want || !errors.Is(err, tt.err) || !strings.HasSuffix(err.Error(), tt.err.Error()) {
			t.Errorf("%s: %T %v", tt.name, err, err)
		}
	}
}

// TestSerializable: no request of such a source asks a leader, and all of them
// do otherwise.
func TestSerializable(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	r := s.fill(prefix+"pods/a/", 300, sized(40))
	for _, serializable := range []bool{false, true} {
		rec := &recorder{Getter: s}
		src, err := keyspace.Pin(t.Context(), rec, prefix, keyspace.Options{Timeout: timeout, Serializable: serializable})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(scan(t, src, r, false)); n != 300 {
			t.Errorf("%d keys, want 300", n)
		}
		if _, err := src.Count(t.Context(), r); err != nil {
			t.Error(err)
		}
		if _, err := src.Get(t.Context(), r.Start+"00001"); err != nil {
			t.Error(err)
		}
		if _, err := src.GetAll(t.Context(), []string{r.Start + "00001", r.Start + "00299"}); err != nil {
			t.Error(err)
		}
		if _, err := src.History(t.Context(), r.Start+"00001", 0, func(keyspace.Version) error { return nil }); err != nil {
			t.Error(err)
		}
		for _, c := range rec.taken() {
			if c.op.IsSerializable() != serializable {
				t.Errorf("serializable %t: a request for %q is %t", serializable, c.op.KeyBytes(), c.op.IsSerializable())
			}
		}
	}
}
