package keyspace_test

import (
	"errors"
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// TestFileAtARevision reads what etcd itself read at that revision, also of
// keys that changed together, were deleted later, or were made again.
func TestFileAtARevision(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	var past []*keyspace.Live
	for i := range 8 {
		together := []clientv3.Op{clientv3.OpPut(prefix+"pods/a/both", fmt.Sprint(i)), clientv3.OpPut(prefix+fmt.Sprintf("pods/a/n-%d", i), "x")}
		if i%3 == 2 {
			together = append(together, clientv3.OpDelete(prefix+fmt.Sprintf("pods/a/n-%d", i-1)))
		}
		if _, err := s.Txn(t.Context()).Then(together...).Commit(); err != nil {
			t.Fatal(err)
		}
		past = append(past, s.pin(s))
	}
	f := saved(t, s)
	for _, live := range past {
		rev := live.Revision()
		file, err := keyspace.FromFileAt(f, rev)
		if err != nil {
			t.Fatal(err)
		}
		if file.Revision() != rev {
			t.Errorf("revision %d, want %d", file.Revision(), rev)
		}
		compareRange(t, live, file, everything())
		all := scan(t, live, everything(), false)
		compareKeys(t, live, file, all)
		for _, e := range all {
			checkFindAt(t, f, e, rev)
		}
		want, _ := history(t, live, prefix+"pods/a/both", 0)
		if got, _ := history(t, file, prefix+"pods/a/both", 0); changesDiffer(want, got) != "" {
			t.Errorf("the history at %d (-want +got):\n%s", rev, changesDiffer(want, got))
		}
	}
	newest, err := keyspace.FromFileAt(f, 0)
	if err != nil || newest.Revision() != f.Revision() {
		t.Errorf("without a revision: %d, %v", newest.Revision(), err)
	}
}

// checkFindAt asserts that a file tells where an entry stands.
func checkFindAt(t *testing.T, f *snapshots.File, want entry, rev int64) {
	t.Helper()
	at, ok, err := f.FindAt(t.Context(), []byte(want.Key), rev)
	if err != nil || !ok {
		t.Fatalf("%s at %d: %v, %v", want.Key, rev, ok, err)
	}
	if kv, err := f.At(at); err != nil || entryOf(kv) != want {
		t.Errorf("%s at %d stands at %s: %v, %v", want.Key, rev, at, kv, err)
	}
}

// TestPinAt reads the past of a running etcd, as it was pinned then.
func TestPinAt(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	then := []*keyspace.Live{}
	for i := range 5 {
		s.put(prefix+"pods/a/both", fmt.Sprint(i))
		s.put(prefix+fmt.Sprintf("pods/a/n-%d", i), "x")
		if i == 3 {
			if _, err := s.Delete(t.Context(), prefix+"pods/a/n-1"); err != nil {
				t.Fatal(err)
			}
		}
		then = append(then, s.pin(s))
	}
	opt := keyspace.Options{Timeout: timeout}
	for _, live := range then {
		at, err := keyspace.PinAt(t.Context(), s, prefix, live.Revision(), opt)
		if err != nil {
			t.Fatal(err)
		}
		if at.Revision() != live.Revision() {
			t.Errorf("revision %d, want %d", at.Revision(), live.Revision())
		}
		compareRange(t, live, at, everything())
		compareKeys(t, live, at, scan(t, live, everything(), false))
	}
	newest := then[4].Revision()
	if _, err := s.Compact(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	for rev, want := range map[int64]string{
		-1: "revision -1: the first one is 1", 0: "revision 0: the first one is 1", 4: "",
		3:          "revision 3 was compacted; the oldest that can be read is 4",
		newest + 1: fmt.Sprintf("revision %d is in the future; the newest is %d", newest+1, newest),
	} {
		text := ""
		if _, err := keyspace.PinAt(t.Context(), s, prefix, rev, opt); err != nil {
			text = err.Error()
		}
		if text != want {
			t.Errorf("at %d: %q, want %q", rev, text, want)
		}
	}
	var gone *keyspace.CompactedError
	if _, err := keyspace.PinAt(t.Context(), s, prefix, 1, opt); !errors.As(err, &gone) {
		t.Errorf("at 1: %v", err)
	}
	var future *keyspace.FutureError
	if _, err := keyspace.PinAt(t.Context(), s, prefix, 99, opt); !errors.As(err, &future) {
		t.Errorf("at 99: %v", err)
	}
}

// TestFileAtARevisionThatItDoesNotHold.
func TestFileAtARevisionThatItDoesNotHold(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	s.makePast(6)
	if _, err := s.Compact(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	f := saved(t, s)
	var gone *keyspace.CompactedError
	if _, err := keyspace.FromFileAt(f, 3); !errors.As(err, &gone) || gone.Revision != 3 || gone.Oldest != 4 {
		t.Errorf("a compacted revision: %v", err)
	}
	var future *keyspace.FutureError
	if _, err := keyspace.FromFileAt(f, f.Revision()+1); !errors.As(err, &future) {
		t.Errorf("a revision to come: %v", err)
	}
	if _, err := keyspace.FromFileAt(f, -1); err == nil {
		t.Error("a negative revision was read")
	}
	if src, err := keyspace.FromFileAt(f, 4); err != nil || src.Revision() != 4 {
		t.Errorf("the compacted revision itself: %v", err)
	}
	a, err := snapshots.CreateArchive(t.TempDir()+"/a.db", snapshots.ArchiveInfo{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := keyspace.FromFileAt(openFile(t, a.Path()), 1); !errors.Is(err, keyspace.ErrNoRevisions) {
		t.Errorf("an archive: %v", err)
	}
}
