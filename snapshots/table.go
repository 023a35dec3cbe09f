package snapshots

import (
	"errors"
	"hash/maphash"
)

// A slot of a table: whether the key is alive, a part of the hash of the key, and the place of its newest entry. No
// place is 0, so an empty slot is.
const (
	placeBits = 35 // files of 512 GiB
	hashBits  = 28
	aliveBit  = 1 << 63

	minSlotBits = 10
)

var errTooLarge = errors.New("file is too large to look keys up")

// table finds the newest entries of keys. It holds no key: 8 bytes a slot say where the entry stands in the file, and
// that is where keys are compared. Open addressing, at most three of four slots in use; slots are in the order of the
// hash, so that growing needs to read neither keys nor memory out of order. The hash is seeded, so that nobody can
// make a file whose keys all collide.
type table struct {
	seed  maphash.Seed
	slots []uint64
	bits  int // of the number of slots
	used  int
	// same says whether the entry at a place is of that key.
	same func(at place, key []byte) (bool, error)
}

func newTable(same func(place, []byte) (bool, error)) *table {
	return &table{seed: maphash.MakeSeed(), slots: make([]uint64, 1<<minSlotBits), bits: minSlotBits, same: same}
}

func (t *table) hash(key []byte) uint64 {
	return maphash.Bytes(t.seed, key) >> (64 - hashBits)
}

func hashOf(slot uint64) uint64 { return slot >> placeBits & (1<<hashBits - 1) }

func placeIn(slot uint64) place { return place(slot & (1<<placeBits - 1)) }

// find gives the slot of key, or the empty one where it belongs.
func (t *table) find(key []byte, h uint64) (int, error) {
	for i := int(h >> (hashBits - t.bits)); ; i++ {
		i &= len(t.slots) - 1
		s := t.slots[i]
		if s == 0 {
			return i, nil
		}
		if hashOf(s) != h {
			continue
		}
		if ok, err := t.same(placeIn(s), key); ok || err != nil {
			return i, err
		}
	}
}

// add notes the entry of a key that was not met before. It is false for a key that was, and changes nothing then.
func (t *table) add(key []byte, at place, alive bool) (bool, error) {
	if at >= 1<<placeBits {
		return false, errTooLarge
	}
	h := t.hash(key)
	i, err := t.find(key, h)
	if err != nil || t.slots[i] != 0 {
		return false, err
	}
	s := h<<placeBits | uint64(at)
	if alive {
		s |= aliveBit
	}
	t.slots[i] = s
	t.used++
	if t.used > len(t.slots)/4*3 {
		return true, t.grow()
	}
	return true, nil
}

func (t *table) grow() error {
	if t.bits == hashBits {
		return errTooLarge
	}
	old := t.slots
	t.bits++
	t.slots = make([]uint64, 1<<t.bits)
	for _, s := range old {
		if s == 0 {
			continue
		}
		i := int(hashOf(s) >> (hashBits - t.bits))
		for t.slots[i] != 0 {
			i = (i + 1) & (len(t.slots) - 1)
		}
		t.slots[i] = s
	}
	return nil
}

// newest is the place of the newest entry of key; ok is false when there is none, alive when it is no deletion.
func (t *table) newest(key []byte) (at place, alive, ok bool, err error) {
	i, err := t.find(key, t.hash(key))
	if err != nil || t.slots[i] == 0 {
		return 0, false, false, err
	}
	return placeIn(t.slots[i]), t.slots[i]&aliveBit != 0, true, nil
}

// holds says whether the entry of key at a place is the newest one.
func (t *table) holds(key []byte, at place) bool {
	h := t.hash(key)
	for i := int(h >> (hashBits - t.bits)); ; i++ {
		i &= len(t.slots) - 1
		if s := t.slots[i]; s == 0 || hashOf(s) == h && placeIn(s) == at {
			return s != 0
		}
	}
}
