package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

const (
	runawayJob  = "/registry/jobs/ops-tools/error-ret"
	runawayPods = "/registry/pods/ops-tools/"
)

// jobController makes pods of the runaway Job, one after the other, as long as
// the Job is there: a change of it in the same instant as a pod is impossible.
type jobController struct {
	first chan struct{} // closed when the first pod is made
	done  chan struct{}
	made  int64
	err   error
}

func startJobController(t *testing.T, s *store) *jobController {
	t.Helper()
	now, err := s.contents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var value []byte
	for key, kv := range now.keys {
		if bytes.HasPrefix([]byte(key), []byte(runawayPods)) {
			value = kv.Value
			break
		}
	}
	c := &jobController{first: make(chan struct{}), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); <-c.done })
	go func() {
		defer close(c.done)
		c.err = c.run(ctx, s.client, value)
	}()
	<-c.first
	return c
}

func (c *jobController) run(ctx context.Context, client *clientv3.Client, value []byte) error {
	for {
		key := fmt.Sprintf("%serror-ret-made%06d", runawayPods, c.made)
		resp, err := client.Txn(ctx).If(clientv3.Compare(clientv3.Version(runawayJob), ">", 0)).Then(clientv3.OpPut(key, string(value))).Commit()
		if err != nil || !resp.Succeeded {
			return err
		}
		if c.made++; c.made == 1 {
			close(c.first)
		}
	}
}

// TestDeleteEndsAFlood: pods are made until their source is gone; whatever is
// deleted with the source takes as many passes as it needs, and nothing is
// left.
func TestDeleteEndsAFlood(t *testing.T) {
	t.Parallel()
	const pods = 300
	for _, tt := range []struct {
		name   string
		args   []string
		others int64 // beside the pods
	}{
		{"owners", []string{"pods", "-n", "ops-tools", "--owner", "job/error-ret", "--with-owners"}, 1},
		{"dependents", []string{"job", "error-ret", "-n", "ops-tools", "--with-dependents"}, 1},
		{"namespace", []string{"namespace", "ops-tools"}, 4},
		{"contents", []string{"namespace", "ops-tools", "--contents-only"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startRunaway(t, pods)
			sh := newShell(t, s)
			flood := startJobController(t, s)
			args := slices.Concat([]string{"delete"}, tt.args, []string{"--execute", "--yes", "--max-deletes", "1000000", "--rate", "max", "--settle", "0", "-o", "json"})
			r := sh.run(exitDone, args...)
			<-flood.done
			var doc struct {
				Deleted, Skipped, Failed int64
				Left                     struct{ Objects int64 }
				Archive                  string
			}
			if err := errors.Join(flood.err, json.Unmarshal([]byte(r.out), &doc)); err != nil {
				t.Fatal(err)
			}
			if doc.Deleted != pods+flood.made+tt.others || doc.Skipped+doc.Failed+doc.Left.Objects != 0 {
				t.Errorf("%+v; %d pods and %d more were made, beside %d others", doc, pods, flood.made, tt.others)
			}
			now, err := s.contents(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if left := now.below(runawayPods); left != 0 {
				t.Errorf("%d pods are left", left)
			}
		})
	}
}

// TestPlanThatWasNotBegunRemains: where the plan of another etcd ended it
// before, the report counts and names what is still to be done.
func TestPlanThatWasNotBegunRemains(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "p.plan.jsonl")
	out, err := plan.Create(path, plan.Header{Operation: operationDelete})
	if err == nil {
		err = errors.Join(out.Add(0, "pod", plan.Step{Action: plan.Delete, Key: runawayPods + "p", ModRevision: 1}), out.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r := &runReport{}
	r.await(p)
	if r.begun() || r.lastRemaining() != 1 || r.plan != path {
		t.Errorf("before: begun %v, %d remain of %q", r.begun(), r.lastRemaining(), r.plan)
	}
	r.add(path, &apply.Result{Steps: 1, Counts: apply.Counts{apply.Deleted: 1}})
	if !r.begun() || r.lastRemaining() != 0 {
		t.Errorf("after: begun %v, %d remain", r.begun(), r.lastRemaining())
	}
}
