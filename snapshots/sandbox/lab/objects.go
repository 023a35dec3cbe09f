package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// models are real objects, which the generated ones are copies of.
type models struct {
	pod       corev1.Pod
	job       batchv1.Job
	namespace corev1.Namespace

	rng *rand.Rand
	buf []byte
	err error
}

// protobuf is how kube-apiserver begins a value in protobuf.
const protobuf = "k8s\x00"

// take decodes a value that can be a model.
func (m *models) take(key string, value []byte) {
	var to interface{ Unmarshal([]byte) error }
	switch {
	case strings.HasPrefix(key, "/registry/pods/") && m.pod.Name == "":
		to = &m.pod
	case strings.HasPrefix(key, "/registry/jobs/"):
		m.job, to = batchv1.Job{}, &m.job
	case key == "/registry/namespaces/ops-tools":
		m.namespace, to = corev1.Namespace{}, &m.namespace
	default:
		return
	}
	var u runtime.Unknown
	err := u.Unmarshal([]byte(strings.TrimPrefix(string(value), protobuf)))
	if err == nil {
		err = to.Unmarshal(u.Raw)
	}
	m.err = errors.Join(m.err, err)
}

const (
	// span is how long making all the pods took.
	span = 6 * time.Hour
	// nodes is how many nodes they are spread over.
	nodes = 200
)

// jobNames are the Jobs of each namespace, by how many of ten pods they have.
func jobNames() [10]string {
	return [10]string{Job, Job, Job, Job, "report", "report", "report", "sync", "sync", "backup"}
}

// CronJob is the name of the CronJob, one in each namespace, that owns all the Jobs and through them all the pods. Job
// owns four of ten pods.
const (
	CronJob = "nightly"
	Job     = "flood"
)

// putter stores a value, which is valid during the call only.
type putter func(key string, value []byte) error

// write makes the objects of the shape, in the order of time.
func (m *models) write(ctx context.Context, s Shape, put putter) error {
	if m.err != nil {
		return fmt.Errorf("read the fixture: %w", m.err)
	}
	if m.pod.Name == "" || m.job.Name == "" || m.namespace.Name == "" {
		return errors.New("the fixture has no pod, Job or Namespace to copy")
	}
	m.rng = rand.New(rand.NewPCG(1, uint64(s.Pods)))
	jobs := make([]map[string]types.UID, s.Namespaces)
	for i := range jobs {
		var err error
		if jobs[i], err = m.putNamespace(nsName(i), put); err != nil {
			return err
		}
	}
	begun := m.pod.CreationTimestamp.Time
	for i := range s.Pods {
		ns, job := m.rng.IntN(s.Namespaces), jobNames()[m.rng.IntN(10)]
		at := begun.Add(time.Duration(float64(span) * float64(i) / float64(s.Pods)))
		owner, uid := job, jobs[ns][job]
		name := job + "-" + suffix(uint64(i))
		if s.OwnOwners {
			owner, uid = name, m.uid()
			name = owner + "-" + suffix(uint64(s.Pods+i))
		}
		m.setPod(name, nsName(ns), owner, uid, at)
		if err := m.put("/registry/pods/"+nsName(ns)+"/"+name, "v1", "Pod", &m.pod, put); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func nsName(i int) string { return fmt.Sprintf("team-%04d", i) }

// putNamespace makes a namespace, its Jobs and the CronJob that they belong to. It returns the uids of the Jobs.
func (m *models) putNamespace(name string, put putter) (map[string]types.UID, error) {
	m.namespace.Name, m.namespace.UID = name, m.uid()
	m.namespace.Labels = map[string]string{corev1.LabelMetadataName: name}
	if err := m.put("/registry/namespaces/"+name, "v1", "Namespace", &m.namespace, put); err != nil {
		return nil, err
	}
	cron := batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: CronJob, Namespace: name, UID: m.uid(), CreationTimestamp: m.job.CreationTimestamp},
		Spec:       batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: m.job.Spec}},
	}
	if err := m.put("/registry/cronjobs/"+name+"/"+CronJob, "batch/v1", "CronJob", &cron, put); err != nil {
		return nil, err
	}
	jobs := map[string]types.UID{}
	for _, job := range jobNames() {
		if jobs[job] != "" {
			continue
		}
		jobs[job] = m.uid()
		m.job.Name, m.job.Namespace, m.job.UID = job, name, jobs[job]
		m.job.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(&cron, batchv1.SchemeGroupVersion.WithKind("CronJob"))}
		if err := m.put("/registry/jobs/"+name+"/"+job, "batch/v1", "Job", &m.job, put); err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

// setPod changes the model in place: what differs between the pods of real Jobs, and nothing else.
func (m *models) setPod(name, namespace, job string, jobUID types.UID, at time.Time) {
	p := &m.pod
	p.Name, p.Namespace, p.UID = name, namespace, m.uid()
	p.GenerateName = name[:len(name)-suffixLen]
	p.CreationTimestamp = metav1.NewTime(at)
	if len(p.ManagedFields) > 0 {
		p.ManagedFields[0].Time = &metav1.Time{Time: at}
	}
	p.OwnerReferences[0].Name, p.OwnerReferences[0].UID = job, jobUID
	for _, label := range []string{"app", batchv1.JobNameLabel, "job-name"} {
		p.Labels[label] = job
	}
	for _, label := range []string{batchv1.ControllerUidLabel, "controller-uid"} {
		p.Labels[label] = string(jobUID)
	}
	p.Spec.NodeName = ""
	switch n := m.rng.IntN(100); {
	case n < 60:
		p.Status.Phase = corev1.PodPending
	case n < 90:
		p.Status.Phase = corev1.PodFailed
	case n < 97:
		p.Status.Phase = corev1.PodSucceeded
	default:
		p.Status.Phase = corev1.PodRunning
	}
	// Half of what is pending waits for a node.
	if p.Status.Phase != corev1.PodPending || m.rng.IntN(2) == 0 {
		p.Spec.NodeName = fmt.Sprintf("node-%03d", m.rng.IntN(nodes))
	}
}

// uid makes a version 4 UUID.
func (m *models) uid() types.UID {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], m.rng.Uint64())
	binary.LittleEndian.PutUint64(b[8:], m.rng.Uint64())
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

// put stores a value as kube-apiserver does.
func (m *models) put(key, apiVersion, kind string, obj interface{ Marshal() ([]byte, error) }, put putter) error {
	raw, err := obj.Marshal()
	if err != nil {
		return err
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: raw}
	value, err := u.Marshal()
	if err != nil {
		return err
	}
	m.buf = append(append(m.buf[:0], protobuf...), value...)
	return put(key, m.buf)
}

const (
	// alphabet is what k8s.io/apimachinery pkg/util/rand takes suffixes of generated names from.
	alphabet  = "bcdfghjklmnpqrstvwxz2456789"
	suffixLen = 5
	suffixes  = 27 * 27 * 27 * 27 * 27
)

// suffix gives every i below suffixes a suffix of its own, in no order: a Feistel network permutes 24 bits, and what
// is too large goes through it again.
func suffix(i uint64) string {
	for first := true; first || i >= suffixes; first = false {
		left, right := i>>12, i&0xfff
		for round := range uint64(4) {
			mixed := (right + round*0x9e5) * 0x9e3779b97f4a7c15
			left, right = right, left^(mixed>>40)&0xfff
		}
		i = left<<12 | right
	}
	var s [suffixLen]byte
	for k := range s {
		s[k] = alphabet[i%27]
		i /= 27
	}
	return string(s[:])
}
