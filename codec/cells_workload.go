package codec

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
)

func workloadTables() map[string]table {
	return map[string]table{
		"controllerrevisions.apps":             show("NAME,CONTROLLER,REVISION,AGE", controllerRevisionCells),
		"cronjobs.batch":                       show("NAME,SCHEDULE,TIMEZONE,SUSPEND,ACTIVE,LAST SCHEDULE,AGE,+CONTAINERS,+IMAGES,+SELECTOR", cronJobCells),
		"daemonsets.apps":                      show("NAME,DESIRED,CURRENT,READY,UP-TO-DATE,AVAILABLE,NODE SELECTOR,AGE,+CONTAINERS,+IMAGES,+SELECTOR", daemonSetCells),
		"deployments.apps":                     show("NAME,READY,UP-TO-DATE,AVAILABLE,AGE,+CONTAINERS,+IMAGES,+SELECTOR", deploymentCells),
		"horizontalpodautoscalers.autoscaling": horizontalPodAutoscalers("NAME,REFERENCE,TARGETS,MINPODS,MAXPODS,REPLICAS,AGE"),
		"jobs.batch":                           show("NAME,STATUS,COMPLETIONS,DURATION,AGE,+CONTAINERS,+IMAGES,+SELECTOR", jobCells),
		"poddisruptionbudgets.policy":          show("NAME,MIN AVAILABLE,MAX UNAVAILABLE,ALLOWED DISRUPTIONS,AGE", podDisruptionBudgetCells),
		"podgroups.scheduling.k8s.io":          show("NAME,POLICY,WORKLOAD,STATUS,AGE", podGroupCells),
		"pods":                                 show("NAME,READY,STATUS,RESTARTS,AGE,+IP,+NODE,+NOMINATED NODE,+READINESS GATES", podCells),
		"podtemplates":                         show("NAME,CONTAINERS,IMAGES,POD LABELS", podTemplateCells),
		"priorityclasses.scheduling.k8s.io":    show("NAME,VALUE,GLOBAL-DEFAULT,AGE,PREEMPTIONPOLICY", priorityClassCells),
		"replicasets.apps":                     show("NAME,DESIRED,CURRENT,READY,AGE,+CONTAINERS,+IMAGES,+SELECTOR", replicaSetCells),
		"replicationcontrollers":               show("NAME,DESIRED,CURRENT,READY,AGE,+CONTAINERS,+IMAGES,+SELECTOR", replicationControllerCells),
		"statefulsets.apps":                    show("NAME,READY,AGE,+CONTAINERS,+IMAGES", statefulSetCells),
		"workloads.scheduling.k8s.io":          plain("NAME,AGE"),
	}
}

// desired is a number of replicas as kube-apiserver reads it: one if it is not
// set.
func desired(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

func controllerRevisionCells(o *appsv1.ControllerRevision, now time.Time) []string {
	controller := noValue
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
		kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
		controller = strings.ToLower(kind.String()) + "/" + ref.Name
	}
	return []string{o.Name, controller, count(o.Revision), age(o.CreationTimestamp, now)}
}

func cronJobCells(o *batchv1.CronJob, now time.Time) []string {
	suspend, last := "False", noValue
	if o.Spec.Suspend != nil && *o.Spec.Suspend {
		suspend = "True"
	}
	if o.Status.LastScheduleTime != nil {
		last = age(*o.Status.LastScheduleTime, now)
	}
	job := &o.Spec.JobTemplate.Spec
	cells := []string{o.Name, o.Spec.Schedule, deref(o.Spec.TimeZone, noValue), suspend,
		count(len(o.Status.Active)), last, age(o.CreationTimestamp, now)}
	cells = append(cells, containerCells(&job.Template.Spec)...)
	return append(cells, metav1.FormatLabelSelector(job.Selector))
}

func daemonSetCells(o *appsv1.DaemonSet, now time.Time) []string {
	s, pod := &o.Status, &o.Spec.Template.Spec
	cells := []string{o.Name, count(s.DesiredNumberScheduled), count(s.CurrentNumberScheduled), count(s.NumberReady),
		count(s.UpdatedNumberScheduled), count(s.NumberAvailable), labels.FormatLabels(pod.NodeSelector), age(o.CreationTimestamp, now)}
	cells = append(cells, containerCells(pod)...)
	return append(cells, metav1.FormatLabelSelector(o.Spec.Selector))
}

func deploymentCells(o *appsv1.Deployment, now time.Time) []string {
	// Unlike elsewhere an empty selector is an empty cell here.
	selector := "<invalid>"
	if s, err := metav1.LabelSelectorAsSelector(o.Spec.Selector); err == nil {
		selector = s.String()
	}
	cells := []string{o.Name, fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, desired(o.Spec.Replicas)),
		count(o.Status.UpdatedReplicas), count(o.Status.AvailableReplicas), age(o.CreationTimestamp, now)}
	cells = append(cells, containerCells(&o.Spec.Template.Spec)...)
	return append(cells, selector)
}

func replicaSetCells(o *appsv1.ReplicaSet, now time.Time) []string {
	cells := []string{o.Name, count(desired(o.Spec.Replicas)), count(o.Status.Replicas), count(o.Status.ReadyReplicas), age(o.CreationTimestamp, now)}
	cells = append(cells, containerCells(&o.Spec.Template.Spec)...)
	return append(cells, metav1.FormatLabelSelector(o.Spec.Selector))
}

func replicationControllerCells(o *corev1.ReplicationController, now time.Time) []string {
	pod := &corev1.PodSpec{}
	if o.Spec.Template != nil {
		pod = &o.Spec.Template.Spec
	}
	cells := []string{o.Name, count(desired(o.Spec.Replicas)), count(o.Status.Replicas), count(o.Status.ReadyReplicas), age(o.CreationTimestamp, now)}
	cells = append(cells, containerCells(pod)...)
	return append(cells, labels.FormatLabels(o.Spec.Selector))
}

func statefulSetCells(o *appsv1.StatefulSet, now time.Time) []string {
	cells := []string{o.Name, fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, desired(o.Spec.Replicas)), age(o.CreationTimestamp, now)}
	return append(cells, containerCells(&o.Spec.Template.Spec)...)
}

func podTemplateCells(o *corev1.PodTemplate, _ time.Time) []string {
	cells := append([]string{o.Name}, containerCells(&o.Template.Spec)...)
	return append(cells, labels.FormatLabels(o.Template.Labels))
}

func podDisruptionBudgetCells(o *policyv1.PodDisruptionBudget, now time.Time) []string {
	const notGiven = "N/A"
	least, most := notGiven, notGiven
	if o.Spec.MinAvailable != nil {
		least = o.Spec.MinAvailable.String()
	}
	if o.Spec.MaxUnavailable != nil {
		most = o.Spec.MaxUnavailable.String()
	}
	return []string{o.Name, least, most, count(o.Status.DisruptionsAllowed), age(o.CreationTimestamp, now)}
}

func podGroupCells(o *schedulingv1beta1.PodGroup, now time.Time) []string {
	policy, workload, status := "Basic", noValue, "Pending"
	if o.Spec.SchedulingPolicy.Gang != nil {
		policy = "Gang"
	}
	if o.Spec.WorkloadRef != nil {
		workload = o.Spec.WorkloadRef.WorkloadName
	}
	disrupted := ""
	for i := range o.Status.Conditions {
		switch c := &o.Status.Conditions[i]; c.Type {
		case "PodGroupScheduled":
			status = "Unschedulable"
			if c.Status == metav1.ConditionTrue {
				status = "Scheduled"
			}
		case schedulingv1beta1.DisruptionTarget:
			disrupted = c.Reason
		}
	}
	return []string{o.Name, policy, workload, or(disrupted, status), age(o.CreationTimestamp, now)}
}

func priorityClassCells(o *schedulingv1.PriorityClass, now time.Time) []string {
	return []string{o.Name, count(o.Value), strconv.FormatBool(o.GlobalDefault), age(o.CreationTimestamp, now),
		deref(o.PreemptionPolicy, string(corev1.PreemptLowerPriority))}
}

func jobCells(o *batchv1.Job, now time.Time) []string {
	cells := []string{o.Name, jobStatus(o), jobCompletions(o), jobDuration(o, now), age(o.CreationTimestamp, now)}
	cells = append(cells, containerCells(&o.Spec.Template.Spec)...)
	return append(cells, metav1.FormatLabelSelector(o.Spec.Selector))
}

func jobStatus(job *batchv1.Job) string {
	is := func(t batchv1.JobConditionType) bool {
		for i := range job.Status.Conditions {
			if c := &job.Status.Conditions[i]; c.Type == t {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	switch {
	case is(batchv1.JobComplete):
		return "Complete"
	case is(batchv1.JobFailed):
		return "Failed"
	case job.DeletionTimestamp != nil:
		return "Terminating"
	case is(batchv1.JobSuspended):
		return "Suspended"
	case is(batchv1.JobFailureTarget):
		return "FailureTarget"
	case is(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func jobCompletions(job *batchv1.Job) string {
	done := job.Status.Succeeded
	switch spec := &job.Spec; {
	case spec.Completions != nil:
		return fmt.Sprintf("%d/%d", done, *spec.Completions)
	case spec.Parallelism != nil && *spec.Parallelism > 1:
		return fmt.Sprintf("%d/1 of %d", done, *spec.Parallelism)
	}
	return fmt.Sprintf("%d/1", done)
}

func jobDuration(job *batchv1.Job, now time.Time) string {
	start, end := job.Status.StartTime, job.Status.CompletionTime
	switch {
	case start == nil:
		return ""
	case end == nil:
		return duration.HumanDuration(now.Sub(start.Time))
	}
	return duration.HumanDuration(end.Sub(start.Time))
}
