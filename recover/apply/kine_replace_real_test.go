//go:build servers

package apply_test

import (
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

const fileValue = "what the file holds"

// at reads a key, which no other is like, with its revision.
func (k kine) at(key string) *mvccpb.KeyValue {
	k.Helper()
	resp, err := k.Get(k.Context(), key)
	if err != nil {
		k.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return &mvccpb.KeyValue{}
	}
	return resp.Kvs[0]
}

// update changes a key as an API server does.
func (k kine) update(key, value string) {
	k.Helper()
	resp, err := k.Txn(k.Context()).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", k.at(key).ModRevision)).
		Then(clientv3.OpPut(key, value)).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil || !resp.Succeeded {
		k.Errorf("update %s: %v", key, err)
	}
}

// replaceSteps replace keys at their revisions by what a file holds.
func (k kine) replaceSteps(keys map[string]int64) (apply.Bytes, []plan.Step) {
	k.Helper()
	a := (&store{t: k.T}).archive()
	for key := range keys {
		kv := &mvccpb.KeyValue{Key: []byte(key), Value: []byte(fileValue), ModRevision: 1, CreateRevision: 1, Version: 1}
		if err := a.Append(0, []*mvccpb.KeyValue{kv}, nil); err != nil {
			k.Fatal(err)
		}
	}
	var steps []plan.Step
	f := reopened(k.T, a)
	err := f.Entries(k.Context(), func(at snapshots.Position, kv *mvccpb.KeyValue) error {
		steps = append(steps, plan.Step{
			Action: plan.Put, Key: string(kv.Key), ModRevision: keys[string(kv.Key)], Position: at.String(), SourceModRevision: kv.ModRevision,
		})
		return nil
	})
	if err != nil {
		k.Fatal(err)
	}
	return f, steps
}

// TestRealKineReplaces: guarded as on etcd. What became of an attempt without
// a clear answer its history tells, because it counts no versions.
func TestRealKineReplaces(t *testing.T) {
	tests := []struct {
		name   string
		before func(k kine, key string)
		err    error
		apply  bool
		after  func(k kine, key string)
		want   apply.Outcome
		value  string
	}{
		{name: "as planned", want: apply.Replaced, value: fileValue},
		{name: "changed before", before: func(k kine, key string) { k.update(key, "theirs") }, want: apply.Skipped, value: "theirs"},
		{name: "deleted before", before: func(k kine, key string) { _ = k.remove(key, k.at(key).ModRevision) }, want: apply.Skipped},
		{name: "not applied", err: rpctypes.ErrTimeout, want: apply.Replaced, value: fileValue},
		{name: "applied", err: rpctypes.ErrTimeout, apply: true, want: apply.Replaced, value: fileValue},
		{name: "applied, changed", err: rpctypes.ErrTimeout, apply: true, want: apply.Replaced, value: "later", after: func(k kine, key string) {
			k.update(key, "theirs")
			k.update(key, "later")
		}},
		{name: "applied, deleted", err: rpctypes.ErrTimeout, apply: true, want: apply.Replaced, after: func(k kine, key string) {
			_ = k.remove(key, k.at(key).ModRevision)
		}},
		{name: "not applied, changed", err: rpctypes.ErrTimeout, want: apply.Skipped, value: "later", after: func(k kine, key string) {
			k.update(key, "theirs")
			k.update(key, "later")
		}},
	}
	onEveryKine(t, func(k kine, _ string) {
		for n, tt := range tests {
			k.Run(tt.name, func(t *testing.T) { // one after another, in one store
				k := kine{k.Client, t, k.marks}
				key := fmt.Sprintf("/registry/secrets/default/key-%d-", n)
				file, steps := k.replaceSteps(map[string]int64{key: k.create(key)})
				through := &atFirst{Client: k.Client, key: key, err: tt.err, apply: tt.apply}
				if tt.before != nil {
					through.before = func() { tt.before(k, key) }
				}
				if tt.after != nil {
					through.after = func() { tt.after(k, key) }
				}
				a := (&store{t: k.T}).archive()
				result := k.carryOut(apply.Run{Store: through, Archive: a, Sources: []apply.Bytes{file}}, steps...)
				wantCounts(t, result, map[apply.Outcome]int64{tt.want: 1})
				if got := k.below("/registry/secrets/default/")[key]; string(got.GetValue()) != tt.value {
					t.Errorf("it holds %q, want %q", got.GetValue(), tt.value)
				}
				if kept := (&store{t: k.T}).archived(a)[key]; kept == nil || string(kept.Value) != kineValue {
					t.Errorf("archived is %v", kept)
				}
			})
		}
	})
}

// TestRealKineReplacesNoOtherKey: kine may answer about another one.
func TestRealKineReplacesNoOtherKey(t *testing.T) {
	for _, gone := range []bool{false, true} { // the other one
		t.Run(fmt.Sprintf("the other one is gone %v", gone), func(t *testing.T) {
			onEveryKine(t, func(k kine, name string) {
				file, steps := k.replaceSteps(map[string]int64{meant: k.create(meant)})
				before := k.createOther(gone)
				a := (&store{t: k.T}).archive()
				result := k.carryOut(apply.Run{Store: k.Client, Archive: a, Sources: []apply.Bytes{file}}, steps...)
				now := k.below(likeDir)
				k.mustBeTheSame(before, now[other])
				replaced := result.Counts[apply.Replaced] == 1
				if is := string(now[meant].GetValue()) == fileValue; is != replaced || (name == "kine" && !replaced) {
					k.Errorf("it counts %v, and that the key is replaced is %v", result.Counts, is)
				}
				if !replaced && result.Counts[apply.Failed]+result.Counts[apply.Skipped] != 1 {
					k.Errorf("it counts %v of a key that is as it was", result.Counts)
				}
				if result.Stopped != nil && !errors.Is(result.Stopped, apply.ErrFailing) {
					k.Errorf("stopped by %v", result.Stopped)
				}
			})
		})
	}
}
