package members

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

var (
	defragMiB  = flag.Int("defrag.mib", 16, "how many MiB of values TestDefrag writes, of which 60 % are deleted again; 1024 takes two minutes")
	defragHalt = flag.Duration("defrag.halt", 500*time.Millisecond, "for how long TestDefrag halts a member with SIGSTOP while it is defragmented")
)

// TestDefrag: three members, one of them with two client URLs, and a learner. Each voter is defragmented once, the
// leader last, none while another is stopped; a member that is halted meanwhile is waited for.
func TestDefrag(t *testing.T) {
	t.Parallel()
	r := startRing(t, 3)
	if _, err := r.AddLearner(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.litter(*defragMiB)
	steps, skipped := PlanDefrag(r.list(), func(s Sizes) (bool, error) { return s.Free*2 > s.DBSize, nil })
	if len(steps) != 3 || len(skipped) != 1 || !skipped[0].Member.Learner || !steps[2].Member.IsLeader() {
		t.Fatalf("got %+v, skipped %+v", steps, skipped)
	}
	if n := twoURLsOf(r.list()); n != 1 {
		t.Fatalf("%d members have two client URLs", n)
	}
	slow := steps[1].Member.ID
	var begun, told []uint64
	var stopped time.Duration
	observe := func(e DefragEvent) {
		switch e.Stage {
		case DefragBegun:
			begun = append(begun, e.Member.ID)
			r.othersAnswer(e.Member.ID)
			if e.Member.ID == slow {
				r.must(r.of(slow).Stop())
			}
		case DefragWaiting:
			told = append(told, e.Member.ID)
			if e.Member.ID == slow && stopped == 0 && e.For >= *defragHalt {
				stopped = e.For
				r.must(r.of(slow).Continue())
			}
		}
	}
	w := r.write()
	done, err := Defrag(t.Context(), r.quick(steps), observe)
	w.end()
	if err != nil {
		t.Fatal(err)
	}
	want := []uint64{steps[0].Member.ID, slow, steps[2].Member.ID}
	if !slices.Equal(begun, want) || len(done) != 3 || !slices.Contains(told, slow) || stopped == 0 {
		t.Errorf("begun %x, want %x; told of %x", begun, want, told)
	}
	var most time.Duration
	for _, d := range done {
		most = max(most, d.Took)
		if d.Err != nil || d.Unsure || d.After.DBSize*100 > d.Before.DBSize*70 {
			t.Errorf("%s: %d bytes before, %d after, %v", d.Before.Label(), d.Before.DBSize, d.After.DBSize, d.Err)
		}
		t.Logf("%s (leader: %v): %d MiB in use, %d MiB before, %d after, took %s", d.Before.Label(), d.Before.IsLeader(), d.Before.InUse>>20, d.Before.DBSize>>20, d.After.DBSize>>20, d.Took)
	}
	if done[1].Took < *defragHalt {
		t.Errorf("the member that was halted for %s took %s", *defragHalt, done[1].Took)
	}
	t.Logf("%d writes, none for %s at most", w.writes, w.longest)
	// A write that had asked the stopped member loses its own 500 ms besides.
	if w.longest > most+5*time.Second || w.writes == 0 {
		t.Errorf("%d writes, and none for %s; the longest stop of one member was %s", w.writes, w.longest, most)
	}
	r.sameHash()
}

func twoURLsOf(members []Member) (n int) {
	for _, m := range members {
		if len(m.ClientURLs) == 2 {
			n++
		}
	}
	return n
}

func (r *ring) must(err error) {
	if err != nil {
		r.t.Error(err)
	}
}

// othersAnswer asks all but one for a read of their own, which none gives while it is stopped.
func (r *ring) othersAnswer(but uint64) {
	for _, m := range r.list() {
		if m.ID == but || m.Learner {
			continue
		}
		client, err := dialDefrag(r.t.Context(), m.Endpoint)
		if err != nil {
			r.t.Errorf("while %x is begun: %s: %v", but, m.Label(), err)
			continue
		}
		if _, err := client.Get(r.t.Context(), "health", clientv3.WithSerializable()); err != nil {
			r.t.Errorf("while %x is begun: %s: %v", but, m.Label(), err)
		}
		client.Close()
	}
}

// TestDefragGoesOn: a lost connection is waited for, the leadership is moved, an interrupt lets a member finish, and
// what is not well is refused before anything is touched.
func TestDefragGoesOn(t *testing.T) {
	t.Parallel()
	r := startRing(t, 3)
	r.litter(4)
	all := func() []DefragStep {
		steps, _ := PlanDefrag(r.list(), Always)
		if len(steps) != 3 {
			t.Fatalf("%d steps", len(steps))
		}
		return steps
	}
	t.Run("refused", func(t *testing.T) { r.refused(t, all()) })
	t.Run("lost", func(t *testing.T) { r.lost(t, all()[:1]) })
	t.Run("interrupted", func(t *testing.T) { r.interrupted(t, all()) })
	t.Run("moved", func(t *testing.T) { r.moved(t, all()) })
	t.Run("leader changes", func(t *testing.T) { r.changes(t, all()) })
	t.Run("missing", func(t *testing.T) { r.missing(t, all()) })
}

// refused: nothing is touched, and the reason is said.
func (r *ring) refused(t *testing.T, steps []DefragStep) {
	busy := steps[1].Member
	full := errors.New("no room")
	corrupt := func(action etcdserverpb.AlarmRequest_AlarmAction) {
		_, err := etcdserverpb.NewMaintenanceClient(r.client.ActiveConnection()).Alarm(t.Context(),
			&etcdserverpb.AlarmRequest{Action: action, MemberID: busy.ID, Alarm: etcdserverpb.AlarmType_CORRUPT})
		if err != nil {
			t.Fatal(err)
		}
	}
	metrics := func(_ context.Context, endpoint string) (io.ReadCloser, error) {
		text := inflightMetric + " 0\n"
		if endpoint == busy.Endpoint {
			text = inflightMetric + " 1\n"
		}
		return io.NopCloser(bytes.NewReader([]byte(text))), nil
	}
	for name, tc := range map[string]struct {
		change func(*DefragOptions)
		want   error
	}{
		"room":     {func(o *DefragOptions) { o.Room = func(DefragStep) error { return full } }, full},
		"inflight": {func(o *DefragOptions) { o.Metrics = metrics }, ErrInflight},
		"gone":     {func(o *DefragOptions) { o.Steps = []DefragStep{{Member: member(9, 1)}} }, ErrUnfit},
		"CORRUPT":  {func(*DefragOptions) { corrupt(etcdserverpb.AlarmRequest_ACTIVATE) }, ErrUnfit},
	} {
		opt := r.quick(steps)
		tc.change(&opt)
		done, err := Defrag(t.Context(), opt, func(e DefragEvent) {
			if e.Stage == DefragBegun {
				t.Errorf("%s: %s was touched", name, e.Member.Label())
			}
		})
		if len(done) > 0 || !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, %v", name, done, err)
		}
		if name == "CORRUPT" {
			corrupt(etcdserverpb.AlarmRequest_DEACTIVATE)
			r.until("the alarm is off everywhere", func() bool { return len(Alarms(r.list())) == 0 })
		}
	}
}

// lost: while the member is halted the connection breaks, and it is waited for until it answers again.
func (r *ring) lost(t *testing.T, steps []DefragStep) {
	opt := r.quick(steps)
	opt.Timeout = time.Second
	m := r.of(steps[0].Member.ID)
	opt.Steps[0].Member.Endpoint = m.Endpoint()
	var broken, healed bool
	done, err := Defrag(t.Context(), opt, func(e DefragEvent) {
		switch {
		case e.Stage == DefragBegun:
			r.must(m.Stop())
		case e.Stage == DefragWaiting && !broken:
			broken = true
			m.Reset()
		case e.Stage == DefragWaiting && strings.Contains(e.Text, "the connection broke") && !healed:
			healed = true
			m.Heal()
			r.must(m.Continue())
		}
	})
	if err != nil || len(done) != 1 || done[0].Unsure || done[0].After.ID != m.ID() || !broken || !healed {
		t.Fatalf("got %+v, %v, broken %v, told so %v", done, err, broken, healed)
	}
	if d := done[0]; d.After.DBSize*100 > d.Before.DBSize*70 {
		t.Errorf("%d bytes before, %d after", d.Before.DBSize, d.After.DBSize)
	}
}

func (r *ring) interrupted(t *testing.T, steps []DefragStep) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m := r.of(steps[0].Member.ID)
	var told bool
	done, err := Defrag(ctx, r.quick(steps), func(e DefragEvent) {
		switch {
		case e.Stage == DefragBegun:
			r.must(m.Stop())
			cancel()
		case e.Stage == DefragWaiting && strings.HasPrefix(e.Text, "interrupted"):
			told = true
			r.must(m.Continue())
		}
	})
	if !errors.Is(err, context.Canceled) || len(done) != 1 || done[0].Before.ID != m.ID() || done[0].Err != nil || !told {
		t.Errorf("got %+v, %v, told %v", done, err, told)
	}
}

// moved: the leader gives the leadership away before its turn, to one that is done.
func (r *ring) moved(t *testing.T, steps []DefragStep) {
	leader := steps[2].Member.ID
	opt := r.quick(steps)
	opt.MoveLeader = true
	var order []string
	done, err := Defrag(t.Context(), opt, func(e DefragEvent) {
		switch e.Stage {
		case DefragBegun:
			order = append(order, fmt.Sprintf("%x", e.Member.ID))
		case DefragMoved:
			order = append(order, fmt.Sprintf("%x hands over", e.Member.ID))
			if e.To.ID == leader || e.To.Learner {
				t.Errorf("it went to %x", e.To.ID)
			}
		}
	})
	want := []string{fmt.Sprintf("%x", steps[0].Member.ID), fmt.Sprintf("%x", steps[1].Member.ID), fmt.Sprintf("%x hands over", leader), fmt.Sprintf("%x", leader)}
	if err != nil || len(done) != 3 || !slices.Equal(order, want) {
		t.Fatalf("%v, %v, want %v", err, order, want)
	}
	if last := done[2]; last.Before.ID != leader || last.Before.IsLeader() {
		t.Errorf("the last is %+v", last.Before)
	}
}

// changes: who leads when its turn comes goes last, whatever the plan thought.
func (r *ring) changes(t *testing.T, steps []DefragStep) {
	for i := range r.Members() {
		if r.Member(i).ID() == steps[0].Member.ID {
			if err := r.MoveLeader(t.Context(), i); err != nil {
				t.Fatal(err)
			}
		}
	}
	var order []uint64
	_, err := Defrag(t.Context(), r.quick(steps), func(e DefragEvent) {
		if e.Stage == DefragBegun {
			order = append(order, e.Member.ID)
		}
	})
	if err != nil || len(order) != 3 || order[2] != steps[0].Member.ID {
		t.Errorf("%v, order %x, and %x leads", err, order, steps[0].Member.ID)
	}
}

// missing: with a member that is down no other is stopped. It dies after the first is done, so that it is no matter of
// what was so at the start.
func (r *ring) missing(t *testing.T, steps []DefragStep) {
	opt := r.quick(steps)
	opt.Settle, opt.Timeout = time.Second, time.Second
	dead := r.of(steps[2].Member.ID)
	var gate string
	done, err := Defrag(t.Context(), opt, func(e DefragEvent) {
		switch e.Stage {
		case DefragDone:
			r.must(dead.Kill())
		case DefragGate:
			gate = e.Text
		}
	})
	if !errors.Is(err, ErrUnfit) || len(done) != 1 || done[0].Before.ID != steps[0].Member.ID || !strings.Contains(gate, "does not answer") {
		t.Errorf("got %+v, %v, said %q", done, err, gate)
	}
}

// TestDefragAlone: a single member under NOSPACE is defragmented.
func TestDefragAlone(t *testing.T) {
	t.Parallel()
	box, err := sandbox.Start(t.Context(), sandbox.Options{NoFsync: true, Mode: sandbox.InProcess, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	client := connect(t, box.Endpoints()...)
	all := mustList(t, client, box.Endpoints()...)
	if _, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Alarm(t.Context(), &etcdserverpb.AlarmRequest{
		Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: all[0].ID, Alarm: etcdserverpb.AlarmType_NOSPACE,
	}); err != nil {
		t.Fatal(err)
	}
	steps, _ := PlanDefrag(all, Always)
	done, err := Defrag(t.Context(), DefragOptions{Client: client, Dial: dialDefrag, Steps: steps, MoveLeader: true}, nil)
	if err != nil || len(done) != 1 || done[0].Err != nil || len(done[0].After.Alarms) != 1 {
		t.Errorf("got %+v, %v", done, err)
	}
}
