package apply_test

import (
	"testing"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// TestNamespaceStaysWhileSomethingIsLeftInIt: without its key that would be an
// orphan.
func TestNamespaceStaysWhileSomethingIsLeftInIt(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	sel := filter.Selection{Resource: "namespaces", Names: []string{"ops-tools"}, Contents: &filter.Contents{Namespaces: []string{"ops-tools"}}}
	p := s.planOf(sel, false)
	key := firstPod(s)
	if _, err := s.Put(t.Context(), key, string(s.before[key].Value)); err != nil {
		t.Fatal(err)
	}
	a := s.archive()
	r := s.run(a)
	r.Judge = s.judge(sel)
	r.Strict = true
	result := s.execute(r, p)
	left := s.all()
	const namespace = "/registry/namespaces/ops-tools"
	if result.Counts[apply.Skipped] != 2 || left[key] == nil || left[namespace] == nil {
		t.Errorf("%v; the pod is left: %v, its namespace: %v", result.Counts, left[key] != nil, left[namespace] != nil)
	}
	r.Strict = false
	result = s.execute(r, p)
	left = s.all()
	if result.Counts[apply.Deleted] != 2 || left[key] != nil || left[namespace] != nil {
		t.Errorf("again: %v; the pod is left: %v, its namespace: %v", result.Counts, left[key] != nil, left[namespace] != nil)
	}
	s.mustHoldAll(a)
}
