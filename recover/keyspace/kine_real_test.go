//go:build servers

package keyspace_test

import (
	"testing"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// TestRealKine asks real kines over SQLite what the others are asked of their
// imitation.
func TestRealKine(t *testing.T) {
	for _, name := range lab.Kines() {
		t.Run(name, func(t *testing.T) {
			k := fillKine(t, nil, lab.Kine(t, name))
			t.Run("ranges", func(t *testing.T) { kineRanges(t, k) })
			t.Run("get", func(t *testing.T) { kineGet(t, k) })
			t.Run("history", func(t *testing.T) { kineHistory(t, k) })
		})
	}
}
