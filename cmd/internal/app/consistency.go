package app

import (
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// consistencySerializable is what documents say of such a read.
const consistencySerializable = "serializable"

// serializable tells whether what one member holds is read. It is the only
// way when there is no leader, and every output then says so.
func (inv *invocation) serializable() bool {
	if !inv.has(flagConsistency) || inv.from() != "" {
		return false
	}
	v := inv.String(flagConsistency)
	return v == "s" || v == consistencySerializable
}

// checkConsistency refuses what cannot be read, and changes without a leader:
// etcd does not make them, and their guards are worth nothing.
func (inv *invocation) checkConsistency() error {
	if !inv.has(flagConsistency) {
		return nil
	}
	if v := inv.String(flagConsistency); !slices.Contains([]string{"", "l", "linearizable", "s", consistencySerializable}, v) {
		return usage("it is l (linearizable) or s (serializable)", "unknown consistency %q", v)
	}
	if inv.serializable() && inv.has(flagExecute) && inv.Bool(flagExecute) {
		return usage("leave out --"+flagExecute+" for a preview; to change something etcd needs its quorum back first",
			"--%s s only reads: changes need a leader", flagConsistency)
	}
	return nil
}

// announce says what is unusual about the store, before it is read. Two members
// may have come to know different revisions, so a serializable session stays
// with one.
func (s *session) announce(conn *connect.Conn) error {
	switch {
	case conn.Kine && s.alone:
		return usage("leave it out", "--%s s: this is kine, which has no members and no leader", flagConsistency)
	case conn.Kine && !s.saidKine:
		s.saidKine = true
		s.inv.say("note: this is kine, not etcd: only whole prefixes are asked of it, and every list is checked against a count")
	case s.alone:
		member := conn.Endpoints[0]
		conn.Client.SetEndpoints(member)
		leader := "it knows a leader, so that the default may work as well"
		if slices.Contains(conn.Leaderless, member) {
			leader = "there is no leader"
		}
		s.inv.say("note: read from %s alone (serializable), which may be older than what other members hold; %s", member, leader)
	}
	return nil
}

// optionsOf is how a store is read.
func (s *session) optionsOf(conn *connect.Conn) keyspace.Options {
	return keyspace.Options{Timeout: s.timeout, Serializable: s.alone, Kine: conn.Kine, Log: s.log}
}

// onKine tells whether a live source is kine.
func (s *session) onKine(src keyspace.Source) bool {
	if s.eventsSource != nil && src == keyspace.Source(s.eventsSource) {
		return s.events.Kine
	}
	return s.main != nil && s.main.Kine
}

// options is optionsOf for the store that a client belongs to.
func (s *session) options(client *clientv3.Client) keyspace.Options {
	if s.events != nil && s.events.Client == client {
		return s.optionsOf(s.events)
	}
	return s.optionsOf(s.main)
}
