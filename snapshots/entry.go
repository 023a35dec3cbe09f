package snapshots

import (
	"bytes"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// fields are those of an encoded mvccpb.KeyValue. Key and value point into it.
type fields struct {
	key, value                  []byte
	create, mod, version, lease int64
	// odd says that the key is not the first field, or not the only one of its number. etcd writes no such entry.
	odd bool
}

// The numbers of the fields (etcd api/mvccpb/kv.proto).
const (
	fieldKey     = 1
	fieldCreate  = 2
	fieldMod     = 3
	fieldVersion = 4
	fieldValue   = 5
	fieldLease   = 6

	keyTag = fieldKey<<3 | byte(protowire.BytesType)
)

var errFieldNumber = errors.New("invalid field number")

// parse takes an encoded KeyValue apart without copying anything. It takes and refuses what proto.Unmarshal does: the
// last occurrence of a field counts, and what is unknown is passed over. Errors do not quote the value, which may be a
// Secret.
func (f *fields) parse(b []byte) error {
	*f = fields{odd: len(b) == 0 || b[0] != keyTag}
	for first := true; len(b) > 0; first = false {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if num > protowire.MaxValidNumber {
			return errFieldNumber
		}
		b = b[n:]
		switch {
		case typ == protowire.BytesType && (num == fieldKey || num == fieldValue):
			var v []byte
			if v, n = protowire.ConsumeBytes(b); num == fieldKey {
				f.key, f.odd = v, f.odd || !first
			} else {
				f.value = v
			}
		case typ == protowire.VarintType && num <= fieldLease:
			var v uint64
			v, n = protowire.ConsumeVarint(b)
			f.set(num, int64(v))
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
	}
	return nil
}

func (f *fields) set(num protowire.Number, v int64) {
	switch num {
	case fieldCreate:
		f.create = v
	case fieldMod:
		f.mod = v
	case fieldVersion:
		f.version = v
	case fieldLease:
		f.lease = v
	}
}

// size is how many bytes etcd encodes the same in.
func (f *fields) size() int {
	n := 0
	for _, b := range [][]byte{f.key, f.value} {
		if len(b) > 0 {
			n += 1 + protowire.SizeBytes(len(b))
		}
	}
	for _, v := range []int64{f.create, f.mod, f.version, f.lease} {
		if v != 0 {
			n += 1 + protowire.SizeVarint(uint64(v))
		}
	}
	return n
}

// keyOf is the key of an encoded KeyValue that is not odd, and looks at no more than that.
func keyOf(b []byte) (key []byte, ok bool) {
	if len(b) == 0 || b[0] != keyTag {
		return nil, false
	}
	key, n := protowire.ConsumeBytes(b[1:])
	return key, n > 0
}

// fill makes kv share the bytes of f.
func (f *fields) fill(kv *mvccpb.KeyValue) {
	kv.Key, kv.Value = f.key, f.value
	kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease = f.create, f.mod, f.version, f.lease
}

// clone is a KeyValue that shares nothing with f.
func (f *fields) clone(keysOnly bool) *mvccpb.KeyValue {
	kv := &mvccpb.KeyValue{}
	f.fill(kv)
	kv.Key = bytes.Clone(f.key)
	if kv.Value = nil; !keysOnly {
		kv.Value = bytes.Clone(f.value)
	}
	return kv
}

// parse is fields.parse with an error that says where.
func (f *File) parse(pos Position, value []byte, into *fields) error {
	if err := into.parse(value); err != nil {
		of := ""
		if key, ok := keyOf(value); ok {
			of = fmt.Sprintf(", of %q,", shortKey(key))
		}
		return &damage{f.path, fmt.Sprintf("the entry at %s%s is not a key-value message: %v", pos, of, err)}
	}
	return nil
}
