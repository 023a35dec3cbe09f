package app

import (
	"strings"
	"testing"
	"time"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// TestStatusBlackHole: ports that swallow packets, all of them, are waited for
// at the same time.
func TestStatusBlackHole(t *testing.T) {
	t.Parallel()
	w := &world{T: t, root: t.TempDir(), now: time.Now()}
	for range 5 { // one after the other would take longer than the limit
		addr, stop, err := sandbox.Swallow()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		w.endpoints = append(w.endpoints, "http://"+addr)
	}
	w.args = []string{"--endpoints", strings.Join(w.endpoints, ",")}
	w.judge(state{name: "swallows-packets", code: exitConnect}, w.look("status"))
}
