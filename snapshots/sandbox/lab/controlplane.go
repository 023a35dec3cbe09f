package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// ControlPlaneOptions says what to start.
type ControlPlaneOptions struct {
	// Endpoints are the http URLs of the etcd to work on, such as those of a sandbox. Several apiservers on one etcd
	// would take themselves for one: all name the same address in the store.
	Endpoints []string
	// NoManager leaves kube-controller-manager out; StartManager can start it later.
	NoManager bool
	// LeaderElect makes kube-controller-manager keep its Lease in kube-system, as it does in a real cluster. After it
	// has been stopped the next one then waits up to 15 s for that Lease to expire.
	LeaderElect bool
	// ServerArgs and ManagerArgs are flags of kube-apiserver and kube-controller-manager; they win over our own.
	ServerArgs, ManagerArgs []string
	// Log takes what both servers log; nil discards it. It is written to until Close returns, by one at a time.
	Log io.Writer
	// Dir is where the directory for certificates is made; empty means os.TempDir.
	Dir string
}

// ControlPlane is a real kube-apiserver, and with it a real kube-controller-manager, on 127.0.0.1. There is no
// scheduler and no kubelet: a pod gets onto a node by its spec.nodeName, and stays as it is. The servers end, and their
// files go away, at Close or, on Linux, when this process dies in whatever way. Its methods may be called from several
// goroutines.
type ControlPlane struct {
	opt   ControlPlaneOptions
	dir   string
	port  int
	keys  *credentials
	log   *sharedLog
	guard *guard

	mu              sync.Mutex
	server, manager *process // nil when it does not run
	closed          bool
}

// startTimeout leaves room for a loaded machine: a start takes five seconds on an idle one.
const startTimeout = 3 * time.Minute

// StartControlPlane builds the servers, on first use only, and starts them. It returns when both say that they are
// ready. ctx limits the start only. After an error nothing is left behind.
func StartControlPlane(ctx context.Context, opt ControlPlaneOptions) (*ControlPlane, error) {
	c, err := startControlPlane(ctx, opt)
	if err != nil {
		return nil, fmt.Errorf("start control plane: %w", err)
	}
	return c, nil
}

func startControlPlane(ctx context.Context, opt ControlPlaneOptions) (*ControlPlane, error) {
	if len(opt.Endpoints) == 0 {
		return nil, errors.New("no etcd endpoint is given")
	}
	dir, err := os.MkdirTemp(opt.Dir, "etcd-rescue-controlplane-")
	if err != nil {
		return nil, err
	}
	c := &ControlPlane{opt: opt, dir: dir, log: &sharedLog{next: opt.Log}}
	if c.guard, err = startGuard(dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err = c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *ControlPlane) start(ctx context.Context) error {
	var err error
	if c.port, err = sandbox.FreePort(); err != nil {
		return err
	}
	if c.keys, err = newCredentials(c.dir, c.url(c.port)); err != nil {
		return err
	}
	if err = c.StartServer(ctx); err != nil || c.opt.NoManager {
		return err
	}
	return c.StartManager(ctx)
}

// StartServer starts kube-apiserver, unless it runs, always at the same address and with the same credentials, and
// returns when it says that it is ready.
func (c *ControlPlane) StartServer(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return errors.New("start kube-apiserver: the control plane is closed")
	case c.server != nil:
		return nil
	}
	var err error
	c.server, err = c.run(ctx, "kube-apiserver", slices.Concat(c.serverArgs(), c.opt.ServerArgs), c.url(c.port)+"/readyz")
	return err
}

// StopServer ends kube-apiserver with SIGKILL, if it runs.
func (c *ControlPlane) StopServer() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.server
	c.server = nil
	return p.kill()
}

func (c *ControlPlane) url(port int) string {
	return "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// address is what kube-apiserver names in the store: it refuses to name 127.0.0.1, and a machine without a network has
// no other. Nobody has this one: RFC 5737.
const address = "192.0.2.1"

func (c *ControlPlane) serverArgs() []string {
	k := c.keys
	return []string{
		"--etcd-servers=" + strings.Join(c.opt.Endpoints, ","),
		"--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(c.port), "--advertise-address=" + address,
		"--tls-cert-file=" + k.cert, "--tls-private-key-file=" + k.key, "--client-ca-file=" + k.ca,
		"--service-cluster-ip-range=10.0.0.0/16",
		"--service-account-key-file=" + k.accountKey, "--service-account-signing-key-file=" + k.accountKey,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--token-auth-file=" + k.tokens, "--authorization-mode=Node,RBAC",
		// Pods are made without a ServiceAccount being there first.
		"--disable-admission-plugins=ServiceAccount",
		"--enable-aggregator-routing",
	}
}

func (c *ControlPlane) managerArgs(port int) []string {
	k := c.keys
	return []string{
		"--kubeconfig=" + k.kubeconfig, "--authentication-kubeconfig=" + k.kubeconfig, "--authorization-kubeconfig=" + k.kubeconfig,
		"--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(port), "--tls-cert-file=" + k.cert, "--tls-private-key-file=" + k.key,
		"--service-account-private-key-file=" + k.accountKey, "--root-ca-file=" + k.ca,
		"--use-service-account-credentials=false", "--leader-elect=" + strconv.FormatBool(c.opt.LeaderElect),
	}
}

// StartManager starts kube-controller-manager, unless it runs, and returns when it says that it is healthy. Its
// controllers may still be filling their caches then.
func (c *ControlPlane) StartManager(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return errors.New("start kube-controller-manager: the control plane is closed")
	case c.manager != nil:
		return nil
	}
	port, err := sandbox.FreePort()
	if err != nil {
		return err
	}
	args := slices.Concat(c.managerArgs(port), c.opt.ManagerArgs)
	c.manager, err = c.run(ctx, "kube-controller-manager", args, c.url(port)+"/healthz")
	return err
}

// StopManager ends kube-controller-manager with SIGKILL, if it runs. With LeaderElect its Lease stays behind.
func (c *ControlPlane) StopManager() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.manager
	c.manager = nil
	return p.kill()
}

// Config is how client-go reaches the apiserver: as an administrator, with no limit on requests a second. The caller
// may change it.
func (c *ControlPlane) Config() *rest.Config {
	return &rest.Config{
		Host: c.url(c.port), BearerToken: c.keys.token, TLSClientConfig: rest.TLSClientConfig{CAFile: c.keys.ca}, QPS: -1,
	}
}

// Kubeconfig is the path of a file that kubectl takes; it goes away with the control plane.
func (c *ControlPlane) Kubeconfig() string { return c.keys.kubeconfig }

// Pids are the process ids of kube-apiserver and kube-controller-manager, 0 for what does not run.
func (c *ControlPlane) Pids() (server, manager int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server.pid(), c.manager.pid()
}

// Close ends the servers and removes their files. It may be called more than once.
func (c *ControlPlane) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	err := errors.Join(c.manager.kill(), c.server.kill(), c.guard.close())
	c.manager, c.server = nil, nil
	return err
}

// run starts a server and waits until it answers ready. After an error it does not run.
func (c *ControlPlane) run(ctx context.Context, program string, args []string, ready string) (*process, error) {
	binary, err := Kubernetes(ctx, program)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p, err := startProcess(exec.Command(binary, args...), c.log)
	if err != nil {
		return nil, err
	}
	if err := p.wait(ctx, c.client(), ready); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is not ready: %w", program, err), p.kill())
	}
	return p, nil
}

// client trusts our own authority and nobody else: another server may have taken the port.
func (c *ControlPlane) client() *http.Client {
	return &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.keys.pool()}, DisableKeepAlives: true},
	}
}
