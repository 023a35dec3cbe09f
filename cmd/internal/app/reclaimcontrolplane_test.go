//go:build controlplane

package app

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// A pod and its traces take 2 KiB of etcd: 64 MiB are full at 32,000 pods.
var reclaimMiB = flag.Int("reclaim.mib", 16, "the quota, in MiB, that the TestControlPlaneReclaim tests fill with pods; 64 takes three minutes each")

func reclaimQuota() int64 { return int64(*reclaimMiB) << 20 }

// reclaimPods are more than fit.
func reclaimPods() int { return int(reclaimQuota() / 1024) }

// startOnQuota starts both servers. A kube-controller-manager that elects a leader ends itself when it cannot renew its
// Lease, and nobody is here to start it again.
func startOnQuota(t *testing.T) *kubernetes {
	t.Helper()
	opt := fastManager()
	opt.LeaderElect = false
	return startKubernetes(t, sandbox.Options{QuotaBytes: reclaimQuota()}, opt)
}

// fullOf fills a real cluster's etcd with the pods of one Job, until a write of kube-apiserver is refused for want of
// space. It returns how many pods there are.
func (k *kubernetes) fullOf() int64 {
	k.Helper()
	k.namespace(incidentNamespace)
	k.node()
	k.job(incidentNamespace, incidentJob, int32(reclaimPods()))
	k.eventually("etcd takes no more", func() bool {
		status, err := k.client.Status(k.Context(), k.url())
		return err == nil && strings.Contains(strings.Join(status.Errors, " "), "NOSPACE")
	})
	if k.write("refused") == nil {
		k.Fatal("kube-apiserver writes under NOSPACE")
	}
	return k.incidentPods()
}

// write makes a ConfigMap by the API.
func (k *kubernetes) write(name string) error {
	return k.core.Post().Namespace("default").Resource("configmaps").
		Body(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}).Do(k.Context()).Error()
}

func reclaimArgs() []string {
	return []string{"reclaim", "pods", "-n", incidentNamespace, "--owner", "job/" + incidentJob, "--with-owners",
		"--execute", "--yes", "--settle", "3s", "--max-deletes", strconv.Itoa(2 * reclaimPods())}
}

// TestControlPlaneReclaim: a Job's pods have filled etcd, and kube-apiserver takes no writes; one command ends it while
// both servers run.
func TestControlPlaneReclaim(t *testing.T) {
	k := startOnQuota(t)
	t.Logf("NOSPACE with %d pods", k.fullOf())
	r := k.rescue(t.TempDir(), exitDone, reclaimArgs()...)
	t.Log(r.errOut + r.out)
	k.reclaimed()
}

// TestControlPlaneReclaimKilled is the same, with the command killed in each of its steps and run again.
func TestControlPlaneReclaimKilled(t *testing.T) {
	k := startOnQuota(t)
	t.Logf("NOSPACE with %d pods", k.fullOf())
	sh := newShell(t, k.store)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, at := range []struct {
		text   string
		moment <-chan struct{}
	}{
		{"step 1 of 5: delete", k.deletes(t, reclaimPods()/12)},
		{"step 2 of 5: compact", nil},
		{"it answers nothing for about", nil},
		{"step 4 of 5", nil},
		{"step 5 of 5: prove", nil},
	} {
		c := exec.CommandContext(ctx, "etcd-rescue", reclaimArgs()...)
		c.Dir, c.Env, c.Stdout = sh.dir, k.environment(sh.dir), &bytes.Buffer{}
		sh.killAt(c, at.text, at.moment)
	}
	r := k.rescue(sh.dir, exitDone, reclaimArgs()...)
	t.Log(r.errOut + r.out)
	k.reclaimed()
}

// reclaimed: the API takes writes at once, controllers work, and nothing comes back.
func (k *kubernetes) reclaimed() {
	k.Helper()
	if err := k.write("accepted"); err != nil {
		k.Errorf("kube-apiserver does not write: %v", err)
	}
	if _, err := k.client.Put(k.Context(), "/etcd-rescue-test", "x"); errors.Is(err, rpctypes.ErrNoSpace) {
		k.Errorf("a put: %v", err)
	}
	k.calm()
	if left := k.incidentPods(); left != 0 {
		k.Errorf("%d pods came back", left)
	}
	for _, pod := range k.listPods(incidentNamespace) {
		k.Errorf("kube-apiserver still shows pod %s", pod.Name)
		break
	}
	status, err := k.client.Status(k.Context(), k.url())
	if err != nil || len(status.Errors) > 0 || status.DbSize > reclaimQuota()/2 {
		k.Errorf("%d bytes, %v, %v", status.DbSize, status.Errors, err)
	}
}
