package filter_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

func block(namespace string) *filter.Verdict {
	return &filter.Verdict{
		Blocks: true,
		Reason: "namespace " + namespace + " holds what the cluster itself runs on",
		Allow:  "--unsafe-namespace " + namespace,
	}
}

func apiServersOwn(resource string) *filter.Verdict {
	return &filter.Verdict{Blocks: true, Reason: resource + " belong to the API servers alone"}
}

func outside() *filter.Verdict {
	return &filter.Verdict{Blocks: true, Reason: "keys outside /registry/ are none of Kubernetes' own"}
}

// every override there is.
func every() filter.Overrides {
	return filter.Overrides{
		Namespaces: []string{"kube-system", "kube-public", "kube-node-lease", "default", "team", ""},
		Kinds:      append(filter.UnsafeKinds(), ""),
	}
}

func TestGuardOfKeys(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	in := func(namespaces ...string) filter.Overrides { return filter.Overrides{Namespaces: namespaces} }
	tests := []struct {
		key     string
		allowed filter.Overrides
		want    *filter.Verdict
	}{
		{prefix + "configmaps/team/settings", in(), nil},
		{prefix + "configmaps/default/p", in(), nil},
		{prefix + "configmaps/kube-system-2/p", in(), nil},
		{prefix + "pods/kube-system/etcd-cp-0", in(), block("kube-system")},
		{prefix + "leases/kube-node-lease/w-9", in(), block("kube-node-lease")},
		{prefix + "configmaps/kube-public/cluster-info", in(), block("kube-public")},
		{prefix + "batch.volcano.sh/jobs/kube-system/train", in(), block("kube-system")},
		{prefix + "services/specs/kube-system/dns", in(), block("kube-system")},
		{prefix + "configmaps/kube-system/dns", in("kube-system"), nil},
		{prefix + "configmaps/kube-system/dns", in("kube-public", "team"), block("kube-system")},
		{prefix + "endpointslices/kube-node-lease/w-9", in("kube-system", "kube-node-lease"), nil},

		{prefix + "namespaces/team", in(), nil},
		{prefix + "namespaces/default", in(), block("default")},
		{prefix + "namespaces/kube-system", in(), block("kube-system")},
		{prefix + "namespaces/kube-public", in(), block("kube-public")},
		{prefix + "namespaces/kube-node-lease", in("kube-system"), block("kube-node-lease")},
		{prefix + "namespaces/default", in("default"), nil},
		{prefix + "namespaces/kube-system", in("kube-system"), nil},

		{prefix + "masterleases/192.168.7.11", every(), apiServersOwn("masterleases")},
		{prefix + "peerserverleases/x", every(), apiServersOwn("peerserverleases")},
		{prefix + "ranges/serviceips", every(), apiServersOwn("ranges")},
		{prefix + "ranges/servicenodeports", every(), apiServersOwn("ranges")},
		{prefix + "masterleases/a/b", every(), apiServersOwn("masterleases")},
		{prefix + "rangesets/team/a", in(), nil},
		{prefix + "newkinds/kube-system/a", in(), block("kube-system")},
		{prefix + "newkinds/kube-system/a", in("kube-system"), nil},
		{prefix + "newkinds/team/a", in(), nil},

		{"talos:v1:x", every(), outside()},
		{"compact_rev_key", every(), outside()},
		{"/registry", every(), outside()},
		{"/registry/", every(), outside()},
		{"/registry-2/pods/team/p", every(), outside()},
		{"/other/registry/pods/team/p", every(), outside()},
	}
	for _, tt := range tests {
		o := filter.NewObject(t.Context(), w.reader, &mvccpb.KeyValue{Key: []byte(tt.key)})
		got, err := filter.NewGuard(w.reader, w.src, tt.allowed).Check(t.Context(), o)
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("check of %s with %v: %v (-want +got):\n%s", tt.key, tt.allowed, err, diff)
		}
	}
}

// TestNothingPassesWithoutAGuard: to forget it is no way around it.
func TestNothingPassesWithoutAGuard(t *testing.T) {
	t.Parallel()
	w := made(t, map[string]object{prefix + "configmaps/team/m": {APIVersion: "v1", Kind: "ConfigMap"}})
	kv, err := w.src.Get(t.Context(), prefix+"configmaps/team/m")
	if err != nil {
		t.Fatal(err)
	}
	var none *filter.Guard
	if v, err := none.Check(t.Context(), filter.NewObject(t.Context(), w.reader, kv)); v != nil || err == nil {
		t.Errorf("Check = %v, %v; want an error", v, err)
	}
}

// said counts what a guard says of each object of a store: "B" and "w" stand
// for blocks and warnings.
func (w *world) said(allowed filter.Overrides) map[string]int {
	w.t.Helper()
	guard, said := filter.NewGuard(w.reader, w.src, allowed), map[string]int{}
	err := w.src.Scan(w.t.Context(), keyspace.Prefix(prefix), false, func(kv *mvccpb.KeyValue) error {
		v, err := guard.Check(w.t.Context(), filter.NewObject(w.t.Context(), w.reader, kv))
		if v != nil && v.Blocks {
			said["B "+v.Reason+" "+v.Allow]++
		} else if v != nil {
			said["w "+v.Reason+" "+v.Allow]++
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return said
}

// TestGuardOfTheZoo names all that is guarded of a real cluster. The numbers
// are those of its README and of the keys that it lists.
func TestGuardOfTheZoo(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	const (
		node       = " a Node takes its pods along: about a minute later they are deleted by force, and its kubelet registers it again only when it restarts "
		volume     = " the claim of a PersistentVolume that is gone becomes Lost, and nothing deletes the real volume "
		definition = " no API reaches the custom resources of a definition that is gone, and they stay behind in etcd "
		twin       = " the node of a StatefulSet's pod may still run it: its successor has the same name and volumes, and both may write to them "
	)
	type line struct {
		n    int
		text string
	}
	warnings := []line{
		{2, "w the volume stays (reclaim policy Retain), but no other claim can have it until its claimRef is removed "},
		{2, "w the claim is bound to no volume; pods that name it cannot start "},
		{14, "w a Secret that may be the token of a service account, or a Helm release: its value is encrypted "},
		{1, "w the load balancer of a Service stays in the cloud unless the controller that made it runs and sees the delete; finalizers are not waited for "},
		{w.count("apiregistration.k8s.io/apiservices/") - 1, "w API servers make the APIService of an API of their own, or of a custom resource, again "},
		{1, "w the API of an APIService is served no more, and what it had stored stays where it is "},
		{6, "w what a webhook or a policy checked or changed is let through as it is, by all API servers at once "},
		{4, "w pods that name a PriorityClass that is gone cannot be made; API servers make those of the system again when they start "},
		{w.count("flowschemas/") + w.count("prioritylevelconfigurations/"),
			"w API servers make their own FlowSchemas and PriorityLevelConfigurations again; requests that another one ordered are ordered by what is left "},
	}
	want := map[string]int{
		"B" + node + "--unsafe-kind nodes":                                                     6,
		"B" + volume + "--unsafe-kind persistentvolumes":                                       6,
		"B" + definition + "--unsafe-kind customresourcedefinitions":                           3,
		"B" + twin + "--unsafe-kind statefulset-pods":                                          3,
		"B masterleases belong to the API servers alone ":                                      1,
		"B peerserverleases belong to the API servers alone ":                                  1,
		"B ranges belong to the API servers alone ":                                            1,
		"B namespace default holds what the cluster itself runs on --unsafe-namespace default": 1,
	}
	for _, ns := range []string{"kube-system", "kube-public", "kube-node-lease"} {
		want["B namespace "+ns+" holds what the cluster itself runs on --unsafe-namespace "+ns] = w.countIn(ns) + 1
	}
	for _, warning := range warnings {
		want[warning.text] = warning.n
	}
	if diff := cmp.Diff(want, w.said(filter.Overrides{})); diff != "" {
		t.Errorf("without overrides (-want +got):\n%s", diff)
	}
	// What is allowed is warned of, and a Secret and the Leases of the system
	// are met behind their namespaces.
	want = map[string]int{
		"B masterleases belong to the API servers alone ":     1,
		"B peerserverleases belong to the API servers alone ": 1,
		"B ranges belong to the API servers alone ":           1,
		"w" + node: 6, "w" + volume: 6, "w" + definition: 3, "w" + twin: 3,
		"w the holder of a Lease makes it again; where it is one of a leader election, it may lose the lead ": w.count("leases/"),
	}
	for _, warning := range warnings {
		if strings.Contains(warning.text, "Secret") {
			warning.n++
		}
		want[warning.text] = warning.n
	}
	if diff := cmp.Diff(want, w.said(every())); diff != "" {
		t.Errorf("with all overrides (-want +got):\n%s", diff)
	}
}

// count counts the keys below a path.
func (w *world) count(path string) int {
	w.t.Helper()
	n, err := w.src.Count(w.t.Context(), keyspace.Prefix(prefix+path))
	if err != nil {
		w.t.Fatal(err)
	}
	return int(n)
}

// countIn counts the objects in a namespace by the shape of their keys.
func (w *world) countIn(namespace string) (n int) {
	w.t.Helper()
	err := w.src.Scan(w.t.Context(), keyspace.Prefix(prefix), true, func(kv *mvccpb.KeyValue) error {
		if strings.Contains(string(kv.Key), "/"+namespace+"/") {
			n++
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestGuardSelection(t *testing.T) {
	t.Parallel()
	tests := []struct {
		namespace string
		allowed   []string
		want      *filter.Verdict
	}{
		{"", nil, nil},
		{"team", nil, nil},
		{"default", nil, nil},
		{"kube-system", nil, block("kube-system")},
		{"kube-public", []string{"kube-system"}, block("kube-public")},
		{"kube-node-lease", []string{"kube-node-lease"}, nil},
	}
	for _, tt := range tests {
		got := filter.GuardSelection(filter.Selection{Resource: "pods", Namespace: tt.namespace}, filter.Overrides{Namespaces: tt.allowed})
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q with %v (-want +got):\n%s", tt.namespace, tt.allowed, diff)
		}
	}
}
