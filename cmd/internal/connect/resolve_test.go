package connect

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const kubeadmManifest = `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system}
spec:
  containers:
  - name: kube-apiserver
    image: registry.k8s.io/kube-apiserver:v1.36.3
    command:
    - kube-apiserver
    - --advertise-address=10.0.0.1
    - --etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt
    - --etcd-certfile=/etc/kubernetes/pki/apiserver-etcd-client.crt
    - --etcd-keyfile=/etc/kubernetes/pki/apiserver-etcd-client.key
    - --etcd-servers=https://127.0.0.1:2379
    volumeMounts:
    - {mountPath: /etc/ssl/certs, name: ca-certs}
    - {mountPath: /etc/kubernetes/pki, name: k8s-certs, readOnly: true}
  volumes:
  - {hostPath: {path: /etc/ssl/certs}, name: ca-certs}
  - {hostPath: {path: /etc/kubernetes/pki}, name: k8s-certs}
`

// mappedManifest has its certificates elsewhere on the host, and every way to
// write a flag.
const mappedManifest = `
spec:
  containers:
  - name: sidecar
    command: [sleep, infinity]
  - name: kube-apiserver
    command: [kube-apiserver, --etcd-cafile, /certs/etcd/ca.crt, --etcd-prefix, kubernetes.io]
    args:
    - --etcd-servers=https://10.0.0.1:2379,https://10.0.0.2:2379/
    - --etcd-servers
    - https://10.0.0.3
    - --etcd-servers-overrides=/events#https://10.0.0.1:4002;https://10.0.0.2:4002,coordination.k8s.io/leases#https://10.0.0.9:2379
    - --etcd-certfile=/certs/etcd/deep/client.crt
    - --etcd-keyfile=/certs/etcd/deep/client.key
    volumeMounts:
    - {mountPath: /certs, name: outer}
    - {mountPath: /certs/etcd/deep/, name: inner, subPath: sub}
    - {mountPath: /secret, name: secret}
  volumes:
  - {hostPath: {path: /opt/pki}, name: outer}
  - {hostPath: {path: /var/lib/inner}, name: inner}
  - {secret: {secretName: x}, name: secret}
`

// encrypted is a manifest whose --encryption-provider-config is given once for
// each file, and whose volume /enc is of the given kind.
func encrypted(volume string, files ...string) string {
	text := "spec:\n  containers:\n  - command: [kube-apiserver, '--etcd-servers=http://127.0.0.1:2379']\n    args:\n"
	for _, f := range files {
		text += "    - --encryption-provider-config=" + f + "\n"
	}
	return text + "    volumeMounts: [{mountPath: /enc, name: enc}]\n  volumes:\n  - {" + volume + ", name: enc}\n"
}

// node is a machine of a test: a tree of files and an environment.
type node struct {
	t    *testing.T
	root string
	env  map[string]string
	ca   *authority
}

func newNode(t *testing.T) *node {
	return &node{t: t, root: t.TempDir(), env: map[string]string{}, ca: newAuthority(t, "etcd-ca")}
}

func (n *node) Node() Node {
	return Node{Root: n.root, Getenv: func(k string) string { return n.env[k] }}
}

func (n *node) write(path, content string) string {
	n.t.Helper()
	file := filepath.Join(n.root, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		n.t.Fatal(err)
	}
	return file
}

func (n *node) copy(path, from string) {
	n.t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		n.t.Fatal(err)
	}
	n.write(path, string(b))
}

// pki puts a CA and a client's pair at the given paths.
func (n *node) pki(ca, cert, key string) {
	n.t.Helper()
	p := n.ca.issue(n.t, "client", nil)
	n.copy(ca, n.ca.ca)
	n.copy(cert, p.cert)
	n.copy(key, p.key)
}

func (n *node) kubeadm() { n.pki(kubeadmCA, kubeadmCert, kubeadmKey) }

func (n *node) tree(s string) string { return strings.ReplaceAll(s, "ROOT", n.root) }

func TestResolve(t *testing.T) {
	t.Parallel()
	type settings = Settings
	for _, tc := range []struct {
		name  string
		setup func(n *node)
		flags func(n *node) Settings
		want  settings // ROOT stands for the node's root; timeouts and prefix default
		why   string
		crypt string // EncryptionConfig, with ROOT
	}{
		{
			name: "empty machine",
			want: settings{Endpoints: []string{"http://127.0.0.1:2379"}},
			why:  "etcd http://127.0.0.1:2379 (a guess: no --endpoints, no ETCDCTL_ENDPOINTS, and nothing on this machine says where etcd is)",
		},
		{
			name:  "kubeadm files only",
			setup: func(n *node) { n.kubeadm() },
			want:  settings{Endpoints: []string{"https://127.0.0.1:2379"}, CACert: "ROOT" + kubeadmCA, Cert: "ROOT" + kubeadmCert, Key: "ROOT" + kubeadmKey},
			why:   "etcd https://127.0.0.1:2379 (from kubeadm's certificates in ROOT/etc/kubernetes/pki)",
		},
		{
			name:  "kubeadm manifest",
			setup: func(n *node) { n.kubeadm(); n.write(manifestPath, kubeadmManifest) },
			want:  settings{Endpoints: []string{"https://127.0.0.1:2379"}, CACert: "ROOT" + kubeadmCA, Cert: "ROOT" + kubeadmCert, Key: "ROOT" + kubeadmKey},
			why:   "etcd https://127.0.0.1:2379 (from ROOT/etc/kubernetes/manifests/kube-apiserver.yaml)",
		},
		{
			name: "mapped manifest",
			setup: func(n *node) {
				n.pki("/opt/pki/etcd/ca.crt", "/var/lib/inner/sub/client.crt", "/var/lib/inner/sub/client.key")
				n.write(manifestPath, mappedManifest)
			},
			want: settings{
				Endpoints:       []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"},
				EventsEndpoints: []string{"https://10.0.0.1:4002", "https://10.0.0.2:4002"},
				CACert:          "ROOT/opt/pki/etcd/ca.crt", Cert: "ROOT/var/lib/inner/sub/client.crt", Key: "ROOT/var/lib/inner/sub/client.key",
				Prefix: "/kubernetes.io/",
			},
			why: "etcd https://10.0.0.1:2379,https://10.0.0.2:2379,https://10.0.0.3:2379 (from ROOT/etc/kubernetes/manifests/kube-apiserver.yaml; events in https://10.0.0.1:4002,https://10.0.0.2:4002; not used: --etcd-servers-overrides of [coordination.k8s.io/leases]; prefix /kubernetes.io/ from ROOT/etc/kubernetes/manifests/kube-apiserver.yaml)",
		},
		{
			name: "plain manifest keeps the node's keys home",
			setup: func(n *node) {
				n.kubeadm()
				n.write(manifestPath, strings.Replace(kubeadmManifest, "https://127.0.0.1:2379", "http://10.0.0.1:2379", 1))
			},
			want: settings{Endpoints: []string{"http://10.0.0.1:2379"}},
			why:  "etcd http://10.0.0.1:2379 (from ROOT/etc/kubernetes/manifests/kube-apiserver.yaml)",
		},
		{
			name: "shell command line",
			setup: func(n *node) {
				n.write(manifestPath, "spec: {containers: [{command: [/bin/sh, -c, 'exec kube-apiserver --etcd-servers=http://127.0.0.1:4001 --v=2']}]}")
			},
			want: settings{Endpoints: []string{"http://127.0.0.1:4001"}},
			why:  "etcd http://127.0.0.1:4001 (from ROOT/etc/kubernetes/manifests/kube-apiserver.yaml)",
		},
		{
			name: "encryption configuration in a shell command line, mounted nowhere",
			setup: func(n *node) {
				n.write(manifestPath, "spec: {containers: [{command: [/bin/sh, -c, 'exec kube-apiserver -encryption-provider-config \"/etc/enc/c.yaml\" --etcd-servers=http://127.0.0.1:4001']}]}")
			},
			want:  settings{Endpoints: []string{"http://127.0.0.1:4001"}},
			why:   "etcd http://127.0.0.1:4001 (from ROOT/etc/kubernetes/manifests/kube-apiserver.yaml)",
			crypt: "ROOT/etc/enc/c.yaml",
		},
		{
			name: "encryption configuration elsewhere on the host, the last flag wins",
			setup: func(n *node) {
				n.write(manifestPath, encrypted("hostPath: {path: /opt/enc}", "/first.yaml", "/enc/deep/../c.yaml"))
			},
			want:  settings{Endpoints: []string{"http://127.0.0.1:2379"}},
			why:   "etcd http://127.0.0.1:2379 (from ROOT/etc/kubernetes/manifests/kube-apiserver.yaml)",
			crypt: "ROOT/opt/enc/c.yaml",
		},
		{
			name: "encryption configuration for endpoints by flag",
			setup: func(n *node) {
				n.write(manifestPath, encrypted("hostPath: {path: /opt/enc}", "/enc/c.yaml"))
			},
			flags: func(*node) Settings { return Settings{Endpoints: []string{"http://10.0.0.1:2379"}} },
			want:  settings{Endpoints: []string{"http://10.0.0.1:2379"}},
			why:   "etcd http://10.0.0.1:2379 (from --endpoints)",
			crypt: "ROOT/opt/enc/c.yaml",
		},
		{
			name:  "encryption configuration that is not on the host",
			setup: func(n *node) { n.write(manifestPath, encrypted("secret: {secretName: x}", "/enc/c.yaml")) },
			want:  settings{Endpoints: []string{"http://127.0.0.1:2379"}},
			why:   `etcd http://127.0.0.1:2379 (from ROOT/etc/kubernetes/manifests/kube-apiserver.yaml; --encryption-provider-config=/enc/c.yaml not used: volume "enc" is not a directory of the host)`,
		},
		{
			name: "a longer flag is another one",
			setup: func(n *node) {
				n.write(manifestPath, "spec: {containers: [{command: [kube-apiserver, --encryption-provider-config-automatic-reload=true, '--etcd-servers=http://127.0.0.1:2379']}]}")
			},
			want: settings{Endpoints: []string{"http://127.0.0.1:2379"}},
			why:  "etcd http://127.0.0.1:2379 (from ROOT/etc/kubernetes/manifests/kube-apiserver.yaml)",
		},
		{
			name:  "broken manifest",
			setup: func(n *node) { n.kubeadm(); n.write(manifestPath, "spec: [") },
			want:  settings{Endpoints: []string{"https://127.0.0.1:2379"}, CACert: "ROOT" + kubeadmCA, Cert: "ROOT" + kubeadmCert, Key: "ROOT" + kubeadmKey},
			why:   "etcd https://127.0.0.1:2379 (from kubeadm's certificates in ROOT/etc/kubernetes/pki; ROOT/etc/kubernetes/manifests/kube-apiserver.yaml not used: it is not a readable pod manifest)",
		},
		{
			name:  "endpoint by flag, certificates of the node",
			setup: func(n *node) { n.kubeadm(); n.write(manifestPath, kubeadmManifest) },
			flags: func(*node) Settings { return Settings{Endpoints: []string{"10.0.0.1, 10.0.0.2:2379"}} },
			want:  settings{Endpoints: []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379"}, CACert: "ROOT" + kubeadmCA, Cert: "ROOT" + kubeadmCert, Key: "ROOT" + kubeadmKey},
			why:   "etcd https://10.0.0.1:2379,https://10.0.0.2:2379 (from --endpoints; TLS files from ROOT/etc/kubernetes/manifests/kube-apiserver.yaml)",
		},
		{
			name:  "endpoint by flag, kubeadm's certificates",
			setup: func(n *node) { n.kubeadm() },
			flags: func(*node) Settings { return Settings{Endpoints: []string{"https://[fd00::1]:2379"}} },
			want:  settings{Endpoints: []string{"https://[fd00::1]:2379"}, CACert: "ROOT" + kubeadmCA, Cert: "ROOT" + kubeadmCert, Key: "ROOT" + kubeadmKey},
			why:   "etcd https://[fd00::1]:2379 (from --endpoints; TLS files from ROOT/etc/kubernetes/pki)",
		},
		{
			name:  "http endpoint by flag gets nothing of the node",
			setup: func(n *node) { n.kubeadm(); n.write(manifestPath, kubeadmManifest) },
			flags: func(*node) Settings { return Settings{Endpoints: []string{"http://10.0.0.1:2379"}} },
			want:  settings{Endpoints: []string{"http://10.0.0.1:2379"}},
			why:   "etcd http://10.0.0.1:2379 (from --endpoints)",
		},
		{
			name:  "endpoint without scheme on a machine without certificates",
			flags: func(*node) Settings { return Settings{Endpoints: []string{"10.0.0.1:2379"}} },
			want:  settings{Endpoints: []string{"http://10.0.0.1:2379"}},
			why:   "etcd http://10.0.0.1:2379 (from --endpoints)",
		},
		{
			name: "environment",
			setup: func(n *node) {
				n.pki("/e/ca", "/e/cert", "/e/key")
				n.kubeadm()
				n.env = map[string]string{
					"ETCDCTL_ENDPOINTS": "https://e1:2379,https://e2:2379", "ETCDCTL_CACERT": n.tree("ROOT/e/ca"), "ETCDCTL_CERT": n.tree("ROOT/e/cert"), "ETCDCTL_KEY": n.tree("ROOT/e/key"),
					"ETCDCTL_USER": "root:a:b", "ETCDCTL_INSECURE_SKIP_TLS_VERIFY": "true", "ETCDCTL_DIAL_TIMEOUT": "2s", "ETCDCTL_COMMAND_TIMEOUT": "1m",
				}
			},
			want: settings{Endpoints: []string{"https://e1:2379", "https://e2:2379"}, CACert: "ROOT/e/ca", Cert: "ROOT/e/cert", Key: "ROOT/e/key",
				User: "root", Password: "a:b", InsecureSkipVerify: true, DialTimeout: 2 * time.Second, CommandTimeout: time.Minute},
			why: `etcd https://e1:2379,https://e2:2379 (from ETCDCTL_ENDPOINTS; TLS files from ETCDCTL_*; user "root" from ETCDCTL_USER; the server's certificate is not checked)`,
		},
		{
			name: "flags win over the environment",
			setup: func(n *node) {
				n.pki("/f/ca", "/f/cert", "/f/key")
				n.write("/f/pw", "s3cret\n")
				n.env = map[string]string{"ETCDCTL_ENDPOINTS": "https://e1:2379", "ETCDCTL_CACERT": "/nonexistent", "ETCDCTL_USER": "other:pw", "ETCDCTL_PASSWORD": "envpw", "ETCDCTL_DIAL_TIMEOUT": "2s"}
			},
			flags: func(n *node) Settings {
				return Settings{Endpoints: []string{"https://f:1"}, CACert: n.tree("ROOT/f/ca"), Cert: n.tree("ROOT/f/cert"), Key: n.tree("ROOT/f/key"),
					User: "me", PasswordFile: n.tree("ROOT/f/pw"), DialTimeout: time.Second, Prefix: "//k8s"}
			},
			want: settings{Endpoints: []string{"https://f:1"}, CACert: "ROOT/f/ca", Cert: "ROOT/f/cert", Key: "ROOT/f/key",
				User: "me", PasswordFile: "ROOT/f/pw", Password: "s3cret", DialTimeout: time.Second, Prefix: "/k8s/"},
			why: `etcd https://f:1 (from --endpoints; user "me" from --user)`,
		},
		{
			name:  "plain transport asked for",
			setup: func(n *node) { n.kubeadm(); n.env = map[string]string{"ETCDCTL_INSECURE_TRANSPORT": "true"} },
			flags: func(*node) Settings { return Settings{Endpoints: []string{"127.0.0.1:2379"}} },
			want:  settings{Endpoints: []string{"http://127.0.0.1:2379"}},
			why:   "etcd http://127.0.0.1:2379 (from --endpoints)",
		},
		{
			name:  "plain transport switched off",
			setup: func(n *node) { n.env = map[string]string{"ETCDCTL_INSECURE_TRANSPORT": "false"} },
			flags: func(*node) Settings { return Settings{Endpoints: []string{"127.0.0.1:2379"}} },
			want:  settings{Endpoints: []string{"https://127.0.0.1:2379"}},
			why:   "etcd https://127.0.0.1:2379 (from --endpoints)",
		},
		{
			name:  "TLS files by flag for a plain endpoint",
			setup: func(n *node) { n.kubeadm() },
			flags: func(n *node) Settings {
				return Settings{Endpoints: []string{"http://127.0.0.1:2379"}, CACert: n.tree("ROOT" + kubeadmCA)}
			},
			want: settings{Endpoints: []string{"http://127.0.0.1:2379"}, CACert: "ROOT" + kubeadmCA},
			why:  "etcd http://127.0.0.1:2379 (from --endpoints; plain http: TLS files are not used)",
		},
		{
			name:  "socket",
			setup: func(n *node) { n.kubeadm() },
			flags: func(*node) Settings { return Settings{Endpoints: []string{"unix:///run/kine.sock"}} },
			want:  settings{Endpoints: []string{"unix:///run/kine.sock"}},
			why:   "etcd unix:///run/kine.sock (from --endpoints)",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			if tc.setup != nil {
				tc.setup(n)
			}
			var flags Settings
			if tc.flags != nil {
				flags = tc.flags(n)
			}
			got, err := Resolve(flags, n.Node())
			if err != nil {
				t.Fatal(err)
			}
			want := tc.want
			for _, p := range []*string{&want.CACert, &want.Cert, &want.Key, &want.PasswordFile} {
				*p = n.tree(*p)
			}
			want.Prefix = or(want.Prefix, DefaultPrefix)
			want.DialTimeout = or(want.DialTimeout, DefaultDialTimeout)
			want.CommandTimeout = or(want.CommandTimeout, DefaultCommandTimeout)
			type outcome struct {
				Settings   settings
				Crypt, Why string
			}
			if diff := cmp.Diff(outcome{want, n.tree(tc.crypt), n.tree(tc.why)}, outcome{got.Settings, got.EncryptionConfig, got.Why}); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if want.Password != "" && strings.Contains(got.Why, want.Password) {
				t.Errorf("Why holds the password: %s", got.Why)
			}
		})
	}
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func TestResolveErrors(t *testing.T) {
	t.Parallel()
	env := func(kv ...string) func(*node) {
		return func(n *node) {
			for i := 0; i < len(kv); i += 2 {
				n.env[kv[i]] = n.tree(kv[i+1])
			}
		}
	}
	for _, tc := range []struct {
		name  string
		setup func(*node)
		flags Settings
		want  string
		hint  string
	}{
		{"missing CA", nil, Settings{CACert: "ROOT/no"}, "--cacert: open ROOT/no: no such file or directory", ""},
		{"missing CA in the environment", env("ETCDCTL_CACERT", "ROOT/no"), Settings{}, "ETCDCTL_CACERT: open ROOT/no: no such file or directory", ""},
		{"CA is not PEM", func(n *node) { n.write("ca", "x") }, Settings{CACert: "ROOT/ca"}, "--cacert: ROOT/ca holds no PEM certificate", ""},
		{"certificate alone", nil, Settings{Cert: "ROOT/c"}, "--cert: a certificate needs its key", "--key FILE"},
		{"key alone", nil, Settings{Key: "ROOT/k"}, "--key: a key needs its certificate", "--cert FILE"},
		{"missing key", func(n *node) { n.write("c", "x") }, Settings{Cert: "ROOT/c", Key: "ROOT/k"}, "--key: open ROOT/k: no such file or directory", ""},
		{"key is not PEM", func(n *node) { n.kubeadm(); n.write("k", "x") }, Settings{Cert: "ROOT" + kubeadmCert, Key: "ROOT/k"}, "--key: ROOT/k holds no PEM key", ""},
		{"not a pair", func(n *node) {
			n.kubeadm()
			n.copy("other.key", n.ca.issue(n.t, "other", nil).key)
		}, Settings{Cert: "ROOT" + kubeadmCert, Key: "ROOT/other.key"}, "--cert: ROOT" + kubeadmCert + " and ROOT/other.key do not form a pair: tls: private key does not match public key", ""},
		{"bad endpoint", nil, Settings{Endpoints: []string{"https://"}}, `--endpoints: endpoint "https://" names no host`, "https://HOST:2379"},
		{"endpoint with a path", nil, Settings{Endpoints: []string{"http://a:1/v3"}}, `--endpoints: endpoint "http://a:1/v3" has a path`, ""},
		{"endpoint with a user", nil, Settings{Endpoints: []string{"https://u:pw@h:1"}}, `--endpoints: endpoint "https://***@h:1" holds a user name: give it with --user`, ""},
		{"endpoint with a user and a bad port", nil, Settings{Endpoints: []string{"https://u:pw@h:x"}}, `--endpoints: endpoint "https://***@h:x" cannot be read: invalid port ":x" after host`, ""},
		{"bad scheme in the environment", env("ETCDCTL_ENDPOINTS", "ftp://a"), Settings{}, `ETCDCTL_ENDPOINTS: endpoint "ftp://a" has an unknown scheme`, ""},
		{"bad duration", env("ETCDCTL_DIAL_TIMEOUT", "5"), Settings{}, `ETCDCTL_DIAL_TIMEOUT: "5" is not a duration greater than 0`, "5s"},
		{"bad bool", env("ETCDCTL_INSECURE_TRANSPORT", "maybe"), Settings{}, `ETCDCTL_INSECURE_TRANSPORT: "maybe" is neither true nor false`, ""},
		{"negative timeout", nil, Settings{CommandTimeout: -1}, "--command-timeout: must be greater than 0", ""},
		{"user without password", nil, Settings{User: "root"}, `--user: user "root" has no password`, "--password-file"},
		{"password file missing", nil, Settings{User: "root", PasswordFile: "ROOT/pw"}, "--password-file: open ROOT/pw: no such file or directory", ""},
		{"password file empty", func(n *node) { n.write("pw", "\n") }, Settings{User: "root", PasswordFile: "ROOT/pw"}, "--password-file: ROOT/pw is empty", ""},
		{"password twice", nil, Settings{User: "root:x", PasswordFile: "ROOT/pw"}, "--password-file: --user holds a password already", ""},
		{"password without user", nil, Settings{PasswordFile: "ROOT/pw"}, "--password-file: a password needs a user", ""},
		{"the whole of etcd", nil, Settings{Prefix: "/"}, `--etcd-prefix: "/" is the whole of etcd`, "/registry (the default)"},
		{"manifest names a missing file", func(n *node) { n.write(manifestPath, kubeadmManifest) }, Settings{},
			"ROOT" + manifestPath + ": --etcd-cafile: open ROOT" + kubeadmCA + ": no such file or directory", "give --endpoints"},
		{"manifest names a bad endpoint", func(n *node) {
			n.write(manifestPath, "spec: {containers: [{command: [a, '--etcd-servers=https://$(HOST_IP):2379']}]}")
		}, Settings{}, "ROOT" + manifestPath + `: endpoint "https://$(HOST_IP):2379" names no host`, "https://HOST:2379"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			if tc.setup != nil {
				tc.setup(n)
			}
			for _, p := range []*string{&tc.flags.CACert, &tc.flags.Cert, &tc.flags.Key, &tc.flags.PasswordFile} {
				*p = n.tree(*p)
			}
			_, err := Resolve(tc.flags, n.Node())
			var se *SettingError
			if !errors.As(err, &se) {
				t.Fatalf("got %v, want a SettingError", err)
			}
			if want := n.tree(tc.want); want != "" && err.Error() != want {
				t.Errorf("got  %s\nwant %s", err, want)
			}
			if !strings.Contains(se.Hint, tc.hint) {
				t.Errorf("hint %q, want one with %q", se.Hint, tc.hint)
			}
			if strings.Contains(err.Error(), "pw@") {
				t.Errorf("password in %q", err)
			}
		})
	}
}

func TestResolveFavourFails(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.write(manifestPath, strings.Replace(kubeadmManifest, "hostPath: {path: /etc/kubernetes/pki}", "emptyDir: {}", 1))
	got, err := Resolve(Settings{Endpoints: []string{"https://10.0.0.1:2379"}}, n.Node())
	if err != nil {
		t.Fatal(err)
	}
	want := `etcd https://10.0.0.1:2379 (from --endpoints; TLS files not used: --etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt: volume "k8s-certs" is not a directory of the host)`
	if got.Why != want || got.CACert != "" {
		t.Errorf("got  %s\nwant %s", got.Why, want)
	}
}

func TestResolvePermission(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	file := n.write(manifestPath, kubeadmManifest)
	if err := os.Chmod(file, 0); err != nil {
		t.Fatal(err)
	}
	_, err := Resolve(Settings{}, n.Node())
	var se *SettingError
	if !errors.As(err, &se) {
		t.Fatalf("got %v, want a SettingError", err)
	}
	want := "run as root"
	if os.Geteuid() == 0 {
		want = "give --endpoints" // root reads the manifest, and misses the files it names
	}
	if !strings.Contains(se.Hint, want) {
		t.Errorf("hint %q, want one with %q", se.Hint, want)
	}
}
