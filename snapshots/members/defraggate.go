package members

import (
	"errors"
	"fmt"
	"strings"
)

// ErrUnfit says that the members are in no state in which one of them may be stopped for a while.
var ErrUnfit = errors.New("not all members are well")

// FitToDefrag is the health gate: nil, or an error that is [ErrUnfit] and gives every reason. All voters must answer,
// name one leader, be at most maxLag entries behind it and complain of nothing. NOSPACE passes, since defragmenting is
// the way out of it; CORRUPT does not. Learners do not count, except for CORRUPT: they have no vote that would be missed.
func FitToDefrag(members []Member) error {
	var reasons []string
	for _, a := range Alarms(members) {
		if a.Type == AlarmCorrupt {
			reasons = append(reasons, fmt.Sprintf("member %x has raised the alarm CORRUPT", a.Member))
		}
	}
	voters := Voters(members)
	leader := leaderOf(voters)
	switch {
	case len(voters) == 0:
		reasons = append(reasons, "no member is known")
	case leader == nil:
		reasons = append(reasons, "no leader answers")
	}
	for _, m := range voters {
		if why := unwell(m, leader); why != "" {
			reasons = append(reasons, m.Label()+" "+why)
		}
	}
	if len(reasons) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrUnfit, strings.Join(reasons, "; "))
}

// unwell is what keeps a voter from being well, "" for nothing. A nil leader has been told of already.
func unwell(m, leader *Member) string {
	switch {
	case !m.Answers():
		return fmt.Sprintf("does not answer: %v", m.Err)
	case len(m.Errors) > 0:
		return "complains: " + strings.Join(m.Errors, ", ")
	case leader == nil:
	case m.Leader != leader.ID:
		return fmt.Sprintf("does not take %s for the leader", leader.Label())
	case lag(m, leader) > maxLag:
		return fmt.Sprintf("is %d entries behind the leader", lag(m, leader))
	}
	return ""
}

// heir is the voter that takes over from the leader: one that is not to be defragmented any more, the one that has got
// furthest. The members have passed the gate.
func heir(members []Member, leader uint64, left []DefragStep) *Member {
	later := map[uint64]bool{leader: true}
	for _, s := range left {
		later[s.Member.ID] = true
	}
	var voters []*Member
	for _, m := range Voters(members) {
		if !later[m.ID] {
			voters = append(voters, m)
		}
	}
	if len(voters) == 0 {
		return nil
	}
	return furthest(voters)
}
