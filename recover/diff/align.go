package diff

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"strconv"
)

const (
	// maxCells bounds the table of one longest common subsequence: 4 MiB.
	maxCells = 1 << 20
	// maxEffort bounds what aligning the lists of one object costs in all, in
	// values that are summed up and cells of tables.
	maxEffort = 1 << 24
)

// aligned is an element that stands at old and at new in two lists, or with -1
// in one of them only.
type aligned struct{ old, new int }

// align says which elements of two lists to compare, in their order. Equal
// elements are left out: first those at both ends, then a longest common
// subsequence of the rest. It gives the same both ways round.
func (c *comparer) align(old, new []any) []aligned {
	a, okA := c.sums(old)
	b, okB := c.sums(new)
	if !okA || !okB {
		return between(nil, 0, len(old), 0, len(new))
	}
	first, last := 0, 0
	for first < min(len(a), len(b)) && a[first] == b[first] {
		first++
	}
	for last < min(len(a), len(b))-first && a[len(a)-1-last] == b[len(b)-1-last] {
		last++
	}
	i, j, endA, endB := first, first, len(a)-last, len(b)-last
	table := c.common(a[i:endA], b[j:endB])
	var list []aligned
	fromA, fromB := i, j
	for table != nil && i < endA && j < endB {
		switch x, y := i-first, j-first; {
		case a[i] == b[j]:
			list = between(list, fromA, i, fromB, j)
			i, j = i+1, j+1
			fromA, fromB = i, j
		case table.at(x+1, y) > table.at(x, y+1) || table.at(x+1, y) == table.at(x, y+1) && bytes.Compare(a[i][:], b[j][:]) < 0:
			i++
		default:
			j++
		}
	}
	return between(list, fromA, endA, fromB, endB)
}

// between adds what lies between two matches: side by side, as far as it goes.
func between(list []aligned, a, endA, b, endB int) []aligned {
	for ; a < endA || b < endB; a, b = a+1, b+1 {
		x := aligned{a, b}
		if a >= endA {
			x.old = -1
		}
		if b >= endB {
			x.new = -1
		}
		list = append(list, x)
	}
	return list
}

// lengths holds the length of a longest common subsequence of the rests of two
// lists, from every pair of places on.
type lengths struct {
	cells []int32
	row   int
}

func (l *lengths) at(i, j int) int32 { return l.cells[i*l.row+j] }

// common is nil if there is nothing to find, or if finding it costs too much.
func (c *comparer) common(a, b []sum) *lengths {
	size := (len(a) + 1) * (len(b) + 1)
	if len(a) == 0 || len(b) == 0 || len(a) == 1 && len(b) == 1 || size > maxCells || size > c.effort {
		return nil
	}
	c.effort -= size
	l := &lengths{make([]int32, size), len(b) + 1}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			n := max(l.at(i+1, j), l.at(i, j+1))
			if a[i] == b[j] {
				n = l.at(i+1, j+1) + 1
			}
			l.cells[i*l.row+j] = n
		}
	}
	return l
}

// sum is the same for values in which Objects finds no difference, and for no
// others.
type sum [sha256.Size]byte

// sums is false for what is no JSON, too deep, or too much.
func (c *comparer) sums(list []any) ([]sum, bool) {
	all := make([]sum, len(list))
	h := sha256.New()
	for i, v := range list {
		h.Reset()
		if !c.write(h, v, 0) {
			return nil, false
		}
		h.Sum(all[i][:0])
	}
	return all, true
}

func (c *comparer) write(h hash.Hash, v any, depth int) bool {
	if c.effort <= 0 || depth > maxDepth {
		return false
	}
	c.effort--
	switch v := v.(type) {
	case map[string]any:
		io.WriteString(h, "{") // a hash takes all
		for _, name := range names(v, nil) {
			io.WriteString(h, strconv.Quote(name))
			if !c.write(h, v[name], depth+1) {
				return false
			}
		}
		io.WriteString(h, "}")
		return true
	case []any:
		io.WriteString(h, "[")
		for _, w := range v {
			if !c.write(h, w, depth+1) {
				return false
			}
		}
		io.WriteString(h, "]")
		return true
	}
	text, ok := scalar(v)
	io.WriteString(h, text+",")
	return ok
}
