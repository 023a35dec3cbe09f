package apply_test

import (
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

const (
	claimKey  = prefix + "persistentvolumeclaims/a/c"
	volumeKey = prefix + "persistentvolumes/v"
)

func claimOf(uid string) string {
	return `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"c","namespace":"a","uid":"` + uid + `"},"spec":{"volumeName":"v"}}`
}

func volumeOf(policy string) string {
	return `{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"v","uid":"v"},"spec":{"claimRef":{"name":"c","namespace":"a","uid":"old"},"persistentVolumeReclaimPolicy":"` + policy + `"}}`
}

// TestVolumeIsNotPutWithoutItsClaim: it would be reclaimed at once. The plan
// counted on a claim that another took the place of since.
func TestVolumeIsNotPutWithoutItsClaim(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	unsafe := filter.Overrides{Kinds: []string{"persistentvolumes"}}
	for _, tt := range []struct {
		name, policy, claim, why string // claim: what is there by then, "" for nothing
		volumes                  plan.Volumes
		want                     map[apply.Outcome]int64
	}{
		{name: "claim put back", policy: "Delete", want: map[apply.Outcome]int64{apply.Created: 2}},
		{name: "claim made anew", policy: "Delete", claim: "new", why: "destroyed (reclaim policy Delete); put-back puts it there all the same with --unsafe-kind persistentvolumes",
			want: map[apply.Outcome]int64{apply.Skipped: 2}},
		{name: "wiped", policy: "Recycle", claim: "new", why: "wiped", want: map[apply.Outcome]int64{apply.Skipped: 2}},
		{name: "kept", policy: "Retain", claim: "new", want: map[apply.Outcome]int64{apply.Skipped: 1, apply.Created: 1}},
		{name: "allowed", policy: "Delete", claim: "new", volumes: plan.Volumes{Overrides: unsafe}, want: map[apply.Outcome]int64{apply.Skipped: 1, apply.Created: 1}},
		{name: "undo, made anew", policy: "Delete", claim: "new", volumes: plan.Volumes{Undo: true}, why: "destroyed", want: map[apply.Outcome]int64{apply.Skipped: 2}},
		{name: "undo, put back", policy: "Delete", volumes: plan.Volumes{Undo: true}, want: map[apply.Outcome]int64{apply.Created: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			a := s.archive()
			if err := a.Append(0, []*mvccpb.KeyValue{
				{Key: []byte(volumeKey), Value: []byte(volumeOf(tt.policy)), ModRevision: 5, CreateRevision: 5, Version: 1},
				{Key: []byte(claimKey), Value: []byte(claimOf("old")), ModRevision: 6, CreateRevision: 6, Version: 1},
			}, nil); err != nil {
				t.Fatal(err)
			}
			f := reopened(t, a)
			p, _ := s.undoPlan(false, f)
			if tt.claim != "" {
				s.put(claimKey, claimOf(tt.claim))
			}
			tt.volumes.Reader, tt.volumes.Now = reader, keyspace.Current(s.Client, keyspace.Options{Timeout: time.Minute})
			r := s.replaceRun(f, nil)
			r.Volumes = tt.volumes
			result := s.execute(r, p)
			wantCounts(t, result, tt.want)
			var why string
			for _, problem := range result.Problems {
				if problem.Step.Key == volumeKey {
					why = problem.Why
				}
			}
			if (why == "") != (tt.why == "") || !strings.Contains(why, tt.why) {
				t.Errorf("the volume was skipped because %q, want %q", why, tt.why)
			}
			// Carried out again nothing is different.
			if again := s.execute(r, p); again.Counts[apply.Created] != 0 || again.Counts[apply.Skipped] != result.Counts[apply.Skipped] {
				t.Errorf("again: %v", again.Counts)
			}
		})
	}
}
