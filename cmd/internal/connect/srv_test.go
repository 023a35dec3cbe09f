package connect

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
)

// records are a DNS of a test: "service.domain" to what it answers.
type records map[string][]*net.SRV

func (r records) lookup(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	found, ok := r["_"+service+"._"+proto+"."+name]
	if ok && found == nil {
		return "", nil, &net.DNSError{Err: "i/o timeout", Name: name, IsTimeout: true, IsTemporary: true}
	}
	if !ok {
		return "", nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return "", found, nil
}

func TestDiscoverySRV(t *testing.T) {
	t.Parallel()
	dns := records{
		"_etcd-client-ssl._tcp.both.example":      {{Target: "m2.both.example.", Port: 2379}, {Target: "m1.both.example.", Port: 2379}, {Target: "m1.both.example.", Port: 2379, Priority: 1}},
		"_etcd-client._tcp.both.example":          {{Target: "plain.both.example.", Port: 2379}},
		"_etcd-client._tcp.plain.example":         {{Target: "p1.plain.example.", Port: 12379}},
		"_etcd-client-ssl-blue._tcp.both.example": {{Target: "b1.both.example.", Port: 2379}},
		"_etcd-client-ssl._tcp.silent.example":    nil,
		"_etcd-client._tcp.silent.example":        {{Target: "plain.silent.example.", Port: 2379}},
		"_etcd-client-ssl._tcp.none.example":      {{Target: ".", Port: 0}},
	}
	for _, tc := range []struct {
		name       string
		flags      Settings
		env        map[string]string
		want       []string
		serverName string
		why, fails string
	}{
		{name: "TLS before plain", flags: Settings{DiscoverySRV: "both.example"}, want: []string{"https://m1.both.example:2379", "https://m2.both.example:2379"},
			why: "(from --discovery-srv, records of both.example)"},
		{name: "plain only", flags: Settings{DiscoverySRV: "plain.example"}, want: []string{"http://p1.plain.example:12379"}},
		{name: "a name", flags: Settings{DiscoverySRV: "both.example", DiscoverySRVName: "blue"}, want: []string{"https://b1.both.example:2379"}},
		{name: "environment", env: map[string]string{"ETCDCTL_DISCOVERY_SRV": "both.example", "ETCDCTL_DISCOVERY_SRV_NAME": "blue", "ETCDCTL_ENDPOINTS": "http://other:1"},
			want: []string{"https://b1.both.example:2379"}, why: "(from ETCDCTL_DISCOVERY_SRV, records of both.example)"},
		{name: "a flag wins over the environment", flags: Settings{Endpoints: []string{"http://given:1"}}, env: map[string]string{"ETCDCTL_DISCOVERY_SRV": "both.example"},
			want: []string{"http://given:1"}},
		{name: "certificates for the domain", flags: Settings{DiscoverySRV: "both.example"}, env: map[string]string{"ETCDCTL_INSECURE_DISCOVERY": "false"},
			want: []string{"https://m1.both.example:2379", "https://m2.both.example:2379"}, serverName: "both.example"},
		{name: "plain is not for the strict", flags: Settings{DiscoverySRV: "plain.example"}, env: map[string]string{"ETCDCTL_INSECURE_DISCOVERY": "false"},
			fails: "--discovery-srv: _etcd-client-ssl._tcp.plain.example has no records"},
		{name: "endpoints beside it", flags: Settings{DiscoverySRV: "both.example", Endpoints: []string{"http://given:1"}}, fails: "--discovery-srv: --endpoints names them already"},
		{name: "no records", flags: Settings{DiscoverySRV: "nowhere.example"},
			fails: "--discovery-srv: _etcd-client-ssl._tcp.nowhere.example has no records\n_etcd-client._tcp.nowhere.example has no records"},
		{name: "no answer about TLS is no leave to do without", flags: Settings{DiscoverySRV: "silent.example"}, fails: "--discovery-srv: _etcd-client-ssl._tcp.silent.example: lookup silent.example: i/o timeout"},
		{name: "a service that is not there", flags: Settings{DiscoverySRV: "none.example"}, fails: "_etcd-client-ssl._tcp.none.example has no records"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			node := n.Node()
			n.env = tc.env
			node.LookupSRV = dns.lookup
			got, err := Resolve(tc.flags, node)
			if tc.fails != "" {
				var se *SettingError
				if !errors.As(err, &se) || !strings.Contains(err.Error(), tc.fails) {
					t.Fatalf("got %v, want %q", err, tc.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Endpoints, tc.want) || got.ServerName != tc.serverName || !strings.Contains(got.Why, tc.why) {
				t.Errorf("endpoints %q, server name %q, why %q; want %q, %q, %q", got.Endpoints, got.ServerName, got.Why, tc.want, tc.serverName, tc.why)
			}
		})
	}
}

// TestServerName: the name that certificates must be for is checked by the probe
// and by the client.
func TestServerName(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "etcd-ca")
	endpoint := startEtcd(t, "https", withTLS(ca.issue(t, "server", otherHost), ""))
	s := Settings{CACert: ca.ca, ServerName: "etcd-1.example.com"}
	if conn := mustDial(t, s, endpoint); len(conn.Warnings) > 0 {
		t.Errorf("warnings %q", conn.Warnings)
	}
	s.ServerName, s.DialTimeout = "", testTimeout
	_, err := Dial(t.Context(), s, []string{endpoint}, nil)
	if all := Failures(err); len(all) != 1 || all[0].Reason != ServerName {
		t.Errorf("without the name: %v", err)
	}
}
