package members

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Sizes are what a [Rule] decides by, of one member.
type Sizes struct {
	// DBSize is the length of the db file in bytes, InUse what of it holds data, Free the rest.
	DBSize, InUse, Free int64
	// Quota is the space quota in bytes, 0 if it is not known. Usage is DBSize by Quota, 1 when it is used up, and 0
	// without a Quota: a Rule that needs them must look at Quota first.
	Quota int64
	Usage float64
}

// SizesOf are the sizes of a member that answers.
func SizesOf(m Member) Sizes {
	s := Sizes{DBSize: m.DBSize, InUse: m.InUse, Free: max(0, m.DBSize-m.InUse), Quota: m.Quota}
	if s.Quota = max(0, s.Quota); s.Quota > 0 { // below 0: there is none
		s.Usage = float64(s.DBSize) / float64(s.Quota)
	}
	return s
}

// Rule says whether a member of these sizes is worth the stop. An error means that it cannot tell.
type Rule func(Sizes) (bool, error)

// What Worthwhile asks for, as OpenShift's defragmentation controller does (openshift/cluster-etcd-operator,
// pkg/operator/defragcontroller).
const (
	// WorthPercent is the least part of the db file that must be free.
	WorthPercent = 45
	// WorthBytes is the least that must be free.
	WorthBytes = 100 << 20
)

// Worthwhile is the usual [Rule]: at least [WorthPercent] of the file and [WorthBytes] can be given back.
func Worthwhile(s Sizes) (bool, error) {
	return s.Free >= WorthBytes && float64(s.Free)*100 >= float64(s.DBSize)*WorthPercent, nil
}

// Always is the [Rule] that takes every member.
func Always(Sizes) (bool, error) { return true, nil }

// DefragStep is one member that is to be defragmented.
type DefragStep struct {
	// Member is as it was when the plan was made.
	Member Member
	// Stop estimates for how long the member will answer nothing; see [DefragRate].
	Stop time.Duration
}

// Room is how many bytes the copy takes on the member's disk while the old file is still there.
func (s DefragStep) Room() int64 { return s.Member.InUse }

// Skipped is a member that is not to be touched.
type Skipped struct {
	Member Member
	// Why is for people; [NotWorth] if the rule said so.
	Why string
	// Err is the rule's, if it could not tell.
	Err error
}

// NotWorth is why a member is skipped that the [Rule] does not take.
const NotWorth = "not worth the stop"

// DefragRate is a rule of thumb for how many bytes in use a member copies in a second: see docs/defrag.md for what it
// was measured on. A slow disk takes several times as long.
const DefragRate = 100 << 20

// PlanDefrag says which members to defragment, in which order, and why not the others. Every member comes once, however
// many addresses it has: followers by id, the leader last. Learners are skipped, since etcd refuses it there, and so are
// members that do not answer; the health gate of [Defrag] says whether that blocks the others. A nil rule is [Worthwhile].
func PlanDefrag(members []Member, rule Rule) (order []DefragStep, skipped []Skipped) {
	if rule == nil {
		rule = Worthwhile
	}
	for _, m := range members {
		if why, err := skips(m, rule); why != "" {
			skipped = append(skipped, Skipped{m, why, err})
			continue
		}
		order = append(order, DefragStep{m, EstimateStop(m.InUse)})
	}
	sortSteps(order)
	return order, skipped
}

func sortSteps(order []DefragStep) {
	slices.SortFunc(order, func(a, b DefragStep) int {
		return cmp.Or(leads(a.Member)-leads(b.Member), cmp.Compare(a.Member.ID, b.Member.ID))
	})
}

func leads(m Member) int {
	if m.IsLeader() {
		return 1
	}
	return 0
}

func skips(m Member, rule Rule) (why string, err error) {
	switch {
	case m.Learner:
		return "a learner, which etcd does not defragment", nil
	case !m.Answers():
		return fmt.Sprintf("does not answer: %v", m.Err), nil
	}
	s := SizesOf(m)
	switch worth, err := rule(s); {
	case err != nil:
		return err.Error(), err
	case !worth:
		return NotWorth, nil
	}
	return "", nil
}

// EstimateStop is how long copying so many bytes takes at [DefragRate], at least a second.
func EstimateStop(inUse int64) time.Duration {
	return max(time.Second, time.Duration(float64(inUse)/DefragRate*float64(time.Second)))
}
