package codec

import (
	"fmt"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
)

// otherMetrics is where autoscaling/v1 keeps metrics other than CPU
// (k8s.io/kubernetes pkg/apis/autoscaling/annotations.go).
const otherMetrics = "autoscaling.alpha.kubernetes.io/metrics"

// horizontalPodAutoscalers shows autoscaling/v2 and, as releases up to 1.25
// stored it, autoscaling/v1.
func horizontalPodAutoscalers(header string) table {
	v2 := show(header, horizontalPodAutoscalerCells)
	return table{v2.columns, func(obj runtime.Object, now time.Time) []string {
		if obj.GetObjectKind().GroupVersionKind().Version != "v1" {
			return v2.cells(obj, now)
		}
		old, ok := obj.(*autoscalingv1.HorizontalPodAutoscaler)
		if !ok {
			old = &autoscalingv1.HorizontalPodAutoscaler{}
			if !reshape(obj, "HorizontalPodAutoscaler", old) {
				return nil
			}
		}
		cells := horizontalPodAutoscalerCells(fromAutoscalingV1(old), now)
		if old.Annotations[otherMetrics] != "" {
			cells[2] = unknownValue
		}
		return cells
	}}
}

func fromAutoscalingV1(old *autoscalingv1.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler {
	o := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: old.ObjectMeta}
	o.Spec.ScaleTargetRef.Kind, o.Spec.ScaleTargetRef.Name = old.Spec.ScaleTargetRef.Kind, old.Spec.ScaleTargetRef.Name
	o.Spec.MinReplicas, o.Spec.MaxReplicas = old.Spec.MinReplicas, old.Spec.MaxReplicas
	o.Status.CurrentReplicas = old.Status.CurrentReplicas
	if percent := old.Spec.TargetCPUUtilizationPercentage; percent != nil {
		o.Spec.Metrics = []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{AverageUtilization: percent}}}}
		o.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{
			Resource: &autoscalingv2.ResourceMetricStatus{Current: autoscalingv2.MetricValueStatus{AverageUtilization: old.Status.CurrentCPUUtilizationPercentage}}}}
	}
	return o
}

func horizontalPodAutoscalerCells(o *autoscalingv2.HorizontalPodAutoscaler, now time.Time) []string {
	least := unsetValue
	if o.Spec.MinReplicas != nil {
		least = count(*o.Spec.MinReplicas)
	}
	var targets []string
	for i := range o.Spec.Metrics {
		status := &autoscalingv2.MetricStatus{}
		if i < len(o.Status.CurrentMetrics) {
			status = &o.Status.CurrentMetrics[i]
		}
		targets = append(targets, metricTarget(&o.Spec.Metrics[i], status))
	}
	target := o.Spec.ScaleTargetRef
	return []string{o.Name, target.Kind + "/" + target.Name, firstFew(targets, 2, ", ", noValue), least,
		count(o.Spec.MaxReplicas), count(o.Status.CurrentReplicas), age(o.CreationTimestamp, now)}
}

// metricTarget is one metric as "current/target".
func metricTarget(spec *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) string {
	var current autoscalingv2.MetricValueStatus
	switch {
	case spec.External != nil && spec.Type == autoscalingv2.ExternalMetricSourceType:
		if status.External != nil {
			current = status.External.Current
		}
		return valueTarget(&spec.External.Target, &current)
	case spec.Object != nil && spec.Type == autoscalingv2.ObjectMetricSourceType:
		if status.Object != nil {
			current = status.Object.Current
		}
		return valueTarget(&spec.Object.Target, &current)
	case spec.Pods != nil && spec.Type == autoscalingv2.PodsMetricSourceType:
		if status.Pods != nil {
			current = status.Pods.Current
		}
		return quantity(current.AverageValue) + "/" + quantity(spec.Pods.Target.AverageValue)
	case spec.Resource != nil && spec.Type == autoscalingv2.ResourceMetricSourceType:
		if status.Resource != nil {
			current = status.Resource.Current
		}
		return resourceTarget(spec.Resource.Name, &spec.Resource.Target, &current)
	case spec.ContainerResource != nil && spec.Type == autoscalingv2.ContainerResourceMetricSourceType:
		if status.ContainerResource != nil {
			current = status.ContainerResource.Current
		}
		return resourceTarget(spec.ContainerResource.Name, &spec.ContainerResource.Target, &current)
	}
	return "<unknown type>"
}

func valueTarget(target *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return quantity(current.AverageValue) + "/" + quantity(target.AverageValue) + " (avg)"
	}
	return quantity(current.Value) + "/" + quantity(target.Value)
}

func resourceTarget(name corev1.ResourceName, target *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return fmt.Sprintf("%s: %s/%s", name, quantity(current.AverageValue), quantity(target.AverageValue))
	}
	return fmt.Sprintf("%s: %s/%s", name, percent(current.AverageUtilization, unknownValue), percent(target.AverageUtilization, "<auto>"))
}

func percent(n *int32, missing string) string {
	if n == nil {
		return missing
	}
	return count(*n) + "%"
}

func quantity(q *resource.Quantity) string {
	if q == nil {
		return unknownValue
	}
	return q.String()
}
