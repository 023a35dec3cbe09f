//go:build servers

package app

import (
	"strings"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// TestConnectRealKine: kine over SQLite is named as what it is.
func TestConnectRealKine(t *testing.T) {
	for _, name := range lab.Kines() {
		t.Run(name, func(t *testing.T) {
			sh := shell{t, t.TempDir(), lab.Kine(t, name)}
			r := sh.run(exitDone, "connect", "--cluster")
			if !strings.Contains(r.out, "\tmain\tanswers: kine, not etcd") || strings.Contains(r.errOut, "cannot be listed") {
				t.Errorf("%s%s", r.out, r.errOut)
			}
			if e := sh.explanation(exitDone); !e.Answers || e.Tried[0].Cluster != "" {
				t.Errorf("%+v", e)
			}
		})
	}
}
