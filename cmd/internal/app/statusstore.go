package app

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/alive"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// readStore reads what the main etcd holds about who lives beside it. One
// member is asked for what it has, which takes no leader.
func (st *statusing) readStore(ctx context.Context, e *etcdStatus, client *clientv3.Client, m *etcdmembers.Surveyed, quorum bool) {
	kine := m.ID == 0
	opt := keyspace.Options{Timeout: st.found.DialTimeout / 2, Serializable: !kine, Kine: kine}
	st.alive.Frozen = frozenBy(m, quorum)
	view, err := st.alive.Look(ctx, keyspace.Current(client, opt))
	if e.planeErr = err; err == nil {
		e.plane = &view
	}
	if !kine { // which compacts by itself, and answers this key from a table of its own
		e.compaction = lookCompaction(ctx, client, st.session.reader, opt, st.inv.Now)
	}
}

// frozenBy is why nobody can renew a lease, "" if everybody can.
func frozenBy(m *etcdmembers.Surveyed, quorum bool) string {
	h := health{}
	for _, a := range m.Alarms {
		if a.Type == "NOSPACE" {
			h.noSpace = append(h.noSpace, strconv.FormatUint(a.Member, 10))
		}
	}
	if why := h.frozen(); why != "" || quorum {
		return why
	}
	return "etcd takes no writes (no quorum)"
}

// compaction is what the API servers' last compaction left behind. They write
// to which revision they compact into one key, every five minutes (k8s.io/
// apiserver pkg/storage/etcd3/compact.go). etcd itself tells nobody.
type compaction struct {
	// revision is what they compacted to, 0: they never did. head is the newest
	// revision.
	revision, head int64
	// at is about when: the last time that the Leases showed at the revision in
	// which the key was written, by their own clocks. Zero: not known.
	at time.Time
	// beyond says that somebody has compacted further since, and not to say so
	// in the key: etcd itself, or an operator.
	beyond bool
	err    error
}

// lookCompaction never fails; what it could not read it says.
func lookCompaction(ctx context.Context, client *clientv3.Client, reader *codec.Reader, opt keyspace.Options, now func() time.Time) *compaction {
	c := &compaction{}
	limited, cancel := context.WithTimeout(ctx, opt.Timeout)
	defer cancel()
	resp, err := client.Get(limited, compactRevKey, clientv3.WithSerializable())
	if err != nil {
		c.err = err
		return c
	}
	c.head = resp.Header.GetRevision()
	if len(resp.Kvs) == 0 {
		return c
	}
	kv := resp.Kvs[0]
	if c.revision, err = strconv.ParseInt(string(kv.Value), 10, 64); err != nil || c.revision < 0 || c.revision > c.head {
		c.revision, c.err = 0, fmt.Errorf("the key %s holds no revision", compactRevKey)
		return c
	}
	if c.revision == 0 {
		return c // what an API server writes when it starts for the first time
	}
	c.date(ctx, client, reader, opt, kv.ModRevision, now)
	return c
}

// date finds out when the key was written. Somebody renews a Lease every two
// seconds, so that the Leases at its revision are a clock.
func (c *compaction) date(ctx context.Context, client *clientv3.Client, reader *codec.Reader, opt keyspace.Options, rev int64, now func() time.Time) {
	src, err := keyspace.PinAt(ctx, client, reader.Prefix, rev, opt)
	var view alive.View
	if err == nil {
		view, err = alive.New(reader, now).Look(ctx, src)
	}
	var compacted *keyspace.CompactedError
	if errors.As(err, &compacted) {
		c.beyond = true
	}
	if err != nil {
		return
	}
	for _, list := range [][]alive.Component{view.Servers, view.Managers, view.Schedulers} {
		for _, component := range list {
			if component.Seen.After(c.at) && !component.Seen.After(now()) {
				c.at = component.Seen
			}
		}
	}
}
