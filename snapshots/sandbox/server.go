package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

const (
	clusterToken = "etcd-rescue-sandbox"
	// A single member never dials its peer URL, but the URL is part of the restored membership and must not change
	// with the ports. Port 1 makes sure that nobody reaches a real etcd with it.
	peerURL = "http://127.0.0.1:1"

	// Ticks ten times faster than etcd's default: a member elects itself after one election timeout, which is most
	// of the time that a start takes. With a single member there is nobody to lose an election to, so a machine
	// that stalls for longer than the timeout costs nothing.
	heartbeatMS = 10
	electionMS  = 100

	// Members of a cluster have somebody to lose an election to: a busy machine must not make them hold one.
	clusterHeartbeatMS = 50
	clusterElectionMS  = 500
)

// serverConfig is all that a server has to know. It goes to the child as JSON.
type serverConfig struct {
	Name       string `json:"name"` // of the member, unlike any other
	DataDir    string `json:"dataDir"`
	Port       int    `json:"port"`
	Server     string `json:"server,omitempty"`
	TLS        *TLS   `json:"tls,omitempty"`
	NoFsync    bool   `json:"noFsync,omitempty"`
	QuotaBytes int64  `json:"quotaBytes,omitempty"`
	Log        bool   `json:"log,omitempty"`
	// Cluster is what a member of several has to know besides.
	Cluster *clusterConfig `json:"cluster,omitempty"`
}

// clusterConfig is the network of a member of several.
type clusterConfig struct {
	ClientURL string `json:"clientURL"` // that it tells clients; it listens elsewhere
	PeerURL   string `json:"peerURL"`   // that it tells its peers
	PeerPort  int    `json:"peerPort"`  // that it listens on for them
	Initial   string `json:"initial"`   // all members, as --initial-cluster has them
	// Learner is the id of a member that was added to a cluster that runs, as a learner; 0: it was there from the start.
	Learner uint64 `json:"learner,omitempty"`
}

func (c serverConfig) endpoint() string { return clientURL(c.Port, c.TLS != nil) }

// advertised is the URL that the server tells its clients.
func (c serverConfig) advertised() string {
	if c.Cluster != nil {
		return c.Cluster.ClientURL
	}
	return c.endpoint()
}

// learner is the id of a member that is a learner, else 0.
func (c serverConfig) learner() uint64 {
	if c.Cluster == nil {
		return 0
	}
	return c.Cluster.Learner
}

// shape is how the server meets its peers, of which it may have none.
type shape struct {
	listenPeers, peerURL, initial, state string
	heartbeatMS, electionMS              uint
}

func (c serverConfig) shape() shape {
	state := embed.ClusterStateFlagNew
	if c.learner() != 0 {
		state = embed.ClusterStateFlagExisting
	}
	if p := c.Cluster; p != nil {
		return shape{clientURL(p.PeerPort, false), p.PeerURL, p.Initial, state, clusterHeartbeatMS, clusterElectionMS}
	}
	return shape{"http://127.0.0.1:0", peerURL, c.Name + "=" + peerURL, state, heartbeatMS, electionMS}
}

// FreePort finds a port of 127.0.0.1 below the range from which the system takes ports for outgoing connections, so that
// a restarting server finds its port free. Nothing keeps it: another process may take it before it is used. The error is
// that of the last of a hundred tries to listen.
func FreePort() (int, error) {
	var err error
	for range 100 {
		port := 20000 + rand.IntN(12000)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1: %w", err)
}

func waitListening(ctx context.Context, port int) error {
	for {
		c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
		if err == nil {
			return c.Close()
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("etcd does not listen on port %d: %w", port, err)
		}
	}
}

// startEmbedded runs the etcd that is linked into this program and waits until it is ready.
func startEmbedded(ctx context.Context, sc serverConfig, log io.Writer) (e *embed.Etcd, err error) {
	// etcd panics on data that it cannot use.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("etcd panicked: %v", r)
		}
	}()
	e, err = embed.StartEtcd(embedConfig(sc, log))
	if err != nil {
		if portTaken(err.Error()) || errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%w: %w", errPortTaken, err)
		}
		return nil, err
	}
	select {
	case <-e.Server.ReadyNotify():
		return e, nil
	case err = <-e.Err():
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	e.Close()
	return nil, fmt.Errorf("etcd did not become ready: %w", err)
}

func portTaken(text string) bool { return strings.Contains(text, "address already in use") }

func embedConfig(sc serverConfig, log io.Writer) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name = sc.Name
	cfg.Dir = sc.DataDir
	sh := sc.shape()
	cfg.ListenPeerUrls = []url.URL{*mustURL(sh.listenPeers)}
	cfg.AdvertisePeerUrls = []url.URL{*mustURL(sh.peerURL)}
	cfg.ListenClientUrls = []url.URL{*mustURL(sc.endpoint())}
	cfg.AdvertiseClientUrls = []url.URL{*mustURL(sc.advertised())}
	cfg.InitialCluster = sh.initial
	cfg.InitialClusterToken, cfg.ClusterState = clusterToken, sh.state
	cfg.TickMs, cfg.ElectionMs = sh.heartbeatMS, sh.electionMS
	cfg.UnsafeNoFsync = sc.NoFsync
	cfg.QuotaBackendBytes = sc.QuotaBytes
	cfg.EnableGRPCGateway = false
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newLogger(log))
	if sc.TLS != nil {
		cfg.ClientTLSInfo = transport.TLSInfo{
			CertFile: sc.TLS.CertFile, KeyFile: sc.TLS.KeyFile, TrustedCAFile: sc.TLS.CAFile, ClientCertAuth: sc.TLS.ClientCertAuth,
		}
	}
	return cfg
}

func newLogger(w io.Writer) *zap.Logger {
	if w == nil {
		return zap.NewNop()
	}
	enc := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	return zap.New(zapcore.NewCore(enc, zapcore.Lock(zapcore.AddSync(w)), zapcore.InfoLevel))
}

// mustURL parses a URL that this package made.
func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// serverArgs are the flags of an etcd binary, of any release since 3.4, that say the same as embedConfig.
func serverArgs(sc serverConfig) []string {
	sh := sc.shape()
	args := []string{
		"--name=" + sc.Name,
		"--data-dir=" + sc.DataDir,
		"--listen-peer-urls=" + sh.listenPeers,
		"--initial-advertise-peer-urls=" + sh.peerURL,
		"--listen-client-urls=" + sc.endpoint(),
		"--advertise-client-urls=" + sc.advertised(),
		"--initial-cluster=" + sh.initial,
		"--initial-cluster-token=" + clusterToken,
		"--initial-cluster-state=" + sh.state,
		"--heartbeat-interval=" + strconv.FormatUint(uint64(sh.heartbeatMS), 10),
		"--election-timeout=" + strconv.FormatUint(uint64(sh.electionMS), 10),
	}
	if sc.QuotaBytes != 0 {
		args = append(args, "--quota-backend-bytes="+strconv.FormatInt(sc.QuotaBytes, 10))
	}
	if sc.NoFsync {
		args = append(args, "--unsafe-no-fsync")
	}
	if t := sc.TLS; t != nil {
		args = append(args, "--cert-file="+t.CertFile, "--key-file="+t.KeyFile)
		if t.CAFile != "" {
			args = append(args, "--trusted-ca-file="+t.CAFile)
		}
		if t.ClientCertAuth {
			args = append(args, "--client-cert-auth")
		}
	}
	return args
}

// inProcess runs the server in this process.
type inProcess struct {
	log  io.Writer
	etcd *embed.Etcd
}

func (p *inProcess) serve(ctx context.Context, cfg serverConfig) (int, error) {
	e, err := startEmbedded(ctx, cfg, p.log)
	if err != nil {
		return 0, err
	}
	p.etcd = e
	return os.Getpid(), nil
}

// failure never receives anything: a server that fails here takes the read that waits for it down with it.
func (p *inProcess) failure() <-chan error { return nil }

func (p *inProcess) kill() error { return errors.New("the server runs in this process") }

func (p *inProcess) stop() error {
	if p.etcd != nil {
		p.etcd.Close()
		p.etcd = nil
	}
	return nil
}
