//go:build servers

package apply_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// TestEveryEtcdUnderNoSpace fills a store of each release beyond its quota. The
// guarded delete passes on all but 3.4.13, which needs Unguarded; a put stops
// the run.
func TestEveryEtcdUnderNoSpace(t *testing.T) {
	for _, release := range []string{"etcd-3.4", lab.DebianEtcd, "etcd-3.5", "etcd-3.6", "etcd-3.7"} {
		t.Run(release, func(t *testing.T) {
			server, err := lab.Server(t.Context(), release)
			if err != nil {
				t.Fatal(err)
			}
			s := newStoreIn(t, sandbox.Options{Server: server, QuotaBytes: 24 << 20})
			s.fillUp()
			p, a := s.plan(), s.archive()
			r := s.run(a)
			if release == "etcd-3.4" {
				result := s.execute(r, p)
				if !errors.Is(result.Stopped, apply.ErrOldNoSpace) || result.Counts[apply.Deleted] != 0 {
					t.Errorf("with the guard: %v, stopped by %v", result.Counts, result.Stopped)
				}
				r.Unguarded = new(atomic.Int64)
				r.Unguarded.Store(podCount + 1)
			}
			from := s.revision()
			wantCounts(t, s.execute(r, p), map[apply.Outcome]int64{apply.Deleted: podCount + 1})
			if got := s.revision() - from; got != podCount+1 {
				t.Errorf("%d deletes took %d revisions", podCount+1, got)
			}
			s.mustHoldAll(a)
			f := reopened(t, a)
			undo, _ := s.undoPlan(false, f)
			result := s.execute(undoRun(s, f), undo)
			if !errors.Is(result.Stopped, apply.ErrNoSpace) || result.Counts[apply.Created] != 0 {
				t.Errorf("undo: %v, stopped by %v", result.Counts, result.Stopped)
			}
			s.mustNotReplace(prefix + "namespaces/kube-system")
		})
	}
}

// mustNotReplace tries to put other bytes under a key of a store that has no
// space left.
func (s *store) mustNotReplace(key string) {
	s.t.Helper()
	source := s.archive()
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: []byte("other"), ModRevision: 1, CreateRevision: 1, Version: 1}
	if err := source.Append(0, []*mvccpb.KeyValue{kv}, nil); err != nil {
		s.t.Fatal(err)
	}
	f, a := reopened(s.t, source), s.archive()
	result := s.execute(s.replaceRun(f, a), s.replacePlan(f))
	if !errors.Is(result.Stopped, apply.ErrNoSpace) || result.Counts[apply.Failed] != 1 {
		s.t.Errorf("replacement: %v, stopped by %v", result.Counts, result.Stopped)
	}
	s.mustHold(key, "before")
	if s.archived(a)[key] == nil {
		s.t.Error("what was to be replaced was not archived")
	}
}

// fillUp puts until the store has no space left.
func (s *store) fillUp() {
	s.t.Helper()
	value := strings.Repeat("x", 1<<20)
	for n := range 100 {
		_, err := s.Put(s.t.Context(), fmt.Sprintf("/registry/configmaps/fill/%03d", n), value)
		if errors.Is(err, rpctypes.ErrNoSpace) {
			s.before = s.all()
			return
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	s.t.Fatal("it does not fill up")
}
