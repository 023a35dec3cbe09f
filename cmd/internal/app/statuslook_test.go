package app

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// TestStatusLocal: what this node says of its etcd's quota is said of no other.
func TestStatusLocal(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]bool{
		"https://127.0.0.1:2379": true, "http://localhost:2379": true, "https://[::1]:2379": true, "unix:///run/etcd.sock": true, "127.0.0.1:2379": false,
		"https://192.0.2.1:2379": false, "https://etcd.example:2379": false, "": false, "https://%zz": false,
	} {
		if got := local(endpoint); got != want {
			t.Errorf("%q: %v, want %v", endpoint, got, want)
		}
	}
	st := &statusing{found: connect.Found{EtcdQuota: 8 << 30, EtcdQuotaFrom: "etcd.yaml"}}
	for endpoint, want := range map[string]int64{"https://127.0.0.1:2379": 8 << 30, "https://192.0.2.1:2379": 0} {
		if got, from := st.quota(&etcdmembers.Member{Endpoint: endpoint}); got != want || (from == "etcd.yaml") != (want > 0) {
			t.Errorf("%s: %d from %q, want %d", endpoint, got, from, want)
		}
	}
}

// TestStatusMetrics: the first address that has metrics gives them, and a
// redirect is not followed with our certificate.
func TestStatusMetrics(t *testing.T) {
	t.Parallel()
	server := func(handler http.HandlerFunc) string {
		s := httptest.NewServer(handler)
		t.Cleanup(s.Close)
		return s.URL
	}
	good := server(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })
	missing := server(http.NotFound)
	elsewhere := server(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, good+"/metrics", http.StatusFound) })
	client, err := (&statusing{}).httpClient()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		urls []string
		want string // part of the error, "" if there are metrics
	}{
		"at once":           {[]string{good}, ""},
		"the second":        {[]string{missing, good + "/metrics"}, ""},
		"no path to one":    {[]string{"unix:///run/etcd.sock"}, etcdmembers.ErrNoMetrics.Error()},
		"nowhere":           {[]string{missing, "http://127.0.0.1:1"}, "404"},
		"somewhere else":    {[]string{elsewhere}, "302"},
		"nobody knows":      {nil, etcdmembers.ErrNoMetrics.Error()},
		"a strange address": {[]string{"http://%zz"}, "invalid URL"},
	} {
		body, err := firstMetrics(t.Context(), client, tc.urls)
		if tc.want != "" {
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want %q", name, err, tc.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, _ := io.ReadAll(body)
		if body.Close(); string(text) != "/metrics" {
			t.Errorf("%s: asked for %q", name, text)
		}
	}
}

// TestStatusCertificates: what has expired, or does so within days, makes etcd
// degraded, wherever it was seen; what does so within weeks is told.
func TestStatusCertificates(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	cert := func(name, where string, left time.Duration) connect.Certificate {
		return connect.Certificate{Where: where, Subject: "CN=" + name, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(left)}
	}
	const day = 24 * time.Hour
	future := cert("future", "https://d", 90*day)
	future.NotBefore = now.Add(day)
	r := &statusReport{at: now, st: &statusing{certs: map[string][]connect.Certificate{
		"https://a": {cert("server", "https://a", 3*day), cert("ca", "https://a", 3000*day)},
		"https://b": {cert("peer", "https://b", -2*day), cert("ca", "https://b", 3000*day)},
		"https://c": {{Where: "https://c", Err: errors.New("refused")}},
		"https://d": {future, cert("weeks", "https://d", 20*day)},
	}}}
	r.st.found.OwnCertFiles = []string{"testdata/no-such.crt"}
	r.etcds = []*etcdStatus{{name: etcdMain, Report: &etcdmembers.Report{}}}
	r.takeCertificates()
	r.judge()
	var reasons []string
	for _, reason := range r.reasons {
		reasons = append(reasons, reason.Code+": "+reason.Text)
	}
	if diff := cmp.Diff([]string{
		"certificate-expired: certificate CN=peer (https://b) expired 2d ago",
		"certificate-expiring: certificate CN=server (https://a) expires in 3d",
		"certificate-not-yet-valid: certificate CN=future (https://d) is not valid before 2026-06-02T12:00:00Z",
	}, reasons); diff != "" {
		t.Errorf("reasons: -want +got:\n%s", diff)
	}
	lines := []string{
		"5 certificates, the first to expire:", "2026-05-30  2d ago: CN=peer (https://b)", "2026-06-04  in 3d: CN=server (https://a)", "2026-06-21  in 20d: CN=weeks (https://d)",
		"testdata/no-such.crt: open testdata/no-such.crt: no such file or directory",
	}
	if diff := cmp.Diff(lines, r.certificateLines(false)); diff != "" {
		t.Errorf("lines: -want +got:\n%s", diff)
	}
	if all := r.certificateLines(true); len(all) != 7 || all[5] != "2034-08-18  in 3000d: CN=ca (https://a and 1 more)" {
		t.Errorf("all of them: %q", all)
	}
}

// TestStatusAddresses: the certificate that a member shows is looked at also
// if the member is not used because of it.
func TestStatusAddresses(t *testing.T) {
	t.Parallel()
	used := etcdmembers.Surveyed{Member: etcdmembers.Member{ID: 1, Endpoint: "https://a:2379", ClientURLs: []string{"https://a:2379"}, PeerURLs: []string{"https://a:2380"}}}
	not := etcdmembers.Surveyed{Member: etcdmembers.Member{ID: 2, ClientURLs: []string{"https://b:2379"}, PeerURLs: []string{"https://b:2380"}}}
	r := &statusReport{etcds: []*etcdStatus{{name: etcdMain, Report: &etcdmembers.Report{Members: []etcdmembers.Surveyed{used, not}}}}}
	got := slices.DeleteFunc(r.addresses(), func(u string) bool { return u == "" })
	if diff := cmp.Diff([]string{"https://a:2379", "https://a:2379", "https://a:2380", "https://b:2379", "https://b:2380"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestStatusAdvice: a hint of what keeps one member from answering is given if
// there is nothing worse, and does not blame --cacert for one of several.
func TestStatusAdvice(t *testing.T) {
	t.Parallel()
	hint := func(reason connect.Reason, codes ...string) string {
		err := fmt.Errorf("https://b:2379: %w", unnamed{&connect.Error{Reason: reason, Hint: "what connect says"}})
		r := &statusReport{etcds: []*etcdStatus{{name: etcdMain, Report: &etcdmembers.Report{Members: []etcdmembers.Surveyed{{}, {Member: etcdmembers.Member{ID: 2, Err: err}}}}}}}
		for _, code := range codes {
			r.reasons = append(r.reasons, statusReason{Reason: etcdmembers.Reason{Code: code}})
		}
		return r.advice()
	}
	for _, tc := range []struct {
		got, want string
	}{
		{hint(connect.Refused, etcdmembers.ReasonDown), "what connect says"},
		{hint(connect.ServerCA, etcdmembers.ReasonDown), "give that member a certificate of the CA"},
		{hint(connect.Refused, etcdmembers.ReasonDown, etcdmembers.ReasonNoSpace), "etcd-rescue reclaim"},
	} {
		if !strings.HasPrefix(tc.got, tc.want) {
			t.Errorf("%q, want %q", tc.got, tc.want)
		}
	}
}

// TestStatusErrors: what connect says is said without the endpoint, and told
// apart all the same.
func TestStatusErrors(t *testing.T) {
	t.Parallel()
	_, err := connect.Dial(t.Context(), connect.Settings{}, []string{"http://127.0.0.1:1"}, nil)
	known, ok := errors.AsType[*connect.Error](err)
	if !ok {
		t.Fatal(err)
	}
	short := unnamed{known}
	if short.Error() != "refuses connections: nothing listens there" || !errors.As(short, &known) || hintOf(short) != known.Hint || known.Hint == "" {
		t.Errorf("%q, hint %q", short, hintOf(short))
	}
	doc := wrong(map[string]any{}, short)
	if doc["reason"] != "refused" || doc["error"] != short.Error() || doc["hint"] != known.Hint {
		t.Errorf("%v", doc)
	}
}

func TestStatusCells(t *testing.T) {
	t.Parallel()
	second := time.Second
	for _, tc := range []struct {
		l    etcdmembers.Latency
		want string
	}{{etcdmembers.Latency{}, ""}, {etcdmembers.Latency{Count: 5, P99: second, Longest: 8 * second}, "1s"}, {etcdmembers.Latency{Count: 5, Longest: 8 * second}, ">8s"}} {
		if got := latencyText(tc.l); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.l, got, tc.want)
		}
	}
	for quota, want := range map[int64]string{0: "unknown", -1: "none", 4096: "4096"} {
		if got := quotaText(&invocation{}, &etcdmembers.Surveyed{Member: etcdmembers.Member{Quota: quota}}); got != want {
			t.Errorf("%d: %q, want %q", quota, got, want)
		}
	}
}

// TestStatusCompaction: what is told of the last compaction is what the key and
// the Leases of its time tell, and no more.
func TestStatusCompaction(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	box, err := sandbox.Start(ctx, sandbox.Options{NoFsync: true, Mode: sandbox.InProcess, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	client, err := box.Client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	put := func(key, value string) int64 {
		t.Helper()
		resp, err := client.Put(ctx, key, value)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Revision
	}
	lease := func(at string) {
		put("/registry/leases/kube-system/kube-scheduler", `{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"kube-scheduler","namespace":"kube-system"},`+
			`"spec":{"holderIdentity":"cp-0_1","renewTime":"`+at+`"}}`)
	}
	now := func() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: "/registry/"}
	look := func() string {
		c := lookCompaction(ctx, client, reader, keyspace.Options{Timeout: time.Minute, Serializable: true}, now)
		return c.text(now())
	}
	check := func(want string) {
		t.Helper()
		if got := look(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	check("never by an API server")
	put(compactRevKey, "0")
	check("never by an API server")
	lease("2026-06-01T11:56:00.000000Z")
	rev := put(compactRevKey, "3")
	check("to revision 3 (1 ago), by an API server about 4m ago")
	lease("2026-06-01T11:59:58.000000Z") // later than the compaction
	check("to revision 3 (2 ago), by an API server about 4m ago")
	if _, err := client.Compact(ctx, rev+1); err != nil {
		t.Fatal(err)
	}
	check("to revision 3 (2 ago), by an API server; somebody else has compacted further since")
	lease("2026-06-01T23:00:00.000000Z") // of a clock that is wrong
	put(compactRevKey, "4")
	check("to revision 4 (3 ago), by an API server")
	for _, value := range []string{"many", "-1", "999999"} {
		put(compactRevKey, value)
		check("not known: the key compact_rev_key holds no revision")
	}
}
