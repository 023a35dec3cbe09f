package members

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// The alarms that a member raises.
const (
	AlarmNoSpace = "NOSPACE"
	AlarmCorrupt = "CORRUPT"
)

// DefaultBelow is the share of its quota that a db file may have at most for its alarm to be taken back.
const DefaultBelow = 0.9

// disarmTimeout is how long taking back one alarm may take.
const disarmTimeout = 15 * time.Second

var (
	// ErrDisagree says that CORRUPT is raised: members disagree, and no alarm is taken back.
	ErrDisagree = errors.New("the alarm CORRUPT is raised: the members of etcd disagree")
	// ErrFull says that a db file is too near to its quota.
	ErrFull = errors.New("is too near to its quota")
	// ErrNoQuota says that the quota of a member is not known.
	ErrNoQuota = errors.New("does not tell its quota")
	// ErrStillRaised says that an alarm is there again after it was taken back.
	ErrStillRaised = errors.New("the alarm NOSPACE is raised again")
)

// DisarmOptions say when an alarm may be taken back.
type DisarmOptions struct {
	// Below is the share of its quota that no db file may exceed; zero means DefaultBelow.
	Below float64
	// Quota in bytes is taken for members that do not tell theirs; 0: none.
	Quota int64
}

// QuotaOf is the quota of a member in bytes, 0 if it is not known, negative if there is none.
func (o DisarmOptions) QuotaOf(m *Member) int64 {
	if m.Quota != 0 {
		return m.Quota
	}
	return o.Quota
}

// Limit is the size in bytes that the db file of a member may have at most; ok is false if that is not known.
func (o DisarmOptions) Limit(m *Member) (limit int64, ok bool) {
	below, quota := o.Below, o.QuotaOf(m)
	if below <= 0 {
		below = DefaultBelow
	}
	switch {
	case quota == 0:
		return 0, false
	case quota < 0:
		return math.MaxInt64, true
	}
	return int64(below * float64(quota)), true
}

// MayDisarm says why NOSPACE must not be taken back yet, nil if it may: CORRUPT is raised (ErrDisagree), a member does not
// answer (ErrSilent), does not tell its quota (ErrNoQuota), or is too large (ErrFull). Learners do not count: no client
// writes to them, so that they raise nothing, and they cannot be made smaller. It does not ask whether NOSPACE is raised.
func MayDisarm(members []Member, opt DisarmOptions) error {
	for _, a := range Alarms(members) {
		if a.Type == AlarmCorrupt {
			return fmt.Errorf("%w (member %x)", ErrDisagree, a.Member)
		}
	}
	var all []error
	voters := Voters(members)
	if len(voters) == 0 {
		return fmt.Errorf("etcd %w", ErrSilent)
	}
	for _, m := range voters {
		limit, known := opt.Limit(m)
		switch {
		case !m.Answers():
			all = append(all, fmt.Errorf("member %s %w: %w", m.Label(), ErrSilent, m.Err))
		case !known:
			all = append(all, fmt.Errorf("member %s %w", m.Label(), ErrNoQuota))
		case m.DBSize > limit:
			all = append(all, fmt.Errorf("the db file of member %s %w: %d bytes, more than %d", m.Label(), ErrFull, m.DBSize, limit))
		}
	}
	return errors.Join(all...)
}

// Voters are the members that are no learners.
func Voters(members []Member) (voters []*Member) {
	for i := range members {
		if !members[i].Learner {
			voters = append(voters, &members[i])
		}
	}
	return voters
}

// Raised are the alarms of one type, each once.
func Raised(members []Member, kind string) []Alarm {
	return slices.DeleteFunc(Alarms(members), func(a Alarm) bool { return a.Type != kind })
}

// Disarm takes back every NOSPACE that the members tell of, each by the id of its member, and returns which it took back.
// members must be fresh. It changes nothing where MayDisarm refuses. Taking back an alarm that is gone already does
// nothing, so that it may be called again after any error. No other alarm is ever taken back.
func Disarm(ctx context.Context, client *clientv3.Client, members []Member, opt DisarmOptions) ([]Alarm, error) {
	if err := MayDisarm(members, opt); err != nil {
		return nil, err
	}
	var done []Alarm
	for _, a := range Raised(members, AlarmNoSpace) {
		if err := disarm(ctx, client, a); err != nil {
			return done, fmt.Errorf("take back the alarm NOSPACE of member %x: %w", a.Member, err)
		}
		done = append(done, a)
	}
	return done, nil
}

func disarm(ctx context.Context, client *clientv3.Client, a Alarm) error {
	ctx, cancel := context.WithTimeout(ctx, disarmTimeout)
	defer cancel()
	_, err := client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: a.Member, Alarm: etcdserverpb.AlarmType_NOSPACE})
	return err
}
