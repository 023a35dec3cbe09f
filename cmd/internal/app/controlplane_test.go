//go:build controlplane

package app

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	restclient "k8s.io/client-go/rest"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// The tests with this build tag run the command beside a real kube-apiserver and kube-controller-manager, which are
// built on first use:
//
//	go test -tags controlplane -run ControlPlane ./cmd/internal/app

// kubernetes is a store with a real control plane on it.
type kubernetes struct {
	testing.TB
	*store
	plane             *lab.ControlPlane
	core, batch, apps *restclient.RESTClient
}

// startKubernetes starts both; they end with the test.
func startKubernetes(t testing.TB, box sandbox.Options, opt lab.ControlPlaneOptions) *kubernetes {
	t.Helper()
	ctx := context.Background()
	box.NoFsync = true
	s, err := startStore(ctx, box)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	opt.Endpoints = s.Endpoints()
	plane, err := lab.StartControlPlane(ctx, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plane.Close() })
	return &kubernetes{
		TB: t, store: s, plane: plane,
		core:  restClient(t, plane, "/api", corev1.SchemeGroupVersion),
		batch: restClient(t, plane, "/apis", batchv1.SchemeGroupVersion),
		apps:  restClient(t, plane, "/apis", appsv1.SchemeGroupVersion),
	}
}

func restClient(t testing.TB, plane *lab.ControlPlane, path string, gv schema.GroupVersion) *restclient.RESTClient {
	t.Helper()
	config := plane.Config()
	config.APIPath, config.GroupVersion = path, &gv
	config.ContentType = runtime.ContentTypeProtobuf
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	client, err := restclient.RESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// create makes an object by the API; namespace may be empty.
func (k *kubernetes) create(c *restclient.RESTClient, namespace, resource string, object runtime.Object) {
	k.Helper()
	if err := c.Post().NamespaceIfScoped(namespace, namespace != "").Resource(resource).Body(object).Do(k.Context()).Error(); err != nil {
		k.Fatalf("create one of %s: %v", resource, err)
	}
}

// namespace makes a Namespace.
func (k *kubernetes) namespace(name string) {
	k.Helper()
	k.create(k.core, "", "namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

// deadNode is a Node that no kubelet answers for: what is bound to it stays Pending, and once it is to be deleted stays
// Terminating.
const deadNode = "dead-node"

func (k *kubernetes) node() {
	k.Helper()
	k.create(k.core, "", "nodes", &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: deadNode},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}}},
	})
}

func podTemplate(app, node string, restart corev1.RestartPolicy) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			NodeName: node, RestartPolicy: restart,
			Containers: []corev1.Container{{Name: "main", Image: "registry.example/main:1"}},
		},
	}
}

// job makes a Job whose pods are bound to the dead node.
func (k *kubernetes) job(namespace, name string, pods int32) {
	k.Helper()
	failures := int32(1 << 30)
	k.create(k.batch, namespace, "jobs", &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec:       batchv1.JobSpec{Parallelism: &pods, BackoffLimit: &failures, Template: podTemplate(name, deadNode, corev1.RestartPolicyNever)},
	})
}

func (k *kubernetes) jobStatus(namespace, name string) batchv1.JobStatus {
	k.Helper()
	var job batchv1.Job
	if err := k.batch.Get().Namespace(namespace).Resource("jobs").Name(name).Do(k.Context()).Into(&job); err != nil {
		k.Fatal(err)
	}
	return job.Status
}

// deployment makes a Deployment and waits until controllers have made its pods.
func (k *kubernetes) deployment(namespace, name string, pods int32) {
	k.Helper()
	labels := map[string]string{"app": name}
	k.create(k.apps, namespace, "deployments", &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: appsv1.DeploymentSpec{
			Replicas: &pods, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: podTemplate(name, "", corev1.RestartPolicyAlways),
		},
	})
	k.eventually(fmt.Sprintf("Deployment %s has %d pods", name, pods), func() bool {
		return k.count("/registry/pods/"+namespace+"/"+name+"-") == int64(pods)
	})
	if sets := k.count("/registry/replicasets/" + namespace + "/" + name + "-"); sets != 1 {
		k.Errorf("Deployment %s has %d ReplicaSets", name, sets)
	}
}

// listPods asks the apiserver for the pods that are there now.
func (k *kubernetes) listPods(namespace string) []corev1.Pod {
	k.Helper()
	var list corev1.PodList
	if err := k.core.Get().NamespaceIfScoped(namespace, namespace != "").Resource("pods").Do(k.Context()).Into(&list); err != nil {
		k.Fatal(err)
	}
	return list.Items
}

// rescue runs the command to its end, with an hour's patience, and asserts the exit code.
func (k *kubernetes) rescue(dir string, code int, args ...string) result {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), time.Hour)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "etcd-rescue", args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, k.environment(dir), &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		k.Fatal(err)
	}
	r := result{code: cmd.ProcessState.ExitCode(), out: out.String(), errOut: errs.String()}
	if r.code != code {
		k.Fatalf("etcd-rescue %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.errOut)
	}
	return r
}

func (k *kubernetes) environment(dir string) []string {
	return []string{"HOME=" + dir, "ETCDCTL_ENDPOINTS=" + k.url(), rootVariable + "=" + dir + "/node", raceVariable + "=" + raceOptions}
}

// count asks etcd how many keys a prefix has.
func (k *kubernetes) count(prefix string) int64 {
	k.Helper()
	resp, err := k.client.Get(k.Context(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		k.Fatal(err)
	}
	return resp.Count
}

// eventually looks until something is so; nothing is measured by its limit.
func (k *kubernetes) eventually(what string, so func() bool) {
	k.Helper()
	if !k.within(5*time.Minute, so) {
		k.Fatalf("it never came that %s", what)
	}
}

func (k *kubernetes) within(limit time.Duration, so func() bool) bool {
	k.Helper()
	tick, end := time.NewTicker(100*time.Millisecond), time.NewTimer(limit)
	defer tick.Stop()
	defer end.Stop()
	for !so() {
		select {
		case <-end.C:
			return false
		case <-tick.C:
		}
	}
	return true
}
