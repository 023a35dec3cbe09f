package tally

import "strings"

const (
	// maxShared beginnings are kept, and long texts beside them.
	maxShared = 1 << 15
	// longText is kept as it is, so that a record fits into a chunk.
	longText = 512
	// textCost is about what a kept text takes beside its bytes.
	textCost = 64
	// maxCuts is how many places of a text are looked at.
	maxCuts = 12
	// onceSlots is how many texts back one is still known to have been there.
	onceSlots = 1 << 14
)

// shared holds the texts and the beginnings of texts that several groups have.
// A beginning is taken in when it is seen for the second time, so that names
// which occur once do not fill it.
type shared struct {
	texts []string          // by number; number 0 is no text
	known map[uint64]uint64 // hash to number
	free  []uint64          // numbers to be used again
	bytes int64
	long  int      // how many are long: they do not count towards maxShared
	once  []uint32 // the upper half of the hash of what was seen once, by its lower
	cuts  [maxCuts]cut
}

// cut is a place to divide a text at.
type cut struct {
	at   int
	hash uint64
}

func newShared() shared {
	return shared{texts: []string{""}, known: map[uint64]uint64{}, once: make([]uint32, onceSlots)}
}

func (s *shared) size() int64 {
	return s.bytes + int64(len(s.texts))*textCost + 4*onceSlots
}

// cut divides a text into the longest known beginning, by its number, and the
// rest.
func (s *shared) cut(v string) (ref uint64, rest string) {
	if v == "" {
		return 0, ""
	}
	cuts := s.places(v)
	for i := len(cuts) - 1; i >= 0; i-- {
		c := cuts[i]
		begin := v[:c.at]
		ref, ok := s.known[c.hash]
		if ok && s.texts[ref] == begin {
			return ref, v[c.at:]
		}
		if !ok && s.again(c.hash) {
			return s.keep(c.hash, begin), v[c.at:]
		}
		if c.at > longText {
			return s.keep(c.hash, begin), v[c.at:]
		}
	}
	return 0, v
}

// places are where the text may be divided: behind its separators, the last
// ones if there are many, and at its end. A long text is one piece.
func (s *shared) places(v string) []cut {
	const offset, prime = 14695981039346656037, 1099511628211 // FNV-1a, 64 bit
	h, n := uint64(offset), 0
	for i := range len(v) {
		h = (h ^ uint64(v[i])) * prime
		if i == len(v)-1 || len(v) <= longText && separates(v[i]) {
			if n == maxCuts { // the first, shortest one stays
				copy(s.cuts[1:], s.cuts[2:])
				n--
			}
			s.cuts[n] = cut{i + 1, h}
			n++
		}
	}
	return s.cuts[:n]
}

func separates(c byte) bool {
	switch c {
	case '/', '-', '.', ':', '_', '=':
		return true
	}
	return false
}

// again reports whether a beginning was seen a while ago and may be taken in.
func (s *shared) again(h uint64) bool {
	if len(s.texts)-len(s.free)-s.long > maxShared {
		return false
	}
	seen := &s.once[(h^h>>17)%onceSlots]
	if *seen == uint32(h>>32) {
		return true
	}
	*seen = uint32(h >> 32)
	return false
}

func (s *shared) keep(h uint64, v string) uint64 {
	v = strings.Clone(v)
	var ref uint64
	if n := len(s.free); n > 0 {
		ref, s.free = s.free[n-1], s.free[:n-1]
		s.texts[ref] = v
	} else {
		ref = uint64(len(s.texts))
		s.texts = append(s.texts, v)
	}
	if _, taken := s.known[h]; !taken {
		s.known[h] = ref
	}
	s.bytes += int64(len(v))
	if len(v) > longText {
		s.long++
	}
	return ref
}

// sweep forgets the texts that are not used any more. The beginnings that are
// not long stay: they will be needed again.
func (s *shared) sweep(used []bool) {
	s.free = s.free[:0]
	for h, ref := range s.known {
		if v := s.texts[ref]; len(v) > longText && !used[ref] {
			delete(s.known, h)
		}
	}
	for ref := 1; ref < len(s.texts); ref++ {
		v := s.texts[ref]
		if len(v) > longText && !used[ref] {
			s.bytes -= int64(len(v))
			s.long--
			s.texts[ref] = ""
		}
		if s.texts[ref] == "" {
			s.free = append(s.free, uint64(ref))
		}
	}
}
