package keyspace

import (
	"math"
)

// line lays keys out between 0 and 1 in their order, so that keys of the shape
// that was seen last lie about evenly: as an arithmetic coder does it, every
// byte divides what its predecessors left to it, and bytes that occur at its
// place get the most room. Distances on it foretell how many keys lie between.
type line struct {
	base   int
	prefix string  // of the branch; bytes in it are not expected to change
	perKey float64 // room that one key takes
	seen   [places][4]uint64
	union  [4]uint64      // bytes seen behind the prefix
	parts  map[int]*parts // of the bytes behind the prefix
	inner  [256]*parts    // of those in it
}

const (
	// places is for how many bytes behind base it is remembered which
	// values were seen there.
	places = 96
	// What bytes weigh that were not seen at a place: those seen elsewhere,
	// those that names are usually made of, and all others.
	seenElsewhere = 1.0 / 16
	usualByte     = 1.0 / 512
	oddByte       = 1.0 / 32768
	// resolution is how finely a float64 below 1 can be divided.
	resolution = 1e-16
)

// place is the index of a byte in a key, in the branch's prefix or not.
type place struct {
	i        int
	inPrefix bool
}

// parts is how the 256 values of one byte divide the line.
type parts struct{ from, width [256]float64 }

func has(set *[4]uint64, c int) bool { return set[c>>6]&(1<<(c&63)) != 0 }

func add(set *[4]uint64, c byte) { set[c>>6] |= 1 << (c & 63) }

// learn takes over the shape of the keys of a page, and the density of its
// tail. left is how many keys are known to remain: it tells how many of the
// bytes that all keys of the tail share are only alike because the tail is
// short.
func (l *line) learn(base int, keys, tail []string, left int64) {
	l.base, l.parts = base, map[int]*parts{}
	for _, key := range keys {
		for i := base; i < min(len(key), base+places); i++ {
			add(&l.seen[i-base], key[i])
		}
	}
	shared := max(common(tail[0], tail[len(tail)-1]), min(base, len(tail[0])))
	l.union = [4]uint64{}
	for _, key := range tail {
		for i := shared; i < len(key); i++ {
			add(&l.union, key[i])
		}
	}
	values := 0
	for c := range 256 {
		if has(&l.union, c) {
			values++
		}
	}
	alike := math.Ceil(math.Log(max(float64(left)/float64(len(tail)), 1)) / math.Log(float64(max(values, 2))))
	for ; alike > 0 && shared > base && tail[0][shared-1] != '/'; alike-- {
		shared--
	}
	l.prefix = tail[0][:shared]
	if room := l.at(tail[len(tail)-1]) - l.at(tail[0]); room > 0 {
		l.perKey = room / float64(len(tail)-1)
	} else if l.perKey == 0 {
		l.perKey = resolution
	}
}

// divide returns the parts of the byte at a place. Those in the prefix depend
// on nothing but the byte that is there, so they are kept.
func (l *line) divide(p place) *parts {
	if p.inPrefix {
		is := l.prefix[p.i]
		if l.inner[is] == nil {
			l.inner[is] = split(l.inside(is))
		}
		return l.inner[is]
	}
	if d := l.parts[p.i]; d != nil {
		return d
	}
	d := split(l.outside(p.i))
	l.parts[p.i] = d
	return d
}

// split gives each value of a byte the room that its weight deserves.
func split(weigh func(c int) float64) *parts {
	d := &parts{}
	var sum, from float64
	for c := range 256 {
		d.width[c] = weigh(c)
		sum += d.width[c]
	}
	for c := range 256 {
		d.from[c] = from
		d.width[c] /= sum
		from += d.width[c]
	}
	return d
}

// inside weighs the values of a byte in the prefix.
func (l *line) inside(is byte) func(c int) float64 {
	return func(c int) float64 {
		if c == int(is) {
			return 1
		}
		return rare(c)
	}
}

// outside weighs the values of byte i behind the prefix. Keys come in their
// order: values above the highest one that was seen at a place may follow.
func (l *line) outside(i int) func(c int) float64 {
	var here [4]uint64
	if i-l.base < places {
		here = l.seen[i-l.base]
	}
	most, values := 0, 0
	for c := range 256 {
		if has(&here, c) {
			most = c
			values++
		}
	}
	return func(c int) float64 {
		switch {
		case values > 1 && has(&here, c):
			return 1
		case has(&l.union, c) && values > 1 && c < most:
			return seenElsewhere
		case has(&l.union, c):
			return 1
		}
		return rare(c)
	}
}

func rare(c int) float64 {
	if c >= '-' && c <= ':' || c >= 'a' && c <= 'z' {
		return usualByte
	}
	return oddByte
}

// at is where a key lies.
func (l *line) at(key string) float64 {
	from, width, inside := 0.0, 1.0, true
	for i := l.base; i < len(key) && width > resolution; i++ {
		inside = inside && i < len(l.prefix)
		d := l.divide(place{i, inside})
		from += width * d.from[key[i]]
		width *= d.width[key[i]]
		inside = inside && key[i] == l.prefix[i]
	}
	return from
}

// key is the shortest key that lies less than fine before x.
func (l *line) key(x, fine float64) string {
	key := []byte(l.prefix[:min(l.base, len(l.prefix))])
	from, width, inside := 0.0, 1.0, true
	for i := l.base; width > max(fine, resolution) && i < l.base+4096; i++ {
		inside = inside && i < len(l.prefix)
		d := l.divide(place{i, inside})
		c := 0
		for step := 128; step > 0; step /= 2 {
			if from+width*d.from[c+step] <= x {
				c += step
			}
		}
		from += width * d.from[c]
		width *= d.width[c]
		key = append(key, byte(c))
		inside = inside && byte(c) == l.prefix[i]
	}
	return string(key)
}
