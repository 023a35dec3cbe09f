//go:build controlplane

package app

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/tools/cache"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

const (
	ghostPods  = 20_000
	ghostOwned = 300 // besides, of a Job
	reflectors = 8

	ghostNamespace = "flood"
	// The Job's pods come last in key order: of the events of one revision those are lost that come last.
	ghostJob = "terminating"
)

// TestControlPlaneNoGhosts: one changed key per etcd revision, so nothing that watches misses a change. Reflectors on a
// real apiserver believe in exactly the pods that are there, and so does the controller that counts a Job's pods, after
// a delete at full speed, an undo and a delete again. The same pods deleted by one range leave ghosts in all of them.
func TestControlPlaneNoGhosts(t *testing.T) {
	k := startKubernetes(t, sandbox.Options{}, lab.ControlPlaneOptions{})
	k.namespace(ghostNamespace)
	k.node()
	k.terminating(ghostOwned)
	k.flood(ghostPods)
	g := k.watchers()
	g.check("before", ghostPods+ghostOwned)

	for _, when := range []string{"first", "second"} {
		dir := t.TempDir()
		r := k.rescue(dir, exitDone, "delete", "pods", "-n", ghostNamespace, "--execute", "--yes", "--max-deletes", "30000", "--rate", "max", "--settle", "0")
		g.check("after the "+when+" delete", 0)
		k.rescue(dir, exitDone, "undo", find(t, r.out, `^archive: (.*)$`), "--execute", "--yes", "--rate", "max", "--unsafe-live-controllers", strconv.Itoa(ghostOwned))
		g.check("after the "+when+" undo", ghostPods+ghostOwned)
	}

	if _, err := k.client.Delete(t.Context(), "/registry/pods/"+ghostNamespace+"/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	g.caughtUp("after a range delete")
	ghosts := g.ghosts()
	t.Logf("after a range delete the reflectors believe in %v pods that are gone", ghosts)
	if slices.Max(ghosts) == 0 {
		t.Error("a range delete left no ghosts: this test could not have failed")
	}
	t.Logf("after a range delete the Job counts %d", k.terminatingCount())
}

// terminating makes a Job that counts n pods as terminating and makes no new ones: it made them, and wants none since.
func (k *kubernetes) terminating(n int32) {
	k.Helper()
	k.job(ghostNamespace, ghostJob, n)
	k.eventually("the Job has its pods", func() bool { return k.jobStatus(ghostNamespace, ghostJob).Active == n })
	patch := []byte(`{"spec":{"parallelism":0}}`)
	if err := k.batch.Patch(types.MergePatchType).Namespace(ghostNamespace).Resource("jobs").Name(ghostJob).Body(patch).Do(k.Context()).Error(); err != nil {
		k.Fatal(err)
	}
	k.eventually("all its pods are terminating and without finalizers", func() bool {
		pods := k.listPods(ghostNamespace)
		for i := range pods {
			if pods[i].DeletionTimestamp == nil || len(pods[i].Finalizers) > 0 {
				return false
			}
		}
		return len(pods) == int(n) && k.terminatingCount() == n
	})
}

func (k *kubernetes) terminatingCount() int32 {
	k.Helper()
	status := k.jobStatus(ghostNamespace, ghostJob)
	if status.Terminating == nil {
		return 0
	}
	return *status.Terminating
}

// flood writes n ownerless pods into etcd, copies of one that the apiserver made, each at a revision of its own.
func (k *kubernetes) flood(n int) {
	k.Helper()
	template := podTemplate("flood", "", corev1.RestartPolicyNever)
	k.create(k.core, ghostNamespace, "pods", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "flood-00000", Namespace: ghostNamespace, Labels: template.Labels}, Spec: template.Spec})
	prefix := "/registry/pods/" + ghostNamespace + "/"
	resp, err := k.client.Get(k.Context(), prefix+"flood-00000")
	if err != nil || len(resp.Kvs) != 1 {
		k.Fatalf("%d pods: %v", len(resp.Kvs), err)
	}
	var work sync.WaitGroup
	const writers = 32
	for w := range writers {
		work.Go(func() {
			pod := newCopier(k, resp.Kvs[0].Value)
			for i := w + 1; i < n; i += writers {
				name := fmt.Sprintf("flood-%05d", i)
				if _, err := k.client.Put(k.Context(), prefix+name, pod.named(name)); err != nil {
					k.Errorf("put: %v", err)
					return
				}
			}
		})
	}
	work.Wait()
}

// copier makes pods like another, as kube-apiserver stores them.
type copier struct {
	testing.TB
	pod corev1.Pod
}

const storedProtobuf = "k8s\x00"

func newCopier(t testing.TB, value []byte) *copier {
	c := &copier{TB: t}
	var u runtime.Unknown
	raw, ok := strings.CutPrefix(string(value), storedProtobuf)
	if err := u.Unmarshal([]byte(raw)); err != nil || !ok {
		t.Errorf("a stored pod begins otherwise: %v", err)
	}
	if err := c.pod.Unmarshal(u.Raw); err != nil {
		t.Error(err)
	}
	return c
}

func (c *copier) named(name string) string {
	c.pod.Name, c.pod.UID = name, uuid.NewUUID()
	raw, err := c.pod.Marshal()
	if err != nil {
		c.Error(err)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Raw: raw}
	value, err := u.Marshal()
	if err != nil {
		c.Error(err)
	}
	return storedProtobuf + string(value)
}

// watchers are reflectors over all pods of the cluster.
type watchers struct {
	*kubernetes
	stores  []cache.Store
	markers int
}

func (k *kubernetes) watchers() *watchers {
	k.Helper()
	g := &watchers{kubernetes: k}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	k.Cleanup(running.Wait)
	k.Cleanup(cancel)
	for range reflectors {
		store := cache.NewStore(cache.MetaNamespaceKeyFunc)
		source := cache.NewListWatchFromClient(k.core, "pods", metav1.NamespaceAll, fields.Everything())
		g.stores = append(g.stores, store)
		r := cache.NewReflector(source, &corev1.Pod{}, store, 0)
		running.Go(func() { r.RunWithContext(ctx) })
	}
	return g
}

// caughtUp returns when every reflector has seen a pod that is made now: whatever happened before it has been told of,
// or never will be.
func (g *watchers) caughtUp(when string) {
	g.Helper()
	g.markers++
	name := fmt.Sprintf("marker-%d", g.markers)
	g.create(g.core, metav1.NamespaceDefault, "pods", &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Spec:       podTemplate("marker", "", corev1.RestartPolicyNever).Spec,
	})
	g.eventually(when+" every reflector sees "+name, func() bool {
		for _, s := range g.stores {
			if _, ok, err := s.GetByKey(metav1.NamespaceDefault + "/" + name); !ok || err != nil {
				return false
			}
		}
		return true
	})
}

// check compares every reflector, and the Job's count, with what is there: want pods, and the markers.
func (g *watchers) check(when string, want int) {
	g.Helper()
	g.caughtUp(when)
	if there := len(g.listPods(ghostNamespace)); there != want {
		g.Fatalf("%s %d pods are there, want %d", when, there, want)
	}
	// Controllers may touch a pod after the marker.
	var differs string
	if !g.within(30*time.Second, func() bool { differs = g.differs(); return differs == "" }) {
		g.Errorf("%s: %s", when, differs)
	}
	owned := int32(min(want, ghostOwned))
	if !g.within(30*time.Second, func() bool { return g.terminatingCount() == owned }) {
		g.Errorf("%s the Job counts %d terminating pods, %d are there", when, g.terminatingCount(), owned)
	}
}

// identity of a pod: nothing that watches may have an older one.
type podIdentity struct{ uid, version string }

func (g *watchers) there() map[string]podIdentity {
	g.Helper()
	there := map[string]podIdentity{}
	for _, p := range g.listPods(metav1.NamespaceAll) {
		there[p.Namespace+"/"+p.Name] = podIdentity{string(p.UID), p.ResourceVersion}
	}
	return there
}

// differs says where a reflector differs from a fresh list, "" if nowhere.
func (g *watchers) differs() string {
	g.Helper()
	there := g.there()
	for i, s := range g.stores {
		keys := s.ListKeys()
		if len(keys) != len(there) {
			return fmt.Sprintf("reflector %d believes in %d pods, %d are there", i, len(keys), len(there))
		}
		for _, object := range s.List() {
			p := object.(*corev1.Pod)
			key := p.Namespace + "/" + p.Name
			if got := (podIdentity{string(p.UID), p.ResourceVersion}); got != there[key] {
				return fmt.Sprintf("reflector %d holds %s as %v, it is %v", i, key, got, there[key])
			}
		}
	}
	return ""
}

// ghosts counts, for each reflector, the pods that it believes in and that are gone.
func (g *watchers) ghosts() []int {
	g.Helper()
	there := g.there()
	counts := make([]int, len(g.stores))
	for i, s := range g.stores {
		for _, key := range s.ListKeys() {
			if _, ok := there[key]; !ok {
				counts[i]++
			}
		}
	}
	return counts
}
