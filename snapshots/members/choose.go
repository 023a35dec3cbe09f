package members

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxLag is by how many raft entries a follower may be behind the leader. The members are not asked at the same
// instant, and a busy etcd makes a few hundred entries meanwhile; a follower that is really behind soon lacks more.
const maxLag = 1000

var (
	// ErrNone says that no member can give a snapshot.
	ErrNone = errors.New("no member of etcd can give a snapshot")
	// ErrUnknown says that no member is called so.
	ErrUnknown = errors.New("no such member")
	// ErrLearner says that the member is a learner. It would stream what it has, which may be next to nothing.
	ErrLearner = errors.New("is a learner, which may lack any part of the data")
	// ErrSilent says that the member does not answer.
	ErrSilent = errors.New("does not answer")
)

// Choose returns the member to take a snapshot from, and why it is that one. It is a follower that is healthy and not
// behind, so that the leader is spared; else the leader; and without any leader the member that has got furthest.
// One that has raised CORRUPT is only taken if nobody else is left.
func Choose(members []Member) (chosen *Member, why string, err error) {
	var voters []*Member
	for i := range members {
		if m := &members[i]; m.Answers() && !m.Learner {
			voters = append(voters, m)
		}
	}
	if len(voters) == 0 {
		return nil, "", fmt.Errorf("%w: %s", ErrNone, describe(members))
	}
	leader := leaderOf(voters)
	sound := slices.DeleteFunc(slices.Clone(voters), func(m *Member) bool { return raisedCorrupt(m.ID, members) })
	if len(sound) > 0 {
		voters = sound
	}
	if leader == nil {
		return furthest(voters), "no leader answers", nil
	}
	for _, m := range voters {
		if m != leader && m.Leader == leader.ID && len(m.Errors) == 0 && lag(m, leader) <= maxLag {
			return m, "a follower that is not behind", nil
		}
	}
	if !slices.Contains(voters, leader) {
		return furthest(voters), "the leader has raised the alarm CORRUPT", nil
	}
	if len(voters) == 1 {
		return leader, "the only one that answers", nil
	}
	return leader, "the leader, since no follower is healthy and not behind", nil
}

// Named returns the member with that name, id (hexadecimal, as etcd prints it) or client URL: one that it advertises,
// or where it answered. It may be any that can give a snapshot, however it is.
func Named(members []Member, name string) (*Member, error) {
	m := find(members, name)
	switch {
	case m == nil:
		return nil, fmt.Errorf("%w: %q; there are %s", ErrUnknown, name, describe(members))
	case m.Learner:
		return nil, fmt.Errorf("member %s %w", m.Label(), ErrLearner)
	case !m.Answers():
		return nil, fmt.Errorf("member %s %w: %w", m.Label(), ErrSilent, m.Err)
	}
	return m, nil
}

func find(members []Member, name string) *Member {
	url := strings.TrimSuffix(name, "/")
	id, err := strconv.ParseUint(strings.TrimPrefix(name, "0x"), 16, 64)
	for _, is := range []func(m *Member) bool{
		func(m *Member) bool { return err == nil && m.ID == id },
		func(m *Member) bool { return m.Name == name && name != "" },
		func(m *Member) bool { return m.Endpoint != "" && sameURL(m.Endpoint, url) },
		func(m *Member) bool {
			return slices.ContainsFunc(m.ClientURLs, func(u string) bool { return sameURL(strings.TrimSuffix(u, "/"), url) })
		},
		func(m *Member) bool {
			return slices.ContainsFunc(m.also, func(u string) bool { return sameURL(u, url) })
		},
	} {
		for i := range members {
			if is(&members[i]) {
				return &members[i]
			}
		}
	}
	return nil
}

// sameURL lets the scheme be left out.
func sameURL(full, given string) bool {
	_, bare, _ := strings.Cut(full, "://")
	return full == given || bare == given
}

func leaderOf(members []*Member) *Member {
	var leader *Member
	for _, m := range members {
		// One that lost its peers a moment ago still takes itself for the leader, of an older term.
		if m.IsLeader() && (leader == nil || m.Term > leader.Term) {
			leader = m
		}
	}
	return leader
}

func lag(m, leader *Member) uint64 {
	if m.Applied >= leader.Applied {
		return 0
	}
	return leader.Applied - m.Applied
}

func furthest(members []*Member) *Member {
	return slices.MaxFunc(members, func(a, b *Member) int { return cmp.Compare(a.Applied, b.Applied) })
}

func raisedCorrupt(id uint64, members []Member) bool {
	for _, m := range members {
		if slices.Contains(m.Alarms, Alarm{id, "CORRUPT"}) {
			return true
		}
	}
	return false
}

// Alarms are those that any member knows of, each once.
func Alarms(members []Member) []Alarm {
	var all []Alarm
	for _, m := range members {
		for _, a := range m.Alarms {
			if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	return all
}

// describe names the members and what keeps them from giving a snapshot.
func describe(members []Member) string {
	var words []string
	for i := range members {
		m := &members[i]
		text := m.Label()
		if m.Name != "" {
			text = fmt.Sprintf("%s (%x)", m.Name, m.ID)
		}
		switch {
		case m.Learner:
			text += ", a learner"
		case !m.Answers():
			text += fmt.Sprintf(", which does not answer: %v", m.Err)
		}
		words = append(words, text)
	}
	if len(words) == 0 {
		return "none is known"
	}
	return strings.Join(words, "; ")
}
