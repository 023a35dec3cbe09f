package snapshots

import (
	"hash"
	"hash/crc32"
)

// kvHash computes what etcd's HashKV gives (server/storage/mvcc/hash.go, unsafeHashByRev): the Castagnoli CRC over
// the name of bucket "key" and its entries in order, up to the revision asked for, without those that a compaction
// removes sooner or later. So members agree however far their compactions have come. At the very revision of its last
// compactions a running member answers with what it hashed then, at the compacted revision before; etcdutl does not.
type kvHash struct {
	file    *File
	sum     hash.Hash32
	rev     int64
	compact int64  // -1: none was
	newest  *index // of the keys at rev
}

func (f *File) newKVHash(x *index) *kvHash {
	h := &kvHash{file: f, sum: crc32.New(crc32.MakeTable(crc32.Castagnoli)), rev: x.rev, compact: f.compacted, newest: x}
	if h.compact == 0 {
		h.compact = -1
	}
	h.sum.Write([]byte(bucketKey))
	return h
}

// add takes the next entry, which stands at a place and belongs to key.
func (h *kvHash) add(at place, e element, pos Position, tombstone bool, key []byte) {
	if pos.Main > h.rev || pos.Main == h.compact && tombstone {
		return
	}
	// As long as no key is alive, etcd leaves nothing out.
	keepsAny := h.newest.live > 0 || h.newest.keyless != 0
	if pos.Main <= h.compact && keepsAny && !h.keeps(at, tombstone, key) {
		return
	}
	h.sum.Write(e.key)
	h.sum.Write(e.value)
}

// keeps says whether an entry is the newest of a key that is alive.
func (h *kvHash) keeps(at place, tombstone bool, key []byte) bool {
	if len(key) == 0 {
		return at == h.newest.keyless
	}
	return !tombstone && h.newest.keys.holds(key, at)
}

func (h *kvHash) result() *HashKV {
	return &HashKV{Hash: h.sum.Sum32(), Revision: h.rev, CompactRevision: h.compact}
}
