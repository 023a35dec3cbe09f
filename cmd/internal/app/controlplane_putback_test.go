//go:build controlplane

package app

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// encryptSecrets is what the API server of this test is given. The key protects nothing.
const encryptSecrets = `kind: EncryptionConfiguration
apiVersion: apiserver.config.k8s.io/v1
resources:
- resources: [secrets]
  providers:
  - aesgcm: {keys: [{name: test, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
`

const putBackObjects = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: config}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: config}
data: {mode: fast}
---
apiVersion: v1
kind: Secret
metadata: {name: door, namespace: shop}
stringData: {code: open-sesame}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: "registry.example/main:1"}]}
`

const putBackWidget = `
apiVersion: example.com/v1
kind: Widget
metadata: {name: gear, namespace: shop}
spec: {teeth: 12}
`

// TestControlPlanePutBack: what was deleted through the API comes back from a snapshot with its UID. kubectl shows it,
// and controllers go on with it as if it had never been away.
func TestControlPlanePutBack(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "encryption.yaml")
	if err := os.WriteFile(config, []byte(encryptSecrets), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &putBackLab{
		kubernetes: startKubernetes(t, sandbox.Options{}, lab.ControlPlaneOptions{ServerArgs: []string{"--encryption-provider-config=" + config}}),
		dir:        dir, snapshot: filepath.Join(dir, "last-night.db"), config: config,
	}
	p.fill()
	t.Run("Deployment", func(t *testing.T) { p.on(t).deploymentComesBack() })
	t.Run("ConfigMap", func(t *testing.T) { p.on(t).configMapComesBack() })
	t.Run("CustomResource", func(t *testing.T) { p.on(t).customResourceComesBack() })
	t.Run("Secret", func(t *testing.T) { p.on(t).secretComesBack() })
}

type putBackLab struct {
	*kubernetes
	dir, snapshot, config string
}

// on is the same lab reporting to a subtest.
func (p *putBackLab) on(t *testing.T) *putBackLab {
	k := *p.kubernetes
	k.TB = t
	return &putBackLab{&k, p.dir, p.snapshot, p.config}
}

// fill makes all objects and takes the snapshot of them.
func (p *putBackLab) fill() {
	p.Helper()
	p.kubectl(putBackObjects, "apply", "-f", "-")
	p.eventually("the API server serves widgets", func() bool {
		_, err := p.tryKubectl(putBackWidget, "apply", "-f", "-")
		return err == nil
	})
	p.eventually("the Deployment has its pods", func() bool { return p.count("/registry/pods/shop/web-") == 3 })
	p.eventually("the Deployment's status tells of them", func() bool {
		return p.kubectl("", "get", "deployment", "web", "-n", "shop", "-o", "jsonpath={.status.replicas}") == "3"
	})
	if err := p.save(p.Context(), p.snapshot); err != nil {
		p.Fatal(err)
	}
}

func (p *putBackLab) kubectl(stdin string, args ...string) string {
	p.Helper()
	out, err := p.tryKubectl(stdin, args...)
	if err != nil {
		p.Fatal(err)
	}
	return out
}

func (p *putBackLab) tryKubectl(stdin string, args ...string) (string, error) {
	binary, err := lab.Kubernetes(p.Context(), "kubectl")
	if err != nil {
		return "", err
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(p.Context(), binary, append([]string{"--kubeconfig", p.plane.Kubeconfig()}, args...)...)
	cmd.Env = []string{"HOME=" + p.dir} // where it caches what is served
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// uids lists objects as kubectl shows them: kind, name and UID.
func (p *putBackLab) uids(args ...string) string {
	p.Helper()
	return p.kubectl("", append(append([]string{"get"}, args...), "-o", `jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid}{"\n"}{end}`)...)
}

func (p *putBackLab) same(what, before, after string) {
	p.Helper()
	if before != after || before == "" {
		p.Errorf("%s was\n%s\nand is\n%s", what, before, after)
	}
}

func (p *putBackLab) putBack(args ...string) result {
	p.Helper()
	args = append([]string{"put-back", "--from", p.snapshot, "--execute", "--yes"}, args...)
	return p.rescue(p.dir, exitDone, args...)
}

// deploymentComesBack with its ReplicaSet and pods. kube-controller-manager is restarted, as the command asks for.
func (p *putBackLab) deploymentComesBack() {
	web := []string{"deployments,replicasets,pods", "-n", "shop"}
	before := p.uids(web...)
	p.kubectl("", "delete", "deployment", "web", "-n", "shop")
	p.eventually("what it owned is gone", func() bool { return p.uids(web...) == "" })
	p.withoutOwner(web)
	p.rescue(p.dir, exitRefused, "put-back", "deployment", "web", "-n", "shop", "--from", p.snapshot, "--with-dependents", "--execute", "--yes")
	if err := p.plane.StopManager(); err != nil {
		p.Fatal(err)
	}
	r := p.putBack("deployment", "web", "-n", "shop", "--with-dependents", "--unsafe-live-controllers", "4")
	if !strings.Contains(r.out, "Put back 5 objects") {
		p.Errorf("it says %s", r.out)
	}
	p.same("the Deployment with what it owns", before, p.uids(web...))
	if err := p.plane.StartManager(p.Context()); err != nil {
		p.Fatal(err)
	}
	p.calm()
	p.same("after the controllers have looked at it, it", before, p.uids(web...))
	p.adopted()
}

// withoutOwner proves the warning: a ReplicaSet whose Deployment is not there goes again, with all that it makes.
func (p *putBackLab) withoutOwner(web []string) {
	p.Helper()
	sets := []string{"replicasets", "-n", "shop", "-l", "app=web"}
	preview := p.rescue(p.dir, exitDone, append([]string{"put-back", "--from", p.snapshot, "-o", "json"}, sets...)...)
	if !strings.Contains(preview.out, "the garbage collector deletes it again") {
		p.Errorf("nothing warns of the missing owner: %s", preview.out)
	}
	r := p.putBack(append(sets, "--unsafe-live-controllers", "1")...)
	if !strings.Contains(r.out, "Put back 1 object") {
		p.Errorf("it says %s", r.out)
	}
	p.eventually("the ReplicaSet without its Deployment is gone", func() bool { return p.uids(web...) == "" })
}

// adopted proves that controllers count them in: a change of the Deployment is carried out by the same ReplicaSet, and a
// pod that goes is made again.
func (p *putBackLab) adopted() {
	p.Helper()
	set := p.uids("replicasets", "-n", "shop")
	p.kubectl("", "scale", "deployment", "web", "-n", "shop", "--replicas=4")
	p.eventually("there are four pods", func() bool { return p.count("/registry/pods/shop/web-") == 4 })
	p.same("the ReplicaSet", set, p.uids("replicasets", "-n", "shop"))
	p.kubectl("", "scale", "deployment", "web", "-n", "shop", "--replicas=2")
	p.eventually("there are two pods", func() bool { return p.count("/registry/pods/shop/web-") == 2 })
	p.kubectl("", "delete", "pods", "-n", "shop", "--all", "--wait=false")
	p.eventually("there are two others", func() bool { return p.count("/registry/pods/shop/web-") == 2 })
	p.same("the ReplicaSet", set, p.uids("replicasets", "-n", "shop"))
}

// configMapComesBack into a namespace of the same name that was made anew.
func (p *putBackLab) configMapComesBack() {
	const show = "jsonpath={.metadata.uid} {.data.mode}"
	get := []string{"get", "configmap", "settings", "-n", "config", "-o", show}
	before, namespace := p.kubectl("", get...), p.kubectl("", "get", "namespace", "config", "-o", "jsonpath={.metadata.uid}")
	p.kubectl("", "delete", "namespace", "config")
	p.kubectl("", "create", "namespace", "config")
	if now := p.kubectl("", "get", "namespace", "config", "-o", "jsonpath={.metadata.uid}"); now == namespace {
		p.Fatal("the namespace is the old one")
	}
	p.putBack("configmap", "settings", "-n", "config")
	p.same("the ConfigMap", before, p.kubectl("", get...))
	p.kubectl("", "patch", "configmap", "settings", "-n", "config", "-p", `{"data":{"mode":"slow"}}`)
	r := p.putBack("configmap", "settings", "-n", "config", "--replace")
	p.same("the ConfigMap that was changed", before, p.kubectl("", get...))
	p.rescue(p.dir, exitDone, "put-back", "--replace", "--from", find(p.TB.(*testing.T), r.out, `^archive: (.*)$`), "--execute", "--yes")
	p.same("what it was changed to", strings.Replace(before, "fast", "slow", 1), p.kubectl("", get...))
}

// customResourceComesBack while its definition is there, and when that has to come back as well.
func (p *putBackLab) customResourceComesBack() {
	get := []string{"get", "widget.example.com", "gear", "-n", "shop", "-o", "jsonpath={.metadata.uid} {.spec.teeth}"}
	before := p.kubectl("", get...)
	p.kubectl("", "delete", "widget", "gear", "-n", "shop")
	p.putBack("widget", "gear", "-n", "shop")
	p.same("the custom resource", before, p.kubectl("", get...))

	p.kubectl("", "delete", "customresourcedefinition", "widgets.example.com")
	if left := p.count("/registry/example.com/widgets/"); left != 0 {
		p.Fatalf("%d custom resources outlived their definition", left)
	}
	preview := p.rescue(p.dir, exitDone, "put-back", "widget", "gear", "-n", "shop", "--from", p.snapshot, "-o", "json")
	if !strings.Contains(preview.out, "CustomResourceDefinition") {
		p.Errorf("nothing warns of the missing definition: %s", preview.out)
	}
	p.putBack("widget", "gear", "-n", "shop")
	p.putBack("customresourcedefinition", "widgets.example.com")
	p.eventually("the API server serves it", func() bool {
		now, err := p.tryKubectl("", get...)
		return err == nil && now == before
	})
}

// secretComesBack as the bytes that it was encrypted to.
func (p *putBackLab) secretComesBack() {
	get := []string{"get", "secret", "door", "-n", "shop", "-o", "jsonpath={.metadata.uid} {.data.code}"}
	before := p.kubectl("", get...)
	for _, flags := range [][]string{nil, {"--encryption-config", p.config}} {
		p.kubectl("", "delete", "secret", "door", "-n", "shop")
		p.putBack(append([]string{"secret", "door", "-n", "shop"}, flags...)...)
		p.same("the Secret", before, p.kubectl("", get...))
		p.same("the Secrets", before, p.kubectl("", "get", "secrets", "-n", "shop", "-o", "jsonpath={.items[0].metadata.uid} {.items[0].data.code}"))
	}
}
