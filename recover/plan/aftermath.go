package plan

import (
	"slices"
	"strings"
)

// Alive says which parts of a control plane live, or may.
type Alive struct {
	Server  bool // an API server
	Manager bool // kube-controller-manager
}

// Consequence is what happens next, of itself, after a plan is carried out.
type Consequence struct {
	// Resource is the plural that it is about, as "pods"; "" if it is about
	// the plan as a whole.
	Resource string `json:"resource,omitempty"`
	// Text goes on from the resource and a colon: lower case, no full stop.
	Text string `json:"text"`
}

// rule says what follows a change of objects of one resource.
type rule struct {
	resource string // as codec.Resource.String has it
	word     string // as Word has it
	// served is what API servers, kubelets and others that watch do; managed
	// is what kube-controller-manager does. Either may be empty.
	served, managed string
	// uncounted says that no ResourceQuota is likely to count them.
	uncounted bool
}

// What happens whatever the objects are.
const (
	nothingLives = "nothing happens until an API server and kube-controller-manager run again, and then this"
	onceManaged  = "once kube-controller-manager runs again, "
	quotaAfter   = "where a ResourceQuota counts these, its usage is right again within 5 minutes"
	// anyDeleted is for kinds without a rule, custom ones above all.
	anyDeletedServed  = "who watches them sees a deletion, without finalizers or a grace period"
	anyDeletedManaged = "the garbage collector deletes what they own, about 20 a second"
)

// Aftermath says what happens next, of itself, once objects of these resources
// are deleted in etcd, the worst first. Resources are named as in
// [Summary.Resources], by plural and group or by the word of a saved plan.
// Kinds without a rule share one line, so that the list is bounded.
//
// Sources, all of Kubernetes 1.36: see the rules; quota:
// pkg/controller/resourcequota/config/v1alpha1/defaults.go.
func Aftermath(resources []string, alive Alive) []Consequence {
	if len(resources) == 0 {
		return nil
	}
	other := rule{served: anyDeletedServed, managed: anyDeletedManaged}
	found, others := match(deleteRules(), resources)
	if others {
		found = append(found, other)
	}
	next := explain(found, alive)
	counted := slices.ContainsFunc(found, func(r rule) bool { return !r.uncounted })
	if counted && (alive.Manager || !alive.Server) {
		next = append(next, Consequence{Text: quotaAfter})
	}
	return next
}

// match finds the rules of resources, in the rules' order. others reports that
// some have none.
func match(rules []rule, resources []string) (found []rule, others bool) {
	matched := 0
	names := map[string]bool{}
	for _, name := range resources {
		names[name] = true
	}
	for _, r := range rules {
		n := 0
		for _, name := range []string{r.resource, r.word} {
			if names[name] {
				n++
			}
		}
		if matched += n; n > 0 {
			found = append(found, r)
		}
	}
	return found, matched < len(names)
}

// explain turns rules into lines, by who lives to act.
func explain(rules []rule, alive Alive) []Consequence {
	var next []Consequence
	if !alive.Server {
		next = append(next, Consequence{Text: nothingLives})
	}
	for _, r := range rules {
		served, managed := r.served, r.managed
		if alive.Server && !alive.Manager && managed != "" {
			managed = onceManaged + managed
		}
		text := served
		if served != "" && managed != "" {
			text += "; "
		}
		next = append(next, Consequence{Resource: plural(r.resource), Text: text + managed})
	}
	return next
}

// plural is a resource without its group.
func plural(resource string) string {
	name, _, _ := strings.Cut(resource, ".")
	return name
}

// deleteRules are what controllers of Kubernetes 1.36 do about objects that
// vanish, the worst first.
func deleteRules() []rule {
	return slices.Concat(storageRules(), clusterRules(), workloadRules(), networkRules(), configRules())
}

// storageRules: pkg/controller/volume/persistentvolume/pv_controller.go,
// syncVolume and syncBoundClaim.
func storageRules() []rule {
	return []rule{
		{resource: "persistentvolumeclaims", word: "persistentvolumeclaim",
			served:  "pods that mount them run on, but cannot start again",
			managed: "their volumes become Released and the volumes' reclaim policy is carried out: Delete destroys the data"},
		{resource: "persistentvolumes", word: "persistentvolume", uncounted: true,
			managed: "their claims become Lost; the storage behind them stays, and nobody deletes it"},
	}
}

// clusterRules: pkg/kubelet/kubelet_node_status.go (registerWithAPIServer
// registers once), pkg/controller/podgc (quarantine 40 s, a look every 20 s);
// pkg/controller/namespace has no handler of deletions, apiserver
// plugin/namespace/lifecycle refuses to create; apiextensions-apiserver
// pkg/apiserver/customresource_handler.go, removeDeadStorage; kube-aggregator
// pkg/controllers/autoregister; apiserver pkg/admission/configuration and
// pkg/admission/plugin/policy; plugin/pkg/auth/authorizer/rbac reads from
// informers, and pkg/registry/rbac/rest/storage_rbac.go makes the bootstrap
// roles at start.
func clusterRules() []rule {
	return []rule{
		{resource: "nodes", word: "node", uncounted: true,
			served:  "their kubelets do not register them again before they restart",
			managed: "after about a minute the pods bound to them are deleted by force, whether or not their containers still run"},
		{resource: "namespaces", word: "namespace", uncounted: true,
			served: "whatever is left in them, or made there after this was read, stays in etcd, where nobody deletes it and nothing can be created, until a Namespace of the same name shows it again"},
		{resource: "customresourcedefinitions.apiextensions.k8s.io", word: "customresourcedefinition", uncounted: true,
			served: "the API of their kinds is gone at once; their objects stay in etcd, and show again when the definition does"},
		{resource: "apiservices.apiregistration.k8s.io", word: "apiservice", uncounted: true,
			served: "their groups are not served any more; API servers make those of built-in groups and of CustomResourceDefinitions again"},
		hook("validatingwebhookconfigurations"), hook("mutatingwebhookconfigurations"),
		hook("validatingadmissionpolicies"), hook("validatingadmissionpolicybindings"),
		hook("mutatingadmissionpolicies"), hook("mutatingadmissionpolicybindings"),
		role("clusterroles"), role("clusterrolebindings"), role("roles"), role("rolebindings"),
	}
}

func hook(resource string) rule {
	return rule{resource: resource + ".admissionregistration.k8s.io", word: singular(resource), uncounted: true,
		served: "API servers stop asking them, within seconds"}
}

func role(resource string) rule {
	return rule{resource: resource + ".rbac.authorization.k8s.io", word: singular(resource), uncounted: true,
		served: "what they permit is refused within seconds; the built-in ones are made again when an API server starts"}
}

// singular is that of the plurals of hook and role.
func singular(plural string) string {
	if stem, ok := strings.CutSuffix(plural, "ies"); ok {
		return stem + "y"
	}
	return strings.TrimSuffix(plural, "s")
}

// workloadRules: pkg/kubelet/kubelet.go, HandlePodRemoves, and pod_workers.go,
// calculateEffectiveGracePeriod; cmd/kube-controller-manager/app/core.go: the
// garbage collector deletes at --kube-api-qps, 20, each by two requests;
// pkg/controller/job/job_controller.go, syncOrphanPod;
// pkg/controller/statefulset/stateful_set_utils.go (claims get owners by
// persistentVolumeClaimRetentionPolicy only).
func workloadRules() []rule {
	const follow = "the garbage collector deletes what they own, about 20 a second: "
	return []rule{
		{resource: "cronjobs.batch", word: "cronjob", managed: follow + "Jobs, and then their pods"},
		{resource: "jobs.batch", word: "job", managed: follow + "their pods, once the finalizer job-tracking is taken off them"},
		{resource: "deployments.apps", word: "deployment", managed: follow + "ReplicaSets, and then their pods"},
		{resource: "replicasets.apps", word: "replicaset", managed: follow + "their pods; a Deployment that is left makes its ReplicaSet again"},
		{resource: "replicationcontrollers", word: "replicationcontroller", managed: follow + "their pods"},
		{resource: "statefulsets.apps", word: "statefulset", managed: follow + "their pods; PersistentVolumeClaims stay, unless persistentVolumeClaimRetentionPolicy says Delete"},
		{resource: "daemonsets.apps", word: "daemonset", managed: follow + "their pods"},
		{resource: "pods", word: "pod",
			served:  "kubelets kill their containers, within each pod's grace period",
			managed: "controllers that are left make new ones at once, which may run beside the old (a StatefulSet promises that they never do)"},
		{resource: "horizontalpodautoscalers.autoscaling", word: "horizontalpodautoscaler", managed: "what they scaled keeps its present number of replicas"},
		{resource: "poddisruptionbudgets.policy", word: "poddisruptionbudget", served: "evictions that they held back pass at once"},
	}
}

// networkRules: cloud-provider controllers/service/controller.go;
// pkg/registry/core/service/ipallocator/controller/repair.go (every 3 minutes,
// after 3 sightings); pkg/controller/endpointslice and endpoint (onServiceDelete,
// onEndpointSliceDelete).
func networkRules() []rule {
	const again = "they are computed again for each Service with a selector, but those made by hand stay gone"
	return []rule{
		{resource: "services", word: "service",
			served:  "they stop working at once, and their cluster IPs and node ports are free again after about 10 minutes",
			managed: "their endpoints go too, and a cloud load balancer is removed only if its controller watches now, and else stays and costs"},
		{resource: "endpointslices.discovery.k8s.io", word: "endpointslice", served: "their Services lose these backends at once", managed: again},
		{resource: "endpoints", word: "endpoints", managed: again},
		{resource: "networkpolicies.networking.k8s.io", word: "networkpolicy", served: "what they forbade can pass, as soon as the network plugin sees it"},
		{resource: "ingresses.networking.k8s.io", word: "ingress", served: "ingress controllers stop routing for them"},
	}
}

// configRules: pkg/serviceaccount/legacy.go and claims.go (a token needs its
// ServiceAccount and its Secret); pkg/controller/serviceaccount;
// pkg/controller/certificates/rootcacertpublisher; client-go
// tools/leaderelection, tryAcquireOrRenew; apiserver pkg/util/flowcontrol and
// pkg/registry/flowcontrol/ensurer.
func configRules() []rule {
	const started = "running pods keep what they have mounted, new ones that need them do not start"
	return []rule{
		{resource: "secrets", word: "secret", served: started + "; a ServiceAccount token in one is refused at once"},
		{resource: "configmaps", word: "configmap", served: started, managed: "a namespace's kube-root-ca.crt is made again"},
		{resource: "serviceaccounts", word: "serviceaccount", served: "their tokens are refused at once",
			managed: "a namespace's default is made again, under another UID, and token Secrets of the others are deleted"},
		{resource: "resourcequotas", word: "resourcequota", served: "their limits are off at once", uncounted: true},
		{resource: "limitranges", word: "limitrange", served: "their limits and defaults are off at once", uncounted: true},
		{resource: "leases.coordination.k8s.io", word: "lease", uncounted: true,
			served: "who holds one makes it again within seconds, or loses its leadership to one that is faster; a Node whose Lease stays away becomes NotReady after 50 s"},
		{resource: "flowschemas.flowcontrol.apiserver.k8s.io", word: "flowschema", served: "API servers make the built-in ones again", uncounted: true},
		{resource: "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io", word: "prioritylevelconfiguration", served: "API servers make the built-in ones again", uncounted: true},
		{resource: "events", word: "event", served: "nothing, nobody acts on them", uncounted: true},
		{resource: "events.events.k8s.io", word: "event.events.k8s.io", served: "nothing, nobody acts on them", uncounted: true},
	}
}
