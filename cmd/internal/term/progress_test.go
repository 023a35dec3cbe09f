package term

import (
	"bytes"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newClock() *clock { return &clock{t: time.Unix(1_700_000_000, 0)} }

func options(c *clock, total int64) ProgressOptions {
	return ProgressOptions{Total: total, Verb: "deleting", Past: "deleted", Now: c.now}
}

func TestProgressLines(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	c := newClock()
	p := NewProgress(Streams{Err: &b}, options(c, 30001))
	for range 8 {
		c.pass(time.Second)
		p.Add(2950, 0, 0)
	}
	p.Message("m2 lags behind")
	c.pass(2 * time.Second)
	p.Add(6000, 1, 400)
	p.Finish()
	p.Finish()
	p.Add(1, 1, 1)
	want := `deleted 14,750 of 30,001 (2,950/s, 0 skipped, 0 failed, about 5s left)
m2 lags behind
deleted 29,600 of 30,001 (3,000/s, 1 skipped, 400 failed, about 0s left)
deleted 29,600 of 30,001 (3,000/s, 1 skipped, 400 failed, took 10s)
`
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", b.String(), want)
	}
}

func TestProgressStall(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	c := newClock()
	p := NewProgress(Streams{Err: &b}, options(c, 10))
	c.pass(5 * time.Second)
	p.Add(0, 0, 0)
	p.Finish()
	want := `deleted 0 of 10 (0/s, 0 skipped, 0 failed, time left unknown)
deleted 0 of 10 (0/s, 0 skipped, 0 failed, took 5s)
`
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", b.String(), want)
	}
}

func TestProgressOff(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	for name, o := range map[string]ProgressOptions{
		"quiet": {Total: 1, Quiet: true}, "json": {Total: 1, JSON: true}, "nothing to do": {},
	} {
		p := NewProgress(Streams{Err: &b, ErrTTY: true}, o)
		p.Add(1, 0, 0)
		p.Message("x")
		p.Finish()
		if b.Len() > 0 {
			t.Errorf("%s: wrote %q", name, b.String())
		}
	}
}

// screen replays what a terminal would show after \r, \n and erase-to-the-end.
func screen(s string) []string {
	lines := []string{""}
	for s != "" {
		row := &lines[len(lines)-1]
		switch {
		case strings.HasPrefix(s, "\r\033[K"):
			*row, s = "", s[4:]
		case strings.HasPrefix(s, "\033[K"):
			s = s[3:]
		case s[0] == '\r':
			*row, s = "", s[1:]
		case s[0] == '\n':
			lines, s = append(lines, ""), s[1:]
		default:
			*row, s = *row+s[:1], s[1:]
		}
	}
	return lines
}

func TestProgressBar(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	c := newClock()
	p := NewProgress(Streams{Err: &b, ErrTTY: true, ErrWidth: 80}, options(c, 30001))
	check := func(want ...string) {
		t.Helper()
		if got := screen(b.String()); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	check("   0% " + strings.Repeat("░", 54) + "  deleting 0/30,001")
	c.pass(2 * time.Second)
	p.Add(6000, 0, 0)
	check("  19% ██████░░░░░░░░░░░░░░░░░░░░░░░░░░  deleting 6,000/30,001, 3,000/s, 8s left")
	before := b.Len()
	c.pass(time.Millisecond)
	p.Add(10, 0, 0)
	if b.Len() != before {
		t.Error("drawn again after 1ms")
	}
	p.Message("m2 lags behind")
	c.pass(2 * time.Second)
	p.Add(5990, 120, 3)
	check("m2 lags behind",
		"  40% ███░░░░░  deleting 12,000/30,001, 3,030/s, 6s left, 120 skipped, 3 failed")
	p.Finish()
	check("m2 lags behind",
		"  40% ███░░░░░░  deleted 12,000/30,001, 3,030/s, took 4s, 120 skipped, 3 failed", "")
}

func TestProgressNote(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		width int
		want  []string
	}{
		"lines": {0, []string{
			"deleted 100 of 1,000 (20/s, 0 skipped, 0 failed, about 45s left, etcd takes 340ms to commit)",
			"deleted 100 of 1,000 (10/s, 0 skipped, 0 failed, about 1m30s left)",
			"deleted 100 of 1,000 (10/s, 0 skipped, 0 failed, took 10s)"}},
		"80": {80, []string{"  10% ░░░░░░░░░  deleting 100/1,000, 20/s, 45s left, etcd takes 340ms to commit"}},
		"60": {60, []string{"  10% █░░░░░░░░░░░░░  100/1,000, etcd takes 340ms to commit"}},
	} {
		var b bytes.Buffer
		c := newClock()
		p := NewProgress(Streams{Err: &b, ErrTTY: test.width > 0, ErrWidth: test.width}, options(c, 1000))
		p.Add(100, 0, 0)
		c.pass(5 * time.Second)
		p.Note("etcd takes 340ms to commit")
		lines := screen(b.String())
		got := lines[:max(1, len(lines)-1)]
		if test.width == 0 {
			c.pass(5 * time.Second)
			p.Note("")
			p.Note("not said: it ends")
			p.Finish()
			got = strings.Split(strings.TrimSpace(b.String()), "\n")
		}
		if strings.Join(got, "\n") != strings.Join(test.want, "\n") {
			t.Errorf("%s:\n%s\nwant:\n%s", name, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
}

func TestProgressBarComplete(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	c := newClock()
	p := NewProgress(Streams{Err: &b, ErrTTY: true, ErrWidth: 200}, options(c, 100))
	c.pass(10 * time.Second)
	p.Add(150, 0, 0) // more than were announced
	p.Finish()
	want := " 100% " + strings.Repeat("█", 60) + "  deleted 150/100, 10/s, took 10s\n"
	if got := strings.Join(screen(b.String()), "\n"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProgressBarFits(t *testing.T) {
	t.Parallel()
	for _, width := range []int{0, 1, 20, 40, 60, 79, 80, 120, 200} {
		var b bytes.Buffer
		c := newClock()
		p := NewProgress(Streams{Err: &b, ErrTTY: true, ErrWidth: width}, options(c, 1_000_000))
		for range 100 {
			c.pass(1100 * time.Millisecond)
			p.Add(4000, 500, 33)
		}
		p.Finish()
		limit := max(width, 50)
		if width == 0 {
			limit = 80
		}
		for piece := range strings.SplitSeq(b.String(), "\r") {
			piece = strings.TrimRight(strings.ReplaceAll(piece, "\033[K", ""), "\n")
			if Width(piece) >= limit {
				t.Fatalf("width %d: %d columns: %q", width, Width(piece), piece)
			}
		}
	}
}

func TestProgressDumbTerminal(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := NewProgress(Streams{Err: &b, ErrTTY: true, Dumb: true}, options(newClock(), 10))
	p.Add(10, 0, 0)
	p.Finish()
	if strings.ContainsAny(b.String(), "\r\033") || !strings.HasSuffix(b.String(), "\n") {
		t.Errorf("wrote %q", b.String())
	}
}

func TestProgressConcurrent(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(Streams{Err: &b, ErrTTY: true, ErrWidth: 80}, ProgressOptions{Total: 4000, Verb: "deleting", Past: "deleted"})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				p.Add(1, 0, 0)
			}
			p.Message("one is done")
		})
	}
	wg.Wait()
	p.Finish()
	if got := screen(b.String()); len(got) != 6 || !strings.Contains(got[4], "deleted 4,000/4,000") || got[5] != "" {
		t.Errorf("got %q", got)
	}
	// What was told to end may take a moment to be gone.
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(30 * time.Second); ; runtime.Gosched() {
		all := string(stacks[:runtime.Stack(stacks, true)])
		if !strings.Contains(all, "term.(*Progress)") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("goroutines of the progress are left:\n%s", all)
		}
	}
}
