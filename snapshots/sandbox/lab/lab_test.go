package lab

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

const pods = "/registry/pods/"

// generated opens a store of a shape.
func generated(t *testing.T, s Shape) *snapshots.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "generated.db")
	if err := Generate(t.Context(), path, s); err != nil {
		t.Fatal(err)
	}
	f, err := snapshots.Open(path, snapshots.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestGenerate looks at what the benchmarks rely on: every pod is what its key says, unlike any other and of the
// weight of a real one, in its namespace, below its CronJob; and what was made later is not later in key order.
func TestGenerate(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]Shape{
		"jobs":   {Pods: 5_000, Namespaces: 7},
		"owners": {Pods: 5_000, Namespaces: 7, OwnOwners: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := generated(t, s)
			uids, owners, namespaces := map[string]bool{}, map[codec.Owner]bool{}, map[string]bool{}
			var size, ordered int
			var last int64
			err := f.Scan(t.Context(), pods, "/registry/pods0", 0, func(kv *mvccpb.KeyValue) error {
				m := codec.DecodeHead(kv.Value).Meta
				if want := pods + m.Namespace + "/" + m.Name; string(kv.Key) != want || kv.Version != 1 {
					t.Errorf("key %q at version %d, want %q", kv.Key, kv.Version, want)
				}
				uids[m.UID], owners[m.Owners[0]], namespaces[m.Namespace] = true, true, true
				size += len(kv.Value)
				if kv.ModRevision > last {
					ordered++
				}
				last = kv.ModRevision
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			wantOwners := 4 * s.Namespaces
			if s.OwnOwners {
				wantOwners = s.Pods
			}
			if len(uids) != s.Pods || len(owners) != wantOwners || len(namespaces) != s.Namespaces {
				t.Errorf("%d uids, %d owners, %d namespaces; want %d, %d, %d", len(uids), len(owners), len(namespaces), s.Pods, wantOwners, s.Namespaces)
			}
			if mean := size / s.Pods; mean < 1_500 || mean > 1_700 {
				t.Errorf("a pod has %d bytes on average", mean)
			}
			if ordered < s.Pods*4/10 || ordered > s.Pods*6/10 {
				t.Errorf("%d of %d pods are newer than the one before in key order, want half of them", ordered, s.Pods)
			}
			for key, kind := range map[string]string{
				"namespaces/kube-system": "Namespace", "namespaces/team-0006": "Namespace",
				"cronjobs/team-0006/" + CronJob: "CronJob", "jobs/team-0006/" + Job: "Job",
			} {
				kv, err := f.Get("/registry/"+key, 0)
				if err != nil || kv == nil {
					t.Fatalf("%s: %v, %v", key, kv, err)
				}
				if m := codec.DecodeHead(kv.Value).Meta; m.Kind != kind || m.UID == "" || !strings.HasSuffix(key, "/"+m.Name) {
					t.Errorf("%s holds %+v", key, m)
				}
			}
		})
	}
}

// TestGenerateIsRepeatable makes the same store twice.
func TestGenerateIsRepeatable(t *testing.T) {
	t.Parallel()
	var sums [2][]byte
	for i := range sums {
		hash := sha256.New()
		err := generated(t, Shape{Pods: 300, Namespaces: 3}).Entries(t.Context(), func(at snapshots.Position, kv *mvccpb.KeyValue) error {
			value, err := proto.MarshalOptions{Deterministic: true}.Marshal(kv)
			fmt.Fprintf(hash, "%v %x\n", at, value)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = hash.Sum(nil)
	}
	if !bytes.Equal(sums[0], sums[1]) {
		t.Error("two stores of one shape differ")
	}
}

// TestSuffix goes through more of them than any store needs: none comes twice.
func TestSuffix(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool, 1<<18)
	for i := range uint64(1 << 18) {
		s := suffix(i)
		if seen[s] || strings.Trim(s, alphabet) != "" || len(s) != suffixLen {
			t.Fatalf("suffix %d is %q", i, s)
		}
		seen[s] = true
	}
}

// TestServerUnknown names a server that is not there.
func TestServerUnknown(t *testing.T) {
	t.Parallel()
	if _, err := Server(t.Context(), "etcd-2.0"); err == nil || !strings.Contains(err.Error(), `no server "etcd-2.0"`) {
		t.Errorf("got %v", err)
	}
}
