package codec

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

func storageTables() map[string]table {
	return map[string]table{
		"csidrivers.storage.k8s.io":              show("NAME,ATTACHREQUIRED,PODINFOONMOUNT,STORAGECAPACITY,TOKENREQUESTS,REQUIRESREPUBLISH,MODES,AGE", csiDriverCells),
		"csinodes.storage.k8s.io":                show("NAME,DRIVERS,AGE", csiNodeCells),
		"csistoragecapacities.storage.k8s.io":    plain("NAME,CREATED AT"),
		"persistentvolumeclaims":                 show("NAME,STATUS,VOLUME,CAPACITY,ACCESS MODES,STORAGECLASS,VOLUMEATTRIBUTESCLASS,AGE,+VOLUMEMODE", claimCells),
		"persistentvolumes":                      show("NAME,CAPACITY,ACCESS MODES,RECLAIM POLICY,STATUS,CLAIM,STORAGECLASS,VOLUMEATTRIBUTESCLASS,REASON,AGE,+VOLUMEMODE", volumeCells),
		"storageclasses.storage.k8s.io":          show("NAME,PROVISIONER,RECLAIMPOLICY,VOLUMEBINDINGMODE,ALLOWVOLUMEEXPANSION,AGE", storageClassCells),
		"volumeattachments.storage.k8s.io":       show("NAME,ATTACHER,PV,NODE,ATTACHED,AGE", volumeAttachmentCells),
		"volumeattributesclasses.storage.k8s.io": show("NAME,DRIVERNAME,AGE", volumeAttributesClassCells),
	}
}

func csiDriverCells(o *storagev1.CSIDriver, now time.Time) []string {
	tokens := unsetValue
	if o.Spec.TokenRequests != nil {
		var audiences []string
		for _, t := range o.Spec.TokenRequests {
			audiences = append(audiences, t.Audience)
		}
		tokens = strings.Join(audiences, ",")
	}
	var modes []string
	for _, mode := range o.Spec.VolumeLifecycleModes {
		modes = append(modes, string(mode))
	}
	return []string{o.Name, isTrue(o.Spec.AttachRequired, true), isTrue(o.Spec.PodInfoOnMount, false), isTrue(o.Spec.StorageCapacity, false),
		tokens, isTrue(o.Spec.RequiresRepublish, false), orNone(strings.Join(modes, ",")), age(o.CreationTimestamp, now)}
}

func csiNodeCells(o *storagev1.CSINode, now time.Time) []string {
	return []string{o.Name, count(len(o.Spec.Drivers)), age(o.CreationTimestamp, now)}
}

// accessModes is in a fixed order, whatever order the modes are stored in.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}} {
		if slices.Contains(modes, m.mode) {
			short = append(short, m.short)
		}
	}
	return strings.Join(short, ",")
}

// storageClass prefers the annotation, which is older than the field.
func storageClass(annotations map[string]string, field string) string {
	if class, ok := annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return field
}

func volumeCells(o *corev1.PersistentVolume, now time.Time) []string {
	status, claim := string(o.Status.Phase), ""
	if o.DeletionTimestamp != nil {
		status = "Terminating"
	}
	if ref := o.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	capacity := o.Spec.Capacity[corev1.ResourceStorage]
	return []string{o.Name, capacity.String(), accessModes(o.Spec.AccessModes), string(o.Spec.PersistentVolumeReclaimPolicy), status, claim,
		storageClass(o.Annotations, o.Spec.StorageClassName), deref(o.Spec.VolumeAttributesClassName, unsetValue),
		o.Status.Reason, age(o.CreationTimestamp, now), deref(o.Spec.VolumeMode, unsetValue)}
}

func claimCells(o *corev1.PersistentVolumeClaim, now time.Time) []string {
	status, capacity, modes := string(o.Status.Phase), "", ""
	if o.DeletionTimestamp != nil {
		status = "Terminating"
	}
	if o.Spec.VolumeName != "" {
		bound := o.Status.Capacity[corev1.ResourceStorage]
		capacity, modes = bound.String(), accessModes(o.Status.AccessModes)
	}
	return []string{o.Name, status, o.Spec.VolumeName, capacity, modes,
		storageClass(o.Annotations, deref(o.Spec.StorageClassName, "")), deref(o.Spec.VolumeAttributesClassName, unsetValue),
		age(o.CreationTimestamp, now), deref(o.Spec.VolumeMode, unsetValue)}
}

func storageClassCells(o *storagev1.StorageClass, now time.Time) []string {
	isDefault := o.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" ||
		o.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true"
	return []string{withDefault(o.Name, isDefault), o.Provisioner, deref(o.ReclaimPolicy, string(corev1.PersistentVolumeReclaimDelete)),
		deref(o.VolumeBindingMode, string(storagev1.VolumeBindingImmediate)), isTrue(o.AllowVolumeExpansion, false), age(o.CreationTimestamp, now)}
}

func volumeAttachmentCells(o *storagev1.VolumeAttachment, now time.Time) []string {
	return []string{o.Name, o.Spec.Attacher, deref(o.Spec.Source.PersistentVolumeName, ""), o.Spec.NodeName,
		isTrue(&o.Status.Attached, false), age(o.CreationTimestamp, now)}
}

func volumeAttributesClassCells(o *storagev1.VolumeAttributesClass, now time.Time) []string {
	return []string{o.Name, o.DriverName, age(o.CreationTimestamp, now)}
}
