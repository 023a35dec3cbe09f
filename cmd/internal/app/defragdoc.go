package app

import (
	"fmt"
	"time"

	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// The documents of defrag; docs/json.md describes them.

func defragMember(m etcdmembers.Member) map[string]any {
	doc := map[string]any{"id": fmt.Sprintf("%x", m.ID), "name": m.Name}
	if m.Answers() || m.Learner {
		doc["role"] = defragRole(m)
	}
	if !m.Answers() {
		return doc
	}
	s := etcdmembers.SizesOf(m)
	doc["endpoint"], doc["dbSize"], doc["dbSizeInUse"], doc["dbSizeFree"] = m.Endpoint, s.DBSize, s.InUse, s.Free
	if s.Quota > 0 {
		doc["dbQuota"] = s.Quota
	}
	return doc
}

func (d *defragging) skippedDocument() []map[string]any {
	skipped := []map[string]any{}
	for _, s := range d.skipped {
		doc := defragMember(s.Member)
		doc["why"] = d.why(s)
		skipped = append(skipped, doc)
	}
	return skipped
}

func (d *defragging) previewDocument() map[string]any {
	steps := []map[string]any{}
	for _, s := range d.steps {
		doc := defragMember(s.Member)
		doc["stopMilliseconds"] = s.Stop.Milliseconds()
		steps = append(steps, doc)
	}
	doc := map[string]any{
		"version": 1, "kind": "defragPreview", "changed": false, "members": steps, "skipped": d.skippedDocument(),
		"healthy": d.unfit == nil, "warnings": append([]string{}, d.warnings()...), "notes": append([]string{}, d.notes()...),
	}
	return doc
}

func (d *defragging) document(done []etcdmembers.Defragmented) map[string]any {
	members := []map[string]any{}
	touched := map[uint64]bool{}
	for _, r := range done {
		touched[r.Before.ID] = true
		doc := defragMember(r.Before)
		doc["after"] = map[string]any{"dbSize": r.After.DBSize, "dbSizeInUse": r.After.InUse}
		doc["milliseconds"], doc["result"] = r.Took.Milliseconds(), "defragmented"
		switch {
		case r.Err != nil:
			doc["result"], doc["error"] = "failed", r.Err.Error()
		case r.Unsure:
			doc["result"] = "unsure"
		}
		members = append(members, doc)
	}
	left := []map[string]any{}
	for _, s := range d.steps {
		if !touched[s.Member.ID] {
			left = append(left, defragMember(s.Member))
		}
	}
	doc := map[string]any{
		"version": 1, "kind": "defrag", "changed": len(done) > 0, "members": members, "left": left, "skipped": d.skippedDocument(),
	}
	if !d.began.IsZero() {
		doc["began"] = d.began.UTC().Format(time.RFC3339)
	}
	return doc
}
