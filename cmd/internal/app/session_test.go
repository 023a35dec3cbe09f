package app

import (
	"testing"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// TestOwnersAreReadAsFreshAsTheirObjects: whoever reads objects anew, to judge
// them again, must not look up what owns them at the revision that the session
// began with; it may be compacted by then.
func TestOwnersAreReadAsFreshAsTheirObjects(t *testing.T) {
	t.Parallel()
	box, err := startStore(t.Context(), sandbox.Options{NoFsync: true, Mode: sandbox.InProcess})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.close)
	pin := func() *keyspace.Live {
		src, err := keyspace.Pin(t.Context(), box.client, "/registry/", keyspace.Options{Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	main, events, fresh := pin(), pin(), pin()
	one := &session{reader: &codec.Reader{Catalog: codec.NewCatalog(), Prefix: "/registry/"}, mainSource: main, timeout: time.Minute}
	two := *one
	two.eventsSource, two.main, two.events = events, &connect.Conn{Client: box.client}, &connect.Conn{Client: box.client}
	pods, of := filter.Selection{Resource: "pods"}, filter.Selection{Resource: "events"}
	for _, tt := range []struct {
		name string
		s    *session
		src  filter.Getter
		sel  filter.Selection
		main any // nil: in the same store; fresh: neither that nor the session's
	}{
		{"one etcd", one, main, pods, nil},
		{"one etcd, anew", one, fresh, pods, nil},
		{"one etcd, events anew", one, fresh, of, nil},
		{"two, main", &two, main, pods, nil},
		{"two, main anew", &two, fresh, pods, nil},
		{"two, events", &two, events, of, main},
		{"two, everything", &two, events, filter.Selection{}, main},
		{"two, events anew", &two, fresh, of, fresh},
	} {
		got := tt.s.owners(tt.src, tt.sel).Main
		switch {
		case tt.main == nil && got != nil, tt.main == main && got != filter.Getter(main):
			t.Errorf("%s: %v", tt.name, got)
		case tt.main == fresh && (got == nil || got == filter.Getter(main) || got == filter.Getter(events)):
			t.Errorf("%s: not read anew: %v", tt.name, got)
		}
	}
}
