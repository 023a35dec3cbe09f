package keyspace

import (
	"fmt"
	"sort"
	"strings"
)

// bounds chooses the range of each page of a scan.
//
// etcd answers a Range with a limit by walking its index over all keys of the
// range, because the answer also counts them (server/storage/mvcc/index.go,
// treeIndex.Revisions): a loop that asks for 500 keys from here to the end of
// the prefix walks n²/1000 keys. So each request gets an end so near that the
// range holds little more than a page. Where that is, is estimated from what
// was read: within a branch, such as the pods of one job, keys go on as densely
// as on the last page (see line); behind a branch the next one is looked for
// among its siblings, the nearest first.
//
// A wrong guess costs work, never keys: a range that holds more than the limit
// is gone on with from the last key read, and because the answer's count is
// exact at a pinned revision, what remains up to each end is known exactly.
type bounds struct {
	base        int      // length of the part that all keys share
	pos         string   // everything before it is read
	ends        []end    // the nearest last; the first is the end of the whole range
	near        []string // the last keys before it, on the same branch
	last        string   // the last key that was read
	read        int64
	cost, total int64 // index visits so far, and those of the first page

	line  line
	known bool    // line describes the keys around last
	boost float64 // by how much to step farther than line says, after empty pages
	burst float64 // by how much boost grows
	poor  int64   // pages in a row that held next to nothing

	// Looking for the next branch: below last[:level+1] everything is read,
	// and siblings at that level are tried, width of them at a time.
	climbing bool
	level    int
	width    int
	guessed  bool     // whether it looks like the one before has been tried
	hopped   bool     // the last range was a hop over siblings
	branches []branch // on the way to last, the outermost first
	levels   []int    // at which branches were found before, ascending
}

// end is a range end with the number of keys from pos up to it; -1: unknown.
type end struct {
	key  string
	left int64
}

// branch is where a new branch was entered.
type branch struct {
	level  int    // the first byte in which it differs from the one before
	page   string // the last key of its first page
	before int64  // keys read before it
}

// fill is how full a page is meant to become: a range that holds a little more
// than the limit costs a second look at the rest.
const fill = 0.8

// requestVisits is how many index visits a request is worth: what etcd needs to
// answer an empty one goes over about as many keys.
const requestVisits = 100

// nearKeys is how many keys tell how densely they lie.
const nearKeys = 64

func newBounds(r Range) *bounds {
	base := 0
	if r.End != "\x00" {
		base = common(r.Start, r.End)
	}
	return &bounds{base: base, pos: r.Start, ends: []end{{r.End, -1}}, boost: 1, burst: 4}
}

func (b *bounds) done() bool { return len(b.ends) == 0 }

// next returns the range of the next page, whose answer goes to got.
func (b *bounds) next(limit int) Range {
	for n := len(b.ends); n > 1 && b.ends[n-1].left < int64(limit)/2; n-- {
		b.ends = b.ends[:n-1] // too little for a page of its own
	}
	top := b.ends[len(b.ends)-1]
	if !b.known || top.left >= 0 && top.left <= int64(limit)*3/2 {
		return Range{b.pos, top.key}
	}
	if b.poor*requestVisits > top.left && top.left >= 0 {
		b.poor = 0
		return Range{b.pos, top.key} // guessing costs more than it saves
	}
	stop := ""
	if !b.climbing {
		stop = b.ahead(limit, top)
	}
	if b.climbing {
		stop = b.sibling(limit)
	}
	if stop == "" || stop <= b.pos || !before(stop, top.key) {
		stop = top.key
	}
	return Range{b.pos, stop}
}

// before compares range ends; "\x00" is etcd's end of everything.
func before(a, b string) bool { return b == "\x00" || a < b }

// got takes the keys that the answer for r holds and the number that it counts.
// It fails if the counts of answers contradict each other.
func (b *bounds) got(r Range, limit int, keys []string, count int64) error {
	if err := b.check(r, limit, keys, count); err != nil {
		return err
	}
	n := int64(len(keys))
	top := &b.ends[len(b.ends)-1]
	for i := range b.ends {
		if b.ends[i].left >= 0 {
			b.ends[i].left -= n
		}
	}
	b.pos = r.End
	if count > n {
		b.pos = keys[n-1] + "\x00"
		if r.End == top.key {
			top.left = count - n
		} else {
			b.ends = append(b.ends, end{r.End, count - n})
		}
	} else if r.End == top.key {
		top.left = 0
	}
	b.forgetEnds()
	b.learn(keys, limit)
	b.read += n
	if b.cost += count; b.total == 0 {
		b.total = count
	}
	return nil
}

// check holds an answer against its question and against earlier answers.
// Whatever a server answers, each answer that passes leaves less to read.
func (b *bounds) check(r Range, limit int, keys []string, count int64) error {
	n := int64(len(keys))
	if n > int64(limit) || count < n || n < count && n < int64(limit) {
		return fmt.Errorf("etcd counts %d keys from %q to %q and sends %d of at most %d", count, r.Start, r.End, n, limit)
	}
	for i, key := range keys {
		if key < r.Start || !before(key, r.End) || i > 0 && key <= keys[i-1] {
			return fmt.Errorf("etcd sends key %q at place %d of what lies from %q to %q", key, i, r.Start, r.End)
		}
	}
	top := b.ends[len(b.ends)-1]
	if top.left >= 0 && (count > top.left || r.End == top.key && count < top.left) {
		return fmt.Errorf("etcd counted %d keys up to %q, and now counts %d up to %q at the same revision", top.left, top.key, count, r.End)
	}
	return nil
}

// forgetEnds drops the ends before which everything is read.
func (b *bounds) forgetEnds() {
	for n := len(b.ends); n > 0; n-- {
		top := b.ends[n-1]
		if top.left == 0 {
			b.pos = top.key
		}
		if b.pos != top.key && before(b.pos, top.key) {
			return
		}
		b.ends = b.ends[:n-1]
	}
}

func (b *bounds) learn(keys []string, limit int) {
	n := len(keys)
	if b.poor++; n > 0 && n >= limit/4 {
		b.poor = 0
	}
	found := b.climbing && n > 0
	if b.climbing && n == 0 {
		if b.hopped && b.width < 1<<8 {
			b.width *= 2
		}
		return
	}
	if found {
		b.enter(common(b.last, keys[0]), keys[n-1])
	}
	if n > 0 {
		b.last = keys[n-1]
	}
	switch {
	case found || n >= limit/8 && n > 0 || n > 1 && !b.known || n >= 8 && b.boost > 16:
		b.follow(keys, found)
	case n > 0 && n >= limit/4:
		b.boost, b.burst = 1, 4
	case n == 0:
		b.boost *= b.burst
		b.burst *= 4
	default:
		b.boost *= 2
	}
}

// careful says that guesses were bad so far: then smaller steps are taken,
// which may need more requests.
func (b *bounds) careful() bool { return b.cost-b.total > b.read*3 }

// follow makes the last keys the measure of what comes next. Of a long page
// the last third will do: a new branch may have begun before it.
func (b *bounds) follow(keys []string, found bool) {
	if found || len(keys) > 2*nearKeys {
		b.near = b.near[:0]
	}
	b.near = append(b.near, keys[max(0, min(len(keys)*2/3, len(keys)-nearKeys)):]...)
	if n := len(b.near); n > 4*nearKeys && n > len(keys) {
		b.near = append(b.near[:0], b.near[n-nearKeys:]...)
	}
	left := int64(1)
	if n := len(b.ends); n > 0 {
		left = max(left, b.ends[n-1].left)
	}
	b.line.learn(b.base, keys, b.near, left)
	b.known, b.climbing = true, false
	b.boost, b.burst = 1, 4
}

// ahead goes on within the branch of the last page, as far as the density of
// that page makes a page. Behind the branch it begins to climb.
func (b *bounds) ahead(limit int, top end) string {
	behind := after(b.line.prefix)
	if behind != "" && b.pos >= behind {
		b.climb(len(b.line.prefix) - 1)
		return ""
	}
	step := b.line.perKey * float64(limit) * fill
	if b.careful() {
		step /= 2
	}
	at := b.line.at(b.pos)
	for ; b.boost < 1e15; b.boost *= 2 {
		stop := b.line.key(at+step*b.boost, step/64)
		if !strings.HasPrefix(stop, b.line.prefix) {
			break
		}
		if !before(stop, top.key) && strings.HasPrefix(top.key, b.line.prefix) {
			return b.evenly(limit, top)
		}
		if stop > b.pos {
			return stop
		}
	}
	return behind
}

// evenly shares out what is known to remain up to an end.
func (b *bounds) evenly(limit int, top end) string {
	at := b.line.at(b.pos)
	step := (b.line.at(top.key) - at) * float64(limit) * fill / float64(max(top.left, 1))
	return b.line.key(at+step*b.boost, step/64)
}

func (b *bounds) climb(level int) {
	b.climbing, b.level, b.width = true, level, 0
}

// sibling is the end of the next sibling of a branch that is used up; "" if
// there can be none. Levels at which branches were found before come first.
func (b *bounds) sibling(limit int) string {
	for ; b.level >= b.base; b.climb(b.level - 1) {
		if b.width == 0 {
			if i := sort.SearchInts(b.levels, b.level+1); i > 0 {
				b.level = b.levels[i-1]
			}
			b.width, b.guessed, b.hopped = 1, false, false
			if rest := after(b.last[:b.level+1]); rest > b.pos {
				return rest
			}
		}
		parent := b.last[:b.level]
		if stop := after(parent); stop != "" && b.pos >= stop {
			continue
		}
		c := byte(0)
		if len(b.pos) > b.level && strings.HasPrefix(b.pos, parent) {
			c = b.pos[b.level]
		}
		if !b.guessed {
			if stop := b.guess(parent+string([]byte{c}), limit); stop > b.pos {
				return stop
			}
		}
		b.hopped = true
		if next, ok := hop(c, b.width); ok {
			return parent + string([]byte{next})
		}
		return after(parent)
	}
	return ""
}

// guess is for the case that the next branch looks like the last one: it ends
// the range where the first page of that one ended. Of branches smaller than a
// page it takes several.
func (b *bounds) guess(sibling string, limit int) string {
	b.guessed = true
	for i := len(b.branches) - 1; i >= 0; i-- {
		last := b.branches[i]
		if last.level > b.level {
			continue
		}
		if size := b.read - last.before; size < int64(limit) {
			b.width = max(1, int(float64(limit)*fill/float64(size+1)))
			return ""
		}
		return sibling + last.page[min(len(last.page), b.level+1):] + "\x00"
	}
	return ""
}

// enter notes that a branch was found at a level.
func (b *bounds) enter(level int, page string) {
	for n := len(b.branches); n > 0 && b.branches[n-1].level >= level; n-- {
		b.branches = b.branches[:n-1]
	}
	b.branches = append(b.branches, branch{level, page, b.read})
	i := sort.SearchInts(b.levels, level)
	if i == len(b.levels) || b.levels[i] != level {
		b.levels = append(b.levels[:i], append([]int{level}, b.levels[i:]...)...)
	}
}

// common is the length of the longest common prefix.
func common(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// after is the first string behind all that begin with prefix, "" if there is
// none.
func after(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if c := prefix[i]; c < 0xff {
			return prefix[:i] + string([]byte{c + 1})
		}
	}
	return ""
}

// usual are the bytes that names of Kubernetes objects are made of.
const usual = "-./0123456789:abcdefghijklmnopqrstuvwxyz{"

// hop is the byte n usual ones behind c; false behind the last one.
func hop(c byte, n int) (byte, bool) {
	i := strings.IndexFunc(usual, func(r rune) bool { return byte(r) > c })
	if i < 0 || i+n-1 >= len(usual) {
		return 0, false
	}
	return usual[i+n-1], true
}
