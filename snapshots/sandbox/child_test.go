package sandbox

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

const (
	parentCommand  = "sandbox-test-parent"
	foreignCommand = "sandbox-test-foreign"
)

// helperParent starts a sandbox, says where, and waits to be killed.
func helperParent(args []string) int {
	s, err := Start(context.Background(), Options{Dir: args[0], Server: args[1]})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(s.Pid())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// helperForeign stands in for an etcd binary: it takes etcd's flags and runs etcd.
func helperForeign(args []string) int {
	fs := flag.NewFlagSet("etcd", flag.ContinueOnError)
	values := map[string]*string{}
	for _, name := range []string{"name", "data-dir", "listen-peer-urls", "initial-advertise-peer-urls", "listen-client-urls",
		"advertise-client-urls", "initial-cluster", "initial-cluster-token", "initial-cluster-state", "heartbeat-interval", "election-timeout"} {
		values[name] = fs.String(name, "", "")
	}
	if err := fs.Parse(args); err != nil {
		return 2
	}
	u, err := url.Parse(*values["listen-client-urls"])
	if err != nil {
		return 2
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return 2
	}
	cfg := serverConfig{Name: *values["name"], DataDir: *values["data-dir"], Port: port}
	if peers, err := url.Parse(*values["listen-peer-urls"]); err != nil {
		return 2
	} else if peers.Port() != "0" {
		peerPort, err := strconv.Atoi(peers.Port())
		if err != nil {
			return 2
		}
		cfg.Cluster = &clusterConfig{
			ClientURL: *values["advertise-client-urls"], PeerURL: *values["initial-advertise-peer-urls"],
			PeerPort: peerPort, Initial: *values["initial-cluster"],
		}
	}
	e, err := startEmbedded(context.Background(), cfg, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	<-e.Err()
	return 1
}

// foreignServer is a path that runs helperForeign.
func foreignServer(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcd-server")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// startParent runs a command of this binary that starts servers in dir, and returns the line in which it tells of them.
func startParent(t *testing.T, command, dir, server string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], command, dir, server)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("helper: %q, %v", line, err)
	}
	return cmd, line
}

// killParent kills it and waits until its servers and files are gone.
func killParent(t *testing.T, cmd *exec.Cmd, dir string, pids ...int) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, pid := range pids {
		eventually(t, "the servers end", func() bool { return !running(pid) })
	}
	eventually(t, "the directory is empty", func() bool {
		left, err := os.ReadDir(dir)
		return err == nil && len(left) == 0
	})
}

func TestParentIsKilled(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]string{"linked in": "", "other server": foreignServer(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd, line := startParent(t, parentCommand, dir, server)
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				t.Fatalf("helper: %q, %v", line, err)
			}
			if !alive(pid) {
				t.Fatalf("server %d does not run", pid)
			}
			killParent(t, cmd, dir, pid)
		})
	}
}

// running is alive, but for processes that have ended and that nobody waits for: the orphans of a killed parent, in
// containers whose first process does not collect them.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return alive(pid)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// The parent may die while it prepares data, before there is a server.
func TestStdinClosesEarly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "guarded")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// In a process of its own, which ServeChild expects: it sets grpc's global logger.
	cmd := exec.CommandContext(t.Context(), self, ChildCommand)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("{\"guard\":%q}\n", dir))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]string{"linked in": "", "other server": foreignServer(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, Options{Server: server})
			other := start(t, Options{})
			if err := s.Kill(); err != nil {
				t.Fatal(err)
			}
			_, port, err := net.SplitHostPort(strings.TrimPrefix(other.Endpoints()[0], "http://"))
			if err != nil {
				t.Fatal(err)
			}
			// The next start meets a port on which another etcd answers, and must not take that for its own.
			s.port, err = strconv.Atoi(port)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Restart(t.Context()); !errors.Is(err, errPortTaken) {
				t.Errorf("Restart on a taken port: %v", err)
			}
			s.port = 0
			if err := s.Restart(t.Context()); err != nil {
				t.Errorf("Restart on a free port: %v", err)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	conf := certificates(t)
	for name, mode := range map[string]Mode{"child": Child, "in process": InProcess} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, Options{TLS: conf, Mode: mode})
			if !strings.HasPrefix(s.Endpoints()[0], "https://") {
				t.Errorf("endpoint %s", s.Endpoints()[0])
			}
			c := client(t, s)
			put(t, c, "/a", "1")
			if got := get(t, c, "/a"); got != "1" {
				t.Errorf("got %q", got)
			}
			bare, err := newClient(t.Context(), &TLS{CAFile: conf.CAFile}, s.Endpoints()...)
			if err != nil {
				t.Fatal(err)
			}
			defer bare.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := bare.Get(ctx, "/a"); err == nil {
				t.Error("a client without a certificate was let in")
			}
		})
	}
}

// certificates makes a CA, and a server and a client certificate signed by it.
func certificates(t *testing.T) *TLS {
	t.Helper()
	dir := t.TempDir()
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sandbox CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	var caKey *ecdsa.PrivateKey
	issue := func(name string, c *x509.Certificate) (certFile, keyFile string) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if caKey == nil {
			caKey = key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
		if err != nil {
			t.Fatal(err)
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
		err = errors.Join(
			os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
			os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		return certFile, keyFile
	}
	out := &TLS{ClientCertAuth: true}
	out.CAFile, _ = issue("ca", ca)
	out.CertFile, out.KeyFile = issue("server", &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	out.ClientCertFile, out.ClientKeyFile = issue("client", &x509.Certificate{
		SerialNumber: big.NewInt(3), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, Subject: pkix.Name{CommonName: "root"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return out
}

// save takes a snapshot as etcdctl does.
func save(t *testing.T, c *clientv3.Client) string {
	t.Helper()
	r, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "snapshot.db")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func compareAt(t *testing.T, f *snapshots.File, c *clientv3.Client, rev int64) {
	t.Helper()
	want, err := c.Get(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithRev(rev))
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	err = f.Scan(t.Context(), "", "\x00", rev, func(kv *mvccpb.KeyValue) error {
		if i >= len(want.Kvs) || !proto.Equal(kv, want.Kvs[i]) {
			return fmt.Errorf("entry %d at revision %d: the file has %q", i, rev, kv.Key)
		}
		i++
		return nil
	})
	if err != nil || i != len(want.Kvs) {
		t.Errorf("revision %d: %d of %d entries, %v", rev, i, len(want.Kvs), err)
	}
}
