package plan

// What happens whatever is put back.
const (
	// seenAdded: facts of the watch path, apiserver pkg/storage/etcd3/watcher.go:
	// a put of a missing key is an ADDED event.
	seenAdded = "who watches sees them as new, with their old UIDs; neither admission nor a quota has looked at them"
	// remembered: pkg/controller/garbagecollector/uid_cache.go and
	// graph_builder.go (NewReferenceCache(500)).
	remembered = "the garbage collector remembers up to 500 owners that it saw missing until kube-controller-manager restarts, and deletes what they own"
)

// UndoAftermath says what happens next, of itself, once objects of these
// resources are put back, owned of them with owner references. It is bounded
// as [Aftermath] is.
func UndoAftermath(resources []string, owned int64, alive Alive) []Consequence {
	if len(resources) == 0 {
		return nil
	}
	found, _ := match(undoRules(), resources)
	next := explain(found, alive)
	general := []Consequence{{Text: seenAdded}}
	if owned > 0 {
		general = append(general, Consequence{Text: remembered})
	}
	if !alive.Server { // after the line that says so
		return append(next[:1:1], append(general, next[1:]...)...)
	}
	return append(general, next...)
}

// undoRules are what controllers of Kubernetes 1.36 do about objects that
// appear as they were, the worst first: pkg/controller/volume/persistentvolume
// pv_controller.go, syncVolume (a volume whose claim is missing is released and
// reclaimed; one whose claim has the old UID is bound); pkg/kubelet/pod_workers.go
// (a pod of a known UID starts again); pkg/controller/job, cronjob/utils.go
// (mostRecentScheduleTime); pkg/registry/core/service/ipallocator.
func undoRules() []rule {
	const lacking = "they make the pods that they lack"
	return []rule{
		{resource: "persistentvolumes", word: "persistentvolume",
			managed: "one whose claim is not there is reclaimed at once: Delete destroys the data, so put claims back before"},
		{resource: "persistentvolumeclaims", word: "persistentvolumeclaim", managed: "they are bound to their volumes again, unless those were reclaimed"},
		{resource: "nodes", word: "node", served: "their kubelets go on with them"},
		{resource: "namespaces", word: "namespace", served: "what was left in them shows again"},
		{resource: "customresourcedefinitions.apiextensions.k8s.io", word: "customresourcedefinition",
			served: "the API of their kinds is back within seconds, with the objects that stayed"},
		asked("validatingwebhookconfigurations"), asked("mutatingwebhookconfigurations"),
		asked("validatingadmissionpolicies"), asked("validatingadmissionpolicybindings"),
		asked("mutatingadmissionpolicies"), asked("mutatingadmissionpolicybindings"),
		{resource: "cronjobs.batch", word: "cronjob", managed: "of the runs that were missed the last one is made up for, within startingDeadlineSeconds"},
		{resource: "jobs.batch", word: "job", managed: "they go on where their status stands, with new pods up to their parallelism"},
		{resource: "deployments.apps", word: "deployment", managed: "they make the ReplicaSets and pods that they lack"},
		{resource: "replicasets.apps", word: "replicaset", managed: lacking},
		{resource: "replicationcontrollers", word: "replicationcontroller", managed: lacking},
		{resource: "statefulsets.apps", word: "statefulset", managed: lacking},
		{resource: "daemonsets.apps", word: "daemonset", managed: lacking},
		{resource: "pods", word: "pod",
			served:  "kubelets start the containers again of those that had not finished",
			managed: "controllers count them in, and delete what is more than they want"},
		{resource: "services", word: "service",
			served: "they work again; a cluster IP or node port that another Service got meanwhile is used twice"},
		{resource: "endpointslices.discovery.k8s.io", word: "endpointslice", managed: "they are computed again for each Service with a selector"},
		{resource: "endpoints", word: "endpoints", managed: "they are computed again for each Service with a selector"},
		{resource: "leases.coordination.k8s.io", word: "lease", served: "who competes for one waits until it has run out"},
		{resource: "events", word: "event", served: "they run out after the whole length of their lease, counted anew"},
	}
}

func asked(resource string) rule {
	r := hook(resource)
	r.served = "API servers ask them again, within seconds"
	return r
}
