package keyspace_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

func TestPrefix(t *testing.T) {
	t.Parallel()
	tests := []struct {
		prefix string
		want   keyspace.Range
	}{
		{"/", keyspace.Range{Start: "/", End: "0"}},
		{"/registry/", keyspace.Range{Start: "/registry/", End: "/registry0"}},
		{"/registry/pods/team/", keyspace.Range{Start: "/registry/pods/team/", End: "/registry/pods/team0"}},
		{"a\xff", keyspace.Range{Start: "a\xff", End: "b"}},
		{"a\xfe\xff\xff", keyspace.Range{Start: "a\xfe\xff\xff", End: "a\xff"}},
		{"\xff\xff", keyspace.Range{Start: "\xff\xff", End: "\x00"}},
	}
	for _, tt := range tests {
		if got := keyspace.Prefix(tt.prefix); got != tt.want {
			t.Errorf("Prefix(%q) = %q, want %q", tt.prefix, got, tt.want)
		}
	}
}

func FuzzPrefix(f *testing.F) {
	f.Add("/registry/pods/team/", "/registry/pods/team/a")
	f.Add("/registry/pods/team/", "/registry/pods/team-x/a")
	f.Add("/registry/pods/team/", "/registry/pods/team0")
	f.Add("a\xff", "a\xff\xff")
	f.Fuzz(func(t *testing.T, prefix, key string) {
		r := keyspace.Prefix(prefix)
		// The end "\x00" means no end, as in etcd's API.
		inside := key >= r.Start && (key < r.End || r.End == "\x00")
		if want := strings.HasPrefix(key, prefix); inside != want {
			t.Errorf("%q in %q: %v, want %v", key, r, inside, want)
		}
	})
}

const kubeSystem = prefix + "namespaces/kube-system"

func TestClusterUID(t *testing.T) {
	t.Parallel()
	const uid = "0d4c5a05-0000-4000-8000-000000000001"
	namespace := `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"kube-system","uid":"` + uid + `"}}`
	tests := []struct {
		name, key, value, want string
		err                    error
	}{
		{"present", kubeSystem, namespace, uid, nil},
		{"absent", prefix + "namespaces/kube-public", namespace, "", keyspace.ErrNoIdentity},
		{"longer name", kubeSystem + "-2", namespace, "", keyspace.ErrNoIdentity},
		{"other prefix", "/kubernetes.io/namespaces/kube-system", namespace, "", keyspace.ErrNoIdentity},
		{"encrypted", kubeSystem, "k8s:enc:aescbc:v1:key1:0123456789abcdef", "", keyspace.ErrNoIdentity},
		{"damaged", kubeSystem, "k8s\x00\xff\xff\xff", "", keyspace.ErrNoIdentity},
		{"empty", kubeSystem, "", "", keyspace.ErrNoIdentity},
		{"without UID", kubeSystem, strings.Replace(namespace, uid, "", 1), "", keyspace.ErrNoIdentity},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := keyspace.ClusterUID(t.Context(), made(t, map[string]string{tt.key: tt.value}), prefix)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("ClusterUID = %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

// TestUnreadableIdentityIsNoMissingOne: a store that cannot be asked must not
// look like one without an identity.
func TestUnreadableIdentityIsNoMissingOne(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	src := s.pin(s)
	if _, err := keyspace.ClusterUID(t.Context(), src, prefix); !errors.Is(err, keyspace.ErrNoIdentity) {
		t.Errorf("in an empty etcd: %v, want ErrNoIdentity", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := keyspace.ClusterUID(ctx, src, prefix)
	if !errors.Is(err, context.Canceled) || errors.Is(err, keyspace.ErrNoIdentity) || !strings.Contains(err.Error(), kubeSystem) {
		t.Errorf("cancelled: %v, want context.Canceled and the key", err)
	}
}
