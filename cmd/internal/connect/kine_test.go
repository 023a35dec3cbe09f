package connect

import (
	"testing"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace/fakekine"
)

// kine does not know the read that a connection is tried with, and must not
// pass for something that is no etcd.
func TestDialKine(t *testing.T) {
	t.Parallel()
	for _, v := range []fakekine.Version{fakekine.V011, fakekine.V013, fakekine.V017} {
		server, err := fakekine.Start(v)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Close)
		conn := mustDial(t, Settings{}, server.URL())
		if !conn.Kine || len(conn.Warnings) > 0 || len(conn.Leaderless) > 0 {
			t.Errorf("kine %s: kine %t, leaderless %q, warnings %q", v, conn.Kine, conn.Leaderless, conn.Warnings)
		}
	}
	if conn := mustDial(t, Settings{}, startEtcd(t, "http", nil)); conn.Kine || len(conn.Leaderless) > 0 {
		t.Errorf("an etcd: kine %t, leaderless %q", conn.Kine, conn.Leaderless)
	}
}
