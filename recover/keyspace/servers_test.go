//go:build servers

package keyspace_test

import (
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// TestMain lets the sandbox run this program as its child.
func TestMain(m *testing.M) { lab.Main(m) }

// TestEveryEtcd reads real servers of each release that there are clusters of.
func TestEveryEtcd(t *testing.T) {
	for _, release := range []string{"etcd-3.4", "etcd-3.5", "etcd-3.6", "etcd-3.7"} {
		t.Run(release, func(t *testing.T) {
			server, err := lab.Server(t.Context(), release)
			if err != nil {
				t.Fatal(err)
			}
			opt := runaway(0) // a fresh data directory is none that every release can start from
			opt.Server, opt.NoFsync = server, true
			_, client := lab.Box(t, opt)
			everyKeyOnce(t, &store{client, t})
		})
	}
}

// everyKeyOnce scans and counts more keys than are worth a stream.
func everyKeyOnce(t *testing.T, s *store) {
	var ranges []keyspace.Range
	for n := range 6 {
		ranges = append(ranges, s.fill(fmt.Sprintf("/registry/pods/ns-%d/flood-", n), 1500, sized(300)))
	}
	all := keyspace.Prefix("/registry/pods/")
	want, _ := s.unary(all)
	src := s.pin(s)
	for keysOnly, want := range map[bool][]entry{false: want, true: withoutValues(want)} {
		var got []entry
		if err := src.Scan(t.Context(), all, keysOnly, func(kv *mvccpb.KeyValue) error {
			got = append(got, entryOf(kv))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if keysOnly {
			got = withoutValues(got) // before 3.7 leases come with them
		}
		if diff := difference(want, got); diff != "" {
			t.Errorf("keysOnly %v: a scan differs from one read (-want +got):\n%s", keysOnly, diff)
		}
	}
	counts, err := src.CountAll(t.Context(), append(ranges, all))
	if err != nil || fmt.Sprint(counts) != "[1500 1500 1500 1500 1500 1500 9000]" {
		t.Errorf("counted %v, %v", counts, err)
	}
	if _, err := s.Delete(t.Context(), "/registry/pods/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if n, err := src.Count(t.Context(), all); err != nil || n != 9000 {
		t.Errorf("at the pinned revision %d are left, %v", n, err)
	}
}
