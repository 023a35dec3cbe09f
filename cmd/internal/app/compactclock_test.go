package app

import (
	"fmt"
	"testing"
	"time"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

func TestNewestBefore(t *testing.T) {
	t.Parallel()
	at := func(minute int) time.Time { return time.Date(2026, 3, 1, 12, minute, 0, 0, time.UTC) }
	point := func(rev int64, minute int) revisionTime { return revisionTime{rev, at(minute), ""} }
	for _, tc := range []struct {
		name   string
		points []revisionTime
		want   int64 // 0: none
	}{
		{"nothing tells", nil, 0},
		{"all are older", []revisionTime{point(7, 1), point(3, 0)}, 7},
		{"all are younger", []revisionTime{point(7, 21), point(3, 20)}, 0},
		{"the last that is old", []revisionTime{point(9, 12), point(5, 9), point(3, 1), point(6, 10)}, 6},
		{"one that was put back later shows an old time", []revisionTime{point(3, 1), point(5, 12), point(8, 2)}, 3},
	} {
		got, ok := newestBefore(tc.points, at(10))
		if got.revision != tc.want || ok != (tc.want > 0) {
			t.Errorf("%s: %d, %v, want %d", tc.name, got.revision, ok, tc.want)
		}
	}
}

// TestRevisionClock writes Leases as nodes do, with other writes between, and
// asks for revisions by age.
func TestRevisionClock(t *testing.T) {
	t.Parallel()
	s, err := startStore(t.Context(), sandbox.Options{NoFsync: true, Mode: sandbox.InProcess})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var renewed []int64 // the revision of each renewal, ten seconds apart
	put := func(key, value string) int64 {
		resp, err := s.client.Put(t.Context(), key, value)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Revision
	}
	lease := func(node string, at time.Time) int64 {
		return put("/registry/leases/kube-node-lease/"+node, fmt.Sprintf(`{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":%q,"namespace":"kube-node-lease"},"spec":{"renewTime":%q}}`,
			node, at.Format("2006-01-02T15:04:05.000000Z07:00")))
	}
	put("/registry/configmaps/a/b", "{}")
	lease("clock-is-ahead", begin.Add(24*time.Hour))
	for i := range 60 {
		// It was dead for a while, and is behind.
		if i == 20 {
			lease("behind", begin)
		}
		renewed = append(renewed, lease(fmt.Sprintf("node-%d", i%3), begin.Add(time.Duration(i)*10*time.Second)))
		for range i % 4 {
			put("/registry/configmaps/a/b", "{}")
		}
	}
	now := begin.Add(10 * time.Minute)
	ask := func(age time.Duration) (revisionTime, bool) {
		t.Helper()
		src, err := keyspace.Pin(t.Context(), s.client, "/registry/", keyspace.Options{Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		floor := int64(1)
		if _, err := keyspace.PinAt(t.Context(), s.client, "/registry/", 1, keyspace.Options{Timeout: time.Minute}); err != nil {
			floor = renewed[30]
		}
		c := &revisionClock{reader: &codec.Reader{Catalog: codec.NewCatalog(), Prefix: "/registry/"}, src: src, now: now, floor: floor}
		at, ok, err := c.older(t.Context(), age)
		if err != nil {
			t.Fatal(err)
		}
		return at, ok
	}
	for _, tc := range []struct {
		age  time.Duration
		want int64
	}{
		{5 * time.Minute, renewed[30]},
		{5*time.Minute - time.Second, renewed[30]},
		{5*time.Minute + time.Second, renewed[29]},
		{time.Second, renewed[59]}, // the last is ten seconds old
		{10 * time.Minute, renewed[0]},
	} {
		if at, ok := ask(tc.age); !ok || at.revision != tc.want {
			t.Errorf("older than %s: revision %d (%s), %v, want %d", tc.age, at.revision, at.time, ok, tc.want)
		}
	}
	if at, ok := ask(11 * time.Minute); ok {
		t.Errorf("older than all: revision %d", at.revision)
	}
	// Our clock is an hour ahead. Without an API server nobody is hurt by what that makes of ages.
	now = now.Add(time.Hour)
	if at, ok := ask(5 * time.Minute); !ok || at.revision != renewed[59] {
		t.Errorf("nothing was renewed for an hour: revision %d, %v, want %d", at.revision, ok, renewed[59])
	}
	put("/registry/masterleases/10.0.0.1", "{}")
	if at, ok := ask(5 * time.Minute); !ok || at.revision != renewed[29] {
		t.Errorf("an hour ahead of a living API server: revision %d, %v, want %d", at.revision, ok, renewed[29])
	}
	now = now.Add(-time.Hour)
	if _, err := s.client.Compact(t.Context(), renewed[30]); err != nil {
		t.Fatal(err)
	}
	for age, most := range map[time.Duration]int64{9 * time.Minute: renewed[30], 3 * time.Minute: renewed[41]} {
		if at, ok := ask(age); !ok || at.revision > most || age == 3*time.Minute && at.revision != most {
			t.Errorf("after a compaction, older than %s: revision %d, %v, want %d", age, at.revision, ok, most)
		}
	}
}
