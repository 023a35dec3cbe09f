package codec

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/fields"
)

func TestFieldSet(t *testing.T) {
	t.Parallel()
	c := volcanoCatalog(t)
	tests := []struct {
		name, resource, value string
		want                  fields.Set
	}{
		{"pod", "pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"namespace":"n","name":"p"},
			"spec":{"nodeName":"w-1","restartPolicy":"Never","schedulerName":"s","serviceAccountName":"a","hostNetwork":true},
			"status":{"phase":"Failed","podIPs":[{"ip":"10.0.0.1"}],"nominatedNodeName":"w-2"}}`,
			fields.Set{"metadata.name": "p", "metadata.namespace": "n", "spec.nodeName": "w-1", "spec.restartPolicy": "Never",
				"spec.schedulerName": "s", "spec.serviceAccountName": "a", "spec.hostNetwork": "true",
				"status.phase": "Failed", "status.podIP": "10.0.0.1", "status.nominatedNodeName": "w-2"}},
		{"empty pod", "pods", `{"apiVersion":"v1","kind":"Pod","metadata":{}}`,
			fields.Set{"metadata.name": "", "metadata.namespace": "", "spec.nodeName": "", "spec.restartPolicy": "",
				"spec.schedulerName": "", "spec.serviceAccountName": "", "spec.hostNetwork": "false",
				"status.phase": "", "status.podIP": "", "status.nominatedNodeName": ""}},
		{"job", "jobs", `{"apiVersion":"batch/v1","kind":"Job","metadata":{"namespace":"n","name":"j"},"status":{"succeeded":3}}`,
			fields.Set{"metadata.name": "j", "metadata.namespace": "n", "status.successful": "3"}},
		{"namespace", "ns", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"},"status":{"phase":"Terminating"}}`,
			fields.Set{"metadata.name": "n", "status.phase": "Terminating"}},
		{"node", "nodes", `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"},"spec":{"unschedulable":true}}`,
			fields.Set{"metadata.name": "n", "spec.unschedulable": "true"}},
		{"secret", "secrets", `{"apiVersion":"v1","kind":"Secret","metadata":{"namespace":"n","name":"s"},"type":"Opaque"}`,
			fields.Set{"metadata.name": "s", "metadata.namespace": "n", "type": "Opaque"}},
		{"service", "svc", `{"apiVersion":"v1","kind":"Service","metadata":{"namespace":"n","name":"s"},"spec":{"clusterIP":"None"}}`,
			fields.Set{"metadata.name": "s", "metadata.namespace": "n", "spec.clusterIP": "None", "spec.type": ""}},
		{"replica set", "rs", `{"apiVersion":"apps/v1","kind":"ReplicaSet","metadata":{"namespace":"n","name":"r"},"status":{"replicas":2}}`,
			fields.Set{"metadata.name": "r", "metadata.namespace": "n", "status.replicas": "2"}},
		{"old replica set", "rs", `{"apiVersion":"extensions/v1beta1","kind":"ReplicaSet","metadata":{"namespace":"n","name":"r"}}`,
			fields.Set{"metadata.name": "r", "metadata.namespace": "n", "status.replicas": "0"}},
		{"replication controller", "rc", `{"apiVersion":"v1","kind":"ReplicationController","metadata":{"namespace":"n","name":"r"},"status":{"replicas":2}}`,
			fields.Set{"metadata.name": "r", "metadata.namespace": "n", "status.replicas": "2"}},
		{"request", "csr", `{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"r"},"spec":{"signerName":"x/y"}}`,
			fields.Set{"metadata.name": "r", "spec.signerName": "x/y"}},
		{"slice", "resourceslices", `{"apiVersion":"resource.k8s.io/v1","kind":"ResourceSlice","metadata":{"name":"r"},"spec":{"driver":"d","pool":{"name":"p"}}}`,
			fields.Set{"metadata.name": "r", "spec.driver": "d", "spec.nodeName": "", "spec.pool.name": "p"}},
		{"config map", "cm", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"n","name":"r"}}`,
			fields.Set{"metadata.name": "r", "metadata.namespace": "n"}},
		{"kind unknown to this build", "podpresets", `{"apiVersion":"settings.k8s.io/v1alpha1","kind":"PodPreset","metadata":{"namespace":"n","name":"r"}}`,
			fields.Set{"metadata.name": "r", "metadata.namespace": "n"}},
		{"custom", "queues", `{"apiVersion":"scheduling.volcano.sh/v1","kind":"Queue","metadata":{"name":"q"},"spec":{"weight":9007199254740993}}`,
			fields.Set{"metadata.name": "q", "spec.weight": "9007199254740993", "status.state": ""}},
		{"core event", "events", `{"apiVersion":"v1","kind":"Event","metadata":{"namespace":"n","name":"e"},"reason":"Failed","type":"Warning","reportingComponent":"kubelet",
			"involvedObject":{"kind":"Pod","namespace":"n","name":"p","uid":"u","apiVersion":"v1","resourceVersion":"7","fieldPath":"f"}}`, eventFields("kubelet")},
		{"new event", "events", `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"namespace":"n","name":"e"},"reason":"Failed","type":"Warning","reportingController":"kubelet","deprecatedSource":{"component":"old"},
			"regarding":{"kind":"Pod","namespace":"n","name":"p","uid":"u","apiVersion":"v1","resourceVersion":"7","fieldPath":"f"}}`, eventFields("old")},
	}
	for _, test := range tests {
		r, _, ok := c.Lookup(test.resource)
		if !ok {
			t.Fatalf("no %s", test.resource)
		}
		got, err := FieldSet(mustDecode(t, test.value), r)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func eventFields(source string) fields.Set {
	return fields.Set{"metadata.name": "e", "metadata.namespace": "n", "reason": "Failed", "type": "Warning",
		"reportingComponent": "kubelet", "source": source,
		"involvedObject.kind": "Pod", "involvedObject.namespace": "n", "involvedObject.name": "p", "involvedObject.uid": "u",
		"involvedObject.apiVersion": "v1", "involvedObject.resourceVersion": "7", "involvedObject.fieldPath": "f"}
}

func TestFieldSetRefuses(t *testing.T) {
	t.Parallel()
	c := volcanoCatalog(t)
	tests := []struct{ name, resource, value, want string }{
		{"other kind", "services", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`, "it is a ConfigMap"},
		{"other group", "jobs", `{"apiVersion":"batch.volcano.sh/v1","kind":"Job","metadata":{"name":"x"}}`, "it is a Job.batch.volcano.sh"},
		{"damaged pod", "pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":"hunter2"}`, "shape of a Pod"},
		{"damaged custom resource", "queues", `{"apiVersion":"scheduling.volcano.sh/v1","kind":"Queue","metadata":{"name":"q"},"spec":"hunter2"}`, "not where it should be"},
		{"no single value", "queues", `{"apiVersion":"scheduling.volcano.sh/v1","kind":"Queue","metadata":{"name":"q"},"spec":{"weight":["hunter2"]}}`, "no single value"},
	}
	for _, test := range tests {
		r, _, _ := c.Lookup(test.resource)
		set, err := FieldSet(mustDecode(t, test.value), r)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, %v", test.name, set, err)
		}
	}
}

// TestZooFieldSets: every object of the fixture has exactly the fields that
// its resource says can be selected.
func TestZooFieldSets(t *testing.T) {
	live := zoo(t)
	c := zooCatalog(t, live)
	for key, v := range live {
		k, ok := c.ParseKey(prefix, key)
		obj, err := Decode(v.value, v.mod)
		if !ok || err != nil || k.Resource.Internal {
			continue
		}
		set, err := FieldSet(obj, k.Resource)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		got := slices.Sorted(maps.Keys(set))
		if diff := cmp.Diff(k.Resource.SelectableFields(), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
		if k.Resource.String() == "pods" && !handWritten(key) {
			if h := DecodeHead(v.value); set["spec.nodeName"] != h.Node || set["status.phase"] != h.Phase {
				t.Errorf("%s: %v, head %q %q", key, set, h.Node, h.Phase)
			}
		}
	}
}
