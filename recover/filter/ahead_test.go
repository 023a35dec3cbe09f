package filter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// countingMany counts the requests to a source that reads many keys at once.
type countingMany struct {
	keyspace.Source
	single, many, most int
}

func (c *countingMany) Get(ctx context.Context, key string) (*mvccpb.KeyValue, error) {
	c.single++
	return c.Source.Get(ctx, key)
}

func (c *countingMany) GetAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	if !slices.IsSorted(keys) {
		return nil, errors.New("the keys are not sorted")
	}
	c.many++
	c.most = max(c.most, len(keys))
	return c.Source.GetAll(ctx, keys)
}

// judgeAll judges all objects of the store, one by one or as a row, and
// returns the keys of those kept and undecided.
func (w *world) judgeAll(sel filter.Selection, row bool) (decided []string) {
	w.t.Helper()
	f := w.filter(sel)
	note := func(_ context.Context, o filter.Object, d filter.Decision) error {
		if d != filter.Drop {
			decided = append(decided, fmt.Sprint(d, " ", string(o.KV.Key)))
		}
		return nil
	}
	judging := f.Judging(note)
	err := w.src.Scan(w.t.Context(), keyspace.Prefix(prefix), false, func(kv *mvccpb.KeyValue) error {
		o := f.Inspect(w.t.Context(), kv)
		if row {
			return judging.Add(w.t.Context(), o)
		}
		d, err := f.Judge(w.t.Context(), o)
		if err != nil {
			return err
		}
		return note(w.t.Context(), o, d)
	})
	if err == nil {
		err = judging.Flush(w.t.Context())
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return decided
}

// TestReadingAheadDecidesNothing: it only saves requests.
func TestReadingAheadDecidesNothing(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	for _, sel := range []filter.Selection{
		{Owner: &filter.OwnerRef{Group: "batch", Kind: "CronJob", Name: "report"}},
		{Resource: "pods", Owner: &filter.OwnerRef{Group: "apps", Kind: "Deployment", Name: "web"}},
		{Owner: &filter.OwnerRef{Group: "apps", Kind: "Deployment", Name: "none"}, Labels: "app"},
		{Orphaned: true},
		{Orphaned: true, Owner: &filter.OwnerRef{Group: "apps", Kind: "ReplicaSet", Name: "jobservice-5676bd8869"}},
	} {
		alone := &countingMany{Source: w.src}
		w.owners = filter.NewOwners(alone, w.reader, w.learn)
		want := w.judgeAll(sel, false)
		together := &countingMany{Source: w.src}
		w.owners = filter.NewOwners(together, w.reader, w.learn)
		if diff := cmp.Diff(want, w.judgeAll(sel, true)); diff != "" {
			t.Errorf("%v (-alone +ahead):\n%s", sel, diff)
		}
		if alone.many != 0 || together.many == 0 && len(want) > 0 && alone.single > 50 || together.single > alone.single {
			t.Errorf("%v: %d single reads became %d and %d of many", sel, alone.single, together.single, together.many)
		}
	}
}

// manyJobs is a store with very many Jobs, each of one CronJob.
type manyJobs struct{ keyspace.Source }

func (manyJobs) job(key string) *mvccpb.KeyValue {
	value := fmt.Sprintf(`{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"x","uid":"%s","ownerReferences":[`+
		`{"apiVersion":"batch/v1","kind":"CronJob","name":"c","uid":"%s","controller":true}]}}`, key, prefix+"cronjobs/a/c")
	return &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value)}
}

func (m manyJobs) Get(_ context.Context, key string) (*mvccpb.KeyValue, error) {
	return m.job(key), nil
}

func (m manyJobs) GetAll(_ context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	found := map[string]*mvccpb.KeyValue{}
	for _, key := range keys {
		found[key] = m.job(key)
	}
	return found, nil
}

// TestManyOwnersNeedFewRequests, also more than are remembered, and the same
// ones again are asked for again only then.
func TestManyOwnersNeedFewRequests(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	src := &countingMany{Source: manyJobs{}}
	owners := filter.NewOwners(src, reader, nil)
	const n, batch = 30_000, 250
	for from := 0; from < n; from += batch {
		var refs []filter.Ref
		for i := range batch {
			key := fmt.Sprintf("%sjobs/a/j%06d", prefix, from+i)
			refs = append(refs, filter.Ref{Owner: codec.Owner{APIVersion: "batch/v1", Kind: "Job", Name: key[len(prefix)+7:], UID: key, Controller: true}, Namespace: "a"})
		}
		if err := owners.Ahead(t.Context(), refs); err != nil {
			t.Fatal(err)
		}
		read := src.single + src.many
		for _, ref := range refs {
			if o, err := owners.Find(t.Context(), ref.Owner, "a"); err != nil || o == nil || o.KV.Value != nil {
				t.Fatalf("%s: %v, %v", ref.Name, o, err)
			}
		}
		if now := src.single + src.many; now != read {
			t.Fatalf("%d more requests for what was read ahead", now-read)
		}
	}
	if all := src.single + src.many; all > n/50 || src.most > 200 {
		t.Errorf("%d requests for %d owners, up to %d at once", all, n, src.most)
	}
}

// TestEachReadsInOrder, with values, and only what is there.
func TestEachReadsInOrder(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	var keys, want []string
	err := w.src.Scan(t.Context(), keyspace.Prefix(prefix), true, func(kv *mvccpb.KeyValue) error {
		keys, want = append(keys, string(kv.Key), string(kv.Key)+"-none"), append(want, string(kv.Key))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	var got []string
	err = w.owners.Each(t.Context(), keys, func(chunk []*filter.Object) error {
		for _, o := range chunk {
			if got = append(got, string(o.KV.Key)); o.Size == 0 || len(o.KV.Value) != int(o.Size) {
				t.Errorf("%s has %d bytes of %d", o.KV.Key, len(o.KV.Value), o.Size)
			}
		}
		return nil
	})
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestReadingAheadFails as reading does.
func TestReadingAheadFails(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	refs := []filter.Ref{{Owner: codec.Owner{APIVersion: "v1", Kind: "ConfigMap", Name: "c", UID: "u"}, Namespace: "a"}}
	if err := filter.NewOwners(failing{}, reader, nil).Ahead(t.Context(), refs); !errors.Is(err, errLost) {
		t.Errorf("one: %v, want the error", err)
	}
	for i := range 100 {
		refs = append(refs, filter.Ref{Owner: codec.Owner{APIVersion: "v1", Kind: "ConfigMap", Name: fmt.Sprint("c", i), UID: "u"}, Namespace: "a"})
	}
	if err := filter.NewOwners(failingMany{}, reader, nil).Ahead(t.Context(), refs); !errors.Is(err, errLost) {
		t.Errorf("many: %v, want the error", err)
	}
}

type failingMany struct{ failing }

func (failingMany) GetAll(context.Context, []string) (map[string]*mvccpb.KeyValue, error) {
	return nil, errLost
}

// TestJudgingWaitsForFew objects only, and for none that needs no look-up;
// an error of the callee ends it.
func TestJudgingWaitsForFew(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	lookingUp := filter.Selection{Owner: &filter.OwnerRef{Group: "batch", Kind: "Job", Name: "none"}}
	for _, tt := range []struct {
		sel       filter.Selection
		size      int
		mostWaits int
	}{
		{filter.Selection{Resource: "pods"}, 10, 0},
		{lookingUp, 10, 255},
		{lookingUp, 100 << 10, 10},
		{lookingUp, 4 << 20, 0},
	} {
		f, added, judged, most := w.filter(tt.sel), 0, 0, 0
		judging := f.Judging(func(context.Context, filter.Object, filter.Decision) error { judged++; return nil })
		for range 600 {
			o := f.Inspect(t.Context(), &mvccpb.KeyValue{Key: []byte(prefix + "pods/team/p"), Value: make([]byte, tt.size)})
			if err := judging.Add(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			added++
			most = max(most, added-judged)
		}
		if err := judging.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if most != tt.mostWaits || judged != added {
			t.Errorf("%v, %d bytes: at most %d waited, want %d; %d of %d were judged", tt.sel, tt.size, most, tt.mostWaits, judged, added)
		}
	}
	enough := errors.New("enough")
	f := w.filter(lookingUp)
	judging := f.Judging(func(context.Context, filter.Object, filter.Decision) error { return enough })
	if err := judging.Add(t.Context(), f.Inspect(t.Context(), &mvccpb.KeyValue{Key: []byte(prefix + "pods/team/p")})); err != nil {
		t.Error(err)
	}
	if err := judging.Flush(t.Context()); !errors.Is(err, enough) {
		t.Errorf("%v, want the callee's error", err)
	}
}
