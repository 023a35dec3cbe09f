package app

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestOtherOwner: whose the data will have to be is told by what is there, and only where it is not us.
func TestOtherOwner(t *testing.T) {
	t.Parallel()
	dir, missing, us := t.TempDir(), filepath.Join(t.TempDir(), "missing"), os.Geteuid()
	theirs := "/"
	if us == 0 {
		if theirs = t.TempDir(); os.Chown(theirs, 1, 1) != nil {
			t.Fatal("chown")
		}
	}
	name := func(id string) string {
		if u, err := user.LookupId(id); err == nil {
			return u.Username
		}
		return id
	}
	group := strconv.Itoa(os.Getegid())
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	for _, tt := range []struct {
		name  string
		euid  int
		paths []string
		want  string
	}{
		{"ours", us, []string{dir}, ""},
		{"another's", us + 1, []string{dir}, name(strconv.Itoa(us)) + ":" + group},
		{"the first that is there", us + 1, []string{missing, dir}, name(strconv.Itoa(us)) + ":" + group},
		{"ours, though made below another's", us, []string{dir, theirs}, ""},
		{"nothing is there", us + 1, []string{missing}, ""},
	} {
		if got := otherOwner(tt.euid, tt.paths...); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestReadEtcdPod: manifests as they are on nodes, and such as are of no use.
func TestReadEtcdPod(t *testing.T) {
	t.Parallel()
	const at = "/etc/kubernetes/manifests/etcd.yaml"
	for _, tt := range []struct {
		name, manifest string
		want           *etcdPod
	}{
		{"kubeadm", `spec: {containers: [{command: [etcd, --data-dir=/var/lib/etcd, --name=a, "--initial-advertise-peer-urls=https://h:1,https://i:1"], volumeMounts: [{mountPath: /var/lib/etcd, name: d}]}], volumes: [{name: d, hostPath: {path: /data/etcd}}]}`,
			&etcdPod{at, "a", "https://h:1,https://i:1", "/data/etcd"}},
		{"no mount, as args", `spec: {containers: [{command: [sleep]}, {args: [--data-dir=/srv/x/, --name=b]}]}`, &etcdPod{path: at, name: "b", dataDir: "/srv/x/"}},
		{"mount of a neighbour", `spec: {containers: [{command: [etcd, --data-dir=/var/lib/etcd2], volumeMounts: [{mountPath: /var/lib/etcd, name: d}]}], volumes: [{name: d, hostPath: {path: /data}}]}`,
			&etcdPod{path: at, dataDir: "/var/lib/etcd2"}},
		{"other pod", `spec: {containers: [{command: [kube-proxy]}]}`, nil},
		{"no YAML", "{", nil},
		{"empty", "", nil},
	} {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(at)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, at), []byte(tt.manifest), 0o600); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, readEtcdPod(root), cmp.AllowUnexported(etcdPod{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	if got := readEtcdPod(t.TempDir()); got != nil {
		t.Errorf("without a manifest: %+v", got)
	}
}
