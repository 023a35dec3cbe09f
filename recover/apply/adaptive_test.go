package apply

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// phase is a stretch of a simulated etcd's life.
type phase struct {
	length   time.Duration
	capacity float64       // commits a second
	others   float64       // of another client, a second
	queue    float64       // requests that may wait before etcd refuses more; 0: any number
	dead     bool          // nothing is answered
	restless bool          // the leader changes every second
	applies  float64       // entries that the slowest member applies a second; 0: all at once
	way      time.Duration // to etcd and back, beside the 2 ms that a commit takes

	want want
}

// want is what must hold in the last third of a phase. Zero values are not
// looked at, but for the floor and the ceiling.
type want struct {
	share    float64 // of what is possible, that is to be done
	most     float64 // done a second
	slowest  time.Duration
	wavers   float64 // coefficient of variation of the pace
	cuts     int     // a minute
	lag      float64
	paused   bool
	why      string        // that has to be said in some second of the phase
	silent   bool          // no reason is to be given at the end
	whenBack time.Duration // from the phase's begin to the first answer
}

// second is what happened in one simulated second.
type second struct {
	sent, done, failed int
	latencies          []time.Duration
	pace               float64
	why                string
	lag                float64
}

const (
	simInFlight = 64
	simTimeout  = 10 * time.Second
	simBase     = 2 * time.Millisecond
)

// simulation is a Clock, an etcd and a run with so many transactions in
// flight, all in one goroutine: time passes while the run waits.
type simulation struct {
	now      time.Time
	start    time.Time
	events   events
	sequence int
	random   *rand.Rand

	pacer    *Adaptive
	phase    phase
	until    time.Time // its end
	free     time.Time // when etcd has done all that waits
	elected  time.Time // when there is a leader again
	changed  time.Time // last change of the leader
	lag      float64
	lagAt    time.Time
	inFlight int

	seconds  []second
	cuts     []time.Time
	lastPace float64
	backAt   time.Time // first answer
}

type event struct {
	at       time.Time
	sequence int // what is at the same moment happens in order
	do       func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return cmp.Or(e[i].at.Compare(e[j].at), cmp.Compare(e[i].sequence, e[j].sequence)) < 0
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newSimulation(opt AdaptiveOptions) *simulation {
	start := time.Unix(1_700_000_000, 0)
	s := &simulation{now: start, start: start, random: rand.New(rand.NewPCG(1, 2))}
	opt.Clock, opt.Member = s, s
	s.pacer = NewAdaptive(opt)
	s.lastPace = s.pacer.PerSecond()
	s.every(time.Second, func() { s.pacer.look(context.Background()) })
	s.every(time.Second, func() {
		last := s.second()
		last.pace, last.why, last.lag = s.pacer.PerSecond(), s.pacer.Why(), s.applied(0)
	})
	s.every(7*time.Second, func() { // the disk is somebody else's
		if s.phase.queue == 0 {
			s.stall(80 * time.Millisecond)
		}
	})
	return s
}

// Now implements Clock.
func (s *simulation) Now() time.Time { return s.now }

// After implements Clock: it lets time pass until d is over, or until
// something happens before.
func (s *simulation) After(d time.Duration) <-chan time.Time {
	s.step(s.now.Add(d))
	fired := make(chan time.Time, 1)
	fired <- s.now
	return fired
}

// Lag implements Member.
func (s *simulation) Lag(context.Context) (int64, error) { return int64(s.applied(0)), nil }

func (s *simulation) at(when time.Time, do func()) {
	s.sequence++
	heap.Push(&s.events, event{when, s.sequence, do})
}

func (s *simulation) every(d time.Duration, do func()) {
	s.at(s.now.Add(d), func() { do(); s.every(d, do) })
}

// step goes to the next event, or to limit if that comes first.
func (s *simulation) step(limit time.Time) {
	if s.events[0].at.After(limit) {
		s.now = limit
		return
	}
	e := heap.Pop(&s.events).(event)
	s.now = e.at
	e.do()
	if pace := s.pacer.PerSecond(); pace < s.lastPace*2/3 {
		s.cuts = append(s.cuts, s.now)
	}
	s.lastPace = s.pacer.PerSecond()
}

func (s *simulation) second() *second {
	n := int((s.now.Sub(s.start) - 1) / time.Second)
	for len(s.seconds) <= n {
		s.seconds = append(s.seconds, second{})
	}
	return &s.seconds[n]
}

func (s *simulation) stall(d time.Duration) {
	if s.free.Before(s.now) {
		s.free = s.now
	}
	s.free = s.free.Add(d)
}

// commit is when etcd will have done one more request.
func (s *simulation) commit() time.Time {
	s.stall(time.Duration((0.5 + s.random.Float64()) / s.phase.capacity * float64(time.Second)))
	return s.free
}

// applied is how far the slowest member is behind after n more commits.
func (s *simulation) applied(n float64) float64 {
	if s.phase.applies == 0 {
		s.lag = 0
	} else {
		s.lag = max(s.lag-s.phase.applies*s.now.Sub(s.lagAt).Seconds(), 0)
	}
	s.lag, s.lagAt = s.lag+n, s.now
	return s.lag
}

// send is one transaction of the run.
func (s *simulation) send() {
	s.second().sent++
	s.inFlight++
	sent := s.now
	var err error
	done := s.now.Add(s.phase.way + simBase/2 + time.Duration(s.random.Int64N(int64(simBase))))
	switch waiting := s.free.Sub(s.now).Seconds() * s.phase.capacity; {
	case s.now.Before(s.elected):
		err = rpctypes.ErrNoLeader
	case s.phase.queue > 0 && waiting > s.phase.queue:
		err = rpctypes.ErrTooManyRequests
	default:
		done = s.commit().Add(done.Sub(s.now))
		if done.Sub(sent) > simTimeout {
			done, err = sent.Add(simTimeout), context.DeadlineExceeded
		}
	}
	s.at(done, func() { s.answer(sent, err) })
}

func (s *simulation) answer(sent time.Time, err error) {
	s.inFlight--
	now := s.second()
	if err == nil && s.changed.After(sent) {
		err = rpctypes.ErrLeaderChanged
	}
	if err == nil {
		s.applied(1)
		now.done++
		now.latencies = append(now.latencies, s.now.Sub(sent))
		if s.backAt.IsZero() {
			s.backAt = s.now
		}
	} else {
		now.failed++
	}
	s.pacer.Answered(s.now.Sub(sent), err)
}

// enter begins a phase.
func (s *simulation) enter(p phase) {
	s.phase, s.until, s.backAt = p, s.now.Add(p.length), time.Time{}
	if p.dead {
		s.stall(s.until.Sub(s.now))
	}
	s.other()
	s.change()
}

// other is the other client, until the phase ends.
func (s *simulation) other() {
	if s.phase.others == 0 || !s.now.Before(s.until) {
		return
	}
	if s.phase.queue == 0 || s.free.Sub(s.now).Seconds()*s.phase.capacity <= s.phase.queue {
		s.commit()
	}
	gap := s.random.ExpFloat64() / s.phase.others
	s.at(s.now.Add(time.Duration(gap*float64(time.Second))), s.other)
}

// change elects a leader every second, which takes 300 ms.
func (s *simulation) change() {
	if !s.phase.restless || !s.now.Before(s.until) {
		return
	}
	s.changed, s.elected = s.now, s.now.Add(300*time.Millisecond)
	s.at(s.now.Add(time.Second), s.change)
}

// run makes changes until the phase is over.
func (s *simulation) run(t *testing.T) {
	for s.now.Before(s.until) {
		if s.inFlight == simInFlight {
			s.step(s.until)
			continue
		}
		if err := s.pacer.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.send()
	}
}

func TestPaceFollowsWhatEtcdCanDo(t *testing.T) {
	t.Parallel()
	steady := func(share float64) want {
		return want{share: share, slowest: 150 * time.Millisecond, wavers: 0.3, cuts: 7}
	}
	free := want{share: 0.95, slowest: 100 * time.Millisecond, wavers: 0.01, silent: true}
	limited := func(why string) want {
		w := steady(0.7)
		w.why = why
		return w
	}
	tests := []struct {
		name   string
		opt    AdaptiveOptions
		phases []phase
	}{
		{"capacity falls and comes back", AdaptiveOptions{}, []phase{
			{length: time.Minute, capacity: 5000, want: free},
			{length: 3 * time.Minute, capacity: 300, want: limited("to commit")},
			{length: time.Minute, capacity: 2000, want: free},
		}},
		{"a weak etcd from the start", AdaptiveOptions{}, []phase{
			{length: 3 * time.Minute, capacity: 120, want: limited("to commit")},
		}},
		{"never above the ceiling", AdaptiveOptions{Max: 80}, []phase{
			{length: time.Minute, capacity: 5000, want: free},
		}},
		{"never below the floor", AdaptiveOptions{Min: 40}, []phase{
			{length: time.Minute, capacity: 30, want: want{share: 0.9, why: "to commit"}},
		}},
		{"another client", AdaptiveOptions{}, []phase{
			{length: 30 * time.Second, capacity: 1500, want: free},
			{length: 3 * time.Minute, capacity: 1500, others: 1100, want: limited("to commit")},
			{length: time.Minute, capacity: 1500, want: free},
		}},
		{"too many requests", AdaptiveOptions{}, []phase{
			{length: 30 * time.Second, capacity: 2000, queue: 10, want: free},
			{length: 3 * time.Minute, capacity: 400, queue: 10, want: want{share: 0.6, slowest: 100 * time.Millisecond, wavers: 0.35, cuts: 15, why: "etcd has too many requests"}},
			{length: time.Minute, capacity: 2000, queue: 10, want: free},
		}},
		{"dead for 20 seconds", AdaptiveOptions{}, []phase{
			{length: 30 * time.Second, capacity: 3000, want: free},
			{length: 20 * time.Second, capacity: 3000, dead: true, want: want{most: 1, paused: true, why: "waiting for etcd to answer"}},
			{length: time.Minute, capacity: 3000, want: want{share: 0.95, wavers: 0.01, silent: true, whenBack: 100 * time.Millisecond}},
		}},
		{"leader changes every second", AdaptiveOptions{}, []phase{
			{length: 30 * time.Second, capacity: 3000, want: free},
			{length: 30 * time.Second, capacity: 3000, restless: true, want: want{share: 0.01, most: 21, why: "the leader changed"}},
			{length: time.Minute, capacity: 3000, want: free},
		}},
		{"the leader is far away now", AdaptiveOptions{Max: 500}, []phase{
			{length: 30 * time.Second, capacity: 3000, want: free},
			{length: 6 * time.Minute, capacity: 3000, way: 80 * time.Millisecond, want: want{share: 0.95, wavers: 0.01, silent: true, why: "etcd takes 80ms to commit"}},
		}},
		{"a member lags", AdaptiveOptions{}, []phase{
			{length: 30 * time.Second, capacity: 3000, want: free},
			{length: 3 * time.Minute, capacity: 3000, applies: 400, want: want{share: 0.7, most: 420, lag: 2500, cuts: 6, why: "a member lags "}},
			{length: time.Minute, capacity: 3000, want: free},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSimulation(tt.opt)
			for _, p := range tt.phases {
				began := s.now
				s.enter(p)
				s.run(t)
				s.check(t, began)
			}
		})
	}
}

// check compares the last third of the phase with what was wanted.
func (s *simulation) check(t *testing.T, began time.Time) {
	t.Helper()
	p, w := s.phase, s.phase.want
	first, last := int(began.Sub(s.start)/time.Second), int(s.until.Sub(s.start)/time.Second)
	all := s.seconds[first:last]
	third := all[len(all)-len(all)/3:]
	m := measure(third)
	from := s.until.Add(-time.Duration(len(third)) * time.Second)
	cuts := 0
	for _, c := range s.cuts {
		if c.After(from) && !c.After(s.until) {
			cuts++
		}
	}
	for !s.events[0].at.After(s.until) { // what is at the very end still counts
		s.step(s.until)
	}
	t.Log("\n" + s.series(first, last))
	possible := min(p.capacity-p.others, s.pacer.opt.Max)
	if p.applies > 0 {
		possible = min(possible, p.applies)
	}
	t.Logf("last third: %.0f/s done of %.0f possible, p95 %s, pace %.0f/s varies by %.2f, %d cuts in %d s",
		m.done, possible, m.slowest.Round(time.Millisecond), m.pace, m.wavers, cuts, len(third))

	fails := func(wrong bool, format string, args ...any) {
		if wrong {
			t.Errorf("phase from second %d on: "+format, append([]any{first}, args...)...)
		}
	}
	fails(m.done < w.share*possible, "%.0f changes a second, want at least %.0f", m.done, w.share*possible)
	fails(w.most > 0 && m.done > w.most, "%.1f changes a second, want at most %.1f", m.done, w.most)
	fails(w.slowest > 0 && m.slowest > w.slowest, "commits take %s, want at most %s", m.slowest, w.slowest)
	fails(w.wavers > 0 && m.wavers > w.wavers, "the pace varies by %.2f, want at most %.2f", m.wavers, w.wavers)
	fails(w.cuts > 0 && cuts*60 > w.cuts*len(third), "the pace was cut %d times in %d s, want at most %d a minute", cuts, len(third), w.cuts)
	fails(w.lag > 0 && m.lag > w.lag, "a member lags %.0f entries behind, want at most %.0f", m.lag, w.lag)
	fails(w.silent && third[len(third)-1].why != "", "it still says %q", third[len(third)-1].why)
	fails(w.paused && m.pace != 0, "it does not pause but makes %.0f changes a second", m.pace)
	fails(w.whenBack > 0 && s.backAt.Sub(began) > w.whenBack, "the first answer comes after %s, want %s", s.backAt.Sub(began), w.whenBack)
	said := slices.ContainsFunc(all, func(x second) bool { return strings.Contains(x.why, w.why) })
	fails(!said, "it never says %q", w.why)
	for i, x := range all {
		fails(x.pace != 0 && (x.pace < s.pacer.opt.Min || x.pace > s.pacer.opt.Max), "after %d s the pace is %.1f", i+1, x.pace)
		fails(x.pace == 0 && x.why != "waiting for etcd to answer", "after %d s it pauses and says %q", i+1, x.why)
	}
}

type measured struct {
	done, pace, wavers, lag float64
	slowest                 time.Duration // of 95 %
}

func measure(seconds []second) (m measured) {
	n := float64(len(seconds))
	var squares float64
	var latencies []time.Duration
	for _, x := range seconds {
		m.done += float64(x.done) / n
		m.pace += x.pace / n
		squares += x.pace * x.pace / n
		m.lag = max(m.lag, x.lag)
		latencies = append(latencies, x.latencies...)
	}
	if m.pace > 0 {
		m.wavers = math.Sqrt(max(squares-m.pace*m.pace, 0)) / m.pace
	}
	if slices.Sort(latencies); len(latencies) > 0 {
		m.slowest = latencies[len(latencies)*95/100]
	}
	return m
}

// series prints the simulated seconds.
func (s *simulation) series(first, last int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%6s %7s %5s %5s %6s %8s %6s  %s\n", "second", "pace", "sent", "done", "failed", "median", "lag", "why")
	for i := first; i < last; i++ {
		x := s.seconds[i]
		var median time.Duration
		if slices.Sort(x.latencies); len(x.latencies) > 0 {
			median = x.latencies[len(x.latencies)/2]
		}
		fmt.Fprintf(&b, "%6d %7.1f %5d %5d %6d %8s %6.0f  %s\n", i+1, x.pace, x.sent, x.done, x.failed, median.Round(100*time.Microsecond), x.lag, x.why)
	}
	return b.String()
}
