//go:build controlplane

package app

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/etcd-rescue/etcd-rescue/snapshots/restore"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

const (
	restoredPods = 200 // that the snapshot holds
	deletedPods  = 50  // of them, after it
	laterPods    = 150 // that were made after it
)

// TestControlPlaneRestore: what watched a real apiserver through a restore, and was not restarted itself, believes in
// exactly the pods that are there; and without --bump-revision and --mark-compacted it believes in pods that are gone,
// and does not know of some that are there.
func TestControlPlaneRestore(t *testing.T) {
	t.Run("as told", func(t *testing.T) {
		g, _ := restoredUnder(t)
		g.caughtUp("after the restore")
		if there := len(g.listPods(ghostNamespace)); there != restoredPods {
			t.Errorf("%d pods are there, want %d", there, restoredPods)
		}
		if differs := g.differs(); differs != "" {
			t.Error(differs)
		}
		if rev := g.revision(); rev <= restore.DefaultBump {
			t.Errorf("the revision is %d", rev)
		}
	})
	t.Run("without", func(t *testing.T) {
		g, before := restoredUnder(t, "--bump-revision", "0", "--mark-compacted=false")
		// Events at revisions that a watcher has already been at are not for it, so the markers must get beyond these.
		for n := 0; g.revision() <= before; n++ {
			g.pod(metav1.NamespaceDefault, fmt.Sprintf("between-%d", n))
		}
		g.caughtUp("after the revision has come back to where it was")
		ghosts, missing := g.ghosts(), g.missing()
		t.Logf("of %d pods the reflectors miss %v, and believe in %v that are gone", len(g.there()), missing, ghosts)
		if slices.Max(ghosts) == 0 || slices.Max(missing) == 0 {
			t.Error("nothing is wrong without the flags: then nobody would need them")
		}
	})
}

// restoredUnder lets reflectors watch, takes a snapshot, changes what is there, and restores as the steps say that the
// command prints. It returns the revision of before the restore.
func restoredUnder(t *testing.T, flags ...string) (*watchers, int64) {
	k := startKubernetes(t, sandbox.Options{}, lab.ControlPlaneOptions{NoManager: true})
	k.namespace(ghostNamespace)
	k.flood(restoredPods)
	g := k.watchers()
	g.caughtUp("before the snapshot")
	dir := t.TempDir()
	file := filepath.Join(dir, "snapshot.db")
	if err := k.save(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	for i := range deletedPods {
		k.deletePod(ghostNamespace, fmt.Sprintf("flood-%05d", i))
	}
	for i := range laterPods {
		k.pod(ghostNamespace, fmt.Sprintf("later-%05d", i))
	}
	g.caughtUp("after the snapshot")
	if differs := g.differs(); differs != "" {
		t.Fatal(differs)
	}
	before := k.revision()
	k.restore(dir, file, flags)
	return g, before
}

// restore does what the command says: API servers first, then etcd; restore; etcd, and then API servers.
func (k *kubernetes) restore(dir, file string, flags []string) {
	k.Helper()
	members, err := k.client.MemberList(k.Context())
	if err != nil {
		k.Fatal(err)
	}
	var system corev1.Namespace
	if err := k.core.Get().Resource("namespaces").Name(metav1.NamespaceSystem).Do(k.Context()).Into(&system); err != nil {
		k.Fatal(err)
	}
	if err := k.plane.StopServer(); err != nil {
		k.Fatal(err)
	}
	if err := k.Kill(); err != nil {
		k.Fatal(err)
	}
	data, m := filepath.Join(k.Dir(), "data"), members.Members[0]
	if err := os.Rename(data, data+".before"); err != nil {
		k.Fatal(err)
	}
	args := append([]string{"snapshot", "restore", file, "--data-dir", data,
		"--name", m.Name, "--initial-cluster", m.Name + "=" + m.PeerURLs[0], "--initial-cluster-token", "etcd-rescue-sandbox"}, flags...)
	if len(flags) > 0 {
		k.rescue(dir, exitRefused, args...)
		args = append(args, "--unsafe-no-bump="+string(system.UID))
	}
	k.rescue(dir, exitDone, args...)
	if err := k.Restart(k.Context()); err != nil {
		k.Fatal(err)
	}
	if err := k.plane.StartServer(k.Context()); err != nil {
		k.Fatal(err)
	}
}

func (k *kubernetes) revision() int64 {
	k.Helper()
	resp, err := k.client.Get(k.Context(), "/")
	if err != nil {
		k.Fatal(err)
	}
	return resp.Header.Revision
}

func (k *kubernetes) pod(namespace, name string) {
	k.Helper()
	k.create(k.core, namespace, "pods", &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: podTemplate("later", "", corev1.RestartPolicyNever).Spec,
	})
}

func (k *kubernetes) deletePod(namespace, name string) {
	k.Helper()
	now := int64(0)
	if err := k.core.Delete().Namespace(namespace).Resource("pods").Name(name).Body(&metav1.DeleteOptions{GracePeriodSeconds: &now}).Do(k.Context()).Error(); err != nil {
		k.Fatal(err)
	}
}

// missing counts, for each reflector, the pods that are there and that it does not know of.
func (g *watchers) missing() []int {
	g.Helper()
	there := g.there()
	counts := make([]int, len(g.stores))
	for i, s := range g.stores {
		for key := range there {
			if _, ok, err := s.GetByKey(key); !ok || err != nil {
				counts[i]++
			}
		}
	}
	return counts
}
