package connect

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// process puts a process into the node's /proc, with its own namespaces if it
// runs in a container (own is any of "net" and "mnt").
func (n *node) process(pid, uid int, argv, env []string, own ...string) {
	n.t.Helper()
	dir := fmt.Sprintf("/proc/%d", pid)
	n.write(dir+"/cmdline", strings.Join(argv, "\x00")+"\x00")
	n.write(dir+"/environ", strings.Join(env, "\x00")+"\x00")
	n.write(dir+"/status", fmt.Sprintf("Name:\tx\nUid:\t%d\t%d\t%d\t%d\n", uid, uid, uid, uid))
	for _, ns := range []string{"net", "mnt"} {
		id := 1
		if slices.Contains(own, ns) {
			id = 1000 + pid
		}
		n.link(dir+"/ns/"+ns, fmt.Sprintf("%s:[%d]", ns, id))
		n.link("/proc/self/ns/"+ns, ns+":[1]")
	}
}

func (n *node) link(path, to string) {
	n.t.Helper()
	file := filepath.Join(n.root, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Symlink(to, file); err != nil && !errors.Is(err, os.ErrExist) {
		n.t.Fatal(err)
	}
}

// pod writes a static pod with one container. Mounts are "inside:host".
func (n *node) pod(file string, argv []string, mounts ...string) {
	n.t.Helper()
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Pod\nspec:\n  hostNetwork: true\n  containers:\n  - name: main\n    command:\n")
	for _, a := range argv {
		fmt.Fprintf(&b, "    - %q\n", a)
	}
	b.WriteString("    volumeMounts:\n")
	for i, m := range mounts {
		inside, _, _ := strings.Cut(m, ":")
		fmt.Fprintf(&b, "    - {mountPath: %s, name: v%d}\n", inside, i)
	}
	b.WriteString("  volumes:\n")
	for i, m := range mounts {
		_, host, _ := strings.Cut(m, ":")
		fmt.Fprintf(&b, "  - {hostPath: {path: %s}, name: v%d}\n", host, i)
	}
	n.write(file, b.String())
}

// facts is what a distribution's tree must lead to, with ROOT for the node's
// root.
type facts struct {
	Endpoints, Events   []string
	CACert, Cert, Key   string
	Prefix, Encryption  string
	Quota               int64
	QuotaFrom, DataDir  string
	Metrics             []string
	Why                 string
	Used                string   // the candidate
	Others              []string // the candidates that are not used
	NotUsedBecause      string   // of the first of them
	ExtraCertificatesOf []string
}

func factsOf(n *node, f Found) facts {
	plain := func(s string) string { return strings.ReplaceAll(s, n.root, "ROOT") }
	list := func(in []string) (out []string) {
		for _, s := range in {
			out = append(out, plain(s))
		}
		return out
	}
	out := facts{
		Endpoints: list(f.Endpoints), Events: list(f.EventsEndpoints), CACert: plain(f.CACert), Cert: plain(f.Cert), Key: plain(f.Key),
		Prefix: f.Prefix, Encryption: plain(f.EncryptionConfig), Quota: f.EtcdQuota, QuotaFrom: plain(f.EtcdQuotaFrom),
		DataDir: plain(f.DataDir), Metrics: f.MetricsURLs, Why: plain(f.Why),
	}
	for _, c := range f.Candidates {
		if c.Used {
			out.Used = c.Name
			continue
		}
		if out.Others == nil {
			out.NotUsedBecause = plain(c.WhyNot)
		}
		out.Others = append(out.Others, c.Name)
	}
	for _, file := range f.CertFiles {
		if file != f.CACert && file != f.Cert {
			out.ExtraCertificatesOf = append(out.ExtraCertificatesOf, plain(file))
		}
	}
	return out
}

// TestCandidatesNotUsed holds what must not be taken for the way in.
func TestCandidatesNotUsed(t *testing.T) {
	t.Parallel()
	const plain = "--etcd-servers=http://127.0.0.1:4001"
	for _, tc := range []struct {
		name  string
		setup func(n *node)
		why   string // of the first candidate
	}{
		{"an apiserver in another network", func(n *node) { n.process(5, 0, []string{"kube-apiserver", plain}, nil, "net", "mnt") }, "another network namespace"},
		{"an ordinary user's process", func(n *node) { n.process(5, 4000000, []string{"/home/me/kube-apiserver", plain}, nil) }, "an ordinary user"},
		{"an apiserver without etcd", func(n *node) { n.process(5, 0, []string{"kube-apiserver", "--version"}, nil) }, "no --etcd-servers"},
		{"an etcd that does not say where it listens", func(n *node) { n.process(5, 0, []string{"/usr/bin/etcd"}, []string{"PATH=/bin"}) }, "where it listens"},
		{"a missing configuration of etcd", func(n *node) { n.process(5, 0, []string{"etcd", "--config-file", "/etc/etcd.yml"}, nil) }, "no such file"},
		{"a broken configuration of etcd", func(n *node) {
			n.write("/etc/etcd.yml", "listen-client-urls: [\n s3cret")
			n.process(5, 0, []string{"etcd", "--config-file", "/etc/etcd.yml"}, nil)
		}, "it is not a readable configuration of etcd"},
		{"a static pod that is no etcd", func(n *node) { n.pod(manifests+"etcd.yaml", []string{"sleep", "infinity"}) }, "no container with --listen-client-urls"},
		{"a huge manifest", func(n *node) { n.write(manifests+"etcd.yaml", strings.Repeat("#", maxManifest+1)) }, "is too long"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			tc.setup(n)
			got, err := Resolve(Settings{}, n.Node())
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Candidates) != 1 || got.Candidates[0].Used || got.Candidates[0].Usable() || !strings.Contains(got.Candidates[0].WhyNot, tc.why) {
				t.Fatalf("candidates %+v, want one with %q", got.Candidates, tc.why)
			}
			if !strings.Contains(got.Why, "a guess") || strings.Contains(got.Why, "s3cret") {
				t.Errorf("why %q, want a guess", got.Why)
			}
		})
	}
}

// TestNeverBetweenTwo: where two of a kind mean different etcds, none is taken.
func TestNeverBetweenTwo(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		setup func(n *node)
		want  string
	}{
		{"two apiservers", func(n *node) {
			n.process(5, 0, []string{"kube-apiserver", "--etcd-servers=http://127.0.0.1:4001"}, nil)
			n.process(6, 0, []string{"kube-apiserver", "--etcd-servers=http://127.0.0.1:5001"}, nil)
		}, "this machine shows more than one etcd: http://127.0.0.1:4001 (process 5 (kube-apiserver)) and http://127.0.0.1:5001 (process 6 (kube-apiserver))"},
		{"two etcds", func(n *node) {
			n.process(5, 0, []string{"etcd", "--listen-client-urls=http://127.0.0.1:4001"}, nil)
			n.process(6, 0, []string{"etcd", "--name=calico", "--listen-client-urls", "http://127.0.0.1:6666"}, nil)
		}, "more than one etcd: http://127.0.0.1:4001 (process 5 (etcd)) and http://127.0.0.1:6666 (process 6 (etcd))"},
		{"leftovers of another distribution", func(n *node) {
			n.kubeadm()
			n.write("/run/k0s/kine/kine.sock:2379", "")
		}, "more than one etcd: https://127.0.0.1:2379 (kubeadm's certificates in "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			tc.setup(n)
			found, err := Resolve(Settings{}, n.Node())
			var se *SettingError
			if !errors.As(err, &se) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(se.Hint, "--endpoints") {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if len(found.Candidates) != 2 {
				t.Errorf("candidates %+v, want both", found.Candidates)
			}
			given, err := Resolve(Settings{Endpoints: []string{"http://127.0.0.1:5001"}}, n.Node())
			if err != nil || given.Endpoints[0] != "http://127.0.0.1:5001" {
				t.Errorf("with --endpoints: %v, %v", given.Endpoints, err)
			}
		})
	}
}

// TestFilesOfAnother: endpoints stay those of the first candidate, when its TLS
// files cannot be used and another's can.
func TestFilesOfAnother(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.kubeadm()
	n.process(5, 0, serverArgv("https://10.0.0.9:2379", "/gone/ca.crt", "/gone/c.crt", "/gone/c.key"), nil, "mnt")
	got, err := Resolve(Settings{}, n.Node())
	if err != nil {
		t.Fatal(err)
	}
	want := "etcd https://10.0.0.9:2379 (from process 5 (kube-apiserver); TLS files from kubeadm's certificates in ROOT/etc/kubernetes/pki; " +
		"TLS files of process 5 (kube-apiserver) not used: process 5 (kube-apiserver): --etcd-cafile: open ROOT/proc/5/root/gone/ca.crt: no such file or directory)"
	if got.Why != n.tree(want) || got.Cert != n.tree("ROOT"+kubeadmCert) {
		t.Errorf("got  %s\nwant %s", got.Why, n.tree(want))
	}
}

// TestServerOnlyCertificate: an etcd's own certificate is no use to a client if
// it says so.
func TestServerOnlyCertificate(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	server := n.ca.issue(t, "server", serverOnly)
	n.copy("/etcd/server.crt", server.cert)
	n.copy("/etcd/server.key", server.key)
	n.copy("/etcd/ca.crt", n.ca.ca)
	n.process(5, 0, []string{"etcd", "--listen-client-urls=https://127.0.0.1:2379", "--cert-file=/etcd/server.crt", "--key-file=/etcd/server.key", "--trusted-ca-file=/etcd/ca.crt"}, nil)
	found, err := Resolve(Settings{}, n.Node())
	if err == nil || !strings.Contains(err.Error(), "is a certificate for servers only") {
		t.Fatalf("got %v", err)
	}
	if c := found.Candidates[0]; c.Used || c.WhyNot != "its TLS files cannot be used" {
		t.Errorf("candidate %+v", c)
	}
	n.kubeadm()
	got, err := Resolve(Settings{}, n.Node())
	if err != nil || got.Cert != n.tree("ROOT"+kubeadmCert) || got.Candidates[0].Name != "running etcd" || !got.Candidates[0].Used {
		t.Errorf("got %v, %v", got.Why, err)
	}
}

// TestQuotaOfThatEtcd: what the node's etcd is told counts only if the endpoints
// mean that etcd.
func TestQuotaOfThatEtcd(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	kubeadmNode(n)
	for ep, want := range map[string]int64{
		"https://127.0.0.1:2379": 8 << 30, "https://10.0.0.1:2379": 8 << 30, "https://localhost:2379": 8 << 30,
		"https://10.0.0.2:2379": 0, "https://127.0.0.1:4001": 0, "unix:///run/x:2379": 0,
	} {
		got, err := Resolve(Settings{Endpoints: []string{ep}}, n.Node())
		if err != nil || got.EtcdQuota != want || (got.DataDir == "") != (want == 0) {
			t.Errorf("%s: quota %d, data directory %q, %v; want %d", ep, got.EtcdQuota, got.DataDir, err, want)
		}
	}
}

// TestRootNeeded: what may not be looked at is said, and never passed over.
func TestRootNeeded(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.write("/var/lib/rancher/k3s/server/db/etcd/config", "")
	closed := filepath.Join(n.root, "/var/lib/rancher/k3s/server")
	if err := os.Chmod(closed, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(closed, 0o700) })
	found, err := Resolve(Settings{}, n.Node())
	if os.Geteuid() == 0 { // who sees that there are no certificates
		if err != nil || len(found.Candidates) != 0 {
			t.Errorf("got %v, %+v", err, found.Candidates)
		}
		return
	}
	var se *SettingError
	if !errors.As(err, &se) || !strings.Contains(se.Hint, "run as root") || len(found.Candidates) == 0 {
		t.Errorf("got %v, %+v", err, found.Candidates)
	}
}

// TestManyProcesses: a crowd of containers is cut short.
func TestManyProcesses(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for pid := 100; pid < 100+2*maxProcesses; pid++ {
		n.process(pid, 0, []string{"kube-apiserver", "--etcd-servers=https://127.0.0.1:2379"}, nil, "net", "mnt")
	}
	got, err := Resolve(Settings{}, n.Node())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Candidates) != maxProcesses || strings.Count(got.Why, "another network namespace") != 1 {
		t.Errorf("%d candidates, why %q", len(got.Candidates), got.Why)
	}
}

// TestPrefixOfServer: what kube-apiserver is told wins over what a distribution
// is known for, also if it is told nothing.
func TestPrefixOfServer(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.pki("/etc/etcd/tls/etcd-ca/ca.crt", "/etc/etcd/tls/client/etcd-client.crt", "/etc/etcd/tls/client/etcd-client.key")
	got, err := Resolve(Settings{}, n.Node())
	if err != nil || got.Prefix != "/kubernetes.io/" {
		t.Errorf("without a server: %q, %v", got.Prefix, err)
	}
	n.process(5, 0, []string{"kube-apiserver", "--etcd-servers=http://127.0.0.1:2379"}, nil)
	got, err = Resolve(Settings{}, n.Node())
	if err != nil || got.Prefix != DefaultPrefix {
		t.Errorf("with a server: %q, %v", got.Prefix, err)
	}
}

// TestCertificatesOfOthers: those of another network's processes are not this
// machine's to watch.
func TestCertificatesOfOthers(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.process(5, 0, serverArgv("https://127.0.0.1:2379", "/ca.crt", "/c.crt", "/c.key"), nil, "net", "mnt")
	n.pki("/proc/5/root/ca.crt", "/proc/5/root/c.crt", "/proc/5/root/c.key")
	got, err := Resolve(Settings{}, n.Node())
	if err != nil || len(got.CertFiles) != 0 || len(got.Candidates) != 1 || len(got.Candidates[0].CertFiles) != 0 {
		t.Errorf("files %q, candidates %+v, %v", got.CertFiles, got.Candidates, err)
	}
	n.kubeadm()
	got, err = Resolve(Settings{}, n.Node())
	if want := []string{n.tree("ROOT" + kubeadmCert), n.tree("ROOT" + kubeadmCA)}; err != nil || !slices.Equal(got.CertFiles, want) {
		t.Errorf("files %q, %v, want %q", got.CertFiles, err, want)
	}
}

// TestCertificatesOfTheEtcdInUse: when endpoints of another etcd are given,
// what this machine's own etcd shows is nothing of theirs.
func TestCertificatesOfTheEtcdInUse(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.kubeadm()
	for name, tc := range map[string]struct {
		endpoints []string
		own       bool
	}{
		"found on the node": {nil, true},
		"given, the same":   {[]string{"https://127.0.0.1:2379"}, true},
		"given, another":    {[]string{"http://192.0.2.7:2379"}, false},
	} {
		got, err := Resolve(Settings{Endpoints: tc.endpoints}, n.Node())
		if err != nil || len(got.CertFiles) != 2 || slices.Equal(got.OwnCertFiles, got.CertFiles) != tc.own || !tc.own && len(got.OwnCertFiles) != 0 {
			t.Errorf("%s: all %q, own %q, %v", name, got.CertFiles, got.OwnCertFiles, err)
		}
	}
}
