package sandbox

import (
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestDisarm: a snapshot brings its alarms along, and only Disarm switches them off.
func TestDisarm(t *testing.T) {
	t.Parallel()
	first := start(t, Options{Mode: InProcess, NoFsync: true})
	c := client(t, first)
	put(t, c, "/a", "1")
	raise := &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: etcdserverpb.AlarmType_NOSPACE}
	if _, err := etcdserverpb.NewMaintenanceClient(c.ActiveConnection()).Alarm(t.Context(), raise); err != nil {
		t.Fatal(err)
	}
	path := save(t, c)
	armed := start(t, Options{Mode: InProcess, NoFsync: true, Snapshot: path})
	if _, err := client(t, armed).Put(t.Context(), "/a", "2"); err == nil || armed.Disarmed() != nil {
		t.Errorf("without Disarm it takes puts: %v, %v", err, armed.Disarmed())
	}
	off := start(t, Options{Mode: InProcess, NoFsync: true, Snapshot: path, Disarm: true})
	put(t, client(t, off), "/a", "2")
	if !slices.Equal(off.Disarmed(), []string{"NOSPACE"}) {
		t.Errorf("disarmed %q", off.Disarmed())
	}
}
