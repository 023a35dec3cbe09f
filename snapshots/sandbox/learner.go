package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// AddLearner adds a member that has no vote, starts it and returns when it answers for itself; it is the last of the
// Members then. No other method may be called meanwhile. etcd takes new members only when its own have been connected
// for five seconds (server/etcdserver, HealthInterval). After an error the cluster is good for Close only.
func (c *Cluster) AddLearner(ctx context.Context) (*Member, error) {
	m, err := c.addLearner(ctx)
	if err != nil {
		return nil, fmt.Errorf("add a learner: %w", err)
	}
	return m, nil
}

func (c *Cluster) addLearner(ctx context.Context) (*Member, error) {
	if len(c.members) == 0 {
		return nil, errors.New("there is no cluster")
	}
	old := c.members[0]
	m, err := c.newMember(len(c.members), old.net.peer.senders)
	if err != nil {
		return nil, err
	}
	peerURL := clientURL(m.net.peer.port(), false)
	if m.id, err = c.tellMembers(ctx, peerURL); err != nil {
		return nil, err
	}
	old.net.peer.senders.add(m.id.String(), m.peers)
	m.net.learner = uint64(m.id)
	m.net.initial = old.net.initial + "," + m.box.name + "=" + peerURL
	return m, m.box.launch(ctx)
}

// launch starts a member that comes later than the others.
func (s *Sandbox) launch(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return err
	}
	if err := s.newRunner(); err != nil {
		return err
	}
	return s.serve(ctx)
}

// tellMembers makes the learner known to those that are there.
func (c *Cluster) tellMembers(ctx context.Context, peerURL string) (types.ID, error) {
	client, err := c.Client(ctx)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	for {
		added, err := client.MemberAddAsLearner(ctx, []string{peerURL})
		if err == nil {
			return types.ID(added.Member.ID), nil
		}
		if !errors.Is(err, rpctypes.ErrUnhealthy) {
			return 0, err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// isLearner is itself for a learner, which answers hardly any call.
func isLearner(ctx context.Context, c *clientv3.Client, endpoint string, id uint64) (bool, error) {
	st, err := c.Status(ctx, endpoint)
	switch {
	case err != nil:
		return false, err
	case st.Header.GetMemberId() != id:
		return false, fmt.Errorf("%w: another etcd answers on it", errPortTaken)
	}
	return st.IsLearner && st.Leader != 0, nil
}
