package app

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// unordered is a source that is read faster in an order of its own.
type unordered interface {
	// ScanUnordered is Scan in no particular order; the KeyValue is valid
	// during the call only.
	ScanUnordered(ctx context.Context, r keyspace.Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error
}

// scanAny is Scan for those who neither need an order nor keep a KeyValue.
func scanAny(ctx context.Context, src keyspace.Source, r keyspace.Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	if file, ok := src.(unordered); ok && r.End != "" {
		return file.ScanUnordered(ctx, r, keysOnly, fn)
	}
	return src.Scan(ctx, r, keysOnly, fn)
}
