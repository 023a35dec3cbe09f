// Package alive tells which parts of a control plane live, from the few keys
// that they renew in etcd: the API servers' masterleases, their identity
// Leases, and the leader election Leases of kube-controller-manager and
// kube-scheduler. It reads, and asks nobody but the store.
//
// The key invariant: silence alone kills nobody. A component is Gone only if a
// key that cannot outlive it has run out, if there are fewer such keys than it
// would take, or if its Lease has not moved for [Window] of watching; whatever
// is in doubt is Unknown, and Unknown counts as alive.
package alive

import (
	"fmt"
	"strings"
	"time"
)

// Window is how long a renewal counts as a sign of life. API servers renew
// their keys every 10 s (k8s pkg/controlplane/instance.go,
// DefaultEndpointReconcilerInterval, and pkg/controlplane/apiserver/server.go,
// IdentityLeaseRenewIntervalPeriod), leaders every 2 s (component-base
// config/v1alpha1/defaults.go, RetryPeriod).
const Window = 30 * time.Second

// State says whether a component lives. The zero State is Gone.
type State int

// The states. Unknown counts as alive.
const (
	Gone State = iota
	Unknown
	Alive
)

// String returns "gone", "unknown" or "alive".
func (s State) String() string {
	switch s {
	case Alive:
		return "alive"
	case Unknown:
		return "unknown"
	}
	return "gone"
}

// MarshalText is String, for JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// The kinds of components.
const (
	Server    = "kube-apiserver"
	Manager   = "kube-controller-manager"
	Scheduler = "kube-scheduler"
)

// Component is one part of a control plane.
type Component struct {
	Kind string `json:"kind"` // Server, Manager or Scheduler
	// Name is the address or host of an API server, or the host that holds
	// the leadership; "" if that is not known. It is as the store has it, and
	// not fit for a terminal.
	Name  string `json:"name,omitempty"`
	State State  `json:"state"`
	// Why says what State rests on: "renewed 2s ago".
	Why string `json:"why"`
	// Seen is the last sign of life, zero if there was none: when its Lease
	// says that it was renewed, by its own clock, or when a Look found that
	// its key had moved.
	Seen time.Time `json:"seen,omitzero"`
}

// View is what one Look found. Components that once were there and are Gone
// stay in it.
type View struct {
	// Servers has one component for each API server, if each of them holds a
	// masterlease, as it does unless --endpoint-reconciler-type says otherwise.
	Servers    []Component `json:"servers"`
	Managers   []Component `json:"managers"`
	Schedulers []Component `json:"schedulers"`
}

// Server reports that an API server lives, or may.
func (v View) Server() bool { return best(v.Servers) != Gone }

// Manager reports that a kube-controller-manager lives, or may.
func (v View) Manager() bool { return best(v.Managers) != Gone }

// Certain reports that an API server was seen to live.
func (v View) Certain() bool { return best(v.Servers) == Alive }

// Addresses are the names of the API servers that live, or may.
func (v View) Addresses() []string {
	return append(names(v.Servers, Alive), names(v.Servers, Unknown)...)
}

func best(list []Component) State {
	state := Gone
	for _, c := range list {
		state = max(state, c.State)
	}
	return state
}

// mostNamed is how many components a line names.
const mostNamed = 5

// String is one line for people: "kube-apiserver 192.168.7.11;
// kube-controller-manager (cp-0, renewed 2s ago)". Names in it are as the store
// has them.
func (v View) String() string {
	if !v.Server() && !v.Manager() {
		return "nothing (" + v.silence() + ")"
	}
	var parts []string
	for _, state := range []State{Alive, Unknown} {
		if text := servers(v.Servers, state); text != "" {
			parts = append(parts, text)
		}
	}
	for _, c := range v.Managers {
		parts = append(parts, leader(c))
	}
	for _, c := range v.Schedulers {
		if c.State == Alive {
			parts = append(parts, leader(c))
		}
	}
	return strings.Join(parts, "; ")
}

// silence says why nothing lives.
func (v View) silence() string {
	for _, c := range v.Servers {
		if c.Why != "" {
			return fmt.Sprintf("no API server renews its lease; %s: %s", strings.TrimSpace(c.Kind+" "+c.Name), c.Why)
		}
	}
	return "no API server has a lease"
}

// servers names the API servers of one state.
func servers(list []Component, state State) string {
	var why string
	for _, c := range list {
		if c.State == state {
			why = c.Why
			break
		}
	}
	found := names(list, state)
	n := len(found)
	if n == 0 {
		return ""
	}
	text := strings.TrimSpace(Server + " " + strings.Join(found[:min(n, mostNamed)], ", "))
	if n > mostNamed {
		text += fmt.Sprintf(" and %d more", n-mostNamed)
	}
	if state == Unknown {
		text = fmt.Sprintf("perhaps %s (%s)", text, why)
	}
	return text
}

func names(list []Component, state State) []string {
	var found []string
	for _, c := range list {
		if c.State == state {
			found = append(found, c.Name)
		}
	}
	return found
}

// leader names a component that has one leader.
func leader(c Component) string {
	why := c.Why
	if c.Name != "" {
		why = c.Name + ", " + why
	}
	text := fmt.Sprintf("%s (%s)", c.Kind, why)
	switch c.State {
	case Alive:
		return text
	case Unknown:
		return "perhaps " + text
	}
	return "not " + text
}
