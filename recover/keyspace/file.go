package keyspace

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// File is a Source over a snapshot, a member's db file or an archive.
type File struct {
	f   *snapshots.File
	rev int64
}

// FromFile reads f at its newest revision. The caller keeps f open for as
// long as the Source is used, and closes it.
func FromFile(f *snapshots.File) *File { return &File{f: f, rev: f.Revision()} }

// Revision is the newest revision in the file.
func (s *File) Revision() int64 { return s.rev }

// Scan implements Source.
func (s *File) Scan(ctx context.Context, r Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	return s.f.Scan(ctx, r.Start, r.End, 0, func(kv *mvccpb.KeyValue) error {
		if keysOnly {
			kv.Value = nil
		}
		return fn(kv)
	})
}

// Count implements Source.
func (s *File) Count(ctx context.Context, r Range) (int64, error) {
	return s.f.Count(ctx, r.Start, r.End, 0)
}

// Get implements Source.
func (s *File) Get(_ context.Context, key string) (*mvccpb.KeyValue, error) {
	return s.f.Get(key, 0)
}

// GetAll implements Source.
func (s *File) GetAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	found := make(map[string]*mvccpb.KeyValue, len(keys))
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		kv, err := s.f.Get(key, 0)
		if err != nil {
			return nil, err
		}
		if kv != nil {
			found[key] = kv
		}
	}
	return found, nil
}
