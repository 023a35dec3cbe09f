package filter_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// storedOwner is an object that something may name as its owner u1.
func storedOwner(apiVersion, kind, namespace, name string) string {
	return fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":%q,"namespace":%q,"uid":"u1"}}`, apiVersion, kind, name, namespace)
}

// withNamespaces adds what Orphaned needs to conclude anything.
func withNamespaces(s stored) stored {
	all := stored{prefix + "namespaces/kube-system": "{}", prefix + "namespaces/a": "{}"}
	for key, value := range s {
		all[prefix+key] = value
	}
	return all
}

// orphaned judges a pod a/p that the given owner controls.
func orphaned(t *testing.T, owners *filter.Owners, reader *codec.Reader, apiVersion, kind, name string) (filter.Decision, string) {
	t.Helper()
	kv := &mvccpb.KeyValue{Key: []byte(prefix + "pods/a/p"), Value: []byte(controlled(apiVersion, kind, name, "u1", true))}
	d, why, err := owners.Orphaned(t.Context(), filter.NewObject(t.Context(), reader, kv))
	if err != nil {
		t.Fatal(err)
	}
	return d, why
}

// TestOrphanedDiscovers: only a stored owner makes its kind known, never a
// guess.
func TestOrphanedDiscovers(t *testing.T) {
	t.Parallel()
	const custom, builtin = "example.com/v1", "newgroup/v1"
	tests := []struct {
		name, apiVersion, kind, key, value string
		want                               filter.Decision // of the owner q
		learned                            string          // the resource, "" for none
	}{
		{"custom", custom, "Queue", "example.com/queues/a/q", storedOwner(custom, "Queue", "a", "q"), filter.Drop, "queues.example.com"},
		{"custom, of another version", "example.com/v1beta1", "Queue", "example.com/queues/a/q", storedOwner(custom, "Queue", "a", "q"), filter.Drop, "queues.example.com"},
		{"custom and cluster-scoped", custom, "Queue", "example.com/queues/q", storedOwner(custom, "Queue", "", "q"), filter.Drop, "queues.example.com"},
		{"plural in es", custom, "Class", "example.com/classes/a/q", storedOwner(custom, "Class", "a", "q"), filter.Drop, "classes.example.com"},
		{"plural in ies", custom, "Policy", "example.com/policies/a/q", storedOwner(custom, "Policy", "a", "q"), filter.Drop, "policies.example.com"},
		{"plural in ys", custom, "Gateway", "example.com/gateways/a/q", storedOwner(custom, "Gateway", "a", "q"), filter.Drop, "gateways.example.com"},
		{"built in", builtin, "Queue", "queues/a/q", storedOwner(builtin, "Queue", "a", "q"), filter.Drop, "queues.newgroup"},
		{"built in, with a dot", "new.k8s.io/v1", "Queue", "queues/a/q", storedOwner("new.k8s.io/v1", "Queue", "a", "q"), filter.Drop, "queues.new.k8s.io"},
		{"built in and cluster-scoped", builtin, "Queue", "queues/q", storedOwner(builtin, "Queue", "", "q"), filter.Drop, "queues.newgroup"},
		{"core group", "v1", "Queue", "queues/a/q", storedOwner("v1", "Queue", "a", "q"), filter.Drop, "queues"},
		{"in a group with definitions", "defined.example.com/v1", "Queue", "queues/a/q", storedOwner("defined.example.com/v1", "Queue", "a", "q"), filter.Undecided, ""},

		{"not stored", custom, "Queue", "example.com/queues/a/other", storedOwner(custom, "Queue", "a", "other"), filter.Undecided, ""},
		{"another plural", custom, "Queue", "example.com/kueues/a/q", storedOwner(custom, "Queue", "a", "q"), filter.Undecided, ""},
		{"another namespace", custom, "Queue", "example.com/queues/b/q", storedOwner(custom, "Queue", "b", "q"), filter.Undecided, ""},
		{"the value has another name", custom, "Queue", "example.com/queues/a/q", storedOwner(custom, "Queue", "a", "r"), filter.Undecided, ""},
		{"the value has another namespace", custom, "Queue", "example.com/queues/a/q", storedOwner(custom, "Queue", "b", "q"), filter.Undecided, ""},
		{"the value has another group", custom, "Queue", "example.com/queues/a/q", storedOwner("example.org/v1", "Queue", "a", "q"), filter.Undecided, ""},
		{"the value has another kind", custom, "Queue", "example.com/queues/a/q", storedOwner(custom, "QUEUE", "a", "q"), filter.Undecided, ""},
		{"the value is encrypted", custom, "Queue", "example.com/queues/a/q", encrypted, filter.Undecided, ""},
		{"the value is broken", custom, "Queue", "example.com/queues/a/q", "???", filter.Undecided, ""},
		{"the keys of another kind", "apps/v1", "Job", "jobs/a/q", storedOwner("apps/v1", "Job", "a", "q"), filter.Undecided, ""},
		{"a kind that makes no key", custom, "Que/ue", "example.com/que/ues/a/q", storedOwner(custom, "Que/ue", "a", "q"), filter.Undecided, ""},
		{"no kind", custom, "", "example.com/s/a/q", storedOwner(custom, "", "a", "q"), filter.Undecided, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
			_, err := reader.Catalog.AddCRD([]byte(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"x"},
				"spec":{"group":"defined.example.com","scope":"Namespaced","names":{"kind":"Thing","plural":"things"}}}`))
			if err != nil {
				t.Fatal(err)
			}
			before := len(reader.Catalog.Resources())
			owners := filter.NewOwners(withNamespaces(stored{tt.key: tt.value}), reader, nil)
			d, why := orphaned(t, owners, reader, tt.apiVersion, tt.kind, "q")
			if d != tt.want || (d == filter.Undecided) != strings.HasSuffix(why, "is not known") {
				t.Errorf("%v, %q; want %v", d, why, tt.want)
			}
			if tt.learned == "" {
				if after := len(reader.Catalog.Resources()); after != before {
					t.Errorf("%d resources, had %d: something was learnt", after, before)
				}
				return
			}
			if r, _, ok := reader.Catalog.Lookup(tt.learned); !ok || !r.Learned || r.Kind != tt.kind {
				t.Errorf("%s is %+v", tt.learned, r)
			}
			// Now it is known, also of an owner that is gone.
			if d, why := orphaned(t, owners, reader, tt.apiVersion, tt.kind, "gone"); d != filter.Keep {
				t.Errorf("an owner that is gone: %v, %q", d, why)
			}
		})
	}
}

// TestDiscoveryAfterAnotherOwner: that one owner is gone says nothing of the
// others of its kind.
func TestDiscoveryAfterAnotherOwner(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	owners := filter.NewOwners(withNamespaces(stored{"example.com/queues/a/q": storedOwner("example.com/v1", "Queue", "a", "q")}), reader, nil)
	var got []filter.Decision
	for _, name := range []string{"gone", "q", "gone"} {
		d, _ := orphaned(t, owners, reader, "example.com/v1", "Queue", name)
		got = append(got, d)
	}
	if diff := cmp.Diff([]filter.Decision{filter.Undecided, filter.Drop, filter.Keep}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDiscoveryIsBounded: what was not found is not looked for again, and a
// flood of owners or kinds ends somewhere.
func TestDiscoveryIsBounded(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	src := &counting{Getter: withNamespaces(nil)}
	owners := filter.NewOwners(src, reader, nil)
	reads := func(kind, name string) int {
		before := src.reads
		if d, why := orphaned(t, owners, reader, "example.com/v1", kind, name); d != filter.Undecided {
			t.Fatalf("%s %s: %v, %q", kind, name, d, why)
		}
		return src.reads - before
	}
	orphaned(t, owners, reader, "batch/v1", "Job", "j") // reads the namespaces
	// Both scopes below the group, and both for a built-in resource.
	if first, again := reads("Queue", "q"), reads("Queue", "q"); first != 4 || again != 0 {
		t.Errorf("%d reads, then %d; want 4 and 0", first, again)
	}
	if n := reads("Gateway", "q"); n != 8 {
		t.Errorf("%d reads for a kind with two plurals, want 8", n)
	}
	for _, name := range []string{"", "a/q", "..", strings.Repeat("q", 300)} {
		if n := reads("Fresh", name); n != 0 {
			t.Errorf("%d reads for the name %.10q", n, name)
		}
	}
	before := src.reads
	orphaned(t, owners, reader, "apps/v1", "Job", "q")
	if n := src.reads - before; n != 1 {
		t.Errorf("%d reads where one of two keys is that of another kind, want 1", n)
	}
	total := 0
	for i := range 1000 {
		total += reads("Queue", fmt.Sprint("q", i))
	}
	if want := 63 * 4; total != want {
		t.Errorf("%d reads for many owners, want %d", total, want)
	}
	total = 0
	for i := range 1000 {
		total += reads(fmt.Sprint("K", i), "q")
	}
	if want := 253 * 4; total != want {
		t.Errorf("%d reads for many kinds, want %d", total, want)
	}
}

// TestOwnedByDiscovers: an owner whose definition is gone leads further up.
func TestOwnedByDiscovers(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	queue := `{"apiVersion":"newgroup/v1","kind":"Queue","metadata":{"name":"q","namespace":"a","uid":"u1","ownerReferences":[{"apiVersion":"batch/v1","kind":"Job","name":"j","uid":"u1"}]}}`
	job := `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"j","namespace":"a","uid":"u1","ownerReferences":[{"apiVersion":"batch/v1","kind":"CronJob","name":"c","uid":"u1"}]}}`
	owners := filter.NewOwners(withNamespaces(stored{"queues/a/q": queue, "jobs/a/j": job}), reader, nil)
	kv := &mvccpb.KeyValue{Key: []byte(prefix + "pods/a/p"), Value: []byte(controlled("newgroup/v1", "Queue", "q", "u1", true))}
	o := filter.NewObject(t.Context(), reader, kv)
	// The CronJob is found only if the Queue is known to lie in a namespace.
	if d, err := owners.OwnedBy(t.Context(), o, filter.OwnerRef{Group: "batch", Kind: "CronJob", Name: "c"}); d != filter.Keep || err != nil {
		t.Errorf("%v, %v", d, err)
	}
}

// TestDiscoveryUsesTheMainStore: that of events holds no owners.
func TestDiscoveryUsesTheMainStore(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	owners := filter.NewOwners(stored{}, reader, nil)
	owners.Main = withNamespaces(stored{"example.com/queues/a/q": storedOwner("example.com/v1", "Queue", "a", "q")})
	if d, why := orphaned(t, owners, reader, "example.com/v1", "Queue", "q"); d != filter.Drop {
		t.Errorf("%v, %q", d, why)
	}
}

// losing fails at the reads of some keys.
type losing struct {
	filter.Getter
	key string
}

func (l *losing) Get(ctx context.Context, key string) (*mvccpb.KeyValue, error) {
	if key == l.key {
		return nil, errLost
	}
	return l.Getter.Get(ctx, key)
}

// TestDiscoveryFails: what could not be read is not taken for absent, and is
// looked for again.
func TestDiscoveryFails(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	src := &losing{withNamespaces(stored{"example.com/queues/q": storedOwner("example.com/v1", "Queue", "", "q")}), prefix + "example.com/queues/q"}
	owners := filter.NewOwners(src, reader, nil)
	kv := &mvccpb.KeyValue{Key: []byte(prefix + "pods/a/p"), Value: []byte(controlled("example.com/v1", "Queue", "q", "u1", true))}
	o := filter.NewObject(t.Context(), reader, kv)
	for range 2 {
		if d, _, err := owners.Orphaned(t.Context(), o); d != filter.Drop || !errors.Is(err, errLost) {
			t.Errorf("%v, %v; want the error", d, err)
		}
	}
	src.key = ""
	if d, why := orphaned(t, owners, reader, "example.com/v1", "Queue", "q"); d != filter.Drop {
		t.Errorf("%v, %q", d, why)
	}
}

// TestJudgingWhileDiscovering: several goroutines may meet an unknown kind.
func TestJudgingWhileDiscovering(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	owners := filter.NewOwners(withNamespaces(stored{"queues/a/q": storedOwner("newgroup/v1", "Queue", "a", "q")}), reader, nil)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			kv := &mvccpb.KeyValue{Key: []byte(prefix + "pods/a/p"), Value: []byte(controlled("newgroup/v1", "Queue", "q", "u1", true))}
			d, why, err := owners.Orphaned(t.Context(), filter.NewObject(t.Context(), reader, kv))
			if d != filter.Drop || err != nil {
				t.Errorf("%v, %q, %v", d, why, err)
			}
		})
	}
	all.Wait()
}
