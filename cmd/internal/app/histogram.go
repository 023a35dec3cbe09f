package app

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/tally"
)

// maxLines is how many lines a histogram may have before it goes on with the
// next coarser unit.
const maxLines = 120

const resolutionMinute = "minute"

// resolution is a unit of time: the first digits of a time in RFC 3339 tell
// which one it is in, and rest makes that a time again.
type resolution struct {
	name   string
	length time.Duration
	digits int
	rest   string
}

func resolutions() []resolution {
	return []resolution{
		{resolutionMinute, time.Minute, len("2006-01-02T15:04"), ":00Z"},
		{"hour", time.Hour, len("2006-01-02T15"), ":00:00Z"},
		{"day", 24 * time.Hour, len("2006-01-02"), "T00:00:00Z"},
	}
}

// text is the beginning of the unit that a time in RFC 3339 and UTC lies in.
func (u resolution) text(v string) string {
	if len(v) < u.digits {
		return v
	}
	return v[:u.digits] + u.rest
}

// timeline finds the finest unit in which the times of objects fit on a
// screen. The more times there are, the coarser it gets.
type timeline struct {
	unit    resolution
	coarser []resolution
	seen    map[int64]bool // units with objects, by their number; at most about maxLines
}

func newTimeline() *timeline {
	all := resolutions()
	return &timeline{unit: all[0], coarser: all[1:], seen: map[int64]bool{}}
}

// add takes in a time and returns the unit that it is in.
func (l *timeline) add(t time.Time) string {
	if len(l.coarser) > 0 {
		l.seen[l.number(t.Unix())] = true
		for len(l.coarser) > 0 && l.lines() > maxLines {
			l.coarsen()
		}
	}
	return t.UTC().Truncate(l.unit.length).Format(time.RFC3339)
}

func (l *timeline) number(seconds int64) int64 {
	length := int64(l.unit.length / time.Second)
	n := seconds / length
	if seconds%length < 0 {
		n--
	}
	return n
}

// lines is how many there are: one for each unit, and one for each gap.
func (l *timeline) lines() int {
	if len(l.seen) <= maxLines/2 {
		return 0 // certainly few enough
	}
	numbers := make([]int64, 0, len(l.seen))
	for n := range l.seen {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	lines := len(numbers)
	for i, n := range numbers[1:] {
		if n > numbers[i]+1 {
			lines++
		}
	}
	return lines
}

func (l *timeline) coarsen() {
	length := int64(l.unit.length / time.Second)
	l.unit, l.coarser = l.coarser[0], l.coarser[1:]
	old := l.seen
	l.seen = map[int64]bool{}
	for n := range old {
		l.seen[l.number(n*length)] = true
	}
}

// sorted yields the groups by time and then by name. Those that were counted
// while the unit was finer are added up.
func (l *timeline) sorted(groups *tally.Table) iter.Seq[tally.Group] {
	short := func(g tally.Group) string { return g.By[0][:min(len(g.By[0]), l.unit.digits)] }
	inOrder := groups.Sorted(func(a, b tally.Group) int {
		return cmp.Or(cmp.Compare(short(a), short(b)), slices.Compare(a.By[1:], b.By[1:]))
	}, 0)
	if l.unit.name == resolutionMinute {
		return inOrder
	}
	return func(yield func(tally.Group) bool) {
		var sum tally.Group
		for g := range inOrder {
			if sum.By != nil && short(sum) == short(g) && slices.Equal(sum.By[1:], g.By[1:]) {
				sum.Objects += g.Objects
				sum.Bytes += g.Bytes
				continue
			}
			if sum.By != nil && !yield(sum) {
				return
			}
			sum = tally.Group{By: make([]string, len(g.By)), Objects: g.Objects, Bytes: g.Bytes}
			for i, v := range g.By {
				sum.By[i] = strings.Clone(v)
			}
			sum.By[0] = l.unit.text(sum.By[0])
		}
		if sum.By != nil {
			yield(sum)
		}
	}
}

// moment is a unit of time with objects.
type moment struct {
	text    string
	number  int64
	objects int64
}

// chart is what drawing needs to know of all the lines beforehand.
type chart struct {
	moments []moment
	peak    int   // the moment with the most objects
	began   int   // the moment where the flood around the peak begins, -1 if that cannot be told
	most    int64 // objects of a line
	widths  []int
}

// maxMoments bounds what a hostile store can make us hold.
const maxMoments = 100_000

func (l *timeline) chart(groups *tally.Table, cells func(tally.Group) []string) *chart {
	c := &chart{peak: -1, began: -1}
	for g := range l.sorted(groups) {
		c.most = max(c.most, g.Objects)
		for i, cell := range cells(g) {
			if i == len(c.widths) {
				c.widths = append(c.widths, 0)
			}
			c.widths[i] = max(c.widths[i], term.Width(term.Clean(cell)))
		}
		t, err := time.Parse(time.RFC3339, g.By[0])
		if err != nil {
			continue // has no time
		}
		n := len(c.moments)
		if n == 0 || c.moments[n-1].text != g.By[0] {
			if n == maxMoments {
				continue
			}
			c.moments = append(c.moments, moment{text: strings.Clone(g.By[0]), number: l.number(t.Unix())})
			n++
		}
		c.moments[n-1].objects += g.Objects
	}
	c.findFlood()
	return c
}

// findFlood looks where the rate of the peak began: at the first of the
// moments before it, without a gap of more than one, that have a twentieth of
// it. It is a flood if the rate before was a fifth or less.
func (c *chart) findFlood() {
	for i, m := range c.moments {
		if c.peak < 0 || m.objects > c.moments[c.peak].objects {
			c.peak = i
		}
	}
	if c.peak <= 0 {
		return
	}
	began := c.peak
	for ; began > 0; began-- {
		before := c.moments[began-1]
		if before.number < c.moments[began].number-2 || before.objects < c.moments[c.peak].objects/20 {
			break
		}
	}
	var earlier, flood int64
	for i, m := range c.moments[:c.peak+1] {
		if i < began {
			earlier += m.objects
		} else {
			flood += m.objects
		}
	}
	first := c.moments[began].number
	if began > 0 && float64(flood)/float64(c.moments[c.peak].number-first+1) >= 5*float64(earlier)/float64(first-c.moments[0].number) {
		c.began = began
	}
}

// mark says what is special about a moment.
func (c *chart) mark(i int, blocks bool) string {
	var what []string
	if i == c.began {
		what = append(what, "begins")
	}
	if i == c.peak && len(c.moments) > 1 {
		what = append(what, "most")
	}
	switch {
	case len(what) == 0:
		return ""
	case blocks:
		return " ← " + joinWords(what)
	}
	return " <- " + joinWords(what)
}

// drawTimes writes a line with a bar for each group, and where time is all
// that was asked for also what lies between them. It returns how many groups
// there were.
func (inv *invocation) drawTimes(t *term.Table, r *countResult) (lines int) {
	cells := func(g tally.Group) []string { return inv.countCells(r, g, r.approximate()) }
	c := r.times.chart(r.groups, cells)
	blocks := inv.utf8()
	width := inv.barWidth(r, c)
	at := -1 // of the moments
	for g := range r.sorted() {
		row, mark := cells(g), ""
		if at+1 < len(c.moments) && g.By[0] == c.moments[at+1].text {
			at++
			if mark = c.mark(at, blocks); len(r.by) > 1 {
				mark = ""
			} else if at > 0 {
				inv.drawGap(t, r, c.moments[at].number-c.moments[at-1].number-1, c.moments[at-1])
			}
		}
		t.Row(append(row, bar(g.Objects, c.most, width, blocks)+mark)...)
		lines++
	}
	if c.began >= 0 && len(r.by) > 1 {
		inv.say("note: the flood begins at %s; most in one %s are %s at %s", c.moments[c.began].text, r.times.unit.name,
			objects(c.moments[c.peak].objects), c.moments[c.peak].text)
	}
	return lines
}

// drawGap writes a line for one unit without objects, and one for a run of them.
func (inv *invocation) drawGap(t *term.Table, r *countResult, units int64, after moment) {
	if units <= 0 {
		return
	}
	length := int64(r.times.unit.length / time.Second)
	empty := tally.Group{By: []string{time.Unix((after.number+1)*length, 0).UTC().Format(time.RFC3339)}}
	if units > 1 {
		dots := "…"
		if !inv.utf8() {
			dots = "..."
		}
		empty.By[0] = dots + " " + span(units*length) + " with none"
	}
	t.Row(inv.countCells(r, empty, false)...)
}

// span writes seconds in their largest unit. They may be too many for a
// time.Duration: a value can claim any time.
func span(seconds int64) string {
	const minute, hour, day = 60, 3600, 24 * 3600
	switch {
	case seconds < 2*hour:
		return fmt.Sprintf("%d min", seconds/minute)
	case seconds < 2*day:
		return fmt.Sprintf("%d h", seconds/hour)
	}
	return fmt.Sprintf("%d days", seconds/day)
}

// barWidth is what the other columns leave of the line.
func (inv *invocation) barWidth(r *countResult, c *chart) int {
	const gap, mark, least, wide = 3, len(" <- begins, most"), 10, 80
	left := cmp.Or(inv.Streams.OutWidth, wide) - mark
	objects, bytes := r.groups.Total()
	total := inv.countCells(r, tally.Group{By: make([]string, len(r.by)), Objects: objects, Bytes: bytes}, false)
	for i, w := range c.widths {
		header := "OBJECTS"
		if i < len(r.by) {
			header = r.by[i]
		}
		left -= max(w, term.Width(total[i]), len(header)) + gap
	}
	return max(left, least)
}

// bar draws n as a share of most. What is there is seen, however little.
func bar(n, most int64, width int, blocks bool) string {
	if n <= 0 || most <= 0 {
		return ""
	}
	share := float64(n) / float64(most)
	if !blocks {
		return strings.Repeat("#", max(int(share*float64(width)+0.5), 1))
	}
	const parts = 8 // of a block
	eighths := max(int(share*float64(width)*parts+0.5), 1)
	text := strings.Repeat("█", eighths/parts)
	if rest := eighths % parts; rest > 0 {
		text += string([]rune(" ▏▎▍▌▋▊▉")[rest])
	}
	return text
}

// utf8 reports whether the locale has more than ASCII, by the first of the
// variables that is set (POSIX, Base Definitions, 8.2).
func (inv *invocation) utf8() bool {
	locale := strings.ToLower(cmp.Or(inv.Getenv("LC_ALL"), inv.Getenv("LC_CTYPE"), inv.Getenv("LANG")))
	return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
}

// document adds what docs/json.md says of a histogram.
func (l *timeline) document(doc map[string]any, groups *tally.Table) {
	c := l.chart(groups, func(tally.Group) []string { return nil })
	doc["resolution"] = l.unit.name
	if c.peak >= 0 {
		doc["most"] = map[string]any{byCreated: c.moments[c.peak].text, "objects": c.moments[c.peak].objects}
	}
	if c.began >= 0 {
		doc["began"] = c.moments[c.began].text
	}
}
