package app

import (
	"cmp"
	"context"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// filling is what takes the room in one etcd.
type filling struct {
	resources []filled // the largest first
	objects   int64
	bytes     int64 // of all live values and keys
	inUse     int64 // of the member that holds most
}

type filled struct {
	Resource string `json:"resource"`
	Objects  int64  `json:"objects"`
	Bytes    int64  `json:"bytes"`
}

// mostFilled bounds the resources that are told apart: custom ones can be any
// number.
const mostFilled = 4096

// fills reads the whole registry once, as count --bytes does.
func (u *upkeep) fills(ctx context.Context) (*filling, error) {
	if err := u.learn(ctx); err != nil {
		return nil, err
	}
	f, by := &filling{}, map[string]*filled{}
	err := u.src.Scan(ctx, keyspace.Prefix(u.reader.Prefix), false, func(kv *mvccpb.KeyValue) error {
		name := unknownResource
		if key, _ := u.reader.Catalog.ParseKey(u.reader.Prefix, string(kv.Key)); key.Resource != nil {
			name = key.Resource.String()
		}
		of := by[name]
		if of == nil && len(by) >= mostFilled {
			name = "<others>"
			of = by[name]
		}
		if of == nil {
			of = &filled{Resource: name}
			by[name] = of
		}
		n := int64(len(kv.Key) + len(kv.Value))
		of.Objects, of.Bytes, f.objects, f.bytes = of.Objects+1, of.Bytes+n, f.objects+1, f.bytes+n
		return nil
	})
	for _, of := range by {
		f.resources = append(f.resources, *of)
	}
	slices.SortFunc(f.resources, func(a, b filled) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Resource, b.Resource))
	})
	for _, m := range u.all {
		f.inUse = max(f.inUse, m.InUse)
	}
	return f, err
}

// history is about how much of what is in use are old versions and what etcd
// adds for itself.
func (f *filling) history() int64 { return max(0, f.inUse-f.bytes) }
