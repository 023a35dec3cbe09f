package rehearse

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// sliceSource is a Source of keys with revisions.
type sliceSource struct {
	keyspace.Source
	keys map[string]int64
	fail string // the key at which it fails
}

var errBroken = errors.New("broken")

func (s sliceSource) Scan(_ context.Context, _ keyspace.Range, _ bool, fn func(*mvccpb.KeyValue) error) error {
	var names []string
	for key := range s.keys {
		names = append(names, key)
	}
	slices.Sort(names)
	for _, key := range names {
		if key == s.fail {
			return errBroken
		}
		if err := fn(&mvccpb.KeyValue{Key: []byte(key), ModRevision: s.keys[key]}); err != nil {
			return err
		}
	}
	return nil
}

// merge yields every key that either has, once, in order.
func TestMerge(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		before, after, want := sliceSource{keys: map[string]int64{}}, sliceSource{keys: map[string]int64{}}, map[string][2]int64{}
		for range rng.IntN(20) {
			key, revs := fmt.Sprintf("%02d", rng.IntN(30)), [2]int64{rng.Int64N(3), rng.Int64N(3)}
			delete(before.keys, key)
			delete(after.keys, key)
			delete(want, key)
			if revs[0] > 0 {
				before.keys[key] = revs[0]
			}
			if revs[1] > 0 {
				after.keys[key] = revs[1]
			}
			if revs != [2]int64{} {
				want[key] = revs
			}
		}
		got, last := map[string][2]int64{}, ""
		err := merge(t.Context(), before, after, func(key string, was, is *mvccpb.KeyValue) error {
			if key <= last {
				t.Errorf("%s follows %s", key, last)
			}
			last, got[key] = key, [2]int64{was.GetModRevision(), is.GetModRevision()}
			return nil
		})
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatal(err, diff)
		}
	}
}

// What fails in either source, or in what looks at them, ends a merge.
func TestMergeFails(t *testing.T) {
	t.Parallel()
	all := map[string]int64{"a": 1, "b": 2, "c": 3}
	for name, tt := range map[string]struct {
		before, after sliceSource
		fn            error
	}{
		"before": {before: sliceSource{keys: all, fail: "b"}, after: sliceSource{keys: all}},
		"after":  {before: sliceSource{keys: all}, after: sliceSource{keys: all, fail: "c"}},
		"first":  {before: sliceSource{keys: all}, after: sliceSource{keys: all, fail: "a"}},
		"seen":   {before: sliceSource{keys: all}, after: sliceSource{keys: all}, fn: errBroken},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := merge(t.Context(), tt.before, tt.after, func(string, *mvccpb.KeyValue, *mvccpb.KeyValue) error { return tt.fn })
			if !errors.Is(err, errBroken) {
				t.Errorf("got %v", err)
			}
		})
	}
}
