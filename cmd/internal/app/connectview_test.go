package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// kubeadmExplained is what connect finds on a control plane of kubeadm.
func kubeadmExplained(now time.Time) *explained {
	const pki = "/etc/kubernetes/pki/"
	e := &explained{endpoints: []string{"https://127.0.0.1:2379"}}
	e.found.Settings = connect.Settings{CACert: pki + "etcd/ca.crt", Cert: pki + "apiserver-etcd-client.crt", Key: pki + "apiserver-etcd-client.key", Prefix: connect.DefaultPrefix}
	e.found.Why = "etcd https://127.0.0.1:2379 (from /etc/kubernetes/manifests/kube-apiserver.yaml)"
	e.found.Candidates = []connect.Candidate{
		{Name: "static pod of kube-apiserver", From: "/etc/kubernetes/manifests/kube-apiserver.yaml", Endpoints: e.endpoints, Used: true},
		{Name: "static pod of etcd", From: "/etc/kubernetes/manifests/etcd.yaml\x1b[2J", Endpoints: e.endpoints, WhyNot: "static pod of kube-apiserver comes first"},
	}
	e.tried = []tried{{Trial: connect.Trial{Endpoint: e.endpoints[0], Version: "3.6.5", Cluster: 1 << 60, Member: 1 << 61}, of: etcdMain}}
	for _, name := range []string{"apiserver-etcd-client.crt", "etcd/healthcheck-client.crt"} {
		e.certs = append(e.certs, connect.Certificate{
			Where: pki + name, Subject: "CN=kube-apiserver-etcd-client,O=kubeadm:cluster-admins", Issuer: "CN=etcd-ca",
			SANs: []string{"cp-1", "localhost", "10.0.0.1", "127.0.0.1", "::1"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(100 * time.Hour),
		})
	}
	e.certs = append(e.certs, connect.Certificate{Where: pki + "etcd/ca.crt", Err: errors.New("it holds no PEM certificate")})
	return e
}

func connectScreen(t *testing.T, columns int, e *explained, now time.Time) string {
	t.Helper()
	var out bytes.Buffer
	command := connectCommand()
	a := &cli.App{Name: "connect", Flags: command.flags, Action: func(c *cli.Context) error {
		streams := term.Streams{Out: &out, Err: &out, OutTTY: true, OutWidth: columns}
		inv := &invocation{Context: c, command: command, Process: Process{Streams: streams, Now: func() time.Time { return now }}}
		return inv.showConnect(e)
	}}
	if err := a.RunContext(t.Context(), []string{"connect"}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestConnectFitsTheScreen: a table where there is room, else blocks that break
// within the terminal; and flags that can still be copied.
func TestConnectFitsTheScreen(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	e := kubeadmExplained(now)
	narrow := connectScreen(t, 80, e, now)
	for line := range strings.Lines(narrow) {
		if line = strings.TrimSuffix(line, "\n"); term.Width(line) > 80 || strings.Contains(line, "\x1b") {
			t.Errorf("line %q", line)
		}
	}
	for _, want := range []string{
		"\nFOUND static pod of kube-apiserver\n  IN: /etc/kubernetes/manifests/kube-apiserver.yaml\n  ENDPOINTS: https://127.0.0.1:2379   USED: yes\nFOUND ",
		"\n  USED: no: static pod of kube-apiserver comes first\n",
		"\nTRIED https://127.0.0.1:2379\n  OF: main\n  ANSWER: answers: etcd 3.6.5, member 2000000000000000 of cluster\n    1000000000000000\n\n",
		"\nCERTIFICATE /etc/kubernetes/pki/apiserver-etcd-client.crt\n  SUBJECT: CN=kube-apiserver-etcd-client,O=kubeadm:cluster-admins\n  NAMES: cp-1,localhost,10.0.0.1,127.0.0.1,::1   ISSUER: CN=etcd-ca\n",
		"   DAYS: 4\n",
		"\nCERTIFICATE /etc/kubernetes/pki/etcd/ca.crt\n  it holds no PEM certificate\n\n",
		"\n  --endpoints https://127.0.0.1:2379 \\\n  --cacert /etc/kubernetes/pki/etcd/ca.crt \\\n  --cert /etc/kubernetes/pki/apiserver-etcd-client.crt \\\n  --key /etc/kubernetes/pki/apiserver-etcd-client.key\n\n",
	} {
		if !strings.Contains(narrow, want) {
			t.Errorf("no %q in\n%s", want, narrow)
		}
	}
	wide := connectScreen(t, 300, e, now)
	for _, want := range []string{"\nFOUND                          IN  ", "\nTRIED                    OF     ANSWER\n", "\n  " + e.asFlags() + "\n"} {
		if !strings.Contains(wide, want) {
			t.Errorf("no %q in\n%s", want, wide)
		}
	}
}

// TestConnectTriesOtherFiles: an endpoint that does not take the files which go
// with it is tried with the others that lie there, and those that open it are
// written as flags.
func TestConnectTriesOtherFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	p := newPKI(t, root, "etcd-ca")
	newPKI(t, filepath.Join(root, "old"), "old-ca")
	box, err := sandbox.Start(t.Context(), sandbox.Options{NoFsync: true, Mode: sandbox.InProcess, TLS: p.etcd()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	endpoint := box.Endpoints()[0]
	for name, argv := range map[string]string{
		"kube-apiserver": fmt.Sprintf("--etcd-servers=%s, --etcd-cafile=%[2]s/etcd/ca.crt, --etcd-certfile=%[2]s/%[3]s.crt, --etcd-keyfile=%[2]s/%[3]s.key", endpoint, "/old/etc/kubernetes/pki", apiserver),
		"etcd":           fmt.Sprintf("--listen-client-urls=%s, --trusted-ca-file=%[2]s/etcd/ca.crt, --cert-file=%[2]s/etcd/server.crt, --key-file=%[2]s/etcd/server.key", endpoint, "/etc/kubernetes/pki"),
	} {
		file := filepath.Join(root, "etc/kubernetes/manifests", name+".yaml")
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("spec: {containers: [{command: ["+name+", "+argv+"]}]}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	code := Run(t.Context(), Process{
		Args: []string{"connect", "-o", "json"}, Streams: term.Streams{In: strings.NewReader(""), Out: &out, Err: &errs},
		Getenv: func(string) string { return "" }, Root: root, Now: time.Now,
	})
	var e explanation
	if err := json.Unmarshal(out.Bytes(), &e); err != nil || code != exitConnect {
		t.Fatalf("exit code %d, %v in %q", code, err, out.String())
	}
	var got []string
	for _, tried := range e.Tried {
		if tried.Endpoint == endpoint {
			got = append(got, fmt.Sprintf("%s %t %s", tried.Of, tried.Answers, tried.Error.Reason))
		}
	}
	if want := []string{"main false server-ca", "static pod of etcd true "}; !slices.Equal(got, want) {
		t.Errorf("tried %q, want %q", got, want)
	}
	hint := fmt.Sprintf("if it is the right one, give\\n  --endpoints %s --cacert %s --cert %s --key %s", endpoint, p.path("etcd/ca.crt"), p.path("etcd/server.crt"), p.path("etcd/server.key"))
	if !strings.Contains(errs.String(), hint) {
		t.Errorf("no %q in %q", hint, errs.String())
	}
}
