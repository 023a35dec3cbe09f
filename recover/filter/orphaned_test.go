package filter_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// stored is a store in memory, whose values may be anything.
type stored map[string]string

func (s stored) Get(_ context.Context, key string) (*mvccpb.KeyValue, error) {
	value, ok := s[key]
	if !ok {
		return nil, nil
	}
	return &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: 1}, nil
}

const (
	encrypted = "k8s:enc:aescbc:v1:key1:\x00\x01"
	plainJob  = `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"j","uid":"u1"}}`
)

// controlled is an object with one owner.
func controlled(apiVersion, kind, name, uid string, controller bool) string {
	c := "false"
	if controller {
		c = "true"
	}
	return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","ownerReferences":[{"apiVersion":"` + apiVersion +
		`","kind":"` + kind + `","name":"` + name + `","uid":"` + uid + `","controller":` + c + `}]}}`
}

// TestOrphaned is in words what an orphan is.
func TestOrphaned(t *testing.T) {
	t.Parallel()
	const alone = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"gone"}}`
	src := stored{
		prefix + "namespaces/kube-system": "{}", prefix + "namespaces/a": encrypted,
		prefix + "jobs/a/j": plainJob, prefix + "jobs/a/secret": encrypted, prefix + "jobs/a/broken": "???",
		prefix + "minions/n": `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n","uid":"u2"}}`,
	}
	const unknown = "its owner's kind Queue.example.com is not known"
	tests := []struct {
		name, key, value string
		want             filter.Decision
		why              string
	}{
		{"no owner, namespace there", "configmaps/a/c", alone, filter.Drop, ""},
		{"no owner, namespace gone", "configmaps/b/c", alone, filter.Keep, ""},
		{"cluster-scoped", "persistentvolumes/c", alone, filter.Drop, ""},
		{"a namespace", "namespaces/c", alone, filter.Drop, ""},
		{"owner there", "pods/a/p", controlled("batch/v1", "Job", "j", "u1", true), filter.Drop, ""},
		{"owner there, namespace gone", "pods/b/p", controlled("v1", "Node", "n", "u2", true), filter.Keep, ""},
		{"owner gone", "pods/a/p", controlled("batch/v1", "Job", "k", "u1", true), filter.Keep, ""},
		{"an owner that does not control gone", "pods/a/p", controlled("batch/v1", "Job", "k", "u1", false), filter.Drop, ""},
		{"owner of another UID", "pods/a/p", controlled("batch/v1", "Job", "j", "u9", true), filter.Keep, ""},
		{"owner of another group", "pods/a/p", controlled("apps/v1", "Job", "j", "u1", true), filter.Undecided, "its owner's kind Job.apps is not known"},
		{"cluster-scoped owner", "pods/a/p", controlled("v1", "Node", "n", "u2", true), filter.Drop, ""},
		{"cluster-scoped owner gone", "csinodes/p", controlled("v1", "Node", "m", "u2", true), filter.Keep, ""},
		{"namespaced owner of what is not", "persistentvolumes/p", controlled("batch/v1", "Job", "j", "u1", true), filter.Undecided, "its owner is namespaced and it is not"},
		{"kind not known", "pods/a/p", controlled("example.com/v1", "Queue", "q", "u1", true), filter.Undecided, unknown},
		{"owner encrypted", "pods/a/p", controlled("batch/v1", "Job", "secret", "u1", true), filter.Undecided, "of its owner, its value is encrypted"},
		{"owner broken", "pods/a/p", controlled("batch/v1", "Job", "broken", "u1", true), filter.Undecided, "of its owner, its value cannot be decoded"},
		{"itself encrypted, namespace there", "secrets/a/s", encrypted, filter.Undecided, "its value is encrypted"},
		{"itself encrypted, namespace gone", "secrets/b/s", encrypted, filter.Keep, ""},
		{"itself broken and cluster-scoped", "minions/x", "???", filter.Undecided, "its value cannot be decoded"},
		{"definition gone, namespace there", "example.com/queues/a/q", alone, filter.Drop, ""},
		{"definition gone, namespace gone", "example.com/queues/b/q", alone, filter.Keep, ""},
		{"no resource, namespace in the value gone", "newkinds/a/x", alone, filter.Keep, ""},
		{"no resource, nothing readable", "newkinds/a/x", "???", filter.Undecided, "no resource is known for its key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
			f, err := filter.New(filter.Selection{Orphaned: true}, reader, filter.NewOwners(src, reader, nil))
			if err != nil {
				t.Fatal(err)
			}
			kv := &mvccpb.KeyValue{Key: []byte(prefix + tt.key), Value: []byte(tt.value)}
			d, err := f.Judge(t.Context(), f.Inspect(t.Context(), kv))
			var want []filter.Reason
			if tt.why != "" {
				want = []filter.Reason{{Text: tt.why, Key: prefix + tt.key}}
			}
			why, _ := f.WhyUndecided()
			if diff := cmp.Diff(want, why); err != nil || d != tt.want || diff != "" {
				t.Errorf("%v, %v; want %v (-want +got):\n%s", d, err, tt.want, diff)
			}
		})
	}
}

// TestOrphanedInTheZoo compares with what a walk over all objects finds.
func TestOrphanedInTheZoo(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	w.learnCustom()
	uids, keys := map[string]bool{}, map[string]bool{}
	scan := func(do func(o filter.Object)) {
		err := w.src.Scan(t.Context(), keyspace.Prefix(prefix), false, func(kv *mvccpb.KeyValue) error {
			do(filter.NewObject(t.Context(), w.reader, kv))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	scan(func(o filter.Object) {
		keys[string(o.KV.Key)] = true
		// The copy of a pod under another name has the pod's UID.
		if o.Head.Err == nil && string(o.KV.Key) != prefix+"pods/team/ghost-copy" {
			uids[o.Head.Meta.UID] = true
		}
	})
	var want, unreadable []string
	scan(func(o filter.Object) {
		i := slices.IndexFunc(o.Head.Meta.Owners, func(ref codec.Owner) bool { return ref.Controller })
		switch {
		case o.Key.Namespace != "" && !keys[prefix+"namespaces/"+o.Key.Namespace]:
			want = append(want, string(o.KV.Key))
		case o.Head.Err != nil:
			unreadable = append(unreadable, string(o.KV.Key))
		case i >= 0 && !uids[o.Head.Meta.Owners[i].UID]:
			want = append(want, string(o.KV.Key))
		}
	})
	kept, undecided := w.selects(filter.Selection{Orphaned: true})
	if diff := cmp.Diff(want, kept); diff != "" || !slices.Contains(short(kept), "pods/harbor/jobservice-5676bd8869-2t978") {
		t.Errorf("orphaned %v (-want +got):\n%s", short(kept), diff)
	}
	if diff := cmp.Diff(unreadable, undecided); diff != "" {
		t.Errorf("not decided (-want +got):\n%s", diff)
	}
}

// TestOrphanedEvents: the namespaces of what lies in an etcd of its own are
// those of the main one, and without it nothing is concluded.
func TestOrphanedEvents(t *testing.T) {
	t.Parallel()
	event := `{"apiVersion":"v1","kind":"Event","metadata":{"name":"e"}}`
	events := stored{prefix + "events/a/e": event, prefix + "events/b/e": event}
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	for _, tt := range []struct {
		main filter.Getter
		want []filter.Decision
	}{
		{stored{prefix + "namespaces/a": "{}", prefix + "namespaces/kube-system": "{}"}, []filter.Decision{filter.Drop, filter.Keep}},
		{nil, []filter.Decision{filter.Undecided, filter.Undecided}},
	} {
		owners := filter.NewOwners(events, reader, nil)
		owners.Main = tt.main
		f, err := filter.New(filter.Selection{Resource: "events", Orphaned: true}, reader, owners)
		if err != nil {
			t.Fatal(err)
		}
		for i, key := range []string{"events/a/e", "events/b/e"} {
			kv, _ := events.Get(t.Context(), prefix+key)
			if d, err := f.Judge(t.Context(), f.Inspect(t.Context(), kv)); d != tt.want[i] || err != nil {
				t.Errorf("%s with main %v: %v, %v; want %v", key, tt.main, d, err, tt.want[i])
			}
		}
	}
}

// TestOrphanedLearnsKinds: an owner's custom kind is looked for in the
// definitions before it is called unknown.
func TestOrphanedLearnsKinds(t *testing.T) {
	t.Parallel()
	src := stored{
		prefix + "namespaces/kube-system": "{}", prefix + "namespaces/a": "{}",
		prefix + "example.com/queues/a/q": `{"apiVersion":"example.com/v1","kind":"Queue","metadata":{"name":"q","uid":"u1"}}`,
	}
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	owners := filter.NewOwners(src, reader, func(context.Context) error {
		_, err := reader.Catalog.AddCRD([]byte(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"queues.example.com"},
			"spec":{"group":"example.com","scope":"Namespaced","names":{"kind":"Queue","plural":"queues"}}}`))
		return err
	})
	for name, want := range map[string]filter.Decision{"q": filter.Drop, "r": filter.Keep} {
		o := filter.NewObject(t.Context(), reader, &mvccpb.KeyValue{Key: []byte(prefix + "pods/a/p"), Value: []byte(controlled("example.com/v1", "Queue", name, "u1", true))})
		if d, why, err := owners.Orphaned(t.Context(), o); d != want || why != "" || err != nil {
			t.Errorf("owner %s: %v, %q, %v; want %v", name, d, why, err, want)
		}
	}
}

func TestOrphanedLookups(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	src := &counting{Getter: stored{prefix + "namespaces/kube-system": "{}", prefix + "namespaces/a": "{}"}}
	owners := filter.NewOwners(src, reader, nil)
	o := filter.NewObject(t.Context(), reader, &mvccpb.KeyValue{Key: []byte(prefix + "pods/a/p"), Value: []byte(controlled("batch/v1", "Job", "j", "u1", true))})
	for range 3 {
		if d, _, err := owners.Orphaned(t.Context(), o); d != filter.Keep || err != nil {
			t.Errorf("%v, %v", d, err)
		}
	}
	if src.reads != 3 {
		t.Errorf("%d reads, want 3: the namespace, the Job, and kube-system once", src.reads)
	}
	if d, _, err := filter.NewOwners(failing{}, reader, nil).Orphaned(t.Context(), o); d != filter.Drop || !errors.Is(err, errLost) {
		t.Errorf("unreadable store: %v, %v", d, err)
	}
}

// TestUnreadableOwnerIsNotAbsent: it may be the one, for Find and for OwnedBy.
func TestUnreadableOwnerIsNotAbsent(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	owners := filter.NewOwners(stored{prefix + "jobs/a/secret": encrypted, prefix + "jobs/a/j": plainJob}, reader, nil)
	o, err := owners.Find(t.Context(), codec.Owner{APIVersion: "batch/v1", Kind: "Job", Name: "secret", UID: "u1"}, "a")
	if err != nil || o == nil || !errors.Is(o.Head.Err, codec.ErrEncrypted) || o.Name() != "job a/secret" {
		t.Errorf("Find = %v, %v", o, err)
	}
	for name, want := range map[string][2]filter.Decision{
		"secret": {filter.Keep, filter.Undecided}, "j": {filter.Drop, filter.Drop}, "none": {filter.Drop, filter.Drop},
	} {
		o := filter.NewObject(t.Context(), reader, &mvccpb.KeyValue{Key: []byte(prefix + "pods/a/p"), Value: []byte(controlled("batch/v1", "Job", name, "u1", true))})
		for i, ref := range []filter.OwnerRef{{Group: "batch", Kind: "Job", Name: "secret"}, {Group: "batch", Kind: "CronJob", Name: "c"}} {
			f, err := filter.New(filter.Selection{Owner: &ref}, reader, owners)
			if err != nil {
				t.Fatal(err)
			}
			d, err := f.Judge(t.Context(), o)
			why, _ := f.WhyUndecided()
			if d != want[i] || err != nil || (d == filter.Undecided) != (len(why) == 1 && strings.Contains(why[0].Text, "owner")) {
				t.Errorf("owner %s, asked for %s: %v, %v, %v; want %v", name, ref, d, err, why, want[i])
			}
		}
	}
}
