package filter_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	corev1 "k8s.io/api/core/v1"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// expectedSecrets are the zoo's Secrets as kubectl shows them.
func expectedSecrets(t *testing.T) []corev1.Secret {
	t.Helper()
	for files := tar.NewReader(zooFile(t, "expected.tar.zst")); ; {
		h, err := files.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(h.Name, "/secrets.json") {
			continue
		}
		var list corev1.SecretList
		if err := json.NewDecoder(files).Decode(&list); err != nil {
			t.Fatal(err)
		}
		return list.Items
	}
}

// guarded are claims and pods that hang on n volumes and n nodes, in key
// order, with a ConfigMap after each tenth.
func guarded(t *testing.T, n int) (src *cluster, objects []filter.Object) {
	t.Helper()
	src = &cluster{objects: map[string][]byte{}}
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	add := func(key string, o message) {
		kv := &mvccpb.KeyValue{Key: []byte(prefix + key), Value: encoded(t, o), ModRevision: 1}
		objects = append(objects, filter.NewObject(t.Context(), reader, kv))
	}
	for i := range n {
		name := fmt.Sprintf("%06d", (i*7919)%n)
		src.objects["persistentvolumes/"+name] = encoded(t, volumeWith([]corev1.PersistentVolumeReclaimPolicy{"Delete", "Retain"}[i%2]))
		add(fmt.Sprintf("persistentvolumeclaims/a/%06d", i), claimOf(name))
		if i%10 == 0 {
			add(fmt.Sprintf("configmaps/a/%06d", i), &corev1.ConfigMap{TypeMeta: typed("ConfigMap"), ObjectMeta: named()})
		}
	}
	for i := range n {
		name := fmt.Sprintf("w-%06d", i)
		src.objects["minions/"+name] = encoded(t, nodeWith(corev1.ConditionUnknown, "node.kubernetes.io/out-of-service")) // of every second
		if i%2 == 0 {
			src.objects["minions/"+name] = encoded(t, nodeWith(corev1.ConditionTrue))
		}
		add(fmt.Sprintf("pods/a/%06d", i), podOf(name, "Running", "StatefulSet"))
	}
	return src, objects
}

// checkAll checks the objects together, and returns what is said of each.
func checkAll(ctx context.Context, src filter.GuardSource, objects []filter.Object) (said []string, err error) {
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	guards := filter.NewGuard(reader, src, filter.Overrides{}).Guarding(func(_ context.Context, o filter.Object, v *filter.Verdict) error {
		said = append(said, fmt.Sprint(string(o.KV.Key), " ", v))
		return nil
	})
	for _, o := range objects {
		if err := guards.Add(ctx, o); err != nil {
			return said, err
		}
	}
	return said, guards.Flush(ctx)
}

// TestLookingUpTogetherSaysTheSame, in the same order, with few requests of
// bounded size.
func TestLookingUpTogetherSaysTheSame(t *testing.T) {
	t.Parallel()
	const n = 1000
	src, objects := guarded(t, n)
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	alone := filter.NewGuard(reader, src, filter.Overrides{})
	var want []string
	for _, o := range objects {
		v, err := alone.Check(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprint(string(o.KV.Key), " ", v))
	}
	if src.single != 2*n || src.many != 0 {
		t.Errorf("alone: %d single reads, %d of many; want %d and none", src.single, src.many, 2*n)
	}
	src.single = 0
	got, err := checkAll(t.Context(), src, objects)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-alone +together):\n%s", err, diff)
	}
	if src.single > 2*8*2 || src.many > 2*n/32+10 || src.most > 32 {
		t.Errorf("together: %d single reads, %d of many, the largest for %d keys", src.single, src.many, src.most)
	}
}

// TestGuardRemembersWithinBounds: each Node is read once, however many pods are
// on it, and of very many not all are remembered.
func TestGuardRemembersWithinBounds(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	src := &cluster{}
	guard := filter.NewGuard(reader, src, filter.Overrides{})
	check := func(node string) {
		o := filter.NewObject(t.Context(), reader, &mvccpb.KeyValue{Key: []byte(prefix + "pods/a/p"), Value: encoded(t, podOf(node, "Running", "StatefulSet"))})
		if v, err := guard.Check(t.Context(), o); err != nil || v == nil || v.Blocks {
			t.Fatalf("on a node that is gone: %v, %v", v, err)
		}
	}
	for range 3 {
		check("w-1")
	}
	if src.single != 1 {
		t.Errorf("one Node was read %d times", src.single)
	}
	const many = 3 * 4096
	for i := range many {
		check(fmt.Sprint("n-", i))
		check("w-1") // asked for all the time, and so never forgotten
	}
	if src.single != 1+many {
		t.Errorf("%d reads of %d nodes", src.single, 1+many)
	}
	src.single = 0
	for i := range many {
		check(fmt.Sprint("n-", i))
	}
	if least := many - 2*4096; src.single < least {
		t.Errorf("%d of %d nodes were forgotten, want at least %d", src.single, many, least)
	}
}

// TestGuardOfThePresentRemembersNothing: a Node that is put out of service, or
// comes back, is seen at once.
func TestGuardOfThePresentRemembersNothing(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	fenced, running := encoded(t, nodeWith(corev1.ConditionFalse, "node.kubernetes.io/out-of-service")), encoded(t, nodeWith(corev1.ConditionTrue))
	pod := filter.NewObject(t.Context(), reader, &mvccpb.KeyValue{Key: []byte(prefix + "pods/a/p"), Value: encoded(t, podOf("w", "Running", "StatefulSet"))})
	for _, current := range []bool{true, false} {
		src := &cluster{current: current, objects: map[string][]byte{"minions/w": fenced}}
		guard := filter.NewGuard(reader, src, filter.Overrides{})
		if v, err := guard.Check(t.Context(), pod); v != nil || err != nil {
			t.Errorf("out of service: %v, %v", v, err)
		}
		src.objects["minions/w"] = running
		v, err := guard.Check(t.Context(), pod)
		if blocks := v != nil && v.Blocks; blocks != current || err != nil {
			t.Errorf("back, current %v: %v, %v", current, v, err)
		}
	}
	src, objects := guarded(t, 100)
	src.current = true
	if _, err := checkAll(t.Context(), src, objects); err != nil || src.many != 0 || src.single != 200 {
		t.Errorf("%d single reads, %d of many, %v; want one for each", src.single, src.many, err)
	}
}

// TestGuardThatCannotLookUp: neither blocked nor let pass.
func TestGuardThatCannotLookUp(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	lost := errors.New("connection lost")
	src, objects := guarded(t, 20)
	src.lost = lost
	if said, err := checkAll(t.Context(), src, objects); !errors.Is(err, lost) || len(said) != 0 {
		t.Errorf("together: %d checked, %v; want the error", len(said), err)
	}
	config := &corev1.ConfigMap{TypeMeta: typed("ConfigMap"), ObjectMeta: named()}
	for key, o := range map[string]message{
		"persistentvolumeclaims/a/x": claimOf("v"), "pods/a/x": podOf("w", "Running", "StatefulSet"),
		"apiextensions.k8s.io/customresourcedefinitions/jobs.example.com": config,
	} {
		kv := &mvccpb.KeyValue{Key: []byte(prefix + key), Value: encoded(t, o)}
		// Overrides or not: nothing is known of the object.
		for _, allowed := range []filter.Overrides{{}, every()} {
			v, err := filter.NewGuard(reader, src, allowed).Check(t.Context(), filter.NewObject(t.Context(), reader, kv))
			if v != nil || !errors.Is(err, lost) {
				t.Errorf("%s: %v, %v; want the error", key, v, err)
			}
		}
	}
}

// TestGuardAsksForNoImpossibleName: what no object can be named, none is.
func TestGuardAsksForNoImpossibleName(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	for _, name := range []string{strings.Repeat("v", 254), "a/b", "..", "a%2fb"} {
		for key, o := range map[string]message{"persistentvolumeclaims/a/x": claimOf(name), "pods/a/x": podOf(name, "Running", "StatefulSet")} {
			src := &cluster{}
			kv := &mvccpb.KeyValue{Key: []byte(prefix + key), Value: encoded(t, o)}
			if said, err := checkAll(t.Context(), src, []filter.Object{filter.NewObject(t.Context(), reader, kv)}); err != nil || len(said) != 1 {
				t.Errorf("%s of %.20q: %v, %v", key, name, said, err)
			}
			if src.single+src.many != 0 {
				t.Errorf("%s of %.20q: asked %d times", key, name, src.single+src.many)
			}
		}
	}
}

// TestGuardIsSafeForConcurrentUse.
func TestGuardIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	src, objects := guarded(t, 50)
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	guard := filter.NewGuard(reader, src, filter.Overrides{})
	blocked := make([]int, 4)
	var all sync.WaitGroup
	for i := range blocked {
		all.Go(func() {
			for _, o := range objects {
				if v, err := guard.Check(t.Context(), o); err != nil {
					t.Error(err)
				} else if v != nil && v.Blocks {
					blocked[i]++
				}
			}
		})
	}
	all.Wait()
	if diff := cmp.Diff([]int{50, 50, 50, 50}, blocked); diff != "" {
		t.Errorf("blocked (-want +got):\n%s", diff)
	}
}
