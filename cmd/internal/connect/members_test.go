package connect

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
)

// startCluster runs a cluster of three, the last of which has two client URLs,
// and returns their endpoints and how to stop the second.
func startCluster(t *testing.T) (endpoints [][]string) {
	t.Helper()
	for i, member := range peers(t, 3) {
		count := 1
		if i == 2 {
			count = 2
		}
		var urls []url.URL
		var eps []string
		for range count {
			ep := "http://" + closedPort(t)
			urls, eps = append(urls, mustURL(t, ep)), append(eps, ep)
		}
		startEtcd(t, "http", func(cfg *embed.Config) {
			member(cfg)
			cfg.ListenClientUrls, cfg.AdvertiseClientUrls = urls, urls
		})
		endpoints = append(endpoints, eps)
	}
	// All have started once all answer a read through their leader.
	for _, eps := range endpoints {
		conn := mustDial(t, Settings{DialTimeout: DefaultDialTimeout * 4}, eps[0])
		if _, err := conn.Client.Get(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
	}
	return endpoints
}

func TestDialAll(t *testing.T) {
	t.Parallel()
	eps := startCluster(t)
	first := eps[0][0]
	conn, err := DialAll(t.Context(), Settings{Cluster: true}, []string{first}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if len(conn.Warnings) > 0 || len(conn.Endpoints) != 3 || conn.Endpoints[0] != first {
		t.Fatalf("endpoints %q, warnings %q; want one of each of %q", conn.Endpoints, conn.Warnings, eps)
	}
	for _, member := range eps {
		n := 0
		for _, ep := range conn.Endpoints {
			if slices.Contains(member, ep) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d endpoints of the member at %q in %q", n, member, conn.Endpoints)
		}
	}
	if got := conn.Client.Endpoints(); !slices.Equal(got, conn.Endpoints) {
		t.Errorf("the client knows %q, want %q", got, conn.Endpoints)
	}
	// Whoever means one member gets one.
	if alone := mustDial(t, Settings{Cluster: true}, first); len(alone.Client.Endpoints()) != 1 {
		t.Errorf("Dial knows %q", alone.Client.Endpoints())
	}
	if same, err := DialAll(t.Context(), Settings{}, []string{first}, nil); err != nil || len(same.Endpoints) != 1 {
		t.Errorf("without being asked: %v, %v", same, err)
	} else {
		_ = same.Close()
	}
}

// TestDialAllSomeDead: members that never answer, or whose address leads to
// another etcd, are named and not used.
func TestDialAllSomeDead(t *testing.T) {
	t.Parallel()
	members := peers(t, 2)
	stranger := startEtcd(t, "http", nil)
	ep := "http://" + closedPort(t)
	startEtcd(t, "http", func(cfg *embed.Config) {
		members[0](cfg)
		cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{mustURL(t, ep)}, []url.URL{mustURL(t, ep)}
	})
	startEtcd(t, "http", func(cfg *embed.Config) {
		members[1](cfg)
		cfg.AdvertiseClientUrls = []url.URL{mustURL(t, stranger), mustURL(t, "http://"+closedPort(t))}
	})
	wait := mustDial(t, Settings{DialTimeout: DefaultDialTimeout * 4}, ep)
	if _, err := wait.Client.Get(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	waitForNames(t, wait, 2)
	conn, err := DialAll(t.Context(), Settings{Cluster: true}, []string{ep}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	text := strings.Join(conn.Warnings, "\n")
	for _, want := range []string{"belongs to etcd cluster", "nothing listens there", "etcd's member m1 (", "does not answer at any address that it names"} {
		if !strings.Contains(text, want) {
			t.Errorf("warnings %q, want %q among them", conn.Warnings, want)
		}
	}
	if !slices.Equal(conn.Endpoints, []string{ep}) || !slices.Equal(conn.Client.Endpoints(), []string{ep}) {
		t.Errorf("endpoints %q, the client's %q", conn.Endpoints, conn.Client.Endpoints())
	}
}

// waitForNames asks until that many members have told what they advertise.
func waitForNames(t *testing.T, conn *Conn, n int) {
	t.Helper()
	for {
		resp, err := conn.Client.MemberList(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		told := 0
		for _, m := range resp.Members {
			if len(m.ClientURLs) > 0 {
				told++
			}
		}
		if told >= n {
			return
		}
	}
}
