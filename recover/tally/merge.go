package tally

import "math"

// merge takes the smaller half of the groups out of the table. Of groups of the
// same size the ones added first go: had they been large, they would have grown
// by now.
func (t *Table) merge() {
	hist := make([]int, weights)
	t.store.each(func(at uint32, r []byte) {
		hist[t.weight(t.store.figures(at, r))]++
	})
	quota := (t.store.n + 1) / 2
	limit := 0
	for ; hist[limit] < quota; limit++ {
		quota -= hist[limit]
	}
	var largest wide
	t.store.compact(func(f wide) bool {
		switch w := t.weight(f); {
		case w > limit, w == limit && quota == 0:
			return true
		case w == limit:
			quota--
		}
		t.merged.Groups++
		t.merged.Objects += f.objects
		t.merged.Bytes += f.bytes
		largest.objects, largest.bytes = max(largest.objects, f.objects), max(largest.bytes, f.bytes)
		return false
	})
	t.shortObjects += largest.objects
	t.shortBytes += largest.bytes
}

const (
	// weightSteps divide each doubling of the weight.
	weightSteps = 8
	weights     = 66 * weightSteps
)

// weight is a group's share in the objects and in the bytes, on a logarithmic
// scale of steps of an eighth: whoever sorts by either wants the large ones.
func (t *Table) weight(f wide) int {
	share := float64(f.objects)/float64(max(t.objects, 1)) + float64(f.bytes)/float64(max(t.bytes, 1))
	frac, exp := math.Frexp(share) // share is frac (0.5 to 1) times 2 to the exp
	step := int((frac - 0.5) * 2 * weightSteps)
	return min(max((exp+63)*weightSteps+step, 0), weights-1)
}

// compact keeps the records that fn wants, in their order and in their chunks:
// a record never moves behind where it was, so no second copy is needed.
func (s *store) compact(fn func(wide) bool) {
	chunks, first := s.chunks, counters
	full := make([]int, len(chunks)) // how far each was used
	for i, c := range chunks {
		full[i] = len(c)
		chunks[i] = c[:first]
		first = 0
	}
	old := s.wide
	s.wide, s.n, s.last = map[uint32]wide{}, 0, 0
	used := make([]bool, len(s.shared.texts))
	off := counters
	for i, end := range full {
		for off < end {
			r := chunks[i][off:end]
			r = r[:s.recordLen(r)]
			was := uint32(i)<<chunkBits | uint32(off)
			off += len(r)
			f, aside := old[was]
			if !aside {
				f = s.figures(was, r)
			}
			if !fn(f) {
				continue
			}
			s.use(r, used)
			at := s.append(r)
			s.n++
			if aside {
				s.wide[at] = f
			}
		}
		off = 0
	}
	s.shared.sweep(used)
	s.rehash(len(s.index))
}

// use marks the shared texts of a record.
func (s *store) use(r []byte, used []bool) {
	r = r[counters:]
	for range s.columns {
		u, n := uvarint(r)
		r = r[n:]
		used[u>>1] = true
		if u&1 != 0 {
			l, n := uvarint(r)
			r = r[n+int(l):]
		}
	}
}

// release gives up the chunks that are empty.
func (s *store) release() {
	if len(s.chunks) > 0 {
		clear(s.chunks[s.last+1:])
		s.chunks = s.chunks[:s.last+1]
	}
}
