package alive

import (
	"context"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// longestName is how much of a name is kept: no host's is longer.
const longestName = 253

// identityLabel and hostLabel are on the identity Lease of an API server (k8s
// pkg/controlplane/apiserver/server.go, labelAPIServerHeartbeatFunc).
const (
	identityLabel = "apiserver.kubernetes.io/identity"
	hostLabel     = "kubernetes.io/hostname"
)

// sign is one key that a component renews.
type sign struct {
	key  string
	name string
	// rev is the mod revision.
	rev int64
	// renewed is the Lease's own time, zero if it says none or is no Lease.
	renewed time.Time
	// unreadable says that the value cannot be read.
	unreadable bool
	// released says that the leader gave its Lease up and nobody took it.
	released bool
}

// lease reads a Lease. ok is false for the identity Lease of something else
// than a kube-apiserver.
func lease(ctx context.Context, reader *codec.Reader, kv *mvccpb.KeyValue, identity bool) (s sign, ok bool) {
	key := string(kv.Key)
	s = sign{key: key, name: clip(key[strings.LastIndex(key, "/")+1:]), rev: kv.ModRevision}
	v := reader.Read(ctx, key, kv.Value)
	spec, err := specOf(v.Plain, kv.ModRevision)
	if v.Head.Err != nil || err != nil {
		s.unreadable = true
		return s, true
	}
	text, _ := spec["renewTime"].(string)
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		s.renewed = t
	}
	if identity {
		if host := v.Head.Meta.Labels.Get(hostLabel); host != "" {
			s.name = clip(host)
		}
		return s, v.Head.Meta.Labels.Get(identityLabel) == Server
	}
	// A leader calls itself HOST_UUID (k8s
	// cmd/kube-controller-manager/app/controllermanager.go); who gives the
	// Lease up leaves it without a holder (client-go tools/leaderelection,
	// release).
	holder, _ := spec["holderIdentity"].(string)
	host, _, _ := strings.Cut(holder, "_")
	s.name, s.released = clip(host), holder == ""
	return s, true
}

// specOf returns the spec of a stored Lease, of whatever version.
func specOf(plain []byte, rev int64) (map[string]any, error) {
	obj, err := codec.Decode(plain, rev)
	if err != nil {
		return nil, err
	}
	m, err := codec.Render(obj, codec.RenderOptions{})
	if err != nil {
		return nil, err
	}
	spec, _ := m["spec"].(map[string]any)
	return spec, nil
}

func clip(name string) string { return name[:min(len(name), longestName)] }
