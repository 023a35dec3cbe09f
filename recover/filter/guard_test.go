package filter_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

func block(namespace string) *filter.Block {
	return &filter.Block{
		Reason: "namespace " + namespace + " holds what the cluster itself runs on",
		Allow:  "--unsafe-namespace " + namespace,
	}
}

func apiServersOwn(resource string) *filter.Block {
	return &filter.Block{Reason: resource + " belong to the API servers alone"}
}

func outside(key string) *filter.Block {
	return &filter.Block{Reason: `key "` + key + `" lies outside /registry/`}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	f := w.filter(filter.Selection{})
	every := []string{"kube-system", "kube-public", "kube-node-lease", "default", "team"}
	tests := []struct {
		key     string
		allowed []string
		want    *filter.Block
	}{
		{prefix + "pods/team/guarded", nil, nil},
		{prefix + "pods/default/p", nil, nil},
		{prefix + "pods/kube-system-2/p", nil, nil},
		{prefix + "minions/w-9", nil, nil},
		{prefix + "pods/kube-system/etcd-cp-0", nil, block("kube-system")},
		{prefix + "leases/kube-node-lease/w-9", nil, block("kube-node-lease")},
		{prefix + "configmaps/kube-public/cluster-info", nil, block("kube-public")},
		{prefix + "batch.volcano.sh/jobs/kube-system/train", nil, block("kube-system")},
		{prefix + "services/specs/kube-system/dns", nil, block("kube-system")},
		{prefix + "pods/kube-system/etcd-cp-0", []string{"kube-system"}, nil},
		{prefix + "pods/kube-system/etcd-cp-0", []string{"kube-public", "team"}, block("kube-system")},
		{prefix + "leases/kube-node-lease/w-9", []string{"kube-system", "kube-node-lease"}, nil},

		{prefix + "namespaces/team", nil, nil},
		{prefix + "namespaces/default", nil, block("default")},
		{prefix + "namespaces/kube-system", nil, block("kube-system")},
		{prefix + "namespaces/kube-public", nil, block("kube-public")},
		{prefix + "namespaces/kube-node-lease", []string{"kube-system"}, block("kube-node-lease")},
		{prefix + "namespaces/default", []string{"default"}, nil},
		{prefix + "namespaces/kube-system", []string{"kube-system"}, nil},

		{prefix + "masterleases/192.168.7.11", every, apiServersOwn("masterleases")},
		{prefix + "peerserverleases/x", every, apiServersOwn("peerserverleases")},
		{prefix + "ranges/serviceips", every, apiServersOwn("ranges")},
		{prefix + "ranges/servicenodeports", every, apiServersOwn("ranges")},
		{prefix + "masterleases/a/b", every, apiServersOwn("masterleases")},
		{prefix + "rangesets/team/a", nil, nil},
		{prefix + "newkinds/kube-system/a", nil, block("kube-system")},
		{prefix + "newkinds/kube-system/a", []string{"kube-system"}, nil},
		{prefix + "newkinds/team/a", nil, nil},

		{"talos:v1:x", every, outside("talos:v1:x")},
		{"compact_rev_key", every, outside("compact_rev_key")},
		{"/registry", every, outside("/registry")},
		{"/registry/", every, outside("/registry/")},
		{"/registry-2/pods/team/p", every, outside("/registry-2/pods/team/p")},
		{"/other/registry/pods/team/p", every, outside("/other/registry/pods/team/p")},
	}
	for _, tt := range tests {
		o := f.Inspect(t.Context(), &mvccpb.KeyValue{Key: []byte(tt.key)})
		if diff := cmp.Diff(tt.want, f.Guard(o, filter.Overrides{Namespaces: tt.allowed})); diff != "" {
			t.Errorf("Guard of %s with %v (-want +got):\n%s", tt.key, tt.allowed, diff)
		}
	}
}

// TestGuardAgreesInTheZoo: whatever lies in a system namespace is blocked, and
// with all of them allowed only what nothing allows.
func TestGuardAgreesInTheZoo(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	f := w.filter(filter.Selection{})
	all := filter.Overrides{Namespaces: []string{"kube-system", "kube-public", "kube-node-lease", "default"}}
	blocked, never := 0, 0
	for _, r := range f.Ranges() {
		err := w.src.Scan(t.Context(), r, false, func(kv *mvccpb.KeyValue) error {
			o := f.Inspect(t.Context(), kv)
			if f.Guard(o, filter.Overrides{}) != nil {
				blocked++
			}
			if b := f.Guard(o, all); b != nil {
				never++
				if b.Allow != "" {
					t.Errorf("%s: %q would allow it, but does not", kv.Key, b.Allow)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// masterleases, peerserverleases and ranges have one key each.
	if blocked < 40 || never != 3 {
		t.Errorf("%d blocked, %d of them for good; want many and 3", blocked, never)
	}
}

func TestGuardSelection(t *testing.T) {
	t.Parallel()
	tests := []struct {
		namespace string
		allowed   []string
		want      *filter.Block
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
