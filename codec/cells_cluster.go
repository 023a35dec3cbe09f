package codec

import (
	"fmt"
	"slices"
	"strings"
	"time"

	apiserverinternalv1alpha1 "k8s.io/api/apiserverinternal/v1alpha1"
	coordinationv1 "k8s.io/api/coordination/v1"
	coordinationv1beta1 "k8s.io/api/coordination/v1beta1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	nodev1 "k8s.io/api/node/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

const eventColumns = "LAST SEEN,TYPE,REASON,OBJECT,+SUBOBJECT,+SOURCE,MESSAGE,+FIRST SEEN,+COUNT,+NAME"

// clusterTables has kinds of many groups. "CREATED AT" is what kube-apiserver
// shows of a kind that it has no table for.
func clusterTables() map[string]table {
	return map[string]table{
		"apiservices.apiregistration.k8s.io":             {columns("NAME,SERVICE,AVAILABLE,AGE"), apiServiceCells},
		"configmaps":                                     show("NAME,DATA,AGE", configMapCells),
		"customresourcedefinitions.apiextensions.k8s.io": plain("NAME,CREATED AT"),
		"events":                              events(),
		"events.events.k8s.io":                events(),
		"leasecandidates.coordination.k8s.io": show("NAME,LEASENAME,BINARYVERSION,EMULATIONVERSION,AGE", leaseCandidateCells),
		"leases.coordination.k8s.io":          show("NAME,HOLDER,AGE", leaseCells),
		"limitranges":                         plain("NAME,CREATED AT"),
		"namespaces":                          show("NAME,STATUS,AGE", namespaceCells),
		"nodes":                               show("NAME,STATUS,ROLES,AGE,VERSION,+INTERNAL-IP,+EXTERNAL-IP,+OS-IMAGE,+KERNEL-VERSION,+CONTAINER-RUNTIME", nodeCells),
		"resourcequotas":                      show("NAME,REQUEST,LIMIT,AGE", resourceQuotaCells),
		"runtimeclasses.node.k8s.io":          show("NAME,HANDLER,AGE", runtimeClassCells),
		"secrets":                             show("NAME,TYPE,DATA,AGE", secretCells),
		"storageversionmigrations.storagemigration.k8s.io": show("NAME,RESOURCE,STATUS", storageVersionMigrationCells),
		"storageversions.internal.apiserver.k8s.io":        show("NAME,COMMONENCODINGVERSION,STORAGEVERSIONS,AGE", storageVersionCells),
	}
}

// apiService is what the table shows of an APIService, which has no type in
// k8s.io/api.
type apiService struct {
	Spec struct {
		Service *struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"service"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
			Reason string `json:"reason"`
		} `json:"conditions"`
	} `json:"status"`
}

// apiServiceCells follows k8s.io/kube-aggregator
// pkg/registry/apiservice/etcd/etcd.go.
func apiServiceCells(obj runtime.Object, now time.Time) []string {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok || u.GetKind() != "APIService" {
		return nil
	}
	var o apiService
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &o); err != nil {
		return nil
	}
	service, available := "Local", "Unknown"
	if s := o.Spec.Service; s != nil {
		service = s.Namespace + "/" + s.Name
	}
	for _, c := range o.Status.Conditions {
		if c.Type != "Available" {
			continue
		}
		available = c.Status
		if c.Status != "True" && c.Reason != "" {
			available = fmt.Sprintf("%s (%s)", c.Status, c.Reason)
		}
		break
	}
	return []string{u.GetName(), service, available, age(u.GetCreationTimestamp(), now)}
}

func configMapCells(o *corev1.ConfigMap, now time.Time) []string {
	return []string{o.Name, count(len(o.Data) + len(o.BinaryData)), age(o.CreationTimestamp, now)}
}

func secretCells(o *corev1.Secret, now time.Time) []string {
	return []string{o.Name, string(o.Type), count(len(o.Data)), age(o.CreationTimestamp, now)}
}

func namespaceCells(o *corev1.Namespace, now time.Time) []string {
	return []string{o.Name, string(o.Status.Phase), age(o.CreationTimestamp, now)}
}

func leaseCells(o *coordinationv1.Lease, now time.Time) []string {
	return []string{o.Name, deref(o.Spec.HolderIdentity, ""), age(o.CreationTimestamp, now)}
}

func leaseCandidateCells(o *coordinationv1beta1.LeaseCandidate, now time.Time) []string {
	return []string{o.Name, o.Spec.LeaseName, o.Spec.BinaryVersion, o.Spec.EmulationVersion, age(o.CreationTimestamp, now)}
}

func runtimeClassCells(o *nodev1.RuntimeClass, now time.Time) []string {
	return []string{o.Name, o.Handler, age(o.CreationTimestamp, now)}
}

func nodeCells(o *corev1.Node, now time.Time) []string {
	status := "Unknown"
	for i := range o.Status.Conditions {
		if c := &o.Status.Conditions[i]; c.Type == corev1.NodeReady {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if o.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	info := &o.Status.NodeInfo
	kernel := or(info.KernelVersion, unknownValue)
	if info.Architecture != "" {
		kernel += " (" + info.Architecture + ")"
	}
	return []string{o.Name, status, nodeRoles(o), age(o.CreationTimestamp, now), info.KubeletVersion,
		nodeAddress(o, corev1.NodeInternalIP), nodeAddress(o, corev1.NodeExternalIP),
		or(info.OSImage, unknownValue), kernel, or(info.ContainerRuntimeVersion, unknownValue)}
}

func nodeAddress(o *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range o.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return noValue
}

func nodeRoles(o *corev1.Node) string {
	var roles []string
	for label, value := range o.Labels {
		role, ok := strings.CutPrefix(label, "node-role.kubernetes.io/")
		if label == "kubernetes.io/role" {
			role, ok = value, true
		}
		if ok && role != "" {
			roles = append(roles, role)
		}
	}
	slices.Sort(roles)
	return orNone(strings.Join(slices.Compact(roles), ","))
}

func resourceQuotaCells(o *corev1.ResourceQuota, now time.Time) []string {
	var names, requests, limits []string
	for name := range o.Status.Hard {
		names = append(names, string(name))
	}
	slices.Sort(names)
	for _, name := range names {
		used, hard := o.Status.Used[corev1.ResourceName(name)], o.Status.Hard[corev1.ResourceName(name)]
		text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
		if strings.HasPrefix(name, "limits.") {
			limits = append(limits, text)
		} else {
			requests = append(requests, text)
		}
	}
	return []string{o.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), age(o.CreationTimestamp, now)}
}

func storageVersionCells(o *apiserverinternalv1alpha1.StorageVersion, now time.Time) []string {
	var versions []string
	for _, v := range o.Status.StorageVersions {
		versions = append(versions, v.APIServerID+"="+v.EncodingVersion)
	}
	return []string{o.Name, deref(o.Status.CommonEncodingVersion, unsetValue), firstFew(versions, 3, ",", unsetValue), age(o.CreationTimestamp, now)}
}

func storageVersionMigrationCells(o *storagemigrationv1.StorageVersionMigration, _ time.Time) []string {
	status := "Unknown"
	for i := range o.Status.Conditions {
		c := &o.Status.Conditions[i]
		if c.Status != metav1.ConditionTrue {
			continue
		}
		switch storagemigrationv1.MigrationConditionType(c.Type) {
		case storagemigrationv1.MigrationRunning, storagemigrationv1.MigrationFailed, storagemigrationv1.MigrationSucceeded:
			status = c.Type
		}
	}
	return []string{o.Name, o.Spec.Resource.String(), status}
}

// events shows both versions of an event, which share their keys.
func events() table {
	core := show(eventColumns, eventCells)
	return table{core.columns, func(obj runtime.Object, now time.Time) []string {
		if obj.GetObjectKind().GroupVersionKind().Group != eventsv1.GroupName {
			return core.cells(obj, now)
		}
		o, ok := obj.(*eventsv1.Event)
		if !ok {
			o = &eventsv1.Event{}
			if !reshape(obj, "Event", o) {
				return nil
			}
		}
		return eventCells(legacyEvent(o), now)
	}}
}

// legacyEvent renames the fields of an event that the table shows
// (k8s.io/kubernetes pkg/apis/events/v1/conversion.go).
func legacyEvent(o *eventsv1.Event) *corev1.Event {
	event := &corev1.Event{
		ObjectMeta: o.ObjectMeta, Type: o.Type, Reason: o.Reason, Message: o.Note, InvolvedObject: o.Regarding,
		Source: o.DeprecatedSource, FirstTimestamp: o.DeprecatedFirstTimestamp, LastTimestamp: o.DeprecatedLastTimestamp,
		Count: o.DeprecatedCount, EventTime: o.EventTime, ReportingController: o.ReportingController, ReportingInstance: o.ReportingInstance,
	}
	if o.Series != nil {
		event.Series = &corev1.EventSeries{Count: o.Series.Count, LastObservedTime: o.Series.LastObservedTime}
	}
	return event
}

func eventCells(o *corev1.Event, now time.Time) []string {
	first := age(o.FirstTimestamp, now)
	if o.FirstTimestamp.IsZero() {
		first = microAge(o.EventTime, now)
	}
	last, times := age(o.LastTimestamp, now), o.Count
	if o.LastTimestamp.IsZero() {
		last = first
	}
	if o.Series != nil {
		last, times = microAge(o.Series.LastObservedTime, now), o.Series.Count
	} else if times == 0 {
		times = 1
	}
	object := strings.ToLower(o.InvolvedObject.Kind)
	if o.InvolvedObject.Name != "" {
		object += "/" + o.InvolvedObject.Name
	}
	source := or(o.Source.Component, o.ReportingController)
	if host := or(o.Source.Host, o.ReportingInstance); host != "" {
		source += ", " + host
	}
	return []string{last, o.Type, o.Reason, object, o.InvolvedObject.FieldPath, source,
		strings.TrimSpace(o.Message), first, count(times), o.Name}
}

func microAge(t metav1.MicroTime, now time.Time) string { return age(metav1.Time(t), now) }
