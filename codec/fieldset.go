package codec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// SelectableFields returns the names that a field selector may use for the
// resource, sorted: those in the field set of its strategy in
// k8s.io/kubernetes pkg/registry (strategy.go, GetAttrs), or those that its
// CRD declares. That is a little more than kube-apiserver lets through, which
// refuses status.replicas of replicasets in apps/v1, for one.
func (r *Resource) SelectableFields() []string {
	names := []string{"metadata.name"}
	if r.Namespaced {
		names = append(names, "metadata.namespace")
	}
	if r.Custom {
		names = append(names, r.Selectable...)
	} else {
		names = append(names, r.ownFields()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (r *Resource) ownFields() []string {
	switch r.String() {
	case "certificatesigningrequests.certificates.k8s.io", "clustertrustbundles.certificates.k8s.io":
		return []string{"spec.signerName"}
	case "events":
		return []string{"involvedObject.apiVersion", "involvedObject.fieldPath", "involvedObject.kind",
			"involvedObject.name", "involvedObject.namespace", "involvedObject.resourceVersion",
			"involvedObject.uid", "reason", "reportingComponent", "source", "type"}
	case "events.events.k8s.io":
		return []string{"reason", "regarding.apiVersion", "regarding.fieldPath", "regarding.kind", "regarding.name",
			"regarding.namespace", "regarding.resourceVersion", "regarding.uid", "reportingController", "type"}
	case "jobs.batch":
		return []string{"status.successful"}
	case "leasecandidates.coordination.k8s.io":
		return []string{"spec.leaseName"}
	case "namespaces":
		return []string{"status.phase"}
	case "nodes":
		return []string{"spec.unschedulable"}
	case "podcertificaterequests.certificates.k8s.io":
		return []string{"spec.nodeName", "spec.podName", "spec.signerName"}
	case "pods":
		return []string{"spec.hostNetwork", "spec.nodeName", "spec.restartPolicy", "spec.schedulerName",
			"spec.serviceAccountName", "status.nominatedNodeName", "status.phase", "status.podIP"}
	case "replicasets.apps", "replicationcontrollers":
		return []string{"status.replicas"}
	case "resourceslices.resource.k8s.io":
		return []string{"spec.driver", "spec.nodeName", "spec.pool.name"}
	case "secrets":
		return []string{"type"}
	case "services":
		return []string{"spec.clusterIP", "spec.type"}
	}
	return nil
}

// FieldSet returns the value of each selectable field of one object of the
// resource, as kube-apiserver compares them: an unset field is the empty
// string, an unset number "0", an unset boolean "false". An object that is not
// of the resource's kind, or has not its shape, is an error.
func FieldSet(obj runtime.Object, r *Resource) (fields.Set, error) {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return nil, fmt.Errorf("fields of %s: %w", r, err)
	}
	set := fields.Set{"metadata.name": accessor.GetName()}
	if r.Namespaced {
		set["metadata.namespace"] = accessor.GetNamespace()
	}
	names := r.SelectableFields()
	if len(names) == len(set) {
		return set, nil
	}
	if err := checkKind(obj, r); err != nil {
		return nil, fmt.Errorf("fields of %s %q: %w", r, accessor.GetName(), err)
	}
	if obj, err = typed(obj, r); err != nil {
		return nil, fmt.Errorf("fields of %s %q: %w", r, accessor.GetName(), err)
	}
	if err := addOwnFields(set, obj, names); err != nil {
		return nil, fmt.Errorf("fields of %s %q: %w", r, accessor.GetName(), err)
	}
	return set, nil
}

// checkKind refuses an object that says to be of another kind.
func checkKind(obj runtime.Object, r *Resource) error {
	gvk := obj.GetObjectKind().GroupVersionKind()
	if gvk.Kind == "" || r.Kind == "" || gvk.Kind == r.Kind && r.inGroup(gvk.Group) {
		return nil
	}
	return fmt.Errorf("it is a %s", gvk.GroupKind())
}

func addOwnFields(set fields.Set, obj runtime.Object, names []string) error {
	switch o := obj.(type) {
	case *corev1.Pod:
		addPodFields(set, o)
	case *corev1.Event:
		addEventFields(set, &o.InvolvedObject, o.Source.Component, o.ReportingController)
		set["reason"], set["type"] = o.Reason, o.Type
	case *eventsv1.Event:
		addEventFields(set, &o.Regarding, o.DeprecatedSource.Component, o.ReportingController)
		set["reason"], set["type"] = o.Reason, o.Type
	case *batchv1.Job:
		set["status.successful"] = strconv.Itoa(int(o.Status.Succeeded))
	case *corev1.Namespace:
		set["status.phase"] = string(o.Status.Phase)
	case *corev1.Node:
		set["spec.unschedulable"] = strconv.FormatBool(o.Spec.Unschedulable)
	case *corev1.Secret:
		set["type"] = string(o.Type)
	default:
		return addByPath(set, obj, names)
	}
	if slices.Contains(names, "regarding.kind") {
		inEventsGroup(set)
	}
	for _, name := range names {
		if _, ok := set[name]; !ok {
			return fmt.Errorf("it is a %T", obj)
		}
	}
	return nil
}

func addPodFields(set fields.Set, pod *corev1.Pod) {
	set["spec.nodeName"] = pod.Spec.NodeName
	set["spec.restartPolicy"] = string(pod.Spec.RestartPolicy)
	set["spec.schedulerName"] = pod.Spec.SchedulerName
	set["spec.serviceAccountName"] = pod.Spec.ServiceAccountName
	set["spec.hostNetwork"] = strconv.FormatBool(pod.Spec.HostNetwork)
	set["status.phase"] = string(pod.Status.Phase)
	set["status.podIP"] = podIP(pod)
	set["status.nominatedNodeName"] = pod.Status.NominatedNodeName
}

// podIP prefers the older of two fields, as kube-apiserver does when it
// converts a pod (pkg/apis/core/v1/conversion.go, Convert_v1_PodStatus_To_core_PodStatus).
func podIP(pod *corev1.Pod) string {
	if pod.Status.PodIP != "" || len(pod.Status.PodIPs) == 0 {
		return pod.Status.PodIP
	}
	return pod.Status.PodIPs[0].IP
}

// addEventFields uses the names of core/v1 for both API groups, the names that
// kube-apiserver keeps the set under.
func addEventFields(set fields.Set, involved *corev1.ObjectReference, source, controller string) {
	if source == "" {
		source = controller
	}
	set["involvedObject.kind"] = involved.Kind
	set["involvedObject.namespace"] = involved.Namespace
	set["involvedObject.name"] = involved.Name
	set["involvedObject.uid"] = string(involved.UID)
	set["involvedObject.apiVersion"] = involved.APIVersion
	set["involvedObject.resourceVersion"] = involved.ResourceVersion
	set["involvedObject.fieldPath"] = involved.FieldPath
	set["reportingComponent"] = controller
	set["source"] = source
}

// inEventsGroup renames the fields of an event to what events.k8s.io calls them
// (k8s.io/kubernetes pkg/apis/events/v1/conversion.go,
// AddFieldLabelConversionsForEvent). That group has no name for the source.
func inEventsGroup(set fields.Set) {
	for name, value := range set {
		rest, ok := strings.CutPrefix(name, "involvedObject.")
		switch {
		case ok:
			set["regarding."+rest] = value
		case name == "reportingComponent":
			set["reportingController"] = value
		case name != "source":
			continue
		}
		delete(set, name)
	}
}

// typed converts a built-in object that was stored as JSON to its Go type, if
// this build has one.
func typed(obj runtime.Object, r *Resource) (runtime.Object, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok || r.Custom {
		return obj, nil
	}
	to, err := scheme.Scheme.New(u.GroupVersionKind())
	if err != nil {
		return obj, nil
	}
	if wildText(u.Object) || runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, to) != nil {
		return nil, fmt.Errorf("%w: it does not have the shape of a %s", ErrUndecodable, u.GetKind())
	}
	return to, nil
}

// addByPath reads the fields whose name is their path, in a kind that is
// stored in several versions or defined by a CRD.
func addByPath(set fields.Set, obj runtime.Object, names []string) error {
	var content map[string]any
	if u, ok := obj.(*unstructured.Unstructured); ok {
		content = u.Object
	} else {
		var err error
		if content, err = runtime.DefaultUnstructuredConverter.ToUnstructured(obj); err != nil {
			return err
		}
	}
	for _, name := range names {
		if _, done := set[name]; done {
			continue
		}
		value, _, err := unstructured.NestedFieldNoCopy(content, strings.Split(name, ".")...)
		if err != nil {
			return fmt.Errorf("%w: field %s is not where it should be", ErrUndecodable, name)
		}
		switch v := value.(type) {
		case nil:
			set[name] = unset(name)
		case string, bool, int64, float64:
			set[name] = fmt.Sprint(v)
		default:
			return fmt.Errorf("%w: field %s is no single value", ErrUndecodable, name)
		}
	}
	return nil
}

// unset is the value of a field that the object does not have.
func unset(name string) string {
	if name == "status.replicas" {
		return "0"
	}
	return ""
}
