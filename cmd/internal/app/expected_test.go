package app

import (
	"archive/tar"
	"bufio"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"k8s.io/apimachinery/pkg/util/json"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
)

const zooFixture = "../../../testdata/zoo-1.36/"

// unpacked returns a file of the zoo fixture without its compression.
func unpacked(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(zooFixture + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// runHere runs a command line in this process.
func runHere(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Run(t.Context(), Process{
		Args:    args,
		Streams: term.Streams{In: strings.NewReader(""), Out: &out, Err: &errs},
		Getenv:  func(string) string { return "" },
		Root:    t.TempDir(),
		Now:     time.Now,
	})
	return code, out.String(), errs.String()
}

// kubectlLists is what kubectl printed of each resource of the zoo.
func kubectlLists(t *testing.T) map[string][]any {
	t.Helper()
	lists := map[string][]any{}
	for r := tar.NewReader(bytes.NewReader(unpacked(t, "expected.tar.zst"))); ; {
		header, err := r.Next()
		if err == io.EOF {
			return lists
		}
		if err != nil {
			t.Fatal(err)
		}
		resource, ok := strings.CutSuffix(filepath.Base(header.Name), ".json")
		if !ok {
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		lists[resource] = items(t, header.Name, b)
	}
}

func items(t *testing.T, name string, list []byte) []any {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(list, &doc); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	found, ok := doc["items"].([]any)
	if !ok {
		t.Fatalf("%s: no items", name)
	}
	return found
}

// storedElsewhere names the resources that this cluster stores in another
// version than kubectl asked for. They are shown as stored and may differ in
// apiVersion alone.
func storedElsewhere() map[string]string {
	return map[string]string{
		"mutatingadmissionpolicies.admissionregistration.k8s.io":       "admissionregistration.k8s.io/v1beta1",
		"mutatingadmissionpolicybindings.admissionregistration.k8s.io": "admissionregistration.k8s.io/v1beta1",
		// Two of the five: their CRD converts by changing apiVersion alone.
		"gateways.gateway.networking.k8s.io": "gateway.networking.k8s.io/v1beta1",
	}
}

// newInOurTypes are members that this build's newer types always print and a
// 1.36 API server lacks: resource to member and the value that may be ignored.
func newInOurTypes() map[string]string { return map[string]string{"csinodes.storage.k8s.io": "status"} }

// TestListEqualsKubectl lists every resource of the zoo, decrypted, whole, and
// compares object by object and field by field with what kubectl printed.
func TestListEqualsKubectl(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "zoo.db")
	if err := os.WriteFile(db, unpacked(t, "snapshot.db.zst"), 0o600); err != nil {
		t.Fatal(err)
	}
	objects, used := 0, map[string]bool{}
	for resource, want := range kubectlLists(t) {
		code, stdout, stderr := runHere(t, "list", resource, "-A", "-o", "json", "--from", db,
			"--show-managed-fields", "--show-secrets", "--encryption-config", zooFixture+"encryption-config.yaml")
		// Two objects were damaged by hand after kubectl had looked.
		wantCode := exitDone
		if resource == "configmaps" || resource == "pods" {
			wantCode = exitPartial
		}
		if code != wantCode {
			t.Errorf("%s: exit code %d: %s", resource, code, stderr)
		}
		got := items(t, resource, []byte(stdout))
		for i, item := range got {
			m := item.(map[string]any)
			if member := newInOurTypes()[resource]; member != "" && cmp.Equal(m[member], map[string]any{}) {
				delete(m, member)
				used[resource] = true
			}
			if stored := storedElsewhere()[resource]; stored != "" && i < len(want) && m["apiVersion"] == stored {
				m["apiVersion"] = want[i].(map[string]any)["apiVersion"]
				used[resource] = true
			}
		}
		if diff := cmp.Diff(byName(want), byName(got)); diff != "" {
			t.Errorf("%s (-kubectl +ours):\n%s", resource, diff)
		}
		objects += len(got)
	}
	for resource := range storedElsewhere() {
		if !used[resource] {
			t.Errorf("%s needs no exception", resource)
		}
	}
	for resource := range newInOurTypes() {
		if !used[resource] {
			t.Errorf("%s needs no exception", resource)
		}
	}
	t.Logf("%d objects of %d resources are equal", objects, len(kubectlLists(t)))
	if objects < 1000 {
		t.Errorf("compared only %d objects", objects)
	}
}

// byName makes lists comparable: kubectl sorts by namespace and name in etcd's
// order too, but only per resource of the API.
func byName(list []any) map[string]any {
	m := map[string]any{}
	for _, item := range list {
		metadata := item.(map[string]any)["metadata"].(map[string]any)
		namespace, _ := metadata["namespace"].(string)
		m[namespace+"/"+metadata["name"].(string)] = item
	}
	return m
}

// TestEveryKeyIsShown goes the other way: every key that the fixture lists is
// an object that one of the lists shows, or one of the few that its README
// says has none.
func TestEveryKeyIsShown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := filepath.Join(dir, "zoo.db")
	if err := os.WriteFile(db, unpacked(t, "snapshot.db.zst"), 0o600); err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for resource := range kubectlLists(t) {
		_, stdout, _ := runHere(t, "list", resource, "-o", "key", "--from", db)
		for key := range strings.FieldsSeq(stdout) {
			shown[key] = true
		}
	}
	keys, err := os.ReadFile(zooFixture + "keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	var missing []string
	for lines := bufio.NewScanner(bytes.NewReader(keys)); lines.Scan(); {
		key, _, _ := strings.Cut(lines.Text(), "\t")
		if !strings.HasPrefix(key, "#") && !shown[key] {
			missing = append(missing, key)
		}
	}
	slices.Sort(missing)
	want := []string{"/registry/masterleases/", "/registry/peerserverleases/", "/registry/ranges/servicenodeports", "talos:v1:x"}
	same := slices.EqualFunc(want, missing, func(prefix, key string) bool { return strings.HasPrefix(key, prefix) })
	if !same {
		t.Errorf("not shown: %q, want %q", missing, want)
	}
}
