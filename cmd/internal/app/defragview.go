package app

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// write is the preview for people.
func (d *defragging) write(out io.Writer, columns int, asking bool) {
	w := writer{out, columns}
	var back int64
	for _, s := range d.steps {
		back += etcdmembers.SizesOf(s.Member).Free
	}
	if n := int64(len(d.steps)); n > 0 {
		w.line("Would defragment %s of %s, and give back about %s", term.Count(n), term.Plural(int64(len(d.members)), "member"), term.Bytes(back))
	} else {
		w.line("Would defragment nothing: no member is worth it")
	}
	w.line("")
	d.table(w)
	w.line("")
	for _, text := range d.warnings() {
		w.field("warning", text)
	}
	for _, text := range d.notes() {
		w.field("note", text)
	}
	switch {
	case asking:
	case len(d.steps) > 0 && d.unfit == nil:
		w.line("")
		w.line("Nothing was changed. Add --execute to do it.")
	default:
		w.line("")
		w.line("Nothing was changed.")
	}
}

func (d *defragging) table(w writer) {
	t := term.NewTable(w, true)
	wide := d.inv.format() == formatWide
	if !wide {
		d.inv.fit(t, w, 1)
	}
	row := func(m etcdmembers.Member, order, stop string) {
		s := etcdmembers.SizesOf(m)
		cells := []string{"  " + order, m.Label(), defragRole(m), "-", "-", "-", "-", stop}
		if m.Answers() {
			copy(cells[3:], []string{term.Bytes(s.DBSize), term.Bytes(s.InUse), percent(s.Free, s.DBSize), "unknown"})
			if s.Quota > 0 {
				cells[6] = percent(s.DBSize, s.Quota)
			}
		}
		if wide {
			cells = append(cells, fmt.Sprintf("%x", m.ID), m.Endpoint)
		}
		t.Row(cells...)
	}
	head := []string{"  #", "MEMBER", "ROLE", "SIZE", "IN USE", "FREE", "OF QUOTA", "STOP"}
	if wide {
		head = append(head, "ID", "ENDPOINT")
	}
	t.Header(head...)
	for i, s := range d.steps {
		row(s.Member, strconv.Itoa(i+1), "about "+term.Duration(s.Stop))
	}
	for _, s := range d.skipped {
		row(s.Member, "-", "left out")
	}
	_ = t.Flush() // like every other line of a preview
}

func defragRole(m etcdmembers.Member) string {
	switch {
	case m.Learner:
		return "learner"
	case !m.Answers():
		return "-"
	case m.IsLeader():
		return "leader"
	}
	return "follower"
}

// voters is how many members vote, and leader the step of the one that leads; nil if it is not taken.
func (d *defragging) voters() (n int, leader *etcdmembers.DefragStep) {
	for _, m := range d.members {
		if !m.Learner {
			n++
		}
	}
	for i := range d.steps {
		if d.steps[i].Member.IsLeader() {
			leader = &d.steps[i]
		}
	}
	return n, leader
}

// warnings are what somebody should know before it is done.
func (d *defragging) warnings() []string {
	var all []string
	if d.unfit != nil {
		all = append(all, d.unfit.Error()+": nothing would be changed")
	}
	voters, leader := d.voters()
	switch {
	case len(d.steps) == 0:
	case voters == 1 && leader != nil:
		all = append(all, fmt.Sprintf("this is the only member: the API servers get no answer for about %s, and leases that run out meanwhile are lost (controllers and schedulers then elect anew)", term.Duration(leader.Stop)))
	}
	for _, s := range d.steps {
		if err := d.local.room(s); err != nil {
			all = append(all, err.Error())
		}
	}
	return all
}

func (d *defragging) notes() []string {
	var all []string
	for _, s := range d.skipped {
		all = append(all, s.Member.Label()+" is left out: "+d.why(s))
	}
	for _, a := range etcdmembers.Alarms(d.members) {
		if a.Type == "NOSPACE" {
			all = append(all, fmt.Sprintf("member %x has raised the alarm NOSPACE, which stays until it is switched off: etcd-rescue disarm, when this is done", a.Member))
		}
	}
	if voters, leader := d.voters(); leader != nil && voters > 1 && !d.inv.Bool(flagMoveLeader) {
		all = append(all, fmt.Sprintf("the leader, %s, goes last; the others take writes meanwhile, and what it is asked itself waits; --%s has another lead before", leader.Member.Label(), flagMoveLeader))
	}
	if len(d.steps) > 0 {
		all = append(all, "the stop is a rule of thumb, "+term.Bytes(etcdmembers.DefragRate)+" of data a second; a slow disk takes several times as long")
	}
	return all
}

// why says more than the plan does of a member that is not worth it.
func (d *defragging) why(s etcdmembers.Skipped) string {
	if s.Why != etcdmembers.NotWorth {
		return s.Why
	}
	size := etcdmembers.SizesOf(s.Member)
	text := fmt.Sprintf("%s of %s could be given back", term.Bytes(size.Free), term.Bytes(size.DBSize))
	if d.inv.IsSet(flagOnlyIf) {
		return text + ", and --" + flagOnlyIf + " says no"
	}
	return fmt.Sprintf("%s, and it takes %d %% and %s (--%s takes it all the same)", text, etcdmembers.WorthPercent, term.Bytes(etcdmembers.WorthBytes), flagAlways)
}

// defragObserver says on stderr how far it is.
func (inv *invocation) defragObserver() etcdmembers.DefragObserver {
	say := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if inv.Streams.ErrTTY {
			text = term.Wrap(text, width(inv.Streams.ErrWidth))
		}
		inv.say("%s", text)
	}
	return func(e etcdmembers.DefragEvent) {
		at := fmt.Sprintf("%d/%d %s", e.N, e.Of, e.Member.Label())
		switch e.Stage {
		case etcdmembers.DefragBegun:
			s := etcdmembers.SizesOf(e.Member)
			say("%s (%s), %s in use: it answers nothing for about %s", at, defragRole(e.Member), term.Bytes(s.InUse), term.Duration(etcdmembers.EstimateStop(s.InUse)))
		case etcdmembers.DefragWaiting:
			say("%s: %s, %s so far; no other member is touched before it answers", at, e.Text, term.Duration(e.For))
		case etcdmembers.DefragDone:
			say("%s: %s", at, defragged(e.Result))
		case etcdmembers.DefragGate:
			say("%s: waiting before it: %s", at, e.Text)
		case etcdmembers.DefragPause:
			say("waiting %s before the next member", term.Duration(e.For))
		case etcdmembers.DefragMoved:
			say("%s: the leadership went from %s to %s", at, e.Member.Label(), e.To.Label())
		}
	}
}

// defragged is one member's result in a line.
func defragged(r *etcdmembers.Defragmented) string {
	sizes := fmt.Sprintf("%s before, %s after, ", term.Bytes(r.Before.DBSize), term.Bytes(r.After.DBSize))
	switch {
	case r.Err != nil:
		return "failed after " + term.Duration(r.Took)
	case r.Unsure:
		return sizes + "and it is not known whether it got the request"
	}
	return sizes + "took " + term.Duration(r.Took)
}

// report shows what became of the members, and how it ended.
func (d *defragging) report(done []etcdmembers.Defragmented, err error) error {
	good := 0
	for _, r := range done {
		if r.Err == nil && !r.Unsure {
			good++
		}
	}
	if err != nil {
		err = d.failure(good, err)
	}
	if len(done) == 0 && err != nil {
		return err
	}
	var showing error
	if f := d.inv.format(); f == formatJSON || f == formatYAML {
		showing = d.inv.document(d.document(done))
	} else {
		showing = d.resultTable(done)
	}
	if err == nil {
		err = showing
	}
	return err
}

func (d *defragging) resultTable(done []etcdmembers.Defragmented) error {
	if len(done) == 0 {
		w := writer{d.inv.Streams.Out, width(d.inv.Streams.OutWidth)}
		w.line("Defragmented nothing: no member is worth it. Nothing was changed.")
		for _, text := range d.notes() {
			d.inv.say("note: %s", text)
		}
		return nil
	}
	t := d.inv.table()
	wide := d.inv.format() == formatWide
	head := []string{"MEMBER", "BEFORE", "AFTER", "GIVEN BACK", "TOOK", "RESULT"}
	if wide {
		head = append(head, "ID")
	} else {
		d.inv.fit(t, writer{d.inv.Streams.Out, width(d.inv.Streams.OutWidth)}, 0)
	}
	t.Header(head...)
	for _, r := range done {
		result := "defragmented"
		switch {
		case r.Err != nil:
			result = "failed"
		case r.Unsure:
			result = "unsure"
		}
		b, a := r.Before.DBSize, r.After.DBSize
		cells := []string{r.Before.Label(), d.inv.size(b), d.inv.size(a), d.inv.size(b - a), term.Duration(r.Took.Round(time.Millisecond)), result}
		if wide {
			cells = append(cells, fmt.Sprintf("%x", r.Before.ID))
		}
		t.Row(cells...)
	}
	return t.Flush()
}
