package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace/fakekine"
)

// realKubeadm is a stacked control plane as kubeadm lays it out, with an etcd
// that demands certificates of its CA. edit may change the node.
func realKubeadm(t *testing.T) (*node, string) {
	t.Helper()
	n := newNode(t)
	kubeadmNode(n)
	server := pair{n.tree("ROOT/etc/kubernetes/pki/etcd/server.crt"), n.tree("ROOT/etc/kubernetes/pki/etcd/server.key")}
	endpoint := startEtcd(t, "https", withTLS(server, n.ca.ca))
	for _, file := range []string{manifestPath, manifests + "etcd.yaml"} {
		b, err := os.ReadFile(filepath.Join(n.root, file))
		if err != nil {
			t.Fatal(err)
		}
		n.write(file, strings.ReplaceAll(string(b), "https://127.0.0.1:2379", endpoint))
	}
	return n, endpoint
}

func TestKubeadmReal(t *testing.T) {
	t.Parallel()
	n, endpoint := realKubeadm(t)
	for _, step := range []struct {
		used   string
		remove string // after it was tried
	}{
		{"static pod of kube-apiserver", manifestPath},
		{"static pod of etcd", "/etc/kubernetes/pki/etcd/healthcheck-client.key"},
		{"static pod of etcd", ""}, // with the server's own certificate
	} {
		found, err := Resolve(Settings{}, n.Node())
		if err != nil {
			t.Fatal(err)
		}
		if found.Endpoints[0] != endpoint || found.EtcdQuota != 8<<30 {
			t.Errorf("endpoints %q, quota %d", found.Endpoints, found.EtcdQuota)
		}
		for _, c := range found.Candidates {
			if c.Used != (c.Name == step.used) {
				t.Errorf("%s used: %t, want %s", c.Name, c.Used, step.used)
			}
		}
		mustDial(t, found.Settings, found.Endpoints...)
		if step.remove != "" {
			if err := os.Remove(filepath.Join(n.root, step.remove)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestTry: each endpoint says for itself how it is, and which certificates it
// shows, also to those whom it does not let in.
func TestTry(t *testing.T) {
	t.Parallel()
	n, endpoint := realKubeadm(t)
	found, err := Resolve(Settings{DialTimeout: 2 * testTimeout}, n.Node())
	if err != nil {
		t.Fatal(err)
	}
	dead := "https://" + closedPort(t)
	trials := Try(t.Context(), found.Settings, []string{endpoint, dead}, nil)
	if len(trials) != 2 || trials[0].Endpoint != endpoint || trials[0].Err != nil || trials[0].Version == "" || trials[0].Member == 0 || trials[0].Cluster == 0 {
		t.Fatalf("trials %+v", trials)
	}
	if all := Failures(trials[1].Err); len(all) != 1 || all[0].Reason != Refused || !strings.Contains(trials[1].Hint(), "is etcd running?") {
		t.Errorf("dead: %v, hint %q", trials[1].Err, trials[1].Hint())
	}
	if s := trials[1].Served; len(s) != 1 || s[0].Err == nil || s[0].Where != dead {
		t.Errorf("dead: served %+v", s)
	}
	refused := Try(t.Context(), Settings{CACert: n.ca.ca, DialTimeout: 2 * testTimeout}, []string{endpoint}, nil)[0]
	if all := Failures(refused.Err); len(all) != 1 || all[0].Reason != ClientCertMissing {
		t.Errorf("without certificate: %v", refused.Err)
	}
	for _, trial := range []Trial{trials[0], refused} {
		if len(trial.Served) != 1 || trial.Served[0].Subject != "CN=server" || trial.Served[0].Where != endpoint {
			t.Errorf("served %+v", trial.Served)
		}
	}
}

func TestTryUsers(t *testing.T) {
	t.Parallel()
	endpoint := startEtcd(t, "http", nil)
	enableAuth(t, endpoint)
	for _, tc := range []struct {
		s    Settings
		want Reason
	}{{Settings{}, AuthRequired}, {Settings{User: "root", Password: "wrong"}, WrongPassword}, {Settings{User: "root", Password: "tops3cret"}, ""}} {
		tc.s.DialTimeout = 4 * testTimeout
		trial := Try(t.Context(), tc.s, []string{endpoint}, nil)[0]
		var got Reason
		if all := Failures(trial.Err); len(all) > 0 {
			got = all[0].Reason
		}
		if got != tc.want || len(trial.Served) > 0 {
			t.Errorf("user %q: %v, served %v; want %q", tc.s.User, trial.Err, trial.Served, tc.want)
		}
	}
}

// TestKineSocket: k3s with a database is found and reached by its socket.
func TestKineSocket(t *testing.T) {
	t.Parallel()
	server, err := fakekine.Start(fakekine.V017)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	root, err := os.MkdirTemp("", "k3s") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	dir := filepath.Join(root, "/var/lib/rancher/k3s/server")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	relay(t, filepath.Join(dir, "kine.sock"), strings.TrimPrefix(server.URL(), "http://"))
	found, err := Resolve(Settings{}, Node{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if conn := mustDial(t, found.Settings, found.Endpoints...); !conn.Kine {
		t.Error("it does not pass for kine")
	}
	if trial := Try(t.Context(), found.Settings, found.Endpoints, nil)[0]; trial.Err != nil || !trial.Kine {
		t.Errorf("trial %+v", trial)
	}
	if all, err := DialAll(t.Context(), Settings{Cluster: true}, found.Endpoints, nil); err != nil || len(all.Endpoints) != 1 || len(all.Warnings) > 0 {
		t.Errorf("--cluster: %+v, %v", all, err)
	} else {
		_ = all.Close()
	}
}

// relay makes a socket that leads to addr.
func relay(t *testing.T, socket, addr string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", addr)
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
		}
	}()
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "etcd-ca")
	p := ca.issue(t, "member", func(c *x509.Certificate) {
		expired(c)
		c.Subject.Organization = []string{"system:masters"}
		c.DNSNames, c.IPAddresses = []string{"etcd-1", "localhost"}, []net.IP{net.IPv4(10, 0, 0, 1), net.ParseIP("fd00::1")}
	})
	bundle := filepath.Join(ca.dir, "bundle.crt")
	leaf, root := readAll(t, p.cert), readAll(t, ca.ca)
	for file, content := range map[string]string{bundle: leaf + readAll(t, p.key) + root, filepath.Join(ca.dir, "text"): "none"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := Certificates(bundle, "", bundle, p.key, filepath.Join(ca.dir, "gone"), filepath.Join(ca.dir, "text"))
	if len(got) != 4 || got[2].Err == nil || !strings.Contains(got[2].Err.Error(), "no such file") || got[3].Err == nil || got[3].Where != filepath.Join(ca.dir, "text") {
		t.Fatalf("got %+v", got)
	}
	parsed, err := x509.ParseCertificate(p.load(t).Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	want := Certificate{Where: bundle, Subject: "CN=member,O=system:masters", Issuer: "CN=etcd-ca", SANs: []string{"etcd-1", "localhost", "10.0.0.1", "fd00::1"},
		NotBefore: parsed.NotBefore, NotAfter: parsed.NotAfter}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !got[1].CA || got[1].Subject != "CN=etcd-ca" || got[1].Err != nil {
		t.Errorf("CA: %+v", got[1])
	}
	now := parsed.NotAfter.Add(time.Hour)
	if left := got[0].Left(now); left != -time.Hour {
		t.Errorf("left %s", left)
	}
}

func readAll(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestServed: a certificate is seen that no client would accept, and one of a
// server that ends the handshake because it demands ours.
func TestServed(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "etcd-ca")
	late := startEtcd(t, "https", withTLS(ca.issue(t, "late", expired), ""))
	if got := Served(t.Context(), late); len(got) != 1 || got[0].Subject != "CN=late" || got[0].Left(time.Now()) > 0 {
		t.Errorf("expired: %+v", got)
	}
	cert := ca.issue(t, "old", nil).load(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = c.(*tls.Conn).Handshake(); _ = c.Close() }()
		}
	}()
	if got := Served(t.Context(), "https://"+l.Addr().String()); len(got) != 1 || got[0].Subject != "CN=old" {
		t.Errorf("TLS 1.2 with client certificates: %+v", got)
	}
	if got := Served(t.Context(), startEtcd(t, "http", nil)); got != nil {
		t.Errorf("plain: %+v", got)
	}
	short, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	if got := Served(short, "https://"+listen(t, nil)); len(got) != 1 || got[0].Err == nil {
		t.Errorf("silent: %+v", got)
	}
}
