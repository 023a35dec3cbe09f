package alive

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"
)

// unseen is said of a masterlease that only one Look has seen.
const unseen = "its lease is there; whether it moves is not seen yet"

// judge tells from what was found, now and before, who lives.
func (w *Watch) judge(f found) View {
	now := w.now()
	w.observe(f, now)
	masters := w.all(Server, f.masters, now)
	identities := w.all(Server, f.identities, now)
	manager, scheduler := w.leader(Manager, f.manager, now), w.leader(Scheduler, f.scheduler, now)
	if len(names(identities, Alive)) >= held(masters) && w.Frozen == "" {
		expire(identities, f.identities)
	}
	v := View{Servers: w.witness(w.servers(masters, identities), manager, scheduler)}
	v.Managers = w.led(v, manager)
	if manager == nil && v.Server() {
		// It may run with --leader-elect=false, or be as old as its lock on
		// an Endpoints object.
		v.Managers = append(v.Managers, Component{Kind: Manager, State: Unknown, Why: "it has no Lease"})
	}
	v.Schedulers = w.led(v, scheduler)
	return v
}

// all judges keys one by one.
func (w *Watch) all(kind string, signs []sign, now time.Time) []Component {
	list := make([]Component, 0, len(signs))
	for _, s := range signs {
		list = append(list, w.one(kind, s, now))
	}
	return list
}

// one judges a key by itself.
func (w *Watch) one(kind string, s sign, now time.Time) Component {
	p := w.seen[s.key]
	c := Component{Kind: kind, Name: s.name, State: Unknown, Seen: p.moved}
	age := now.Sub(s.renewed)
	believed := !s.renewed.IsZero() && age >= -Window
	if believed && s.renewed.After(c.Seen) {
		c.Seen = s.renewed
	}
	switch {
	case s.released:
		c.Why = "its Lease was given up"
	case believed && age <= Window:
		c.State, c.Why = Alive, fmt.Sprintf("renewed %s ago", rounded(age))
		return c
	case !p.moved.IsZero() && p.silent < Window:
		c.State, c.Why = Alive, fmt.Sprintf("its lease moved %s ago", rounded(now.Sub(p.moved)))
		return c
	case s.unreadable:
		c.Why = "its Lease cannot be read"
	case s.renewed.IsZero():
		c.Why = unseen
	case !believed:
		c.Why = fmt.Sprintf("renewed %s in the future: a clock is wrong", rounded(-age))
	default:
		c.Why = fmt.Sprintf("renewed %s ago, by its own clock", rounded(age))
	}
	switch {
	case w.Frozen != "":
		c.Why += ", but " + w.Frozen
	case p.silent >= Window:
		c.State, c.Why = Gone, fmt.Sprintf("its lease has not moved for %s", rounded(p.silent))
	}
	return c
}

// leader judges the Lease of a leader, nil if there is none.
func (w *Watch) leader(kind string, s *sign, now time.Time) *Component {
	if s == nil {
		return nil
	}
	c := w.one(kind, *s, now)
	return &c
}

// servers brings together what masterleases and identity Leases say. Every API
// server holds one of each (from 1.26; the masterlease alone before), and
// nothing tells which belongs to which. So if the Leases of at least as many
// API servers are renewed as there are masterleases, those are all that live:
// the masterleases are theirs, and old Leases are of API servers that are gone.
// A masterlease runs out 15 s after its API server by etcd's own clock, so
// this holds whatever the clocks of hosts say.
func (w *Watch) servers(masters, identities []Component) []Component {
	renewed, gone := len(names(identities, Alive)), w.vanished(masters)
	if held(masters) == 0 || renewed > held(masters) {
		for _, c := range masters {
			if c.State == Gone {
				gone = append(gone, c)
			}
		}
		return append(gone, identities...)
	}
	if renewed == held(masters) {
		lift(masters, "its identity Lease is renewed", lastSeen(identities))
	}
	return append(masters, gone...)
}

// held is how many masterleases may be of living API servers.
func held(masters []Component) int { return len(masters) - len(names(masters, Gone)) }

// expire takes for gone what does not renew its Lease, as far as that can be
// read.
func expire(identities []Component, signs []sign) {
	for i, s := range signs {
		if c := &identities[i]; c.State == Unknown && !s.unreadable && !s.renewed.IsZero() {
			c.State, c.Why = Gone, "last "+c.Why
		}
	}
}

// vanished are the API servers whose masterlease an earlier Look saw.
func (w *Watch) vanished(masters []Component) []Component {
	list := []Component{}
	prefix := w.reader.Prefix + "masterleases/"
	for key, p := range w.seen {
		present := slices.ContainsFunc(masters, func(c Component) bool { return c.Name == p.name })
		if !strings.HasPrefix(key, prefix) || present {
			continue
		}
		c := Component{Kind: Server, Name: p.name, Why: "its masterlease has run out", Seen: p.moved}
		if w.Frozen != "" {
			c.State, c.Why = Unknown, c.Why+", but "+w.Frozen
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Component) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// lift makes those alive that are not known not to be.
func lift(list []Component, why string, seen time.Time) {
	for i := range list {
		if c := &list[i]; c.State == Unknown {
			c.State, c.Why = Alive, why
			if seen.After(c.Seen) {
				c.Seen = seen
			}
		}
	}
}

func lastSeen(list []Component) time.Time {
	var last time.Time
	for _, c := range list {
		if c.Seen.After(last) {
			last = c.Seen
		}
	}
	return last
}

// witness draws the conclusion that somebody serves those who renew: leaders
// write to etcd through an API server only.
func (w *Watch) witness(servers []Component, leaders ...*Component) []Component {
	for _, c := range leaders {
		if c == nil || c.State != Alive || best(servers) == Alive {
			continue
		}
		if left := names(servers, Unknown); len(left) == 1 {
			lift(servers, "it serves "+c.Kind, c.Seen)
		} else if len(left) == 0 {
			servers = append(servers, Component{Kind: Server, State: Unknown, Why: "something serves " + c.Kind, Seen: c.Seen})
		}
	}
	if w.Frozen != "" && best(servers) == Gone {
		servers = append(servers, Component{Kind: Server, State: Unknown, Why: w.Frozen + ", so that leases run out"})
	}
	return servers
}

// led is the component that has a leader, without which there is nothing, and
// which can do nothing without an API server.
func (w *Watch) led(v View, c *Component) []Component {
	if c == nil {
		return []Component{}
	}
	if c.State == Unknown && !v.Server() {
		c.State, c.Why = Gone, "no API server lives, through which it would work"
	}
	return []Component{*c}
}

// rounded is a duration as people say it.
func rounded(d time.Duration) string { return duration.HumanDuration(max(d, 0)) }
