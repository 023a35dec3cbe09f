package connect

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// DialAll is Dial, and if s.Cluster is set the client then also knows the other
// members of the cluster that answer. It takes up to twice as long as Dial. A
// caller that means certain members, and no others, uses Dial.
func DialAll(ctx context.Context, s Settings, endpoints []string, log *slog.Logger) (*Conn, error) {
	conn, err := Dial(ctx, s, endpoints, log)
	if err != nil || !s.Cluster {
		return conn, err
	}
	d, err := newDialer(s, endpoints, log)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	d.addMembers(ctx, conn)
	if ctx.Err() != nil {
		_ = conn.Close()
		return nil, ctx.Err()
	}
	return conn, nil
}

// addMembers makes of the endpoints that answered all of the cluster: it adds,
// for each member that is not among them, the first of its own addresses that
// answers for that member. What does not answer becomes a warning.
func (d *dialer) addMembers(ctx context.Context, conn *Conn) {
	if conn.Kine {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, d.s.DialTimeout)
	defer cancel()
	// What one member knows needs no quorum.
	resp, err := conn.Client.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		conn.Warnings = append(conn.Warnings, "etcd's members cannot be listed: "+oneLine(rpctypes.ErrorDesc(err)))
		return
	}
	known := map[uint64]bool{}
	for _, id := range conn.members {
		known[id] = true
	}
	var eps []endpoint
	owner := map[string]string{}
	missing := map[uint64]string{}
	for _, m := range resp.Members {
		if known[m.ID] {
			continue
		}
		missing[m.ID] = fmt.Sprintf("etcd's member %s (%x)", m.Name, m.ID)
		for _, u := range m.ClientURLs {
			ep, err := parseEndpoint(u)
			if err == nil && ep.tls == (d.tls != nil) && owner[ep.raw] == "" {
				owner[ep.raw] = missing[m.ID]
				eps = append(eps, ep)
			}
		}
	}
	d.join(ctx, conn, eps, missing)
}

// join adds those of the endpoints that answer for a missing member.
func (d *dialer) join(ctx context.Context, conn *Conn, eps []endpoint, missing map[uint64]string) {
	failed := d.prober.all(ctx, eps)
	var good []string
	for i, e := range failed {
		if e == nil {
			good = append(good, eps[i].raw)
		}
	}
	alive, errs, warnings := d.status(ctx, conn, good)
	failed = append(failed, errs...)
	var added []string
	for _, ep := range alive {
		if id := conn.members[ep]; missing[id] != "" {
			delete(missing, id)
			added = append(added, ep)
		}
	}
	slices.Sort(added)
	conn.Endpoints = append(conn.Endpoints, added...)
	conn.Client.SetEndpoints(append(slices.Clone(conn.Client.Endpoints()), added...)...)
	conn.Warnings = append(conn.Warnings, warnings...)
	conn.Leaderless = slices.DeleteFunc(conn.Leaderless, func(ep string) bool { return !slices.Contains(conn.Endpoints, ep) })
	if len(missing) == 0 {
		return
	}
	for _, e := range failed {
		if e != nil {
			conn.Warnings = append(conn.Warnings, e.Error())
		}
	}
	var left []string
	for _, label := range missing {
		left = append(left, label+" does not answer at any address that it names")
	}
	slices.Sort(left)
	conn.Warnings = append(conn.Warnings, left...)
}
