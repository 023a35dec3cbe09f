package app

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// TestReadOnlyTouchesNothing: after what only reads, and after each preview,
// no member has another revision, another number of keys, a proposal more or
// another byte in its file. Only a snapshot makes etcd write to the file, and then
// no key.
func TestReadOnlyTouchesNothing(t *testing.T) {
	long(t)
	t.Parallel()
	w := newWorld(t, sandbox.ClusterOptions{})
	w.lead(0)
	for _, line := range []string{
		"status", "status -o wide", "status -o json", "connect", "connect -o json",
		"defrag", "defrag --always", "compact --to-revision 44", "compact --to-head", "disarm",
		"reclaim", "reclaim pods -n default",
		"count", "count --by kind --bytes", "list pods", "get pods web-01 -n default", "history pods web-01 -n default",
		"resources", "top sizes", "delete pods -n default",
		"snapshot save " + filepath.Join(w.root, "saved.db"),
	} {
		allowed := nothing
		if strings.HasPrefix(line, "snapshot save") {
			allowed = flush
		}
		got := w.lookOnly(allowed, strings.Fields(line)...)
		if !slices.Contains([]int{exitDone, exitPartial}, got.code) {
			w.Errorf("%s: exit code %d\n%s%s", line, got.code, got.out, got.err)
		}
		if got.out == "" {
			w.Errorf("%s says nothing on standard output: %s", line, got.err)
		}
	}
}
