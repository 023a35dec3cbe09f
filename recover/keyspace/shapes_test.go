package keyspace

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// alphabets are what the bytes of random names are taken from.
var alphabets = []string{
	"ab", "0123456789", "0123456789abcdef", "bcdfghjklmnpqrstvwxz2456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "azAZ09-./:{~_",
	"\x00\x01\xfe\xff", "\x00\xff", "äöü€😀/", everyByte(),
}

func everyByte() string {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return string(all)
}

// maker makes random keys.
type maker struct{ *rand.Rand }

func newMaker(seed uint64) maker { return maker{rand.New(rand.NewPCG(seed, 4))} }

func (m maker) alphabet() string { return alphabets[m.IntN(len(alphabets))] }

// below is a random number up to most, of any magnitude.
func (m maker) below(most int) int { return m.IntN(1 + m.IntN(1+m.IntN(1+most))) }

func (m maker) word(alphabet string, n int) string {
	word := make([]byte, n)
	for i := range word {
		word[i] = alphabet[m.IntN(len(alphabet))]
	}
	return string(word)
}

// keys is a sorted set of about most keys that begin with dir, whose shape is
// as random as they are.
func (m maker) keys(dir string, most int) []string {
	var keys []string
	for range 1 + m.IntN(3) {
		n := 1 + m.below(most)
		switch m.IntN(7) {
		case 0:
			keys = m.trie(keys, dir+m.word(m.alphabet(), m.below(20)), n, 0)
		case 1:
			keys = append(keys, m.clusters(dir, n)...)
		case 2:
			keys = append(keys, m.nested(dir, n)...)
		case 3:
			keys = append(keys, m.numbers(dir, n)...)
		case 4:
			keys = append(keys, m.objects(dir, n)...)
		case 5:
			keys = append(keys, m.changed(dir, n)...)
		case 6:
			alphabet, length := m.alphabet(), 1+m.below(30)
			for range n {
				keys = append(keys, dir+m.word(alphabet, length))
			}
		}
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return key == "" })
	slices.Sort(keys)
	return slices.Compact(keys)
}

// trie branches at random.
func (m maker) trie(keys []string, node string, n, depth int) []string {
	if m.IntN(4) == 0 || n <= 1 || depth > 40 {
		keys = append(keys, node)
	}
	if n <= 1 || depth > 40 {
		return keys
	}
	alphabet, children := m.alphabet(), 1+m.below(min(n, 40))
	for n > 0 && children > 0 {
		part := n
		if children--; children > 0 {
			part = 1 + m.IntN(n)
		}
		keys = m.trie(keys, node+m.word(alphabet, 1+m.below(8)), part, depth+1)
		n -= part
	}
	return keys
}

// clusters are dense places at random ones, of very different sizes.
func (m maker) clusters(dir string, n int) (keys []string) {
	outer, inner := m.alphabet(), m.alphabet()
	length := 1 + m.below(12)
	for n > 0 {
		cluster := dir + m.word(outer, length) + strings.Repeat("-", m.IntN(3)) + m.word(outer, m.below(8))
		size := 1 + m.below(n)
		for range size {
			keys = append(keys, cluster+m.word(inner, 1+m.below(6)))
		}
		n -= size
	}
	return keys
}

// nested are names that are prefixes of others.
func (m maker) nested(dir string, n int) (keys []string) {
	alphabet, key := m.alphabet(), dir
	for range n {
		if len(key) > len(dir)+200 {
			key = dir
		}
		key += m.word(alphabet, 1+m.below(3))
		keys = append(keys, key, key+"\x00", key+"0")
	}
	return keys
}

func (m maker) numbers(dir string, n int) (keys []string) {
	format := []string{"%d", "%08d", "%x", "%016x", "p-%d/x", "%d-suffix-that-is-long", "%b"}[m.IntN(7)]
	start, step := m.below(1e15), 1+m.below(1e6)
	for i := range n {
		keys = append(keys, dir+fmt.Sprintf(format, start+i*step))
	}
	return keys
}

// objects are named as those of a cluster.
func (m maker) objects(dir string, n int) (keys []string) {
	namespaces, jobs := 1+m.below(n), 1+m.below(20)
	for range n {
		keys = append(keys, fmt.Sprintf("%sns-%d/job-%x-%s", dir, m.below(namespaces), m.IntN(jobs)*7919, m.word(alphabets[3], 5)))
	}
	return keys
}

// changed are keys each of which shares a random part with the one before.
func (m maker) changed(dir string, n int) (keys []string) {
	alphabet, name := m.alphabet(), ""
	for range n {
		name = name[:m.IntN(len(name)+1)] + m.word(alphabet, 1+m.below(10))
		keys = append(keys, dir+name)
		if len(name) > 300 {
			name = ""
		}
	}
	return keys
}

// rangeOver is a range that fits keys, which begin with dir: often all of them.
func (m maker) rangeOver(dir string, keys []string) Range {
	bound := func() string {
		if len(keys) == 0 {
			return dir + "x"
		}
		key := keys[m.IntN(len(keys))]
		switch m.IntN(5) {
		case 0:
			return key
		case 1:
			return key + "\x00"
		case 2:
			return key[:len(dir)+m.IntN(len(key)-len(dir)+1)] + "x"
		case 3:
			return dir + m.word(m.alphabet(), m.below(5)) + "1"
		}
		return after(key + "~")
	}
	r := Range{dir, after(dir)}
	if r.End == "" {
		r.End = "\x00"
	}
	if r.Start == "" {
		r.Start = "\x00"
	}
	switch m.IntN(5) {
	case 0:
		r.Start = bound()
	case 1:
		r.End = bound()
	case 2:
		r.Start, r.End = bound(), bound()
	}
	return r
}

// within are those of the sorted keys that r holds.
func within(keys []string, r Range) []string {
	from, _ := slices.BinarySearch(keys, r.Start)
	to := len(keys)
	if r.End != "\x00" {
		to, _ = slices.BinarySearch(keys, r.End)
	}
	return keys[from:max(from, to)]
}
