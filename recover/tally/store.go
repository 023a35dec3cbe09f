package tally

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"math/bits"
	"unsafe"
)

const (
	chunkBits = 18
	chunkSize = 1 << chunkBits
	// offsetBits of a slot say where the group is, the others are of its hash.
	offsetBits = 27
	maxArena   = 1 << offsetBits
	offsetMask = maxArena - 1

	firstSlots = 256
	counters   = 8 // bytes of a record before its texts
)

// store holds the groups: records one behind another in chunks, and an index
// of open addressing. A record is the objects and the bytes, 32 bit each, then
// for each column a number, whose lowest bit says that a rest follows and the
// others which shared beginning the text has (0: none), and the rest, after its
// length. There is no pointer for the garbage collector to follow.
type store struct {
	columns int
	limits  Limits
	seed    maphash.Seed

	n      int
	index  []uint32 // the highest bits of the hash, then where the record is; 0 is free
	chunks [][]byte // len is what is used
	last   int      // chunk that is written to
	wide   map[uint32]wide
	shared shared
	buf    []byte
}

// wide are figures that do not fit into a record.
type wide struct{ objects, bytes int64 }

const isWide = math.MaxUint32

func newStore(columns int, l Limits) store {
	return store{
		columns: columns, limits: l, seed: maphash.MakeSeed(),
		index:  make([]uint32, firstSlots),
		wide:   map[uint32]wide{},
		shared: newShared(),
	}
}

func (s *store) hash(by []string) uint64 {
	var h uint64
	for _, v := range by {
		h = (bits.RotateLeft64(h, 29) ^ maphash.String(s.seed, v)) * 0x9E3779B97F4A7C15
	}
	return h ^ h>>32
}

// slot is where a hash belongs in the index.
func (s *store) slot(h uint64) int {
	high, _ := bits.Mul64(h, uint64(len(s.index)))
	return int(high)
}

func tag(h uint64) uint32 { return uint32(h) &^ offsetMask }

// find returns where the group is, or 0.
func (s *store) find(h uint64, by []string) uint32 {
	for i, tag := s.slot(h), tag(h); ; {
		e := s.index[i]
		if e == 0 {
			return 0
		}
		if e&^offsetMask == tag && s.equal(e&offsetMask, by) {
			return e & offsetMask
		}
		if i++; i == len(s.index) {
			i = 0
		}
	}
}

func (s *store) put(h uint64, at uint32) {
	i := s.slot(h)
	for s.index[i] != 0 {
		if i++; i == len(s.index) {
			i = 0
		}
	}
	s.index[i] = tag(h) | at
}

// record is what stands at an offset, and all that follows it in its chunk.
func (s *store) record(at uint32) []byte {
	return s.chunks[at>>chunkBits][at&(chunkSize-1):]
}

func (s *store) equal(at uint32, by []string) bool {
	r := s.record(at)[counters:]
	for _, v := range by {
		u, n := uvarint(r)
		r = r[n:]
		if ref := u >> 1; ref != 0 {
			p := s.shared.texts[ref]
			if len(v) < len(p) || v[:len(p)] != p {
				return false
			}
			v = v[len(p):]
		}
		if u&1 == 0 {
			if v != "" {
				return false
			}
			continue
		}
		l, n := uvarint(r)
		end := n + int(l)
		if string(r[n:end]) != v {
			return false
		}
		r = r[end:]
	}
	return true
}

// uvarint is binary.Uvarint with the short numbers first.
func uvarint(b []byte) (uint64, int) {
	if b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return binary.Uvarint(b)
}

// need is how many bytes a new group takes at most: of its record, and of long
// texts beside it.
func (s *store) need(by []string) (record int, kept int64) {
	record = counters
	for _, v := range by {
		record += 8
		if len(v) > longText {
			kept += int64(len(v)) + textCost
		} else {
			record += len(v)
		}
	}
	return record, kept
}

// size is what the store holds with one more record, and while it is sorted.
func (s *store) size(record int) int64 {
	slots := len(s.index)
	if s.crowded() {
		slots = s.moreSlots()
	}
	chunks := len(s.chunks)
	if !s.fits(record) && s.last+1 >= chunks {
		chunks++
	}
	return int64(chunks)*chunkSize + int64(slots)*4 + int64(s.n)*4 + s.shared.size()
}

// fits reports whether the last chunk has room for so many bytes.
func (s *store) fits(need int) bool {
	return len(s.chunks) > 0 && len(s.chunks[s.last])+need <= chunkSize
}

// insert adds a group that is not there.
func (s *store) insert(h uint64, by []string) uint32 {
	if s.crowded() {
		s.rehash(s.moreSlots())
	}
	s.buf = append(s.buf[:0], make([]byte, counters)...)
	for _, v := range by {
		ref, rest := s.shared.cut(v)
		if rest == "" {
			s.buf = binary.AppendUvarint(s.buf, ref<<1)
			continue
		}
		s.buf = binary.AppendUvarint(s.buf, ref<<1|1)
		s.buf = binary.AppendUvarint(s.buf, uint64(len(rest)))
		s.buf = append(s.buf, rest...)
	}
	at := s.append(s.buf)
	s.put(h, at)
	s.n++
	return at
}

// append copies a record behind the others.
func (s *store) append(r []byte) uint32 {
	switch {
	case len(s.chunks) == 0:
		s.chunks = append(s.chunks, make([]byte, counters, chunkSize)) // so that no record is at 0
	case s.fits(len(r)):
	case s.last+1 < len(s.chunks):
		s.last++
	default:
		s.chunks = append(s.chunks, make([]byte, 0, chunkSize))
		s.last++
	}
	c := &s.chunks[s.last]
	at := uint32(s.last)<<chunkBits | uint32(len(*c))
	*c = append(*c, r...)
	return at
}

// crowded reports whether the index has to grow before the next group.
func (s *store) crowded() bool { return s.n+1 > len(s.index)/4*3 }

// moreSlots doubles the index, but not beyond what the limit can fill.
func (s *store) moreSlots() int {
	return max(min(2*len(s.index), s.limits.Groups/3*4+firstSlots), len(s.index)+firstSlots)
}

// rehash builds the index anew.
func (s *store) rehash(slots int) {
	if slots == len(s.index) {
		clear(s.index)
	} else {
		s.index = make([]uint32, slots)
	}
	v := s.newView()
	s.each(func(at uint32, _ []byte) {
		s.put(s.hash(s.texts(at, v)), at)
	})
}

// each calls fn for every record, in the order in which they were added.
func (s *store) each(fn func(at uint32, record []byte)) {
	for i, c := range s.chunks {
		off := 0
		if i == 0 {
			off = counters
		}
		for off < len(c) {
			n := s.recordLen(c[off:])
			fn(uint32(i)<<chunkBits|uint32(off), c[off:off+n])
			off += n
		}
	}
}

func (s *store) recordLen(r []byte) int {
	at := counters
	for range s.columns {
		u, n := uvarint(r[at:])
		at += n
		if u&1 != 0 {
			l, n := uvarint(r[at:])
			at += n + int(l)
		}
	}
	return at
}

// count adds to a group.
func (s *store) count(at uint32, objects, bytes int64) {
	r := s.record(at)
	o, b := binary.LittleEndian.Uint32(r), binary.LittleEndian.Uint32(r[4:])
	if o != isWide && objects < int64(isWide-o) && bytes < int64(isWide-b) {
		binary.LittleEndian.PutUint32(r, o+uint32(objects))
		binary.LittleEndian.PutUint32(r[4:], b+uint32(bytes))
		return
	}
	w := s.figures(at, r)
	w.objects += objects
	w.bytes += bytes
	s.wide[at] = w
	binary.LittleEndian.PutUint32(r, isWide)
}

// figures of a record; those that are too large for it stand aside.
func (s *store) figures(at uint32, r []byte) wide {
	o := binary.LittleEndian.Uint32(r)
	if o == isWide {
		return s.wide[at]
	}
	return wide{int64(o), int64(binary.LittleEndian.Uint32(r[4:]))}
}

// view is where the texts of one group are put together.
type view struct {
	by  []string
	buf []byte
}

func (s *store) newView() *view { return &view{by: make([]string, s.columns)} }

// texts of a group, valid until v is used again or the store changes: what is
// in one piece is not copied, and the rest stands in v's buffer. Copies would
// be garbage of the size of the whole table when it is printed.
func (s *store) texts(at uint32, v *view) []string {
	r := s.record(at)[counters:]
	v.buf = v.buf[:0]
	for i := range v.by {
		u, n := uvarint(r)
		r = r[n:]
		v.by[i] = s.shared.texts[u>>1]
		if u&1 == 0 {
			continue
		}
		l, n := uvarint(r)
		rest := r[n : n+int(l)]
		r = r[n+int(l):]
		if u>>1 != 0 {
			from := len(v.buf)
			v.buf = append(append(v.buf, v.by[i]...), rest...)
			rest = v.buf[from:]
		}
		v.by[i] = unsafe.String(unsafe.SliceData(rest), len(rest))
	}
	return v.by
}
