package members

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// looks is how often soft differences are looked at before they count: members are not asked at the same instant,
	// and an election passes.
	looks = 3
	// lookPause is in between, less if the timeout is short.
	lookPause = time.Second
	// slack is by how many entries members may differ at the first look.
	slack = 20
)

// look is what may pass of what a member says.
type look struct {
	id                   uint64
	leader, term         uint64
	index, applied       uint64
	revision             int64
	knows                string
	complete, hasMembers bool
}

// lookAgain asks the members again if they disagree on something that may pass, and keeps what did not.
func (s *survey) lookAgain(r *Report) {
	first := r.looks()
	differ := soft(first, first, slack)
	behind := lagging(first, first, slack)
	for r.Looks < looks && (len(differ)+len(behind) > 0 || r.withoutQuorum()) {
		if !pause(s.ctx, min(lookPause, s.opt.Timeout/5)) {
			break
		}
		s.refresh(r)
		r.Looks++
		now := r.looks()
		differ, behind = both(differ, soft(first, now, 0)), bothBehind(behind, lagging(first, now, 0))
	}
	r.Quorum = r.reads()
	r.Differences = append(r.hard(), differ...)
	for i := range r.Members {
		r.Members[i].Behind = behind[r.Members[i].ID]
	}
}

// withoutQuorum says that a voting member answers no reads that take a quorum, as it happens during an election.
func (r *Report) withoutQuorum() bool {
	return slices.ContainsFunc(r.Members, func(m Surveyed) bool { return m.Linearizable.Err != nil })
}

// reads says that a read that takes a quorum worked somewhere.
func (r *Report) reads() bool {
	return slices.ContainsFunc(r.Members, func(m Surveyed) bool { return m.Linearizable.OK() })
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// refresh takes what may have passed from the members anew.
func (s *survey) refresh(r *Report) {
	ctx, cancel := context.WithTimeout(s.ctx, s.patience())
	defer cancel()
	var all sync.WaitGroup
	for _, v := range s.order {
		if v.err != nil || v.second || v.kine {
			continue
		}
		m := r.of(v)
		all.Go(func() { refreshOne(ctx, v.client, m, s.opt.Timeout/5) })
	}
	all.Wait()
}

func refreshOne(ctx context.Context, client *clientv3.Client, m *Surveyed, patience time.Duration) {
	status, err := askStatus(ctx, client)
	if m.Lost = err; err != nil {
		return
	}
	m.Alarms, m.Errors = nil, nil
	quota := m.Quota
	m.fill(answer{endpoint: m.Endpoint, status: status, took: m.Took})
	if m.Quota == 0 {
		m.Quota = quota
	}
	m.Revision = max(m.Revision, status.Header.GetRevision())
	if list := askList(ctx, client); list != nil {
		m.Knows = ids(list)
	}
	if m.Linearizable.Err == nil {
		return
	}
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if read, _ := askRead(short, client, false); read.OK() {
		m.Linearizable = read
	}
}

func ids(list []Member) []uint64 {
	known := make([]uint64, 0, len(list))
	for _, m := range list {
		known = append(known, m.ID)
	}
	slices.Sort(known)
	return known
}

// looks is what the members say now, of those that do.
func (r *Report) looks() []look {
	var all []look
	for _, m := range r.Members {
		if m.Answers() && m.ID != 0 {
			all = append(all, look{m.ID, m.Leader, m.Term, m.Index, m.Applied, m.Revision, hexIDs(m.Knows), m.Revision > 0, m.Knows != nil})
		}
	}
	return all
}

func hexIDs(list []uint64) string {
	words := make([]string, 0, len(list))
	for _, id := range list {
		words = append(words, strconv.FormatUint(id, 16))
	}
	return strings.Join(words, ",")
}

// soft is what members disagree on that may pass. A member that has come as far as the others were at the first look is
// no different from them.
func soft(first, now []look, slack int64) []Difference {
	var differ []Difference
	add := func(what string, says func(l look) (string, bool)) {
		if d := disagreement(what, now, says); d != nil {
			differ = append(differ, *d)
		}
	}
	add("leader", func(l look) (string, bool) {
		if l.leader == 0 {
			return "none", true
		}
		return strconv.FormatUint(l.leader, 16), true
	})
	add("term", func(l look) (string, bool) { return strconv.FormatUint(l.term, 10), true })
	add("members", func(l look) (string, bool) { return l.knows, l.hasMembers })
	var furthest int64
	for _, l := range first {
		furthest = max(furthest, l.revision)
	}
	if slices.ContainsFunc(now, func(l look) bool { return l.complete && l.revision+slack < furthest }) {
		add("revision", func(l look) (string, bool) { return strconv.FormatInt(l.revision, 10), l.complete })
	}
	return differ
}

// disagreement is nil if all say the same.
func disagreement(what string, all []look, says func(l look) (string, bool)) *Difference {
	d := &Difference{What: what}
	for _, l := range all {
		if value, ok := says(l); ok {
			d.Says = append(d.Says, Said{l.id, value})
		}
	}
	if !slices.ContainsFunc(d.Says, func(s Said) bool { return s.Value != d.Says[0].Value }) {
		return nil
	}
	return d
}

// lagging is by how much members are behind what all together knew to be committed at the first look.
func lagging(first, now []look, slack uint64) map[uint64]uint64 {
	var committed uint64
	for _, l := range first {
		committed = max(committed, l.index)
	}
	behind := map[uint64]uint64{}
	for _, l := range now {
		if l.applied+slack < committed {
			behind[l.id] = committed - l.applied
		}
	}
	return behind
}

// both are those of now that were there before.
func both(before, now []Difference) []Difference {
	return slices.DeleteFunc(now, func(d Difference) bool {
		return !slices.ContainsFunc(before, func(b Difference) bool { return b.What == d.What })
	})
}

func bothBehind(before, now map[uint64]uint64) map[uint64]uint64 {
	for id := range now {
		if _, ok := before[id]; !ok {
			delete(now, id)
		}
	}
	return now
}

// hard is what members disagree on that does not pass.
func (r *Report) hard() []Difference {
	var differ []Difference
	for _, what := range []struct {
		name string
		of   func(m Surveyed) string
	}{
		{"version", func(m Surveyed) string { return m.Version }},
		{"storage version", func(m Surveyed) string { return m.StorageVersion }},
	} {
		d := Difference{What: what.name, Hard: true}
		for _, m := range r.Members {
			if value := what.of(m); m.Answers() && value != "" {
				d.Says = append(d.Says, Said{m.ID, value})
			}
		}
		// The storage version follows within seconds of a start where all run the same release (etcdserver, monitorVersions).
		follows := what.name == "storage version" && len(differ) == 0
		if !follows && slices.ContainsFunc(d.Says, func(s Said) bool { return s.Value != d.Says[0].Value }) {
			differ = append(differ, d)
		}
	}
	return differ
}
