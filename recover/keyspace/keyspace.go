// Package keyspace reads the keys of one store, a live etcd or a db file, at
// one revision and in key order. It cannot write.
//
// The key invariant: everything that one Source yields belongs to the same
// revision, so that counts, lists and plans made from it agree with each
// other. When that revision is lost in the middle of a read, because somebody
// compacted it, the read fails with CompactedError; it never goes on with a
// newer revision. What is older than that revision, the past of one key, is
// what History and At read.
package keyspace

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// Range is the half-open interval of keys [Start, End). An empty End means
// the one key Start, as in etcd's API.
type Range struct{ Start, End string }

// Prefix returns the range of all keys that begin with prefix, which must end
// in "/" so that /registry/pods/team/ never covers /registry/pods/team-x/.
func Prefix(prefix string) Range {
	end := []byte(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return Range{prefix, string(end[:i+1])}
		}
	}
	return Range{prefix, "\x00"}
}

// Source yields keys at one revision. Implementations are safe for concurrent
// use. A KeyValue that is handed out belongs to the receiver.
type Source interface {
	// Revision is the revision that every answer belongs to.
	Revision() int64
	// Scan calls fn for every key of r in key order. With keysOnly the
	// values (and on etcd from 3.7 the leases) are left out. An error of fn
	// ends the scan and is returned as it is.
	Scan(ctx context.Context, r Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error
	// Count tells how many keys r holds, without reading values.
	Count(ctx context.Context, r Range) (int64, error)
	// Get returns one key, nil if it does not exist.
	Get(ctx context.Context, key string) (*mvccpb.KeyValue, error)
	// GetAll returns those of the given keys that exist. The keys must be
	// sorted. The caller bounds how many it asks for, because all the
	// values are held at once.
	GetAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error)
}

// CompactedError says that a revision cannot be read any more. Oldest is the
// oldest one that can be, as far as it is known; with Oldest 0 it was the
// pinned revision that was compacted while it was being read. Nothing was
// changed; a read of the present has to start again.
type CompactedError struct{ Revision, Oldest int64 }

func (e *CompactedError) Error() string {
	if e.Oldest > 0 {
		return fmt.Sprintf("revision %d was compacted; the oldest that can be read is %d", e.Revision, e.Oldest)
	}
	return fmt.Sprintf("revision %d was compacted while it was being read", e.Revision)
}

// ErrNoIdentity is returned by ClusterUID for a store without a readable
// kube-system Namespace: another prefix, or no Kubernetes store at all.
var ErrNoIdentity = errors.New("no kube-system Namespace that could be read")

// ClusterUID returns the UID of the kube-system Namespace, by which plans and
// archives know the cluster they belong to. It survives a restore from a
// snapshot, which etcd's own cluster id does not.
func ClusterUID(ctx context.Context, s Source, prefix string) (string, error) {
	key := prefix + "namespaces/kube-system"
	kv, err := s.Get(ctx, key)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	if kv == nil {
		return "", ErrNoIdentity
	}
	uid := codec.DecodeHead(kv.Value).Meta.UID
	if uid == "" {
		return "", ErrNoIdentity
	}
	return uid, nil
}
