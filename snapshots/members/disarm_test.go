package members

import (
	"errors"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestMayDisarm(t *testing.T) {
	t.Parallel()
	sized := func(size, quota int64) Member {
		return Member{ID: 1, Name: "a", Endpoint: "http://a", DBSize: size, Quota: quota}
	}
	corrupt := sized(1, 100)
	corrupt.Alarms = []Alarm{{1, AlarmNoSpace}, {2, AlarmCorrupt}}
	silent := Member{ID: 2, Name: "b", Err: errors.New("connection refused")}
	for _, tc := range []struct {
		name    string
		members []Member
		opt     DisarmOptions
		want    error
		text    string
	}{
		{"at the limit", []Member{sized(90, 100)}, DisarmOptions{}, nil, ""},
		{"above it", []Member{sized(91, 100)}, DisarmOptions{}, ErrFull, "the db file of member a is too near to its quota: 91 bytes, more than 90"},
		{"another limit", []Member{sized(51, 100)}, DisarmOptions{Below: 0.5}, ErrFull, "51 bytes, more than 50"},
		{"one of two", []Member{sized(1, 100), sized(95, 100)}, DisarmOptions{}, ErrFull, ""},
		{"no quota is known", []Member{sized(1, 0)}, DisarmOptions{}, ErrNoQuota, "member a does not tell its quota"},
		{"a quota is given", []Member{sized(1, 0)}, DisarmOptions{Quota: 100}, nil, ""},
		{"what a member tells counts", []Member{sized(95, 100)}, DisarmOptions{Quota: 1000}, ErrFull, ""},
		{"no quota is set", []Member{sized(1<<40, -1)}, DisarmOptions{}, nil, ""},
		{"CORRUPT", []Member{corrupt}, DisarmOptions{}, ErrDisagree, "(member 2)"},
		{"a member is silent", []Member{sized(1, 100), silent}, DisarmOptions{}, ErrSilent, "member b does not answer: connection refused"},
		{"a learner does not count", []Member{sized(1, 100), {ID: 3, Learner: true}}, DisarmOptions{}, nil, ""},
		{"nobody", nil, DisarmOptions{}, ErrSilent, ""},
	} {
		err := MayDisarm(tc.members, tc.opt)
		if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if err != nil && !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.text)
		}
	}
}

// TestOutOfNoSpace fills an etcd until it takes no writes, and goes the whole way back.
func TestOutOfNoSpace(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	box, client := startOne(t, 8<<20)
	if err := ProveWrite(ctx, client); err != nil {
		t.Fatalf("before it is full: %v", err)
	}
	rev := fillUp(t, client)
	if err := ProveWrite(ctx, client); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("when it is full: %v", err)
	}
	all := mustList(t, client, box.Endpoints()...)
	if raised := Raised(all, AlarmNoSpace); len(raised) != 1 || raised[0].Member != all[0].ID {
		t.Fatalf("raised: %v", raised)
	}
	if done, err := Disarm(ctx, client, all, DisarmOptions{}); !errors.Is(err, ErrFull) || len(done) > 0 {
		t.Errorf("disarmed while it is full: %v, %v", done, err)
	}
	if err := Compact(ctx, client, rev, true, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Defragment(ctx, box.Endpoints()[0]); err != nil {
		t.Fatal(err)
	}
	all = mustList(t, client, box.Endpoints()...)
	done, err := Disarm(ctx, client, all, DisarmOptions{})
	if err != nil || len(done) != 1 || done[0] != (Alarm{all[0].ID, AlarmNoSpace}) {
		t.Fatalf("disarmed: %v, %v", done, err)
	}
	if err := ProveWrite(ctx, client); err != nil {
		t.Error(err)
	}
	all = mustList(t, client, box.Endpoints()...)
	resp, err := client.Get(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || resp.Header.Revision != rev || resp.Count != 1 || len(Alarms(all)) > 0 {
		t.Errorf("revision %d and %d keys, want %d and 1; alarms %v; %v", resp.Header.Revision, resp.Count, rev, Alarms(all), err)
	}
	if leases, err := client.Leases(ctx); err != nil || len(leases.Leases) > 0 {
		t.Errorf("leases: %v, %v", leases, err)
	}
	// CORRUPT is not taken back, and NOSPACE not beside it.
	for _, kind := range []etcdserverpb.AlarmType{etcdserverpb.AlarmType_NOSPACE, etcdserverpb.AlarmType_CORRUPT} {
		raise(t, client, all[0].ID, kind)
	}
	all = mustList(t, client, box.Endpoints()...)
	if done, err := Disarm(ctx, client, all, DisarmOptions{}); !errors.Is(err, ErrDisagree) || len(done) > 0 {
		t.Errorf("with CORRUPT: %v, %v", done, err)
	}
	if now := Alarms(mustList(t, client, box.Endpoints()...)); len(now) != 2 {
		t.Errorf("alarms: %v", now)
	}
}

func raise(t *testing.T, client *clientv3.Client, id uint64, kind etcdserverpb.AlarmType) {
	t.Helper()
	_, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Alarm(t.Context(),
		&etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: kind})
	if err != nil {
		t.Fatal(err)
	}
}

// fillUp writes one key until etcd takes no more, and returns the revision.
func fillUp(t *testing.T, client *clientv3.Client) (rev int64) {
	t.Helper()
	for value := strings.Repeat("x", 256<<10); ; {
		resp, err := client.Put(t.Context(), "/registry/big", value)
		if errors.Is(err, rpctypes.ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		rev = resp.Header.Revision
	}
	// The put that raised the alarm may have been carried out (quotaApplierV3).
	resp, err := client.Get(t.Context(), "/registry/big")
	if err != nil {
		t.Fatal(err)
	}
	return max(rev, resp.Header.Revision)
}
