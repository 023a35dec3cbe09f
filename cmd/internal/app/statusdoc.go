package app

import (
	"errors"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// document is the report for programs, as docs/json.md has it.
func (r *statusReport) document() map[string]any {
	doc := map[string]any{
		"version": 1, "kind": "status", "verdict": r.word(), "time": r.at.UTC().Format(time.RFC3339), "milliseconds": r.took.Milliseconds(),
	}
	reasons := []map[string]any{}
	for _, reason := range r.reasons {
		one := map[string]any{"code": reason.Code, "text": reason.Text}
		if reason.etcd != "" {
			one["etcd"] = reason.etcd
		}
		if reason.Member != 0 {
			one["member"] = hexID(reason.Member)
		}
		reasons = append(reasons, one)
	}
	etcds := []map[string]any{}
	for _, e := range r.etcds {
		etcds = append(etcds, r.etcdDocument(e))
	}
	certs := []map[string]any{}
	for _, c := range r.certs {
		certs = append(certs, c.document())
	}
	doc["reasons"], doc["etcds"], doc["certificates"] = reasons, etcds, certs
	main := r.etcds[0]
	if main.plane != nil {
		doc["alive"] = *main.plane
	}
	if c := main.compaction; c != nil && c.err == nil {
		doc["compaction"] = c.document()
	}
	return doc
}

func (r *statusReport) etcdDocument(e *etcdStatus) map[string]any {
	doc := map[string]any{
		"etcd": e.name, "verdict": r.wordOf(e), "endpoints": append([]string{}, e.given...), "kine": e.Kine, "quorum": e.Quorum, "looks": e.Looks,
		"revision": e.revision(),
	}
	if leader := e.Leader(); leader != nil && e.Quorum {
		doc["leader"] = hexID(leader.ID)
	}
	all, alarms, silent, differ := []map[string]any{}, []map[string]any{}, []map[string]any{}, []map[string]any{}
	for i := range e.Members {
		m := &e.Members[i]
		if m.Cluster != 0 && doc["cluster"] == nil {
			doc["cluster"] = hexID(m.Cluster)
		}
		all = append(all, memberDocument(m))
	}
	for _, a := range e.allAlarms() {
		alarms = append(alarms, map[string]any{"member": hexID(a.Member), "alarm": a.Type})
	}
	for _, s := range e.Silent {
		silent = append(silent, wrong(map[string]any{"endpoint": s.Endpoint}, s.Err))
	}
	for _, d := range e.Differences {
		says := map[string]string{}
		for _, said := range d.Says {
			says[hexID(said.Member)] = said.Value
		}
		differ = append(differ, map[string]any{"what": d.What, "hard": d.Hard, "says": says})
	}
	doc["members"], doc["alarms"], doc["unusable"], doc["differences"] = all, alarms, silent, differ
	return doc
}

// wrong adds why something does not answer.
func wrong(doc map[string]any, err error) map[string]any {
	doc["error"] = err.Error()
	if e, ok := errors.AsType[*connect.Error](err); ok {
		doc["reason"] = string(e.Reason)
		if e.Hint != "" {
			doc["hint"] = e.Hint
		}
	}
	return doc
}

func memberDocument(m *etcdmembers.Surveyed) map[string]any {
	doc := map[string]any{
		"id": hexID(m.ID), "name": m.Name, "clientURLs": append([]string{}, m.ClientURLs...), "peerURLs": append([]string{}, m.PeerURLs...),
		"answers": m.Answers(), "learner": m.Learner,
	}
	if !m.Answers() {
		if m.Err != nil {
			wrong(doc, m.Err)
		}
		return doc
	}
	lag := m.Index - min(m.Applied, m.Index)
	for name, value := range map[string]any{
		"endpoint": m.Endpoint, "version": m.Version, "storageVersion": m.StorageVersion, "leader": m.IsLeader(), "follows": hexID(m.Leader),
		"bytes": m.DBSize, "bytesInUse": m.InUse, "quota": nil, "quotaFrom": m.QuotaFrom,
		"term": m.Term, "index": m.Index, "applied": m.Applied, "lag": lag, "behind": m.Behind, "revision": m.Revision,
		"statusMicroseconds": m.Took.Microseconds(),
		"linearizable":       readDocument(m.Linearizable), "serializable": readDocument(m.Serializable),
		"fsync": latencyDocument(m.Disk.Fsync), "commit": latencyDocument(m.Disk.Commit), "errors": append([]string{}, m.Errors...),
	} {
		doc[name] = value
	}
	if m.Quota != 0 {
		doc["quota"] = m.Quota
	}
	if m.MetricsErr != nil && !errors.Is(m.MetricsErr, etcdmembers.ErrNoMetrics) {
		doc["metricsError"] = m.MetricsErr.Error()
	}
	return doc
}

// readDocument is null if the read was not tried.
func readDocument(r etcdmembers.Read) any {
	switch {
	case r.Err != nil:
		return map[string]any{"error": r.Err.Error()}
	case r.Took == 0:
		return nil
	}
	return map[string]any{"microseconds": r.Took.Microseconds()}
}

// latencyDocument is null if nothing is known.
func latencyDocument(l etcdmembers.Latency) any {
	if l.Count == 0 {
		return nil
	}
	bound := func(d time.Duration) any {
		if d == 0 {
			return nil
		}
		return d.Microseconds()
	}
	return map[string]any{"count": l.Count, "p50Microseconds": bound(l.P50), "p99Microseconds": bound(l.P99), "longestMicroseconds": l.Longest.Microseconds()}
}

func (c *compaction) document() map[string]any {
	doc := map[string]any{"revision": c.revision, "head": c.head, "beyond": c.beyond}
	if !c.at.IsZero() {
		doc["about"] = c.at.UTC().Format(time.RFC3339)
	}
	return doc
}

func (c statusCert) document() map[string]any {
	if c.Err != nil {
		return map[string]any{"where": c.where, "error": c.Err.Error()}
	}
	return map[string]any{
		"where": c.where, "subject": c.Subject, "issuer": c.Issuer, "names": append([]string{}, c.SANs...), "ca": c.CA,
		"notBefore": c.NotBefore.UTC().Format(time.RFC3339), "notAfter": c.NotAfter.UTC().Format(time.RFC3339),
	}
}
