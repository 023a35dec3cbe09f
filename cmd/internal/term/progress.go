package term

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

const (
	// redraw is how often the bar changes at most.
	redraw = 100 * time.Millisecond
	// everyLine is how often a plain line is written, unless told otherwise.
	everyLine = 5 * time.Second
	// rateWindow is how far back the rate looks: long enough to be calm, short
	// enough to follow a change of pace.
	rateWindow = 10 * time.Second

	narrowestBar = 6
	widestBar    = 60
)

// ProgressOptions say what a Progress counts and how it shows it.
type ProgressOptions struct {
	// Total is how many items there are; with 0 nothing is ever shown.
	Total int64
	// Verb is what happens to them ("deleting"), Past what has happened to
	// those that are done ("deleted").
	Verb, Past string
	// Bytes says that the items are bytes: they are shown as sizes, and none
	// can be skipped or fail.
	Bytes bool
	// Quiet and JSON switch everything off.
	Quiet, JSON bool
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Every is the time between plain lines; 0 is five seconds.
	Every time.Duration
}

// Progress shows on Err how far a long run is: a bar on a terminal, a line
// every few seconds elsewhere, nothing if it was switched off or there is
// nothing to do. It draws during its calls only and starts no goroutine. It is
// safe for concurrent use, and a nil Progress does nothing. Errors of Err are
// ignored: the run matters more than its picture.
type Progress struct {
	mu   sync.Mutex
	w    io.Writer
	opts ProgressOptions
	// width is that of the terminal, 0 without a bar.
	width int
	bar   *progressbar.ProgressBar // renders only; the writing is done here

	done, skipped, failed int64
	note                  string // why it is slow
	start, shown          time.Time
	samples               []sample
	drawn, finished       bool
}

// sample is how many items had been dealt with at a time.
type sample struct {
	at time.Time
	n  int64
}

// NewProgress starts the clock and draws an empty bar if there is one. Finish
// must be called at the end.
func NewProgress(s Streams, opts ProgressOptions) *Progress {
	if opts.Quiet || opts.JSON || opts.Total <= 0 || s.Err == nil {
		return nil
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Every <= 0 {
		opts.Every = everyLine
	}
	if opts.Past == "" {
		opts.Past = "done"
	}
	p := &Progress{w: s.Err, opts: opts, start: opts.Now()}
	p.shown = p.start
	p.samples = []sample{{at: p.start}}
	if s.ErrTTY && !s.Dumb {
		p.width = s.ErrWidth
		if p.width <= 0 {
			p.width = defaultWidth
		}
		p.bar = progressbar.NewOptions64(opts.Total,
			progressbar.OptionSetWriter(io.Discard),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionShowDescriptionAtLineEnd(),
			progressbar.OptionSetTheme(progressbar.Theme{Saucer: "█", SaucerPadding: "░"}))
		p.draw()
	}
	return p
}

// Add counts items that were dealt with since the last call. With zeros it only
// refreshes what is shown, which a caller that waits should do now and then.
func (p *Progress) Add(done, skipped, failed int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finished {
		return
	}
	p.done += int64(done)
	p.skipped += int64(skipped)
	p.failed += int64(failed)
	every := p.opts.Every
	if p.bar != nil {
		every = redraw
	}
	now := p.opts.Now()
	if now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	p.measure(now)
	p.show()
}

// Note says beside the rate why it is as it is, until the next call; "" says
// nothing. It refreshes what is shown, as Add does.
func (p *Progress) Note(text string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.note = text
	p.mu.Unlock()
	p.Add(0, 0, 0)
}

// Message writes a line of its own and keeps the bar below it.
func (p *Progress) Message(text string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintln(p.w, text)
	if p.bar != nil && !p.finished {
		p.draw()
	}
}

// Finish shows the final state and leaves the cursor at the start of an empty
// line. Calling it again does nothing.
func (p *Progress) Finish() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finished {
		return
	}
	p.finished = true
	p.measure(p.opts.Now())
	p.show()
	if p.bar != nil {
		_, _ = io.WriteString(p.w, "\n")
		p.drawn = false
	}
}

func (p *Progress) handled() int64 { return min(p.done+p.skipped+p.failed, p.opts.Total) }

func (p *Progress) show() {
	if p.bar != nil {
		p.draw()
		return
	}
	parts := []string{p.speed(), Count(p.skipped) + " skipped", Count(p.failed) + " failed", p.remaining("about ")}
	if p.opts.Bytes {
		parts = slices.Delete(parts, 1, 3)
	}
	if p.note != "" && !p.finished {
		parts = append(parts, p.note)
	}
	fmt.Fprintf(p.w, "%s %s of %s (%s)\n", p.opts.Past, p.number(p.done), p.number(p.opts.Total), strings.Join(parts, ", "))
}

func (p *Progress) clear() {
	if p.drawn {
		_, _ = io.WriteString(p.w, "\r\033[K")
		p.drawn = false
	}
}

// draw lets progressbar render the line and writes it in one piece, so that it
// neither flickers nor mixes with other output.
func (p *Progress) draw() {
	// Four columns of per cent, "%", a space, the bar, two spaces, the text,
	// and one column that stays free so that nothing wraps.
	const fixed = 4 + 1 + 1 + 2 + 1
	text := p.describe(p.width - fixed - narrowestBar)
	bar := min(max(p.width-fixed-Width(text), 0), widestBar)
	progressbar.OptionSetWidth(bar)(p.bar)
	_ = p.bar.Set64(p.handled())
	p.bar.Describe(text)
	line := strings.TrimRight(strings.TrimSuffix(p.bar.String(), "\033[0K"), " ")
	_, _ = io.WriteString(p.w, line+"\033[K")
	p.drawn = true
}

// describe says as much as fits. What is least missed goes first: the verb, the
// rate, the number skipped; why it is slow is missed more than what the rate is.
func (p *Progress) describe(room int) string {
	verb := p.opts.Verb
	if p.finished {
		verb = p.opts.Past
	}
	count := p.number(p.done) + "/" + p.number(p.opts.Total)
	rate, left := p.speed(), p.remaining("")
	if len(p.samples) == 1 {
		rate, left = "", "" // nothing is known yet
	}
	var skipped, failed string
	if p.skipped > 0 {
		skipped = Count(p.skipped) + " skipped"
	}
	if p.failed > 0 {
		failed = Count(p.failed) + " failed"
	}
	var note string
	if !p.finished {
		note = p.note
	}
	for _, parts := range [][]string{
		{strings.TrimSpace(verb + " " + count), rate, left, skipped, failed, note},
		{count, rate, left, skipped, failed, note},
		{count, skipped, failed, note},
		{strings.TrimSpace(verb + " " + count), rate, left, skipped, failed},
		{count, rate, left, skipped, failed},
		{count, left, skipped, failed},
		{count, left, failed},
		{count, failed},
	} {
		text := strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
		if Width(text) <= room {
			return text
		}
	}
	return count
}

func (p *Progress) measure(now time.Time) {
	p.samples = append(p.samples, sample{now, p.handled()})
	for len(p.samples) > 2 && now.Sub(p.samples[1].at) >= rateWindow {
		p.samples = p.samples[1:]
	}
}

// rate is per second: of late, or over the whole run once it has finished.
func (p *Progress) rate() float64 {
	first, last := p.samples[0], p.samples[len(p.samples)-1]
	if p.finished {
		first = sample{at: p.start}
	}
	if seconds := last.at.Sub(first.at).Seconds(); seconds > 0 {
		return float64(last.n-first.n) / seconds
	}
	return 0
}

func (p *Progress) number(n int64) string {
	if p.opts.Bytes {
		return Bytes(n)
	}
	return Count(n)
}

func (p *Progress) speed() string {
	if p.opts.Bytes {
		return Bytes(int64(p.rate())) + "/s"
	}
	return Rate(p.rate())
}

// remaining says how long it will take, or has taken.
func (p *Progress) remaining(about string) string {
	last := p.samples[len(p.samples)-1]
	if p.finished {
		return "took " + Duration(last.at.Sub(p.start))
	}
	rate := p.rate()
	if rate <= 0 {
		return "time left unknown"
	}
	left := time.Duration(float64(p.opts.Total-last.n) / rate * float64(time.Second)).Round(time.Second)
	return about + Duration(left) + " left"
}
