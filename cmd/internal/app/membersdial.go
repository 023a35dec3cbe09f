package app

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// dialer connects to single members, with the TLS files and the user of the
// session.
func (s *session) dialer() (etcdmembers.Dialer, error) {
	found, err := connect.Resolve(s.inv.settings(), connect.Node{Root: s.inv.Root, Getenv: s.inv.Getenv})
	if err != nil {
		return nil, settingFailure(err)
	}
	return s.inv.dialer(found.Settings, func(warning string) { s.inv.say("warning: %s", warning) }), nil
}

// dialer connects to single members with these settings. What is odd about a
// member, but no reason to stop, is a warning; one is said at a time.
func (inv *invocation) dialer(settings connect.Settings, warn func(string)) etcdmembers.Dialer {
	log := inv.logger()
	var mu sync.Mutex
	return func(ctx context.Context, endpoint string) (*clientv3.Client, error) {
		// Closing the client is enough: all that Conn has besides is a context
		// without a parent.
		conn, err := connect.Dial(ctx, settings, []string{endpoint}, log)
		if err != nil {
			return nil, settingFailure(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, w := range conn.Warnings {
			warn(w)
		}
		return conn.Client, nil
	}
}
