package filter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// Where the guarded kinds are stored, below the prefix.
const (
	podsAt        = "pods/"
	nodesAt       = "minions/"
	volumesAt     = "persistentvolumes/"
	claimsAt      = "persistentvolumeclaims/"
	secretsAt     = "secrets/"
	servicesAt    = "services/specs/"
	definitionsAt = "apiextensions.k8s.io/customresourcedefinitions/"
	apiServicesAt = "apiregistration.k8s.io/apiservices/"
)

const (
	// k8s pkg/controller/podgc, quarantineTime; pkg/kubelet/kubelet_node_status.go,
	// registerWithAPIServer: once.
	nodeReason = "a Node takes its pods along: about a minute later they are deleted by force, and its kubelet registers it again only when it restarts"
	// k8s pkg/controller/volume/persistentvolume, syncBoundClaim.
	volumeReason = "the claim of a PersistentVolume that is gone becomes Lost, and nothing deletes the real volume"

	// The same, syncVolume and reclaimVolume. It marks a retained volume as
	// Bound again once a claim of that UID is back.
	deleteReason  = "data loss: the volume itself is destroyed once its claim is gone (reclaim policy Delete)"
	recycleReason = "data loss: the volume is wiped once its claim is gone (reclaim policy Recycle)"
	unknownReason = "data loss cannot be ruled out: the PersistentVolume of the claim is missing, or its reclaim policy cannot be read"
	retainReason  = "the volume stays (reclaim policy Retain), but no other claim can have it until its claimRef is removed"
	unboundReason = "the claim is bound to no volume; pods that name it cannot start"

	// apiextensions-apiserver pkg/apiserver, customresource_handler.go.
	definitionReason = "no API reaches the custom resources of a definition that is gone, and they stay behind in etcd"
	unusedReason     = "the API of a definition goes with it; it has no custom resources"

	runningReason = "the node of a StatefulSet's pod may still run it: its successor has the same name and volumes, and both may write to them"
	goneReason    = "the Node of a StatefulSet's pod is gone; if that machine still runs, so may the pod, next to its successor"

	tokenReason   = "whoever uses the token of a service account is locked out when its Secret is gone"
	releaseReason = "Helm forgets a release when the Secret of what is deployed is gone"
	historyReason = "the Secret is part of a Helm release's history"
)

// byKind judges by what kube-controller-manager, kubelets and others make of
// an object's sudden absence.
func (g *Guard) byKind(ctx context.Context, o Object) (*Verdict, error) {
	switch o.Key.Resource.Prefix {
	case podsAt:
		return g.pod(ctx, o)
	case nodesAt:
		return g.harmful(unsafeNodes, nodeReason, ""), nil
	case volumesAt:
		return g.harmful(unsafeVolumes, volumeReason, ""), nil
	case claimsAt:
		return g.claim(ctx, o)
	case definitionsAt:
		return g.definition(ctx, o)
	case secretsAt:
		return g.secret(o), nil
	case servicesAt:
		return service(o), nil
	case apiServicesAt:
		return apiService(o), nil
	}
	if reason := sideEffect(o.Key.Resource.Prefix); reason != "" {
		return warning(reason), nil
	}
	return nil, nil
}

// sideEffect is what follows the delete of any object of a resource, beyond
// the absence of the object.
func sideEffect(prefix string) string {
	switch prefix {
	case "mutatingwebhookconfigurations/", "validatingwebhookconfigurations/",
		"mutatingadmissionpolicies/", "mutatingadmissionpolicybindings/", "validatingadmissionpolicies/", "validatingadmissionpolicybindings/":
		return "what a webhook or a policy checked or changed is let through as it is, by all API servers at once"
	case "leases/":
		return "the holder of a Lease makes it again; where it is one of a leader election, it may lose the lead"
	case "priorityclasses/":
		return "pods that name a PriorityClass that is gone cannot be made; API servers make those of the system again when they start"
	case "flowschemas/", "prioritylevelconfigurations/":
		// k8s pkg/registry/flowcontrol/ensurer.
		return "API servers make their own FlowSchemas and PriorityLevelConfigurations again; requests that another one ordered are ordered by what is left"
	}
	return ""
}

// pod blocks a pod of a StatefulSet that may still run somewhere: at most one
// of a name may (k8s pkg/controller/statefulset). One that has finished is
// deleted by its controller too (processReplica).
func (g *Guard) pod(ctx context.Context, o Object) (*Verdict, error) {
	if o.Head.Err != nil {
		return warning("a pod that may be a StatefulSet's, and still run: " + valueReason(o.Head.Err)), nil
	}
	if !mayHaveTwin(o.Head) {
		return nil, nil
	}
	now, err := g.fact(ctx, nodesAt, o.Head.Node)
	if err != nil {
		return nil, err
	}
	switch now {
	case outOfService:
		return nil, nil
	case absent:
		return warning(goneReason), nil
	}
	return g.harmful(unsafePods, runningReason, "Node "+o.Head.Node), nil
}

func mayHaveTwin(h codec.Head) bool {
	return h.Node != "" && h.Phase != string(corev1.PodSucceeded) && h.Phase != string(corev1.PodFailed) &&
		slices.ContainsFunc(h.Meta.Owners, func(ref codec.Owner) bool { return ref.Controller && ref.Kind == "StatefulSet" })
}

// claim blocks where the data goes with the claim. With reclaim policy Retain
// all that is lost comes back with the claim, so that is a warning.
func (g *Guard) claim(ctx context.Context, o Object) (*Verdict, error) {
	volume, err := claimedVolume(o)
	if err != nil {
		return g.harmful(unsafeClaims, "data loss cannot be ruled out: of the claim, "+valueReason(err), ""), nil
	}
	if volume == "" {
		return warning(unboundReason), nil
	}
	policy, err := g.fact(ctx, volumesAt, volume)
	if err != nil {
		return nil, err
	}
	detail := "PersistentVolume " + shortName(volume)
	switch policy {
	case retained:
		return &Verdict{Reason: retainReason, Detail: detail}, nil
	case destroyed:
		return g.harmful(unsafeClaims, deleteReason, detail), nil
	case recycled:
		return g.harmful(unsafeClaims, recycleReason, detail), nil
	}
	return g.harmful(unsafeClaims, unknownReason, detail), nil
}

// definition counts the custom resources by the name of their definition,
// which is PLURAL.GROUP (apiextensions-apiserver
// pkg/apis/apiextensions/validation), so that its value need not be readable.
// They are always in the main store (k8s.io/apiserver
// pkg/server/options/etcd.go).
func (g *Guard) definition(ctx context.Context, o Object) (*Verdict, error) {
	plural, group, dotted := strings.Cut(o.Key.Name, ".")
	if !dotted {
		return warning(unusedReason), nil
	}
	resources := keyspace.Prefix(g.reader.Prefix + group + "/" + plural + "/")
	n, err := g.src.Count(ctx, resources)
	if err != nil {
		return nil, fmt.Errorf("count the custom resources below %s: %w", resources.Start, err)
	}
	if n == 0 {
		return warning(unusedReason), nil
	}
	return g.harmful(unsafeDefinitions, definitionReason, fmt.Sprintf("%d custom resources", n)), nil
}

// helmRelease is the type of Secrets that Helm 3 keeps releases in; their label
// status tells what is deployed from history (helm.sh/helm
// pkg/storage/driver/secrets.go).
const helmRelease = "helm.sh/release.v1"

func (g *Guard) secret(o Object) *Verdict {
	kind, err := secretType(o)
	switch {
	case err != nil:
		return warning("a Secret that may be the token of a service account, or a Helm release: " + valueReason(err))
	case kind == string(corev1.SecretTypeServiceAccountToken):
		return g.harmful(unsafeTokens, tokenReason, "")
	case kind == helmRelease && o.Head.Meta.Labels.Get("status") == "deployed":
		return g.harmful(unsafeReleases, releaseReason, "")
	case kind == helmRelease:
		return warning(historyReason)
	}
	return nil
}

// service warns of what only its controller, not garbage collection, removes
// (k8s.io/cloud-provider controllers/service).
func service(o Object) *Verdict {
	kind, err := serviceType(o)
	if err == nil && kind == string(corev1.ServiceTypeLoadBalancer) {
		return warning("the load balancer of a Service stays in the cloud unless the controller that made it runs and sees the delete; finalizers are not waited for")
	}
	return nil
}

// apiService tells the registrations that API servers keep up themselves by
// their label (kube-aggregator pkg/controllers/autoregister).
func apiService(o Object) *Verdict {
	if o.Head.Err == nil && o.Head.Meta.Labels.Get("kube-aggregator.kubernetes.io/automanaged") != "" {
		return warning("API servers make the APIService of an API of their own, or of a custom resource, again")
	}
	return warning("the API of an APIService is served no more, and what it had stored stays where it is")
}
