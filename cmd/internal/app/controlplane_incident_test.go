//go:build controlplane

package app

import (
	"strconv"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

const (
	incidentNamespace = "ops-tools"
	incidentJob       = "error-ret"
	incidentPods      = 20_000
)

// fastManager lets kube-controller-manager make thousands of pods a second, if the machine can.
func fastManager() lab.ControlPlaneOptions {
	return lab.ControlPlaneOptions{LeaderElect: true, ManagerArgs: []string{"--kube-api-qps=2000", "--kube-api-burst=4000"}}
}

// incident makes a Job on a dead node, and waits until it has so many pods. It wants more.
func (k *kubernetes) incident(parallelism, pods int) {
	k.Helper()
	k.namespace(incidentNamespace)
	k.node()
	k.job(incidentNamespace, incidentJob, int32(parallelism))
	k.eventually("the Job has its pods", func() bool { return k.incidentPods() >= int64(pods) })
}

func (k *kubernetes) incidentPods() int64 {
	k.Helper()
	return k.count("/registry/pods/" + incidentNamespace + "/" + incidentJob + "-")
}

// TestControlPlaneIncident: a Job makes pods on a dead node without end, and one command ends it while both servers run:
// the Job's controller makes pods while it deletes, and with the garbage collector changes those that are to go. Nothing
// comes back, and controllers go on working for other objects.
func TestControlPlaneIncident(t *testing.T) {
	k := startKubernetes(t, sandbox.Options{}, fastManager())
	k.incident(incidentPods*3/2, incidentPods)
	r := k.rescue(t.TempDir(), exitDone, "delete", "pods", "-n", incidentNamespace, "--owner", "job/"+incidentJob, "--with-owners",
		"--execute", "--yes", "--max-deletes", strconv.Itoa(incidentPods*3))
	t.Log(strings.TrimSpace(r.out))
	changed := k.changedPods(find(t, r.out, `^archive: (.*)$`))
	t.Logf("%d of the deleted pods were not as they were made", changed)
	if changed == 0 {
		t.Error("no pod was changed by a controller before it was deleted: this test shows less than it is to show")
	}
	k.deployment(incidentNamespace, "web", 3)
	k.calm()
	if left := k.incidentPods(); left != 0 {
		t.Errorf("%d pods came back", left)
	}
	if jobs := k.count("/registry/jobs/" + incidentNamespace + "/"); jobs != 0 {
		t.Errorf("%d Jobs came back", jobs)
	}
	if web := k.count("/registry/pods/" + incidentNamespace + "/"); web != 3 {
		t.Errorf("%d pods are in the namespace, want the 3 of the Deployment", web)
	}
}

// calm returns when the Job's controller has had its say: a Job that is made now gets its pods.
func (k *kubernetes) calm() {
	k.Helper()
	const name = "next"
	k.namespace(name)
	k.job(name, name, 5)
	k.eventually("another Job has its pods", func() bool { return k.count("/registry/pods/"+name+"/") == 5 })
}

// changedPods counts the pods in an archive that somebody has written to since they were made.
func (k *kubernetes) changedPods(archive string) int {
	k.Helper()
	f, err := snapshots.Open(archive, snapshots.Options{})
	if err != nil {
		k.Fatal(err)
	}
	defer f.Close()
	n := 0
	err = f.Entries(k.Context(), func(_ snapshots.Position, kv *mvccpb.KeyValue) error {
		if strings.HasPrefix(string(kv.Key), "/registry/pods/") && kv.Version > 1 {
			n++
		}
		return nil
	})
	if err != nil {
		k.Fatal(err)
	}
	return n
}
