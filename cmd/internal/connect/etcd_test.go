package connect

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// etcdConfig is for one member that listens on ports of its own.
func etcdConfig(t *testing.T, scheme string) *embed.Config {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.LogLevel = "fatal"
	cfg.UnsafeNoFsync = true
	cfg.TickMs, cfg.ElectionMs = 25, 250
	cfg.BcryptCost = 4
	client, peer := mustURL(t, scheme+"://127.0.0.1:0"), mustURL(t, "http://127.0.0.1:0")
	if scheme == "unix" {
		client = mustURL(t, "unix://"+filepath.Join(t.TempDir(), "etcd.sock"))
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	// Two clusters made alike would have the same id.
	cfg.InitialClusterToken = cfg.Dir
	return cfg
}

// startEtcd runs a real etcd in this process and returns its endpoint. It waits
// until etcd serves, if it is the only member. edit may change the
// configuration.
func startEtcd(t *testing.T, scheme string, edit func(*embed.Config)) string {
	t.Helper()
	cfg := etcdConfig(t, scheme)
	if edit != nil {
		edit(cfg)
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		etcd.Server.Stop() // Close alone waits for an etcd that never got ready
		etcd.Close()
	})
	ready := etcd.Server.ReadyNotify()
	if strings.Contains(cfg.InitialCluster, ",") {
		started := make(chan struct{})
		close(started)
		ready = started
	}
	select {
	case <-ready:
	case <-time.After(30 * time.Second):
		t.Fatal("etcd does not start")
	}
	if scheme == "unix" {
		return cfg.ListenClientUrls[0].String()
	}
	return scheme + "://" + etcd.Clients[0].Addr().String()
}

// peers returns settings for the members of one cluster.
func peers(t *testing.T, n int) []func(*embed.Config) {
	t.Helper()
	var all []string
	var urls []url.URL
	for i := range n {
		u := mustURL(t, "http://"+closedPort(t))
		urls = append(urls, u)
		all = append(all, fmt.Sprintf("m%d=%s", i, u.String()))
	}
	var out []func(*embed.Config)
	for i, u := range urls {
		out = append(out, func(cfg *embed.Config) {
			cfg.Name = fmt.Sprintf("m%d", i)
			cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{u}, []url.URL{u}
			cfg.InitialCluster, cfg.InitialClusterToken = strings.Join(all, ","), t.Name()
		})
	}
	return out
}

func mustURL(t *testing.T, s string) url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return *u
}

func withTLS(server pair, ca string) func(*embed.Config) {
	return func(cfg *embed.Config) {
		cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = server.cert, server.key
		if ca != "" {
			cfg.ClientTLSInfo.ClientCertAuth, cfg.ClientTLSInfo.TrustedCAFile = true, ca
		}
	}
}

// enableAuth adds root, who may do everything, and guest, who may do nothing.
func enableAuth(t *testing.T, endpoint string) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	grantUsers(t, c)
}

func grantUsers(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, step := range []func() error{
		func() error { _, err := c.UserAdd(ctx, "root", "tops3cret"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.UserAdd(ctx, "guest", "guestpw"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}
