package codec

import (
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

const (
	noValue      = "<none>"
	unknownValue = "<unknown>"
)

// Column is one column of a table. Wide ones are shown with -o wide only.
type Column struct {
	Name string
	Wide bool
}

// Columns returns the columns of the resource's table as kubectl 1.36 prints
// them (k8s.io/kubernetes pkg/printers/internalversion/printers.go), for pods,
// jobs and namespaces; NAME and AGE for anything else. NAMESPACE is left to the
// caller, who knows whether more than one is listed.
func (r *Resource) Columns() []Column {
	switch r.String() {
	case "pods":
		return columns("NAME READY STATUS RESTARTS AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES")
	case "jobs.batch":
		return columns("NAME STATUS COMPLETIONS DURATION AGE", "CONTAINERS", "IMAGES", "SELECTOR")
	case "namespaces":
		return columns("NAME STATUS AGE")
	}
	return columns("NAME AGE")
}

func columns(normal string, wide ...string) []Column {
	var list []Column
	for _, name := range strings.Fields(normal) {
		list = append(list, Column{Name: name})
	}
	for _, name := range wide {
		list = append(list, Column{Name: name, Wide: true})
	}
	return list
}

// Cells returns the text of one row, a cell for each of r.Columns() in the same
// order, wide ones included. Ages count to now. An object that is not what the
// columns describe has its name and its age, and <unknown> in the others.
func Cells(obj runtime.Object, r *Resource, now time.Time) []string {
	header := r.Columns()
	if len(header) > 2 {
		if o, err := typed(obj, r); err == nil {
			obj = o
		}
	}
	var cells []string
	switch o := obj.(type) {
	case *corev1.Pod:
		cells = podCells(o, now)
	case *batchv1.Job:
		cells = jobCells(o, now)
	case *corev1.Namespace:
		cells = []string{o.Name, string(o.Status.Phase), age(o.CreationTimestamp, now)}
	}
	if len(cells) == len(header) {
		return cells
	}
	return plainCells(obj, header, now)
}

func plainCells(obj runtime.Object, header []Column, now time.Time) []string {
	name, created := unknownValue, unknownValue
	if accessor, err := meta.Accessor(obj); err == nil {
		name, created = accessor.GetName(), age(accessor.GetCreationTimestamp(), now)
	}
	cells := make([]string, len(header))
	for i, column := range header {
		switch column.Name {
		case "NAME":
			cells[i] = name
		case "AGE":
			cells[i] = created
		default:
			cells[i] = unknownValue
		}
	}
	return cells
}

func jobCells(job *batchv1.Job, now time.Time) []string {
	var names, images []string
	for i := range job.Spec.Template.Spec.Containers {
		container := &job.Spec.Template.Spec.Containers[i]
		names = append(names, container.Name)
		images = append(images, container.Image)
	}
	return []string{
		job.Name,
		jobStatus(job),
		jobCompletions(job),
		jobDuration(job, now),
		age(job.CreationTimestamp, now),
		strings.Join(names, ","),
		strings.Join(images, ","),
		metav1.FormatLabelSelector(job.Spec.Selector),
	}
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

func age(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return unknownValue
	}
	return duration.HumanDuration(now.Sub(t.Time))
}
