package filter_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// miscounting is a store whose counts and keys disagree, as where a server's
// index is damaged.
type miscounting struct{ keyspace.Source }

func (m miscounting) CountAll(ctx context.Context, ranges []keyspace.Range) ([]int64, error) {
	counts := make([]int64, len(ranges))
	for i, r := range ranges {
		n, err := m.Count(ctx, r)
		if err != nil {
			return nil, err
		}
		if counts[i] = n; strings.Contains(r.Start, "/pods/") {
			counts[i]++
		}
	}
	return counts, nil
}

// TestInsideProvesThatItSawAll: what is read of a namespace is what is counted
// in it, or it fails.
func TestInsideProvesThatItSawAll(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	f := w.filter(filter.Selection{Resource: "namespaces"})
	n := 0
	count := func(filter.Object, filter.Decision) error { n++; return nil }
	if err := f.Inside(t.Context(), w.src, []string{"team"}, false, count); err != nil || n < 100 {
		t.Errorf("%d objects, %v", n, err)
	}
	err := f.Inside(t.Context(), miscounting{w.src}, []string{"team"}, false, count)
	if err == nil || !strings.Contains(err.Error(), "/registry/pods/team/ holds ") {
		t.Errorf("counts that disagree: %v", err)
	}
	stop := errors.New("stop")
	if err := f.Inside(t.Context(), w.src, []string{"team"}, false, func(filter.Object, filter.Decision) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the caller: %v", err)
	}
}

// TestContentsHold is about names alone; none holds what is in no namespace.
func TestContentsHold(t *testing.T) {
	t.Parallel()
	var none *filter.Contents
	c := &filter.Contents{Namespaces: []string{"a", "c"}}
	if none.Holds("a") || c.Holds("") || c.Holds("b") || !c.Holds("a") || !c.Holds("c") {
		t.Errorf("%v", c)
	}
}
