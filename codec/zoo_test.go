package codec

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
)

const (
	zooDir = "../testdata/zoo-1.36"
	prefix = "/registry/"
)

// zooValue is one live key of the fixture.
type zooValue struct {
	value []byte
	mod   int64
}

func unzstd(tb testing.TB, name string) []byte {
	tb.Helper()
	file, err := os.Open(filepath.Join(zooDir, name))
	if err != nil {
		tb.Fatal(err)
	}
	defer file.Close()
	dec, err := zstd.NewReader(file)
	if err != nil {
		tb.Fatal(err)
	}
	defer dec.Close()
	data, err := io.ReadAll(dec)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// zoo returns the live keys of the fixture's snapshot.
func zoo(tb testing.TB) map[string]zooValue {
	tb.Helper()
	return liveKeys(tb, "snapshot.db.zst")
}

// liveKeys returns the live keys of a compressed snapshot, named from zooDir.
func liveKeys(tb testing.TB, name string) map[string]zooValue {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "snapshot.db")
	if err := os.WriteFile(path, unzstd(tb, name), 0o600); err != nil {
		tb.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	live := map[string]zooValue{}
	err = db.View(func(tx *bolt.Tx) error {
		// In revision order, so that the last one seen of a key is its newest.
		return tx.Bucket([]byte("key")).ForEach(func(rev, data []byte) error {
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(data, &kv); err != nil {
				return err
			}
			if len(rev) == 18 {
				delete(live, string(kv.Key))
				return nil
			}
			live[string(kv.Key)] = zooValue{kv.Value, int64(binary.BigEndian.Uint64(rev))}
			return nil
		})
	})
	if err != nil {
		tb.Fatal(err)
	}
	return live
}

// expectedObjects returns what kubectl printed: by resource, then by
// namespace/name.
func expectedObjects(t *testing.T) map[string]map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]map[string]any{}
	for r := tar.NewReader(bytes.NewReader(unzstd(t, "expected.tar.zst"))); ; {
		header, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		resource, ok := strings.CutSuffix(filepath.Base(header.Name), ".json")
		if !ok {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		var list struct {
			Items []map[string]any `json:"items"`
		}
		if err := json.Unmarshal(data, &list); err != nil {
			t.Fatalf("%s: %v", header.Name, err)
		}
		all[resource] = map[string]map[string]any{}
		for _, item := range list.Items {
			m := item["metadata"].(map[string]any)
			namespace, _ := m["namespace"].(string)
			all[resource][namespace+"/"+m["name"].(string)] = item
		}
	}
}

// zooCatalog is a catalog with the fixture's own CRDs.
func zooCatalog(tb testing.TB, live map[string]zooValue) *Catalog {
	tb.Helper()
	c := NewCatalog()
	for key, v := range live {
		if strings.HasPrefix(key, prefix+"apiextensions.k8s.io/customresourcedefinitions/") {
			if _, err := c.AddCRD(v.value); err != nil {
				tb.Fatalf("%s: %v", key, err)
			}
		}
	}
	return c
}

// handWritten are the keys that no apiserver wrote; see the fixture's README.
func handWritten(key string) bool {
	return key == "talos:v1:x" || key == prefix+"configmaps/team/corrupt" || key == prefix+"pods/team/ghost-copy"
}

// otherVersions are the objects that kubectl shows in a newer version than the
// one they are stored in: they are shown as stored and differ in apiVersion
// alone. A change of any other field would need the conversion of their API
// server. By resource and namespace/name, with the version they are stored in.
func otherVersions() map[string]string {
	return map[string]string{
		// kube-apiserver 1.36 stores both kinds in v1beta1, so that the release
		// before it can read them.
		"mutatingadmissionpolicies.admissionregistration.k8s.io /add-team-label":       "admissionregistration.k8s.io/v1beta1",
		"mutatingadmissionpolicybindings.admissionregistration.k8s.io /add-team-label": "admissionregistration.k8s.io/v1beta1",
		// Written before the CRD's storage version became v1; its conversion
		// strategy is None, which changes apiVersion alone.
		"gateways.gateway.networking.k8s.io platform/edge-old": "gateway.networking.k8s.io/v1beta1",
		"gateways.gateway.networking.k8s.io team/inner-old":    "gateway.networking.k8s.io/v1beta1",
	}
}

// TestZooRender shows every live key, in every resource that it is an object
// of, and compares with what kubectl showed: field by field, each object of
// theirs once, and none more.
func TestZooRender(t *testing.T) {
	live := zoo(t)
	reader := zooReader(t, live)
	view, _, _ := reader.Catalog.Lookup("events.events.k8s.io")
	expected := expectedObjects(t)
	other, newFields := map[string]string{}, map[string]int{}
	compared, total := 0, 0
	for _, objects := range expected {
		total += len(objects)
	}
	for key, stored := range live {
		v := reader.Read(t.Context(), key, stored.value)
		if handWritten(key) || v.Key.Resource != nil && v.Key.Resource.Internal {
			continue
		}
		if v.Head.Err != nil || v.Key.Resource == nil {
			t.Errorf("%s: %+v, %v", key, v.Key, v.Head.Err)
			continue
		}
		resources := []*Resource{v.Key.Resource}
		if v.Key.Resource.Prefix == view.Prefix {
			resources = append(resources, view)
		}
		for _, r := range resources {
			name := v.Key.Namespace + "/" + v.Key.Name
			want := expected[r.String()][name]
			if want == nil {
				t.Errorf("%s: no %s %s in what kubectl showed, or shown twice", key, r, name)
				continue
			}
			delete(expected[r.String()], name)
			got := mustShow(t, key, v.Plain, stored.mod, r)
			if dropNewFields(got) {
				newFields[r.String()]++
			}
			if got["apiVersion"] != want["apiVersion"] {
				other[r.String()+" "+name], _ = got["apiVersion"].(string)
				got["apiVersion"] = want["apiVersion"]
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s as %s (-kubectl +got):\n%s", key, r, diff)
			}
			compared++
		}
	}
	for name, objects := range expected {
		for object := range objects {
			t.Errorf("%s %s: not shown", name, object)
		}
	}
	if diff := cmp.Diff(otherVersions(), other); diff != "" {
		t.Errorf("objects in another version (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"csinodes.storage.k8s.io": 1}, newFields); diff != "" {
		t.Errorf("objects with new fields (-want +got):\n%s", diff)
	}
	t.Logf("compared %d objects of %d", compared, total)
	if compared != total || total < 1000 {
		t.Errorf("compared %d objects of %d", compared, total)
	}
}

// mustShow renders what Show gives of a value that this build knows whole.
func mustShow(tb testing.TB, name string, plain []byte, mod int64, r *Resource) map[string]any {
	tb.Helper()
	s, err := Show(plain, mod, r)
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	if s.ByMetadata || s.Omitted != nil {
		tb.Errorf("%s: by metadata %t, omitted %q", name, s.ByMetadata, s.Omitted)
	}
	m, err := Render(s.Object, RenderOptions{ManagedFields: true, ShowSecrets: true})
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return m
}

// dropNewFields removes what this build's types always print and the 1.36
// apiserver's did not have, the status of a CSINode, and reports whether it did.
func dropNewFields(m map[string]any) bool {
	if m["kind"] != "CSINode" || !cmp.Equal(m["status"], map[string]any{}) {
		return false
	}
	delete(m, "status")
	return true
}

// metaOf is Meta as the typed object has it.
func metaOf(tb testing.TB, value []byte) (Meta, bool) {
	obj, err := Decode(value, 0)
	if err != nil {
		return Meta{}, false
	}
	o, err := meta.Accessor(obj)
	if err != nil {
		tb.Fatal(err)
	}
	apiVersion, kind := obj.GetObjectKind().GroupVersionKind().ToAPIVersionAndKind()
	if u, ok := obj.(*unstructured.Unstructured); ok {
		apiVersion, kind = u.GetAPIVersion(), u.GetKind()
	}
	m := Meta{
		APIVersion: apiVersion, Kind: kind,
		Name: o.GetName(), Namespace: o.GetNamespace(), GenerateName: o.GetGenerateName(), UID: string(o.GetUID()),
		Created: utc(o.GetCreationTimestamp()),
	}
	if deleted := o.GetDeletionTimestamp(); deleted != nil {
		m.Deleted = utc(*deleted)
	}
	m.Labels = labelsOf(o.GetLabels())
	if len(o.GetFinalizers()) > 0 {
		m.Finalizers = o.GetFinalizers()
	}
	for _, ref := range o.GetOwnerReferences() {
		m.Owners = append(m.Owners, ownerOf(ref))
	}
	return m, true
}

func ownerOf(ref metav1.OwnerReference) Owner {
	return Owner{ref.APIVersion, ref.Kind, ref.Name, string(ref.UID), ref.Controller != nil && *ref.Controller}
}

func TestZooHeadEqualsDecoded(t *testing.T) {
	live := zoo(t)
	c := zooCatalog(t, live)
	statuses := map[Status]int{}
	var mismatched []string
	for key, v := range live {
		h := DecodeHead(v.value)
		statuses[h.Status]++
		if k, ok := c.ParseKey(prefix, key); ok && !MetaMatchesKey(h, k) {
			mismatched = append(mismatched, key)
		}
		want, ok := metaOf(t, v.value)
		if !ok {
			if h.Err == nil {
				t.Errorf("%s: head of a value that cannot be decoded", key)
			}
			continue
		}
		if h.Err != nil {
			t.Errorf("%s: %v", key, h.Err)
		}
		if diff := cmp.Diff(want, h.Meta); diff != "" {
			t.Errorf("%s (-decoded +head):\n%s", key, diff)
		}
	}
	if diff := cmp.Diff([]string{prefix + "pods/team/ghost-copy"}, mismatched); diff != "" {
		t.Errorf("metadata disagrees with key (-want +got):\n%s", diff)
	}
	t.Log(statuses)
	if statuses[StatusUndecodable] != 2 || statuses[StatusForeign] != 0 || statuses[StatusCBOR] != 0 {
		t.Errorf("statuses: %v", statuses)
	}
}

func TestZooNodeAndPhase(t *testing.T) {
	live := zoo(t)
	c := zooCatalog(t, live)
	seen := map[string]int{}
	for key, v := range live {
		k, ok := c.ParseKey(prefix, key)
		if !ok {
			continue
		}
		obj, err := Decode(v.value, v.mod)
		if err != nil {
			continue
		}
		m, err := Render(obj, RenderOptions{ShowSecrets: true})
		if err != nil {
			t.Fatal(err)
		}
		var node, phase string
		name := k.Resource.String()
		if name == "pods" {
			spec, _ := m["spec"].(map[string]any)
			node, _ = spec["nodeName"].(string)
		}
		if k.Resource.Custom || name == "pods" || name == "namespaces" || strings.HasPrefix(name, "persistentvolume") {
			status, _ := m["status"].(map[string]any)
			phase, _ = status["phase"].(string)
		}
		h := DecodeHead(v.value)
		if h.Node != node || h.Phase != phase {
			t.Errorf("%s: node %q, phase %q, want %q, %q", key, h.Node, h.Phase, node, phase)
		}
		if phase != "" {
			seen[name]++
		}
	}
	for _, name := range []string{"pods", "namespaces", "persistentvolumes", "persistentvolumeclaims"} {
		if seen[name] == 0 {
			t.Errorf("no phase in any of %s", name)
		}
	}
	t.Log(seen)
}

// TestZooKeys checks every live key: what it names, and that Path gives it
// back.
func TestZooKeys(t *testing.T) {
	c := zooCatalog(t, zoo(t))
	expected := expectedObjects(t)
	data, err := os.ReadFile(filepath.Join(zooDir, "keys.txt"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		key, _, _ := strings.Cut(lines.Text(), "\t")
		if strings.HasPrefix(key, "#") {
			continue
		}
		k, ok := c.ParseKey(prefix, key)
		if !ok {
			if key != "talos:v1:x" {
				t.Errorf("%s: not understood", key)
			}
			continue
		}
		if got := k.Path(prefix); got != key {
			t.Errorf("%s: path %s", key, got)
		}
		if _, ok := expected[k.Resource.String()][k.Namespace+"/"+k.Name]; ok {
			found[k.Resource.String()]++
		} else if !k.Resource.Internal && !handWritten(key) {
			t.Errorf("%s: %s has no %s/%s", key, k.Resource, k.Namespace, k.Name)
		}
	}
	for name, objects := range expected {
		if name != "events.events.k8s.io" && found[name] != len(objects) {
			t.Errorf("%s: found %d keys of %d objects", name, found[name], len(objects))
		}
	}
	if found["jobs.batch"] == 0 || found["jobs.batch.volcano.sh"] == 0 {
		t.Errorf("jobs: %d and %d", found["jobs.batch"], found["jobs.batch.volcano.sh"])
	}
}

func TestZooResourceVersion(t *testing.T) {
	live := zoo(t)
	v := live[prefix+"namespaces/team"]
	for _, mod := range []int64{v.mod, 0} {
		obj, err := Decode(v.value, mod)
		if err != nil {
			t.Fatal(err)
		}
		o, _ := meta.Accessor(obj)
		want := strconv.FormatInt(mod, 10)
		if mod == 0 {
			want = ""
		}
		if o.GetResourceVersion() != want {
			t.Errorf("mod revision %d: resourceVersion %q", mod, o.GetResourceVersion())
		}
	}
}
