package members

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// FullPercent is the share of its quota from which on a db file is nearly full. etcd-diagnosis warns at the same.
const FullPercent = 80

// Difference is something that members disagree on. A hard one (cluster, version, storage version) counts at once, a
// soft one (leader, term, revision, members) only if three looks find it.
type Difference struct {
	What string // "version", "storage version", "leader", "term", "revision", "members"
	Hard bool
	// Says is what each says, in the order of Report.Members, of those that say anything.
	Says []Said
}

// Said is what one member says.
type Said struct {
	Member uint64
	Value  string
}

// The codes of a Reason. They are stable.
const (
	ReasonDown      = "member-down"
	ReasonEndpoint  = "endpoint"
	ReasonUnstarted = "member-not-started"
	ReasonNoQuorum  = "no-quorum"
	ReasonNoLeader  = "no-leader"
	ReasonLearner   = "only-learner"
	ReasonCutOff    = "cut-off"
	ReasonReads     = "no-reads"
	ReasonNoSpace   = "alarm-nospace"
	ReasonCorrupt   = "alarm-corrupt"
	ReasonAlarm     = "alarm"
	ReasonComplaint = "complaint"
	ReasonBehind    = "behind"
	ReasonFull      = "nearly-full"
	ReasonDiffer    = "disagree"
)

// Reason is why not all is well, in one line without a full stop. Member is 0 if it is about all.
type Reason struct {
	Code   string
	Member uint64
	Text   string
}

// judge says why not all is well, the worst first.
func (r *Report) judge() {
	r.judgeQuorum()
	r.judgeAlarms()
	for _, m := range r.Members {
		r.judgeMember(m)
	}
	for _, s := range r.Silent {
		code := ReasonEndpoint
		if errors.Is(s.Err, ErrForeign) {
			code = ReasonDiffer
		}
		r.add(code, 0, "endpoint %s: %v", s.Endpoint, s.Err)
	}
	for _, d := range r.Differences {
		if d.Hard || !r.explained(d) {
			r.add(ReasonDiffer, 0, "the members disagree on the %s: %s", d.What, r.says(d))
		}
	}
}

// explained says that those who are not cut off agree.
func (r *Report) explained(d Difference) bool {
	var rest []string
	for _, said := range d.Says {
		i := slices.IndexFunc(r.Members, func(m Surveyed) bool { return m.ID == said.Member })
		if i < 0 || r.Members[i].Linearizable.Err == nil {
			rest = append(rest, said.Value)
		}
	}
	return r.Quorum && len(slices.Compact(rest)) < 2
}

func (r *Report) add(code string, member uint64, format string, args ...any) {
	r.Reasons = append(r.Reasons, Reason{code, member, fmt.Sprintf(format, args...)})
}

// says is "m0 3.6.1, m1 3.5.9". Lists of members are too long for a line.
func (r *Report) says(d Difference) string {
	var words []string
	for _, said := range d.Says {
		value := said.Value
		if d.What == "members" {
			value = strconv.Itoa(strings.Count(value, ",") + 1)
		} else if d.What == "leader" && value != "none" {
			value = r.label(value)
		}
		words = append(words, r.label(strconv.FormatUint(said.Member, 16))+" "+value)
	}
	return strings.Join(words, ", ")
}

// label is the name of the member with that hexadecimal id.
func (r *Report) label(id string) string {
	for _, m := range r.Members {
		if strconv.FormatUint(m.ID, 16) == id {
			return m.Label()
		}
	}
	return id
}

func (r *Report) judgeQuorum() {
	answering, leaderless := 0, 0
	for _, m := range r.Members {
		if m.Answers() && !m.Learner {
			answering++
			if m.Leader == 0 {
				leaderless++
			}
		}
	}
	switch {
	case r.Quorum || !r.Answers():
		return
	case r.Kine:
		r.add(ReasonReads, 0, "kine answers no reads")
		return
	case r.voters() == 0: // a learner does not tell its list (v3rpc, isRPCSupportedForLearner)
		r.add(ReasonLearner, 0, "whether there is a quorum is not known: only a learner answers, which does not tell who the other members are")
		return
	}
	if answering > 0 && leaderless == answering {
		r.add(ReasonNoLeader, 0, "there is no leader: etcd takes no writes")
	}
	r.add(ReasonNoQuorum, 0, "there is no quorum: %d of %d voting members answer, and no read that takes a majority succeeds", answering, r.voters())
}

// voters is how many members vote, as far as is known.
func (r *Report) voters() int {
	n := 0
	for _, m := range r.Members {
		if !m.Learner {
			n++
		}
	}
	return n
}

func (r *Report) judgeAlarms() {
	all := make([]Member, 0, len(r.Members))
	for _, m := range r.Members {
		all = append(all, m.Member)
	}
	name := func(a Alarm) string { return r.label(strconv.FormatUint(a.Member, 16)) }
	alarms := Alarms(all)
	// etcd tells them in the order of a map.
	slices.SortFunc(alarms, func(a, b Alarm) int { return cmp.Or(cmp.Compare(name(a), name(b)), cmp.Compare(a.Type, b.Type)) })
	for _, a := range alarms {
		who := name(a)
		switch a.Type {
		case "NONE":
		case "NOSPACE":
			r.add(ReasonNoSpace, a.Member, "alarm NOSPACE, raised by %s: its db file has reached its quota, and etcd takes no puts", who)
		case "CORRUPT":
			r.add(ReasonCorrupt, a.Member, "alarm CORRUPT, raised by %s: the members do not hold the same, and etcd takes no writes", who)
		default:
			r.add(ReasonAlarm, a.Member, "alarm %s, raised by %s", a.Type, who)
		}
	}
}

func (r *Report) judgeMember(m Surveyed) {
	name := m.Label()
	switch {
	case m.ID == 0:
		return
	case !m.Answers() && len(m.ClientURLs) == 0:
		r.add(ReasonUnstarted, m.ID, "member %s has not started yet", name)
		return
	case !m.Answers():
		r.add(ReasonDown, m.ID, "member %s does not answer: %v", name, m.Err)
		return
	}
	if m.Lost != nil {
		r.add(ReasonDown, m.ID, "member %s answered once, and then no more: %v", name, m.Lost)
	}
	if err := m.Serializable.Err; err != nil {
		r.add(ReasonReads, m.ID, "member %s answers no reads: %v", name, err)
	}
	if err := m.Linearizable.Err; err != nil && r.Quorum {
		r.add(ReasonCutOff, m.ID, "member %s cannot reach the quorum that others reach: %v", name, err)
	}
	if m.Behind > 0 && !m.Learner { // a learner is there to catch up
		r.add(ReasonBehind, m.ID, "member %s is behind: it has not carried out %d raft entries that were committed before", name, m.Behind)
	}
	for _, text := range m.Errors {
		if m.Leader != 0 || !strings.Contains(text, "no leader") { // told above
			r.add(ReasonComplaint, m.ID, "member %s says: %s", name, text)
		}
	}
	if used := m.Full(); used >= FullPercent {
		r.add(ReasonFull, m.ID, "member %s has filled %d %% of its quota", name, used)
	}
}

// Full is which part of its quota a member's db file has reached, in percent; -1 if the quota is not known or there is
// none.
func (m *Member) Full() int {
	if m.Quota <= 0 {
		return -1
	}
	return int(float64(m.DBSize) / float64(m.Quota) * 100)
}
