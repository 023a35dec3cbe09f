package codec

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
)

// viewed is a time soon after the fixture was made.
func viewed() time.Time { return time.Date(2026, 11, 22, 17, 24, 0, 0, time.UTC) }

// TestZooCells compares rows with what kubectl 1.36 prints of the fixture: the
// values are those of k8s.io/kubernetes v1.36.3 pkg/printers/internalversion on
// the same objects, read over by hand.
func TestZooCells(t *testing.T) {
	live := zoo(t)
	c := zooCatalog(t, live)
	tests := []struct{ key, want string }{
		{"pods/team/api-787744fd75-b4f2v", "api-787744fd75-b4f2v|0/1|Evicted|0|136m|10.244.0.38|gpu-1|<none>|<none>"},
		{"pods/team/api-787744fd75-gnd2p", "api-787744fd75-gnd2p|1/1|Running|0|135m|10.244.0.61|gpu-1|<none>|<none>"},
		{"pods/team/guarded", "guarded|1/1|Terminating|0|136m|10.244.0.40|w-2|<none>|<none>"},
		{"pods/team/guarded-live", "guarded-live|1/1|Running|0|136m|10.244.0.41|w-9|<none>|<none>"},
		{"pods/team/unschedulable", "unschedulable|0/1|Pending|0|136m|<none>|<none>|<none>|<none>"},
		{"pods/platform/crater-backend-58d494dc9b-lkm24", "crater-backend-58d494dc9b-lkm24|0/1|CrashLoopBackOff|7 (136m ago)|136m|10.244.0.30|w-1|<none>|<none>"},
		{"pods/harbor/jobservice-5676bd8869-2t978", "jobservice-5676bd8869-2t978|0/1|Terminating|7 (136m ago)|136m|10.244.0.12|w-2|<none>|<none>"},
		{"pods/batch-jobs/broken-f5hqb", "broken-f5hqb|0/1|Error|0|136m|<none>|w-2|<none>|<none>"},
		{"pods/batch-jobs/report-29922668-cklnt", "report-29922668-cklnt|0/1|Completed|0|136m|<none>|w-9|<none>|<none>"},
		{"pods/ops-tools/stuck-term", "stuck-term|1/1|Terminating|0|136m|10.244.0.27|w-9|<none>|<none>"},
		{"jobs/batch-jobs/broken", "broken|Failed|0/1|136m|136m|main|crater-harbor.example/data/broken:latest|batch.kubernetes.io/controller-uid=568f400f-9b26-4319-8928-39659ce7e8ab"},
		{"jobs/batch-jobs/indexed", "indexed|Running|0/3|136m|136m|main|harbor.example/data/idx:1|batch.kubernetes.io/controller-uid=6b09b3ea-82ea-4e70-ab75-b4ab50be6209"},
		{"jobs/batch-jobs/waiting", "waiting|Suspended|0/1||136m|main|gpu-harbor.example/cuda/train:12.4|batch.kubernetes.io/controller-uid=0a1544f2-6387-4f7c-9645-ac0e085d0c5a"},
		{"jobs/ops-tools/gc-manual", "gc-manual|Complete|1/1|12s|136m|main|registry.k8s.io/kubectl:v1.36.3|batch.kubernetes.io/controller-uid=a90368b3-3f4b-4173-a951-b00821593855"},
		{"namespaces/mirror-old", "mirror-old|Terminating|136m"},
		{"namespaces/team", "team|Active|136m"},
		{"batch.volcano.sh/jobs/mirror-old/sync-all", "sync-all|136m"},
		{"minions/w-9", "w-9|NotReady|<none>|136m|v1.36.3|192.168.7.15|<none>|Talos (v1.12.1)|6.12.48 (amd64)|containerd://2.1.5"},
	}
	for _, test := range tests {
		k, ok := c.ParseKey(prefix, prefix+test.key)
		if !ok {
			t.Fatalf("%s: not understood", test.key)
		}
		obj, err := Decode(live[prefix+test.key].value, 1)
		if err != nil {
			t.Fatalf("%s: %v", test.key, err)
		}
		if got := strings.Join(Cells(obj, k.Resource, viewed()), "|"); got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.key, got, test.want)
		}
	}
}

// TestPodCells covers the rules that no pod of the fixture shows. The pods are
// stored as JSON, as a --storage-media-type of JSON makes them.
func TestPodCells(t *testing.T) {
	t.Parallel()
	const ended = `"lastState":{"terminated":{"exitCode":1,"finishedAt":"2026-11-22T17:19:00Z"}}`
	tests := []struct{ name, spec, status, meta, want string }{
		{"first init container waits",
			`{"initContainers":[{"name":"i"}],"containers":[{"name":"c"}]}`,
			`{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"waiting":{"reason":"PodInitializing"}}}],"containerStatuses":[{"name":"c","state":{"waiting":{"reason":"PodInitializing"}}}]}`, ``,
			"0/1|Init:0/1|0"},
		{"second init container runs, restarts of the first count",
			`{"initContainers":[{"name":"i"},{"name":"j"}],"containers":[{"name":"c"}]}`,
			`{"phase":"Pending","initContainerStatuses":[{"name":"i","restartCount":2,"state":{"terminated":{"exitCode":0}},` + ended + `},{"name":"j","state":{"running":{}}}]}`, ``,
			"0/1|Init:1/2|2 (5m ago)"},
		{"init container failed",
			`{"initContainers":[{"name":"i"}],"containers":[{"name":"c"}]}`,
			`{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"terminated":{"exitCode":3}}}]}`, ``,
			"0/1|Init:ExitCode:3|0"},
		{"init container killed",
			`{"initContainers":[{"name":"i"}],"containers":[{"name":"c"}]}`,
			`{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"terminated":{"exitCode":137,"signal":9}}}]}`, ``,
			"0/1|Init:Signal:9|0"},
		{"init container loops",
			`{"initContainers":[{"name":"i"}],"containers":[{"name":"c"}]}`,
			`{"phase":"Pending","initContainerStatuses":[{"name":"i","restartCount":4,"state":{"waiting":{"reason":"CrashLoopBackOff"}}}]}`, ``,
			"0/1|Init:CrashLoopBackOff|4"},
		{"sidecar counts as container and its restarts stay",
			`{"initContainers":[{"name":"s","restartPolicy":"Always"}],"containers":[{"name":"c"}]}`,
			`{"phase":"Running","initContainerStatuses":[{"name":"s","ready":true,"started":true,"restartCount":1,"state":{"running":{}},` + ended + `}],"containerStatuses":[{"name":"c","ready":true,"restartCount":2,"state":{"running":{}}}]}`, ``,
			"2/2|Running|3 (5m ago)"},
		{"restarts of a finished init container are dropped",
			`{"initContainers":[{"name":"i"}],"containers":[{"name":"c"}]}`,
			`{"phase":"Running","initContainerStatuses":[{"name":"i","restartCount":5,"state":{"terminated":{"exitCode":0}}}],"containerStatuses":[{"name":"c","ready":true,"state":{"running":{}}}]}`, ``,
			"1/1|Running|0"},
		{"gated", `{"containers":[{"name":"c"}]}`,
			`{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"SchedulingGated"}]}`, ``,
			"0/1|SchedulingGated|0"},
		{"exit without reason", `{"containers":[{"name":"c"}]}`,
			`{"phase":"Failed","containerStatuses":[{"name":"c","state":{"terminated":{"exitCode":2}}}]}`, ``,
			"0/1|ExitCode:2|0"},
		{"one done, one running and ready", `{"containers":[{"name":"a"},{"name":"b"}]}`,
			`{"phase":"Running","conditions":[{"type":"Ready","status":"True"}],"containerStatuses":[{"name":"a","state":{"terminated":{"exitCode":0,"reason":"Completed"}}},{"name":"b","ready":true,"state":{"running":{}}}]}`, ``,
			"1/2|Running|0"},
		{"one done, one running, not ready", `{"containers":[{"name":"a"},{"name":"b"}]}`,
			`{"phase":"Running","containerStatuses":[{"name":"a","state":{"terminated":{"exitCode":0,"reason":"Completed"}}},{"name":"b","ready":true,"state":{"running":{}}}]}`, ``,
			"1/2|NotReady|0"},
		{"one done, one failed", `{"containers":[{"name":"a"},{"name":"b"}]}`,
			`{"phase":"Failed","containerStatuses":[{"name":"a","state":{"terminated":{"exitCode":0,"reason":"Completed"}}},{"name":"b","state":{"terminated":{"exitCode":1,"reason":"Error"}}}]}`, ``,
			"0/2|Error|0"},
		{"node lost", `{"containers":[{"name":"a"}]}`, `{"phase":"Running","reason":"NodeLost"}`, `"deletionTimestamp":"2026-11-22T17:00:00Z",`,
			"0/1|Unknown|0"},
		{"finished and deleted keeps its status", `{"containers":[{"name":"a"}]}`, `{"phase":"Failed","reason":"Evicted"}`, `"deletionTimestamp":"2026-11-22T17:00:00Z",`,
			"0/1|Evicted|0"},
	}
	pods, _, _ := NewCatalog().Lookup("pods")
	for _, test := range tests {
		value := `{"apiVersion":"v1","kind":"Pod","metadata":{` + test.meta + `"namespace":"n","name":"p"},"spec":` + test.spec + `,"status":` + test.status + `}`
		obj, err := Decode([]byte(value), 1)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		cells := Cells(obj, pods, viewed())
		if got := strings.Join(cells[1:4], "|"); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
		if cells[4] != "<unknown>" {
			t.Errorf("%s: age %s", test.name, cells[4])
		}
	}
}

func TestPodWideCells(t *testing.T) {
	t.Parallel()
	pods, _, _ := NewCatalog().Lookup("pods")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: metav1.NewTime(viewed().Add(-3 * time.Hour))},
		Spec: corev1.PodSpec{NodeName: "w-1", Containers: make([]corev1.Container, 1),
			ReadinessGates: []corev1.PodReadinessGate{{ConditionType: "a"}, {ConditionType: "b"}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, NominatedNodeName: "w-2",
			PodIPs:     []corev1.PodIP{{IP: "10.0.0.2"}, {IP: "fd00::2"}},
			Conditions: []corev1.PodCondition{{Type: "b", Status: corev1.ConditionTrue}},
		},
	}
	want := []string{"p", "0/1", "Running", "0", "3h", "10.0.0.2", "w-1", "w-2", "1/2"}
	if diff := cmp.Diff(want, Cells(pod, pods, viewed())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// kube-apiserver believes podIP where the two differ.
	pod.Status.PodIP = "10.0.0.9"
	if got := Cells(pod, pods, viewed())[5]; got != "10.0.0.9" {
		t.Errorf("got %s", got)
	}
}

func TestJobCells(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, spec, status, want string }{
		{"no completions", `{}`, `{}`, "Running|0/1|"},
		{"work queue", `{"parallelism":4}`, `{"succeeded":2}`, "Running|2/1 of 4|"},
		{"parallelism one", `{"parallelism":1}`, `{}`, "Running|0/1|"},
		{"running", `{"completions":5}`, `{"startTime":"2026-11-22T17:22:00Z"}`, "Running|0/5|2m"},
		{"done", `{"completions":5}`, `{"succeeded":5,"startTime":"2026-11-22T17:00:00Z","completionTime":"2026-11-22T17:10:30Z","conditions":[{"type":"SuccessCriteriaMet","status":"True"},{"type":"Complete","status":"True"}]}`, "Complete|5/5|10m"},
		{"failing", `{}`, `{"conditions":[{"type":"FailureTarget","status":"True"}]}`, "FailureTarget|0/1|"},
		{"succeeding", `{}`, `{"conditions":[{"type":"SuccessCriteriaMet","status":"True"}]}`, "SuccessCriteriaMet|0/1|"},
		{"resumed", `{}`, `{"conditions":[{"type":"Suspended","status":"False"}]}`, "Running|0/1|"},
	}
	jobs, _, _ := NewCatalog().Lookup("jobs")
	for _, test := range tests {
		value := `{"apiVersion":"batch/v1","kind":"Job","metadata":{"namespace":"n","name":"j"},"spec":` + test.spec + `,"status":` + test.status + `}`
		obj, err := Decode([]byte(value), 1)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		cells := Cells(obj, jobs, viewed())
		if got := strings.Join(cells[1:4], "|"); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
		if cells[7] != "<none>" {
			t.Errorf("%s: selector %s", test.name, cells[7])
		}
	}
}

func TestColumns(t *testing.T) {
	t.Parallel()
	c := volcanoCatalog(t)
	for name, want := range map[string]string{
		"pods":                  "NAME READY STATUS RESTARTS AGE (IP) (NODE) (NOMINATED NODE) (READINESS GATES)",
		"jobs":                  "NAME STATUS COMPLETIONS DURATION AGE (CONTAINERS) (IMAGES) (SELECTOR)",
		"namespaces":            "NAME STATUS AGE",
		"jobs.batch.volcano.sh": "NAME AGE",
		"configmaps":            "NAME DATA AGE",
		"crds":                  "NAME CREATED AT",
		"podpresets":            "NAME AGE",
		"events":                "LAST SEEN TYPE REASON OBJECT (SUBOBJECT) (SOURCE) MESSAGE (FIRST SEEN) (COUNT) (NAME)",
	} {
		r, _, _ := c.Lookup(name)
		var got []string
		for _, column := range r.Columns() {
			if column.Wide {
				column.Name = "(" + column.Name + ")"
			}
			got = append(got, column.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %s, want %s", name, strings.Join(got, " "), want)
		}
	}
}

// TestCellsFitColumns: each object has a cell for each column, also where it
// is not what the columns are for.
func TestCellsFitColumns(t *testing.T) {
	t.Parallel()
	objects := []runtime.Object{&corev1.Pod{}, &corev1.Namespace{}, &corev1.ConfigMap{}, mustDecode(t, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":7}`)}
	for _, r := range NewCatalog().Resources() {
		for _, obj := range objects {
			if got := Cells(obj, r, viewed()); len(got) != len(r.Columns()) {
				t.Errorf("%s, %T: %d cells for %d columns", r, obj, len(got), len(r.Columns()))
			}
		}
	}
	pods, _, _ := NewCatalog().Lookup("pods")
	want := []string{"x", "<unknown>", "<unknown>", "<unknown>", "<unknown>", "<unknown>", "<unknown>", "<unknown>", "<unknown>"}
	if diff := cmp.Diff(want, Cells(objects[3], pods, viewed())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func mustDecode(t *testing.T, value string) runtime.Object {
	t.Helper()
	obj, err := Decode([]byte(value), 1)
	if err != nil {
		t.Fatalf("%s: %v", value, err)
	}
	return obj
}

func mustUnmarshal(t *testing.T, value string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(value), &m); err != nil {
		t.Fatalf("%s: %v", value, err)
	}
	return m
}
