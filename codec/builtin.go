package codec

import "strings"

// builtins returns a fresh list of what kube-apiserver itself has stored in
// any release from 1.16 to 1.37, taken from the table of
// k8s.io/kubernetes test/integration/etcd/data.go in each of them, with the
// short names of the ShortNames methods below pkg/registry.
func builtins() []*Resource {
	var list []*Resource
	for _, group := range [][]*Resource{coreResources(), workloadResources(), policyResources(),
		networkResources(), storageResources(), deviceResources(), removedResources(), internalResources()} {
		list = append(list, group...)
	}
	for _, r := range list {
		if r.Singular == "" {
			r.Singular = strings.ToLower(r.Kind)
		}
		if r.Prefix == "" {
			r.Prefix = r.Plural + "/"
		}
	}
	return list
}

// namespaced and cluster make one row of the table; short holds the short
// names, separated by spaces.
func namespaced(group, plural, kind, short string) *Resource {
	r := cluster(group, plural, kind, short)
	r.Namespaced = true
	return r
}

func cluster(group, plural, kind, short string) *Resource {
	return &Resource{Group: group, Plural: plural, Kind: kind, ShortNames: strings.Fields(short)}
}

// at sets the prefix of a resource that does not live below its own name
// (SpecialDefaultResourcePrefixes in k8s.io/kubernetes
// pkg/kubeapiserver/default_storage_factory_builder.go).
func (r *Resource) at(prefix string) *Resource {
	r.Prefix = prefix
	return r
}

func (r *Resource) also(oldGroups ...string) *Resource {
	r.OldGroups = oldGroups
	return r
}

// The two API groups of events share one prefix.
const (
	eventsGroup  = "events.k8s.io"
	eventsPrefix = "events/"
)

// eventsView is the resource that shows events in the newer group, a view of
// the keys of the older one. What is stored says v1.
func eventsView() *Resource {
	r := namespaced(eventsGroup, "events", "Event", "ev").at(eventsPrefix).also("")
	r.Singular = "event"
	return r
}

func coreResources() []*Resource {
	return []*Resource{
		namespaced("", "configmaps", "ConfigMap", "cm"),
		namespaced("", "endpoints", "Endpoints", "ep").at("services/endpoints/"),
		namespaced("", "events", "Event", "ev").also(eventsGroup),
		namespaced("", "limitranges", "LimitRange", "limits"),
		cluster("", "namespaces", "Namespace", "ns"),
		cluster("", "nodes", "Node", "no").at("minions/"),
		namespaced("", "persistentvolumeclaims", "PersistentVolumeClaim", "pvc"),
		cluster("", "persistentvolumes", "PersistentVolume", "pv"),
		namespaced("", "pods", "Pod", "po"),
		namespaced("", "podtemplates", "PodTemplate", ""),
		namespaced("", "replicationcontrollers", "ReplicationController", "rc").at("controllers/").also("extensions"),
		namespaced("", "resourcequotas", "ResourceQuota", "quota"),
		namespaced("", "secrets", "Secret", ""),
		namespaced("", "serviceaccounts", "ServiceAccount", "sa"),
		namespaced("", "services", "Service", "svc").at("services/specs/"),
	}
}

func workloadResources() []*Resource {
	const (
		apps       = "apps"
		batch      = "batch"
		scheduling = "scheduling.k8s.io"
	)
	return []*Resource{
		namespaced(apps, "controllerrevisions", "ControllerRevision", ""),
		namespaced(apps, "daemonsets", "DaemonSet", "ds").also("extensions"),
		namespaced(apps, "deployments", "Deployment", "deploy").also("extensions"),
		namespaced(apps, "replicasets", "ReplicaSet", "rs").also("extensions"),
		namespaced(apps, "statefulsets", "StatefulSet", "sts"),
		namespaced("autoscaling", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "hpa"),
		namespaced(batch, "cronjobs", "CronJob", "cj"),
		namespaced(batch, "jobs", "Job", ""),
		namespaced("coordination.k8s.io", "leasecandidates", "LeaseCandidate", ""),
		namespaced("coordination.k8s.io", "leases", "Lease", ""),
		namespaced("lifecycle.k8s.io", "evictionrequests", "EvictionRequest", ""),
		namespaced("lifecycle.k8s.io", "evictions", "Eviction", ""),
		cluster("node.k8s.io", "runtimeclasses", "RuntimeClass", ""),
		namespaced("policy", "poddisruptionbudgets", "PodDisruptionBudget", "pdb"),
		namespaced(scheduling, "compositepodgroups", "CompositePodGroup", ""),
		namespaced(scheduling, "podgroups", "PodGroup", ""),
		cluster(scheduling, "priorityclasses", "PriorityClass", "pc"),
		namespaced(scheduling, "workloads", "Workload", ""),
	}
}

func policyResources() []*Resource {
	const (
		admission    = "admissionregistration.k8s.io"
		certificates = "certificates.k8s.io"
		flowcontrol  = "flowcontrol.apiserver.k8s.io"
		rbac         = "rbac.authorization.k8s.io"
	)
	return []*Resource{
		cluster(admission, "mutatingadmissionpolicies", "MutatingAdmissionPolicy", ""),
		cluster(admission, "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", ""),
		cluster(admission, "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", ""),
		cluster(admission, "validatingadmissionpolicies", "ValidatingAdmissionPolicy", ""),
		cluster(admission, "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", ""),
		cluster(admission, "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", ""),
		cluster("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition", "crd crds").
			at("apiextensions.k8s.io/customresourcedefinitions/"),
		cluster("apiregistration.k8s.io", "apiservices", "APIService", "").
			at("apiregistration.k8s.io/apiservices/"),
		cluster(certificates, "certificatesigningrequests", "CertificateSigningRequest", "csr"),
		cluster(certificates, "clustertrustbundles", "ClusterTrustBundle", ""),
		namespaced(certificates, "podcertificaterequests", "PodCertificateRequest", ""),
		cluster(flowcontrol, "flowschemas", "FlowSchema", ""),
		cluster(flowcontrol, "prioritylevelconfigurations", "PriorityLevelConfiguration", ""),
		cluster("internal.apiserver.k8s.io", "storageversions", "StorageVersion", ""),
		cluster(rbac, "clusterrolebindings", "ClusterRoleBinding", ""),
		cluster(rbac, "clusterroles", "ClusterRole", ""),
		namespaced(rbac, "rolebindings", "RoleBinding", ""),
		namespaced(rbac, "roles", "Role", ""),
	}
}

func networkResources() []*Resource {
	const networking = "networking.k8s.io"
	return []*Resource{
		namespaced("discovery.k8s.io", "endpointslices", "EndpointSlice", ""),
		cluster(networking, "ingressclasses", "IngressClass", ""),
		namespaced(networking, "ingresses", "Ingress", "ing").at("ingress/").also("extensions"),
		cluster(networking, "ipaddresses", "IPAddress", "ip"),
		namespaced(networking, "networkpolicies", "NetworkPolicy", "netpol").also("extensions"),
		cluster(networking, "servicecidrs", "ServiceCIDR", ""),
	}
}

func storageResources() []*Resource {
	const storage = "storage.k8s.io"
	return []*Resource{
		cluster(storage, "csidrivers", "CSIDriver", ""),
		cluster(storage, "csinodes", "CSINode", ""),
		namespaced(storage, "csistoragecapacities", "CSIStorageCapacity", ""),
		cluster(storage, "storageclasses", "StorageClass", "sc"),
		cluster(storage, "volumeattachments", "VolumeAttachment", ""),
		cluster(storage, "volumeattributesclasses", "VolumeAttributesClass", "vac"),
		cluster("storagemigration.k8s.io", "storageversionmigrations", "StorageVersionMigration", ""),
	}
}

func deviceResources() []*Resource {
	const resource = "resource.k8s.io"
	return []*Resource{
		cluster(resource, "deviceclasses", "DeviceClass", ""),
		cluster(resource, "devicetaintrules", "DeviceTaintRule", ""),
		namespaced(resource, "resourceclaims", "ResourceClaim", ""),
		namespaced(resource, "resourceclaimtemplates", "ResourceClaimTemplate", ""),
		cluster(resource, "resourcepoolstatusrequests", "ResourcePoolStatusRequest", ""),
		cluster(resource, "resourceslices", "ResourceSlice", ""),
	}
}

// removedResources lists what no current release serves. Their keys stay in
// etcd after an upgrade until somebody deletes them.
func removedResources() []*Resource {
	const resource = "resource.k8s.io"
	return []*Resource{
		cluster("auditregistration.k8s.io", "auditsinks", "AuditSink", ""),
		cluster("networking.k8s.io", "clustercidrs", "ClusterCIDR", "cc"),
		namespaced("settings.k8s.io", "podpresets", "PodPreset", ""),
		namespaced(resource, "podschedulings", "PodScheduling", ""),
		namespaced(resource, "podschedulingcontexts", "PodSchedulingContext", ""),
		cluster("policy", "podsecuritypolicies", "PodSecurityPolicy", "psp").at("podsecuritypolicy/").also("extensions"),
		namespaced(resource, "resourceclaimparameters", "ResourceClaimParameters", ""),
		cluster(resource, "resourceclasses", "ResourceClass", ""),
		namespaced(resource, "resourceclassparameters", "ResourceClassParameters", ""),
	}
}

// internalResources lists what kube-apiserver keeps beside the API objects:
// k8s.io/kubernetes pkg/controlplane/reconcilers/lease.go,
// pkg/controlplane/apiserver/peer.go, pkg/registry/core/rest/storage_core.go.
func internalResources() []*Resource {
	list := []*Resource{
		cluster("", "masterleases", "Endpoints", ""),
		cluster("", "peerserverleases", "Endpoints", ""),
		cluster("", "ranges", "RangeAllocation", ""),
	}
	for _, r := range list {
		r.Internal = true
		r.Singular = r.Plural
	}
	return list
}
