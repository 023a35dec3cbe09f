package filter_test

import (
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// chain is a Job below a CronJob, a pod below the Job, and two ConfigMaps that
// own each other.
func chain() map[string]object {
	return map[string]object{
		prefix + "cronjobs/a/c": {APIVersion: "batch/v1", Kind: "CronJob"},
		prefix + "jobs/a/j": {APIVersion: "batch/v1", Kind: "Job", Metadata: meta{OwnerReferences: []ownRef{
			{APIVersion: "batch/v1", Kind: "CronJob", Name: "c", UID: "uid of " + prefix + "cronjobs/a/c"}}}},
		prefix + "pods/a/p": {APIVersion: "v1", Kind: "Pod", Metadata: meta{OwnerReferences: []ownRef{
			{APIVersion: "batch/v1", Kind: "Job", Name: "j", UID: "uid of " + prefix + "jobs/a/j"}}}},
		prefix + "configmaps/a/x": {APIVersion: "v1", Kind: "ConfigMap", Metadata: meta{OwnerReferences: []ownRef{
			{APIVersion: "v1", Kind: "ConfigMap", Name: "y", UID: "uid of " + prefix + "configmaps/a/y"}}}},
		prefix + "configmaps/a/y": {APIVersion: "v1", Kind: "ConfigMap", Metadata: meta{OwnerReferences: []ownRef{
			{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "uid of " + prefix + "configmaps/a/x"}}}},
		prefix + "minions/n": {APIVersion: "v1", Kind: "Node"},
	}
}

// TestStanding of owners, by their keys and their UIDs.
func TestStanding(t *testing.T) {
	t.Parallel()
	w := made(t, chain())
	main := made(t, map[string]object{prefix + "jobs/a/main": {APIVersion: "batch/v1", Kind: "Job"}})
	elsewhere := filter.NewOwners(w.src, w.reader, nil)
	elsewhere.Main = main.src
	ref := func(apiVersion, kind, namespace, name, uid string) filter.Ref {
		return filter.Ref{Owner: codec.Owner{APIVersion: apiVersion, Kind: kind, Name: name, UID: "uid of " + prefix + uid}, Namespace: namespace}
	}
	for _, tt := range []struct {
		name   string
		owners *filter.Owners
		ref    filter.Ref
		want   filter.Standing
		named  bool
	}{
		{"there", w.owners, ref("batch/v1", "Job", "a", "j", "jobs/a/j"), filter.Exists, true},
		{"of no namespace", w.owners, ref("v1", "Node", "a", "n", "minions/n"), filter.Exists, true},
		{"gone", w.owners, ref("batch/v1", "Job", "a", "k", "jobs/a/k"), filter.Missing, false},
		{"in another namespace", w.owners, ref("batch/v1", "Job", "b", "j", "jobs/a/j"), filter.Missing, false},
		{"made again", w.owners, ref("batch/v1", "Job", "a", "j", "another"), filter.OtherUID, true},
		{"of an unknown kind", w.owners, ref("example.com/v1", "Thing", "a", "j", "jobs/a/j"), filter.Uncertain, false},
		{"above what has no namespace", w.owners, ref("batch/v1", "Job", "", "j", "jobs/a/j"), filter.Unresolvable, false},
		{"in the main store", elsewhere, ref("batch/v1", "Job", "a", "main", "jobs/a/main"), filter.Exists, true},
		{"not in the main store", elsewhere, ref("batch/v1", "Job", "a", "j", "jobs/a/j"), filter.Missing, false},
	} {
		for _, ahead := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, " ", ahead), func(t *testing.T) {
				if ahead {
					if err := tt.owners.Direct(t.Context(), []filter.Ref{tt.ref}); err != nil {
						t.Fatal(err)
					}
				}
				if got, err := tt.owners.Standing(t.Context(), tt.ref); err != nil || got != tt.want {
					t.Errorf("%v, %v; want %v", got, err, tt.want)
				}
				if o, err := tt.owners.Named(t.Context(), tt.ref); err != nil || (o != nil) != tt.named {
					t.Errorf("named %v, %v; want %v", o, err, tt.named)
				}
			})
		}
	}
}

// TestBelow follows owners up to one of the objects; circles end.
func TestBelow(t *testing.T) {
	t.Parallel()
	w := made(t, chain())
	for _, tt := range []struct {
		key, namespace, root string
		want                 bool
	}{
		{"pods/a/p", "a", "cronjobs/a/c", true},
		{"pods/a/p", "a", "jobs/a/j", true},
		{"pods/a/p", "b", "jobs/a/j", false},
		{"pods/a/p", "", "cronjobs/a/c", true},
		{"pods/a/p", "a", "pods/a/p", false},
		{"cronjobs/a/c", "a", "cronjobs/a/c", false},
		{"configmaps/a/x", "a", "configmaps/a/x", true},
		{"configmaps/a/x", "a", "configmaps/a/z", false},
	} {
		kv, err := w.src.Get(t.Context(), prefix+tt.key)
		if err != nil || kv == nil {
			t.Fatalf("%s: %v", tt.key, err)
		}
		var roots filter.UIDs
		if err := roots.Add(tt.namespace, "uid of "+prefix+tt.root); err != nil {
			t.Fatal(err)
		}
		got, err := w.owners.Below(t.Context(), filter.NewObject(t.Context(), w.reader, kv), &roots)
		if err != nil || got != tt.want {
			t.Errorf("%s below %s in %q: %v, %v", tt.key, tt.root, tt.namespace, got, err)
		}
	}
}

// TestNodeLeasesMayBePutBack, unlike those that somebody holds to lead.
func TestNodeLeasesMayBePutBack(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	for namespace, want := range map[string]bool{"kube-node-lease": true, "kube-system": false, "default": false} {
		value := fmt.Sprintf(`{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"l","namespace":%q}}`, namespace)
		kv := &mvccpb.KeyValue{Key: []byte(prefix + "leases/" + namespace + "/l"), Value: []byte(value)}
		if v := filter.NeverPutBack(prefix, filter.NewObject(t.Context(), reader, kv)); (v == nil) != want {
			t.Errorf("%s: %v", namespace, v)
		}
	}
}
