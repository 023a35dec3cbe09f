package filter_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// cluster is a store in memory, by key below the prefix. It counts what is
// asked of it.
type cluster struct {
	objects map[string][]byte
	current bool  // it is not pinned
	lost    error // of every look-up

	mu                   sync.Mutex
	single, many, counts int
	most                 int // keys of one request
}

func (c *cluster) Revision() int64 {
	if c.current {
		return 0
	}
	return 7
}

func (c *cluster) Get(_ context.Context, key string) (*mvccpb.KeyValue, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.single++
	return c.at(key), c.lost
}

func (c *cluster) at(key string) *mvccpb.KeyValue {
	value, ok := c.objects[strings.TrimPrefix(key, prefix)]
	if !ok {
		return nil
	}
	return &mvccpb.KeyValue{Key: []byte(key), Value: value, ModRevision: 5, CreateRevision: 5}
}

func (c *cluster) GetAll(_ context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.IsSorted(keys) || len(slices.Compact(slices.Clone(keys))) != len(keys) {
		return nil, errors.New("the keys are not sorted, or not different")
	}
	c.many++
	c.most = max(c.most, len(keys))
	found := map[string]*mvccpb.KeyValue{}
	for _, key := range keys {
		if kv := c.at(key); kv != nil {
			found[key] = kv
		}
	}
	return found, c.lost
}

func (c *cluster) Count(_ context.Context, r keyspace.Range) (n int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts++
	for key := range c.objects {
		if key = prefix + key; key >= r.Start && key < r.End {
			n++
		}
	}
	return n, c.lost
}

// message is an object that can be stored.
type message interface {
	runtime.Object
	Marshal() ([]byte, error)
}

// encoded returns an object as API servers store it.
func encoded(t testing.TB, o message) []byte {
	t.Helper()
	raw, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	gvk := o.GetObjectKind().GroupVersionKind()
	envelope := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind}, Raw: raw}
	b, err := envelope.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte("k8s\x00"), b...)
}

// inJSON returns an object as API servers store it with
// --storage-media-type=application/json.
func inJSON(t testing.TB, o message) []byte {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func typed(kind string) metav1.TypeMeta { return metav1.TypeMeta{APIVersion: "v1", Kind: kind} }

func labelled(key, value string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: "x", UID: "u", Labels: map[string]string{key: value}}
}

func named() metav1.ObjectMeta { return metav1.ObjectMeta{Name: "x", UID: "u"} }

func nodeWith(ready corev1.ConditionStatus, taints ...string) *corev1.Node {
	n := &corev1.Node{TypeMeta: typed("Node"), ObjectMeta: named()}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue}, {Type: corev1.NodeReady, Status: ready}}
	for _, key := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
	}
	return n
}

func volumeWith(policy corev1.PersistentVolumeReclaimPolicy) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{TypeMeta: typed("PersistentVolume"), ObjectMeta: named(), Spec: corev1.PersistentVolumeSpec{PersistentVolumeReclaimPolicy: policy}}
}

func claimOf(volume string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{TypeMeta: typed("PersistentVolumeClaim"), ObjectMeta: named(), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume}}
}

func secretOf(kind corev1.SecretType, meta metav1.ObjectMeta) *corev1.Secret {
	return &corev1.Secret{TypeMeta: typed("Secret"), ObjectMeta: meta, Type: kind, Data: map[string][]byte{"token": []byte("hunter2")}}
}

func serviceOf(kind corev1.ServiceType) *corev1.Service {
	return &corev1.Service{TypeMeta: typed("Service"), ObjectMeta: named(), Spec: corev1.ServiceSpec{Type: kind}}
}

// podOf is a pod on a node with owners given as kinds, the first of which is
// its controller.
func podOf(node string, phase corev1.PodPhase, owners ...string) *corev1.Pod {
	p := &corev1.Pod{TypeMeta: typed("Pod"), ObjectMeta: named(), Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
	for i, kind := range owners {
		controls := i == 0
		p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{APIVersion: "apps/v1", Kind: kind, Name: "o", UID: "o", Controller: &controls})
	}
	return p
}

const (
	deleteText  = "data loss: the volume itself is destroyed once its claim is gone (reclaim policy Delete)"
	recycleText = "data loss: the volume is wiped once its claim is gone (reclaim policy Recycle)"
	unknownText = "data loss cannot be ruled out: the PersistentVolume of the claim is missing, or its reclaim policy cannot be read"
	retainText  = "the volume stays (reclaim policy Retain), but no other claim can have it until its claimRef is removed"
	unboundText = "the claim is bound to no volume; pods that name it cannot start"
	twinText    = "the node of a StatefulSet's pod may still run it: its successor has the same name and volumes, and both may write to them"
	goneText    = "the Node of a StatefulSet's pod is gone; if that machine still runs, so may the pod, next to its successor"
	tokenText   = "whoever uses the token of a service account is locked out when its Secret is gone"
	releaseText = "Helm forgets a release when the Secret of what is deployed is gone"
	historyText = "the Secret is part of a Helm release's history"
	crdText     = "no API reaches the custom resources of a definition that is gone, and they stay behind in etcd"
	unusedText  = "the API of a definition goes with it; it has no custom resources"
)

func stops(kind, reason, detail string) *filter.Verdict {
	return &filter.Verdict{Blocks: true, Reason: reason, Allow: "--unsafe-kind " + kind, Detail: detail}
}

func warns(reason, detail string) *filter.Verdict {
	return &filter.Verdict{Reason: reason, Detail: detail}
}

// surroundings are what the guarded objects below hang on.
func surroundings(t testing.TB) map[string][]byte {
	const fenced = "node.kubernetes.io/out-of-service"
	objects := map[string][]byte{
		"minions/broken":             []byte("k8s\x00\xff"),
		"persistentvolumes/broken":   []byte("k8s\x00\xff"),
		"persistentvolumes/locked":   []byte("k8s:enc:aescbc:v1:key1:xyz"),
		"persistentvolumes/another":  encoded(t, claimOf("x")),
		"persistentvolumes/other":    []byte(`{"apiVersion":"v1","kind":"Other","metadata":{"name":"other"},"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`),
		"persistentvolumes/shape":    []byte(`{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"shape"},"spec":{"persistentVolumeReclaimPolicy":["Retain"]}}`),
		"batch.example.com/jobs/a/x": nil, "batch.example.com/jobs/b/y": nil, "batch.example.com/jobs-2/a/x": nil,
		"example.com/wides/x": nil,
	}
	for name, n := range map[string]*corev1.Node{
		"ready":          nodeWith(corev1.ConditionTrue),
		"silent":         nodeWith(corev1.ConditionUnknown, "node.kubernetes.io/unreachable"),
		"fenced":         nodeWith(corev1.ConditionUnknown, "node.kubernetes.io/unreachable", fenced),
		"fenced-running": nodeWith(corev1.ConditionTrue, fenced),
	} {
		objects["minions/"+name] = encoded(t, n)
		objects["minions/json-"+name] = inJSON(t, n)
	}
	for name, policy := range map[string]corev1.PersistentVolumeReclaimPolicy{
		"deleted": corev1.PersistentVolumeReclaimDelete, "recycled": corev1.PersistentVolumeReclaimRecycle,
		"retained": corev1.PersistentVolumeReclaimRetain, "new-policy": "Shred", "no-policy": "",
	} {
		objects["persistentvolumes/"+name] = encoded(t, volumeWith(policy))
		objects["persistentvolumes/json-"+name] = inJSON(t, volumeWith(policy))
	}
	return objects
}

// guardCase is an object, stored as protobuf and as JSON, and what is said of
// it. With the override that want names, the same is a warning.
type guardCase struct {
	name, key string
	object    message
	want      *filter.Verdict
}

func volumeCases() []guardCase {
	const claims, at = "persistentvolumeclaims", "persistentvolumeclaims/team/x"
	long := strings.Repeat("v", 300)
	cases := []guardCase{
		{"unbound claim", at, claimOf(""), warns(unboundText, "")},
		{"claim of a volume that is gone", at, claimOf("gone"), stops(claims, unknownText, "PersistentVolume gone")},
		{"claim of a broken volume", at, claimOf("broken"), stops(claims, unknownText, "PersistentVolume broken")},
		{"claim of an encrypted volume", at, claimOf("locked"), stops(claims, unknownText, "PersistentVolume locked")},
		{"claim of no volume", at, claimOf("another"), stops(claims, unknownText, "PersistentVolume another")},
		{"claim of another kind", at, claimOf("other"), stops(claims, unknownText, "PersistentVolume other")},
		{"claim of a volume of another shape", at, claimOf("shape"), stops(claims, unknownText, "PersistentVolume shape")},
		{"claim of a path", at, claimOf("../persistentvolumes/retained"), stops(claims, unknownText, "PersistentVolume ../persistentvolumes/retained")},
		{"claim of a long name", at, claimOf(long), stops(claims, unknownText, "PersistentVolume "+long[:253])},
		{"a value that is no claim", at, volumeWith("Retain"), stops(claims, "data loss cannot be ruled out: of the claim, its value cannot be decoded", "")},
		{"volume", "persistentvolumes/x", volumeWith("Retain"), stops("persistentvolumes", "the claim of a PersistentVolume that is gone becomes Lost, and nothing deletes the real volume", "")},
	}
	for _, form := range []string{"", "json-"} {
		cases = append(cases,
			guardCase{form + "Delete", at, claimOf(form + "deleted"), stops(claims, deleteText, "PersistentVolume "+form+"deleted")},
			guardCase{form + "Recycle", at, claimOf(form + "recycled"), stops(claims, recycleText, "PersistentVolume "+form+"recycled")},
			guardCase{form + "Retain", at, claimOf(form + "retained"), warns(retainText, "PersistentVolume "+form+"retained")},
			guardCase{form + "new policy", at, claimOf(form + "new-policy"), stops(claims, unknownText, "PersistentVolume "+form+"new-policy")},
			guardCase{form + "no policy", at, claimOf(form + "no-policy"), stops(claims, unknownText, "PersistentVolume "+form+"no-policy")},
		)
	}
	return cases
}

func podCases() []guardCase {
	const at = "pods/team/x"
	twin := func(node string) *filter.Verdict { return stops("statefulset-pods", twinText, "Node "+node) }
	node := nodeWith(corev1.ConditionTrue)
	return []guardCase{
		{"node", "minions/x", node, stops("nodes", "a Node takes its pods along: about a minute later they are deleted by force, and its kubelet registers it again only when it restarts", "")},
		{"pod without an owner", at, podOf("ready", "Running"), nil},
		{"pod of a ReplicaSet", at, podOf("ready", "Running", "ReplicaSet"), nil},
		{"pod whose controller is no StatefulSet", at, podOf("ready", "Running", "Other", "StatefulSet"), nil},
		{"pod without a node", at, podOf("", "Pending", "StatefulSet"), nil},
		{"on a ready node", at, podOf("ready", "Running", "StatefulSet"), twin("ready")},
		{"not started yet", at, podOf("ready", "Pending", "StatefulSet"), twin("ready")},
		{"of unknown phase", at, podOf("ready", "Unknown", "StatefulSet"), twin("ready")},
		{"finished", at, podOf("ready", "Succeeded", "StatefulSet"), nil},
		{"failed", at, podOf("ready", "Failed", "StatefulSet"), nil},
		{"on a node that is not ready", at, podOf("silent", "Running", "StatefulSet"), twin("silent")},
		{"on a node out of service", at, podOf("fenced", "Running", "StatefulSet"), nil},
		{"on a node out of service that runs", at, podOf("fenced-running", "Running", "StatefulSet"), twin("fenced-running")},
		{"on a node that is gone", at, podOf("gone", "Running", "StatefulSet"), warns(goneText, "")},
		{"on a node that cannot be read", at, podOf("broken", "Running", "StatefulSet"), twin("broken")},
		{"on a node in JSON", at, podOf("json-fenced", "Running", "StatefulSet"), twin("json-fenced")},
	}
}

func otherCases() []guardCase {
	deployed, superseded := labelled("status", "deployed"), labelled("status", "superseded")
	const secrets, services = "secrets/team/x", "services/specs/team/x"
	config := &corev1.ConfigMap{TypeMeta: typed("ConfigMap"), ObjectMeta: deployed}
	return []guardCase{
		{"token", secrets, secretOf("kubernetes.io/service-account-token", named()), stops("serviceaccount-tokens", tokenText, "")},
		{"release", secrets, secretOf("helm.sh/release.v1", deployed), stops("helm-releases", releaseText, "")},
		{"release of old", secrets, secretOf("helm.sh/release.v1", superseded), warns(historyText, "")},
		{"release of no status", secrets, secretOf("helm.sh/release.v1", named()), warns(historyText, "")},
		{"another Secret", secrets, secretOf("Opaque", deployed), nil},
		{"Secret without a type", secrets, secretOf("", named()), nil},
		{"no Secret", secrets, config, warns("a Secret that may be the token of a service account, or a Helm release: its value cannot be decoded", "")},
		{"ConfigMap", "configmaps/team/x", config, nil},
		{"load balancer", services, serviceOf("LoadBalancer"), warns("the load balancer of a Service stays in the cloud unless the controller that made it runs and sees the delete; finalizers are not waited for", "")},
		{"Service", services, serviceOf("ClusterIP"), nil},
		{"no Service", services, config, nil},
		{"definition in use", "apiextensions.k8s.io/customresourcedefinitions/jobs.batch.example.com", config, stops("customresourcedefinitions", crdText, "2 custom resources")},
		{"definition without a namespace", "apiextensions.k8s.io/customresourcedefinitions/wides.example.com", config, stops("customresourcedefinitions", crdText, "1 custom resources")},
		{"definition of nothing", "apiextensions.k8s.io/customresourcedefinitions/batches.example.com", config, warns(unusedText, "")},
		{"definition of no group", "apiextensions.k8s.io/customresourcedefinitions/batch", config, warns(unusedText, "")},
		{"custom resource", "batch.example.com/jobs/a/x", config, nil},
	}
}

// TestGuardOfKinds: each object, in both of its stored forms, with and without
// the override that its verdict names.
func TestGuardOfKinds(t *testing.T) {
	t.Parallel()
	objects := surroundings(t)
	for _, tt := range slices.Concat(volumeCases(), podCases(), otherCases()) {
		for form, value := range map[string][]byte{"protobuf": encoded(t, tt.object), "JSON": inJSON(t, tt.object)} {
			t.Run(tt.name+" in "+form, func(t *testing.T) {
				t.Parallel()
				src := &cluster{objects: objects}
				tt.check(t, src, value)
				if asked := src.single + src.many + src.counts; asked > 4 {
					t.Errorf("asked %d times", asked)
				}
			})
		}
	}
}

func (tt guardCase) check(t *testing.T, src *cluster, value []byte) {
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	key, before := prefix+tt.key, string(value)
	o := filter.NewObject(t.Context(), reader, &mvccpb.KeyValue{Key: []byte(key), Value: value, ModRevision: 9})
	kinds := filter.UnsafeKinds()
	allowed, others := every(), every()
	if tt.want != nil && tt.want.Blocks {
		kind := strings.TrimPrefix(tt.want.Allow, "--unsafe-kind ")
		allowed.Kinds = []string{kind}
		others.Kinds = slices.DeleteFunc(kinds, func(k string) bool { return k == kind })
	}
	overridden := tt.want
	if tt.want != nil {
		overridden = warns(tt.want.Reason, tt.want.Detail)
	}
	for _, want := range []struct {
		overrides filter.Overrides
		verdict   *filter.Verdict
	}{{filter.Overrides{}, tt.want}, {allowed, overridden}, {others, tt.want}} {
		got, err := filter.NewGuard(reader, src, want.overrides).Check(t.Context(), o)
		if diff := cmp.Diff(want.verdict, got); diff != "" || err != nil {
			t.Errorf("with %v: %v (-want +got):\n%s", want.overrides, err, diff)
		}
	}
	if string(value) != before {
		t.Error("checking changed the value")
	}
}

// TestGuardOfUnreadableValues: what cannot be read is told from what may be
// deleted, and quotes nothing.
func TestGuardOfUnreadableValues(t *testing.T) {
	t.Parallel()
	const claims = "persistentvolumeclaims"
	tests := []struct {
		key, value string
		want       *filter.Verdict
	}{
		{"pods/team/x", "k8s:enc:aescbc:v1:key1:hunter2", warns("a pod that may be a StatefulSet's, and still run: its value is encrypted", "")},
		{"pods/team/x", "hunter2", warns("a pod that may be a StatefulSet's, and still run: its value cannot be decoded", "")},
		{"secrets/team/x", "k8s:enc:kms:v2:key1:hunter2", warns("a Secret that may be the token of a service account, or a Helm release: its value is encrypted", "")},
		{"secrets/team/x", "hunter2", warns("a Secret that may be the token of a service account, or a Helm release: its value cannot be decoded", "")},
		{"secrets/team/x", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"},"type":["hunter2"]}`,
			warns("a Secret that may be the token of a service account, or a Helm release: its value cannot be decoded", "")},
		{"persistentvolumeclaims/team/x", "k8s:enc:aescbc:v1:key1:hunter2", stops(claims, "data loss cannot be ruled out: of the claim, its value is encrypted", "")},
		{"persistentvolumeclaims/team/x", "k8s\x00hunter2", stops(claims, "data loss cannot be ruled out: of the claim, its value cannot be decoded", "")},
		{"services/specs/team/x", "hunter2", nil},
		{"apiregistration.k8s.io/apiservices/v1.", "hunter2", warns("the API of an APIService is served no more, and what it had stored stays where it is", "")},
		{"minions/x", "hunter2", stops("nodes", "a Node takes its pods along: about a minute later they are deleted by force, and its kubelet registers it again only when it restarts", "")},
		{"configmaps/team/x", "hunter2", nil},
	}
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	for _, tt := range tests {
		o := filter.NewObject(t.Context(), reader, &mvccpb.KeyValue{Key: []byte(prefix + tt.key), Value: []byte(tt.value)})
		got, err := filter.NewGuard(reader, &cluster{}, filter.Overrides{}).Check(t.Context(), o)
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("%s %q: %v (-want +got):\n%s", tt.key, tt.value, err, diff)
		}
		if got != nil && strings.Contains(got.String(), "hunter2") {
			t.Errorf("%s: %s quotes the value", tt.key, got)
		}
	}
}

// TestGuardOfRealSecrets takes the decrypted Secrets of a real cluster, those
// of Helm and of service accounts among them.
func TestGuardOfRealSecrets(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	guard := filter.NewGuard(reader, &cluster{}, filter.Overrides{})
	got := map[string]string{}
	for _, s := range expectedSecrets(t) {
		s.TypeMeta = typed("Secret")
		kv := &mvccpb.KeyValue{Key: []byte(prefix + "secrets/" + s.Namespace + "/" + s.Name), Value: encoded(t, &s), ModRevision: 1}
		v, err := guard.Check(t.Context(), filter.NewObject(t.Context(), reader, kv))
		if err != nil {
			t.Fatal(err)
		}
		if v != nil {
			got[s.Namespace+"/"+s.Name] = v.Allow
		}
	}
	want := map[string]string{
		"harbor/sh.helm.release.v1.harbor.v7": "--unsafe-kind helm-releases", "team/sh.helm.release.v1.web.v1": "--unsafe-kind helm-releases",
		"team/sh.helm.release.v1.web.v2": "--unsafe-kind helm-releases", "team/deployer-token": "--unsafe-kind serviceaccount-tokens",
		"kube-system/bootstrap-token-abcdef": "--unsafe-namespace kube-system",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("guarded (-want +got):\n%s", diff)
	}
}

// TestEveryUnsafeKindIsUsed: none is a word that nothing listens to.
func TestEveryUnsafeKindIsUsed(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for _, tt := range slices.Concat(volumeCases(), podCases(), otherCases()) {
		if tt.want != nil && tt.want.Blocks {
			used[strings.TrimPrefix(tt.want.Allow, "--unsafe-kind ")] = true
		}
	}
	if diff := cmp.Diff(filter.UnsafeKinds(), slices.Sorted(maps.Keys(used))); diff != "" {
		t.Errorf("kinds (-offered +used):\n%s", diff)
	}
}
