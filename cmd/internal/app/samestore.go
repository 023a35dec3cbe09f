package app

import "slices"

// sameStore reports whether the etcd for events is the main one, named again:
// everything would be counted and deleted twice. Equal cluster ids would not
// say so: copies of one etcd have them, and etcds started alike on two hosts.
func (s *session) sameStore() bool {
	return slices.ContainsFunc(s.events.Endpoints, func(endpoint string) bool { return slices.Contains(s.main.Endpoints, endpoint) })
}
