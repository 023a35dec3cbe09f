package members

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// surveyed is a member that answers every question.
func surveyed(id, leader uint64, change ...func(*Surveyed)) Surveyed {
	m := Surveyed{Member: member(id, leader), Revision: 900, Knows: []uint64{1, 2, 3}}
	m.Version, m.StorageVersion, m.DBSize, m.Quota = "3.6.16", "3.6.0", 10<<20, 2<<30
	m.Serializable, m.Linearizable = Read{Took: time.Millisecond}, Read{Took: 2 * time.Millisecond}
	for _, c := range change {
		c(&m)
	}
	return m
}

func on(change func(*Member)) func(*Surveyed) { return func(m *Surveyed) { change(&m.Member) } }

var errTimeout = noAnswer{context.DeadlineExceeded}

func dead(m *Surveyed) {
	silent(&m.Member)
	m.Serializable, m.Linearizable, m.Knows = Read{}, Read{}, nil
}
func alone(m *Surveyed) { m.Linearizable = Read{Err: errTimeout} }

// TestJudge goes through what may be wrong with an etcd.
func TestJudge(t *testing.T) {
	t.Parallel()
	noSpace := on(func(m *Member) { m.Alarms = []Alarm{{2, "NOSPACE"}} })
	for _, tc := range []struct {
		name    string
		members []Surveyed
		silent  []Silent
		want    []string // "code member: part of the text"
	}{
		{"well", []Surveyed{surveyed(1, 1), surveyed(2, 1), surveyed(3, 1)}, nil, nil},
		{"one member", []Surveyed{surveyed(1, 1)}, nil, nil},
		{"one is down", []Surveyed{surveyed(1, 1), surveyed(2, 1), surveyed(3, 0, dead)}, nil, []string{"member-down 3: member m3 does not answer: connection refused"}},
		{"one has not started", []Surveyed{surveyed(1, 1), surveyed(2, 0, dead, on(func(m *Member) { m.ClientURLs = nil }))}, nil, []string{"member-not-started 2: member m2 has not started yet"}},
		{"a learner that catches up", []Surveyed{surveyed(1, 1), surveyed(2, 1, on(learner), func(m *Surveyed) { m.Behind, m.Linearizable = 5000, Read{} })}, nil, nil},
		{"behind", []Surveyed{surveyed(1, 1), surveyed(2, 1, func(m *Surveyed) { m.Behind = 5000 })}, nil, []string{"behind 2: has not carried out 5000"}},
		{"no quorum, the leader does not know yet", []Surveyed{surveyed(1, 1, alone), surveyed(2, 0, dead), surveyed(3, 0, dead)}, nil,
			[]string{"no-quorum 0: 1 of 3 voting members answer", "member-down 2: ", "member-down 3: "}},
		{"no leader", []Surveyed{surveyed(1, 0, alone), surveyed(2, 0, alone), surveyed(3, 0, dead)}, nil,
			[]string{"no-leader 0: etcd takes no writes", "no-quorum 0: 2 of 3 voting members answer", "member-down 3: "}},
		{"only a learner answers", []Surveyed{surveyed(1, 2, on(learner), func(m *Surveyed) { m.Linearizable, m.Knows = Read{}, nil })}, nil,
			[]string{"only-learner 0: only a learner answers"}},
		{"a learner answers, and the voters do not", []Surveyed{surveyed(1, 0, on(learner), func(m *Surveyed) { m.Linearizable = Read{} }), surveyed(2, 0, dead)}, nil,
			[]string{"no-quorum 0: 0 of 1 voting members answer", "member-down 2: "}},
		{"cut off", []Surveyed{surveyed(1, 1), surveyed(2, 1), surveyed(3, 0, alone, on(func(m *Member) { m.Errors = []string{"etcdserver: no leader"} }))}, nil,
			[]string{"cut-off 3: member m3 cannot reach the quorum that others reach: no answer in time"}},
		{"an alarm, told by all", []Surveyed{surveyed(1, 1, noSpace), surveyed(2, 1, noSpace)}, nil, []string{"alarm-nospace 2: alarm NOSPACE, raised by m2"}},
		{"an alarm of nobody", []Surveyed{surveyed(1, 1, on(corrupt(8)))}, nil, []string{"alarm-nospace 7: raised by 7", "alarm-corrupt 8: raised by 8"}},
		{"the alarm NONE", []Surveyed{surveyed(1, 1, on(func(m *Member) { m.Alarms = []Alarm{{1, "NONE"}} }))}, nil, nil},
		{"a complaint", []Surveyed{surveyed(1, 1, on(func(m *Member) { m.Errors = []string{"disk is on fire"} }))}, nil, []string{"complaint 1: member m1 says: disk is on fire"}},
		{"nearly full", []Surveyed{surveyed(1, 1, on(func(m *Member) { m.DBSize = 2 << 30 / 5 * 4 })), surveyed(2, 1, on(func(m *Member) { m.DBSize, m.Quota = 1<<40, -1 })),
			surveyed(3, 1, on(func(m *Member) { m.DBSize, m.Quota = 1<<40, 0 }))}, nil, nil},
		{"nearly full, by a byte", []Surveyed{surveyed(1, 1, on(func(m *Member) { m.DBSize = 2<<30/5*4 + 1<<10 }))}, nil, []string{"nearly-full 1: has filled 80 % of its quota"}},
		{"it went away", []Surveyed{surveyed(1, 1), surveyed(2, 1, func(m *Surveyed) { m.Lost = errTimeout })}, nil, []string{"member-down 2: answered once, and then no more"}},
		{"it reads nothing", []Surveyed{surveyed(1, 1, func(m *Surveyed) { m.Serializable = Read{Err: errTimeout} })}, nil, []string{"no-reads 1: answers no reads: no answer in time"}},
		{"a wrong endpoint", []Surveyed{surveyed(1, 1)}, []Silent{{"https://a:1", errors.New("refuses connections")}}, []string{"endpoint 0: endpoint https://a:1: refuses connections"}},
		{"another etcd", []Surveyed{surveyed(1, 1)}, []Silent{{"https://a:1", fmt.Errorf("%w: 7, not 9", ErrForeign)}}, []string{"disagree 0: belongs to another etcd cluster: 7, not 9"}},
		{"versions", []Surveyed{surveyed(1, 1), surveyed(2, 1, on(func(m *Member) { m.Version, m.StorageVersion = "3.5.21", "" }))}, nil, []string{"disagree 0: on the version: m1 3.6.16, m2 3.5.21"}},
		{"storage version, just after a start", []Surveyed{surveyed(1, 1), surveyed(2, 1, on(func(m *Member) { m.StorageVersion = "3.5.0" }))}, nil, nil},
		{"nobody", nil, []Silent{{"https://a:1", errTimeout}}, []string{"endpoint 0: no answer in time"}},
	} {
		r := &Report{Members: tc.members, Silent: tc.silent}
		r.Quorum, r.Differences = r.reads(), r.hard()
		r.judge()
		var got []string
		for i, reason := range r.Reasons {
			line := fmt.Sprintf("%s %d: %s", reason.Code, reason.Member, reason.Text)
			if i < len(tc.want) {
				code, part, _ := strings.Cut(tc.want[i], ": ")
				if strings.HasPrefix(line, code+": ") && strings.Contains(reason.Text, part) {
					line = tc.want[i]
				}
			}
			got = append(got, line)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || r.Healthy() != (len(tc.want) == 0) {
			t.Errorf("%s: -want +got:\n%s", tc.name, diff)
		}
	}
}

// TestSoft: what may pass counts only if it is there at every look, and who has come as far as the others were at the
// first look is no different.
func TestSoft(t *testing.T) {
	t.Parallel()
	at := func(id, leader, term, applied uint64, revision int64, knows string) look {
		return look{id, leader, term, applied, applied, revision, knows, revision > 0, knows != ""}
	}
	calm := []look{at(1, 1, 5, 100, 90, "1,2"), at(2, 1, 5, 100, 90, "1,2")}
	for _, tc := range []struct {
		name       string
		first, now []look
		slack      int64
		want       string
	}{
		{"calm", calm, calm, 0, ""},
		{"nobody", nil, nil, 0, ""},
		{"busy", []look{at(1, 1, 5, 120, 110, "1,2"), at(2, 1, 5, 100, 90, "1,2")}, nil, slack, ""},
		{"behind", []look{at(1, 1, 5, 121, 111, "1,2"), at(2, 1, 5, 100, 90, "1,2")}, nil, slack, "revision 1:111 2:90, 2 lacks 21"},
		{"caught up while others went on", []look{at(1, 1, 5, 500, 400, ""), at(2, 1, 5, 100, 90, "")}, []look{at(1, 1, 5, 900, 800, ""), at(2, 1, 5, 500, 400, "")}, 0, ""},
		{"still behind", []look{at(1, 1, 5, 500, 400, ""), at(2, 1, 5, 100, 90, "")}, []look{at(1, 1, 5, 900, 800, ""), at(2, 1, 5, 499, 400, "")}, 0, "2 lacks 1"},
		{"carried out, and yet different", calm, []look{at(1, 1, 5, 100, 90, ""), at(2, 1, 5, 100, 89, "")}, 0, "revision 1:90 2:89"},
		{"an election", []look{at(1, 1, 5, 100, 90, ""), at(2, 0, 6, 100, 90, "")}, nil, slack, "leader 1:1 2:none, term 1:5 2:6"},
		{"lists of members", []look{at(1, 1, 5, 100, 90, "1,2"), at(2, 1, 5, 100, 90, "1,2,3"), at(3, 1, 5, 100, 0, "")}, nil, slack, "members 1:1,2 2:1,2,3"},
	} {
		now := tc.now
		if now == nil {
			now = tc.first
		}
		var words []string
		for _, d := range soft(tc.first, now, tc.slack) {
			text := d.What
			for _, s := range d.Says {
				text += fmt.Sprintf(" %x:%s", s.Member, s.Value)
			}
			words = append(words, text)
		}
		for id, n := range lagging(tc.first, now, uint64(tc.slack)) {
			words = append(words, fmt.Sprintf("%x lacks %d", id, n))
		}
		if got := strings.Join(words, ", "); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	if kept := both([]Difference{{What: "term"}}, []Difference{{What: "leader"}, {What: "term"}}); len(kept) != 1 || kept[0].What != "term" {
		t.Errorf("of what was there before is kept: %+v", kept)
	}
}

// TestLeader: a leader that does not answer us leads all the same.
func TestLeader(t *testing.T) {
	t.Parallel()
	term := func(n uint64) func(*Surveyed) { return on(func(m *Member) { m.Term = n }) }
	for _, tc := range []struct {
		name    string
		members []Surveyed
		want    uint64
	}{
		{"it answers", []Surveyed{surveyed(1, 2), surveyed(2, 2)}, 2},
		{"it does not answer", []Surveyed{surveyed(1, 2), surveyed(2, 0, dead), surveyed(3, 2)}, 2},
		{"one that was cut off takes itself for it", []Surveyed{surveyed(1, 1, term(6)), surveyed(2, 2, term(7)), surveyed(3, 2, term(7))}, 2},
		{"it is not in the list", []Surveyed{surveyed(1, 9)}, 0},
		{"there is none", []Surveyed{surveyed(1, 0), surveyed(2, 0, dead)}, 0},
	} {
		var got uint64
		if m := (&Report{Members: tc.members}).Leader(); m != nil {
			got = m.ID
		}
		if got != tc.want {
			t.Errorf("%s: %x, want %x", tc.name, got, tc.want)
		}
	}
}
