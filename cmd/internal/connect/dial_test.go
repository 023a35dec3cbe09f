package connect

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// testTimeout is the DialTimeout of tests that wait for it. slack is far more
// than Dial adds on an idle machine.
const (
	testTimeout = time.Second
	slack       = 4 * time.Second
)

// failure is what a test expects of Dial.
type failure struct {
	name      string
	settings  Settings
	endpoint  string
	reason    Reason
	text      string // part of the message
	hint      string // part of the hint
	notInText string
}

func (f failure) prefix() string {
	if f.reason == NotEtcd {
		return f.endpoint + " "
	}
	return "etcd " + f.endpoint + " "
}

func (f failure) run(t *testing.T) {
	t.Run(f.name, func(t *testing.T) {
		t.Parallel()
		if f.settings.DialTimeout == 0 {
			f.settings.DialTimeout = testTimeout
		}
		start := time.Now()
		conn, err := Dial(t.Context(), f.settings, []string{f.endpoint}, nil)
		took := time.Since(start)
		if err == nil {
			_ = conn.Close()
			t.Fatal("Dial succeeded")
		}
		all := Failures(err)
		if len(all) != 1 {
			t.Fatalf("%d failures in %v, want 1", len(all), err)
		}
		e := all[0]
		t.Logf("%s\n  error: %v\n  hint:  %s\n  cause: %v (%s)", f.name, e, e.Hint, e.Err, took.Round(time.Millisecond))
		if e.Reason != f.reason {
			t.Errorf("reason %q, want %q", e.Reason, f.reason)
		}
		if !strings.Contains(e.Error(), f.text) || strings.Contains(e.Error(), "\n") {
			t.Errorf("message %q, want one line with %q", e, f.text)
		}
		if !strings.HasPrefix(e.Error(), f.prefix()) {
			t.Errorf("message %q does not start with %q", e, f.prefix())
		}
		if !strings.Contains(e.Hint, f.hint) || e.Hint == "" {
			t.Errorf("hint %q, want one with %q", e.Hint, f.hint)
		}
		if f.notInText != "" && strings.Contains(e.Error()+e.Hint+e.Err.Error(), f.notInText) {
			t.Errorf("message or hint or cause holds %q", f.notInText)
		}
		if took > f.settings.DialTimeout+slack {
			t.Errorf("took %s", took)
		}
	})
}

func mustDial(t *testing.T, s Settings, endpoints ...string) *Conn {
	t.Helper()
	if s.DialTimeout == 0 {
		s.DialTimeout = 10 * time.Second
	}
	conn, err := Dial(t.Context(), s, endpoints, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return conn
}

// listen serves each connection with serve, which may be nil for a listener
// that never accepts.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if serve != nil {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go serve(c)
			}
		}()
	}
	return l.Addr().String()
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestDialNothingThere(t *testing.T) {
	t.Parallel()
	failure{name: "refused", endpoint: "http://" + closedPort(t), reason: Refused,
		text: "refuses connections: nothing listens there", hint: "crictl ps -a --name etcd"}.run(t)
	failure{name: "refused over TLS", endpoint: "https://" + closedPort(t), reason: Refused,
		text: "nothing listens there", hint: "--endpoints"}.run(t)
	failure{name: "no socket", endpoint: "unix:///nonexistent/etcd.sock", reason: Refused,
		text: "there is no such socket", hint: "is etcd running?"}.run(t)
	failure{name: "no such name", endpoint: "https://etcd.invalid:2379", reason: NoSuchHost,
		text: `host name "etcd.invalid" cannot be resolved`, hint: "check the spelling"}.run(t)
	failure{name: "never accepts", endpoint: "http://" + listen(t, nil), reason: Silent,
		text: "accepts connections but said nothing within 1s", hint: "etcd may hang"}.run(t)
	failure{name: "never accepts, TLS", endpoint: "https://" + listen(t, nil), reason: Silent,
		text: "accepts connections but said nothing within 1s", hint: "--dial-timeout"}.run(t)
	failure{name: "hangs up", endpoint: "http://" + listen(t, func(c net.Conn) { _ = c.Close() }), reason: HungUp,
		text: "accepts connections but hangs up without an answer", hint: "2379"}.run(t)
	failure{name: "hangs up, TLS", endpoint: "https://" + listen(t, func(c net.Conn) { _ = c.Close() }), reason: HungUp,
		text: "hangs up during the TLS handshake", hint: "2379"}.run(t)
	failure{name: "talks something else", endpoint: "http://" + listen(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.6\r\n")
		_, _ = io.Copy(io.Discard, c)
	}), reason: NotEtcd, text: `it answered "SSH-2.0-O"`, hint: "2379"}.run(t)
}

func TestDialHTTPServers(t *testing.T) {
	t.Parallel()
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	plain := httptest.NewServer(hello)
	t.Cleanup(plain.Close)
	secure := httptest.NewTLSServer(hello)
	t.Cleanup(secure.Close)
	h2 := httptest.NewUnstartedServer(hello)
	h2.EnableHTTP2 = true
	h2.StartTLS()
	t.Cleanup(h2.Close)
	for _, s := range []*httptest.Server{plain, secure, h2} {
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	}
	skip := Settings{InsecureSkipVerify: true}
	failure{name: "http1", endpoint: plain.URL, reason: NotEtcd,
		text: "is not an etcd: an HTTP/1 server answers there", hint: "2381 for metrics"}.run(t)
	failure{name: "https to http1", endpoint: strings.Replace(plain.URL, "http", "https", 1), settings: skip, reason: NotEtcd,
		text: "an HTTP/1 server answers there", hint: "2379"}.run(t)
	failure{name: "http1 over TLS", endpoint: secure.URL, settings: skip, reason: NotEtcd,
		text: "it speaks TLS, but not HTTP/2", hint: "2379"}.run(t)
	failure{name: "http to http1 over TLS", endpoint: strings.Replace(secure.URL, "https", "http", 1), reason: TLSPort,
		text: "speaks TLS on this port", hint: "--endpoints https://127.0.0.1:"}.run(t)
	failure{name: "http2 but not gRPC", endpoint: h2.URL, settings: skip, reason: NotEtcd,
		text: "it speaks HTTP/2, but not gRPC", hint: "2379"}.run(t)
}

func TestDialTLS(t *testing.T) {
	t.Parallel()
	ca, foreign := newAuthority(t, "etcd-ca"), newAuthority(t, "other-ca")
	server, client := ca.issue(t, "server", nil), ca.issue(t, "client", nil)
	old, stranger := ca.issue(t, "old-client", expired), foreign.issue(t, "stranger", nil)
	good := Settings{CACert: ca.ca, Cert: client.cert, Key: client.key}

	mutual := startEtcd(t, "https", withTLS(server, ca.ca))
	mutual12 := startEtcd(t, "https", func(cfg *embed.Config) {
		withTLS(server, ca.ca)(cfg)
		cfg.TlsMaxVersion = "TLS1.2"
	})
	plain := startEtcd(t, "http", nil)
	startExpired := startEtcd(t, "https", withTLS(ca.issue(t, "expired-server", expired), ca.ca))
	startTomorrow := startEtcd(t, "https", withTLS(ca.issue(t, "tomorrow-server", tomorrow), ""))
	startOther := startEtcd(t, "https", withTLS(ca.issue(t, "other-server", otherHost), ca.ca))

	t.Run("good", func(t *testing.T) {
		t.Parallel()
		for _, ep := range []string{mutual, mutual12, strings.TrimPrefix(mutual, "https://")} {
			conn := mustDial(t, good, ep)
			if len(conn.Warnings) > 0 || len(conn.Endpoints) != 1 {
				t.Errorf("warnings %q, endpoints %q", conn.Warnings, conn.Endpoints)
			}
		}
	})
	t.Run("not checked", func(t *testing.T) {
		t.Parallel()
		for _, ep := range []string{startExpired, startOther, mutual} {
			mustDial(t, Settings{Cert: client.cert, Key: client.key, InsecureSkipVerify: true}, ep)
		}
	})
	failure{name: "other CA", endpoint: mutual, settings: Settings{CACert: foreign.ca, Cert: client.cert, Key: client.key}, reason: ServerCA,
		text: foreign.ca + ` does not trust: it is signed by "etcd-ca"`, hint: "--cacert FILE"}.run(t)
	failure{name: "no CA", endpoint: mutual, settings: Settings{Cert: client.cert, Key: client.key}, reason: ServerCA,
		text: `this machine does not trust: it is signed by "etcd-ca"`, hint: "--cacert FILE"}.run(t)
	failure{name: "server expired", endpoint: startExpired, settings: good, reason: ServerExpired,
		text: "shows a certificate that expired on 20", hint: "kubeadm certs renew etcd-server"}.run(t)
	failure{name: "server not yet valid", endpoint: startTomorrow, settings: good, reason: ServerExpired,
		text: "is not valid before 20", hint: "clock"}.run(t)
	failure{name: "wrong host name", endpoint: startOther, settings: good, reason: ServerName,
		text: `is not for "127.0.0.1" but for etcd-1.example.com, 10.0.0.1`, hint: "--endpoints"}.run(t)
	for name, ep := range map[string]string{"1.3": mutual, "1.2": mutual12} {
		failure{name: "client certificate missing, TLS " + name, endpoint: ep, settings: Settings{CACert: ca.ca}, reason: ClientCertMissing,
			text: "demands a client certificate and none was given", hint: "--cert FILE and --key FILE"}.run(t)
		failure{name: "client certificate foreign, TLS " + name, endpoint: ep, settings: Settings{CACert: ca.ca, Cert: stranger.cert, Key: stranger.key}, reason: ClientCertRefused,
			text: "refuses the client certificate " + stranger.cert + `, signed by "other-ca"`, hint: `the CA that etcd trusts ("etcd-ca")`}.run(t)
		failure{name: "client certificate expired, TLS " + name, endpoint: ep, settings: Settings{CACert: ca.ca, Cert: old.cert, Key: old.key}, reason: ClientCertRefused,
			text: old.cert + ": it expired on 20", hint: "kubeadm certs renew apiserver-etcd-client"}.run(t)
	}
	failure{name: "https to http", endpoint: strings.Replace(plain, "http", "https", 1), settings: good, reason: PlainPort,
		text: "speaks plain http on this port, not TLS", hint: "--endpoints " + plain}.run(t)
	failure{name: "http to https", endpoint: strings.Replace(mutual, "https", "http", 1), settings: good, reason: TLSPort,
		text: "speaks TLS on this port, not plain http", hint: "--endpoints " + mutual}.run(t)
}

func TestDialAuth(t *testing.T) {
	t.Parallel()
	ep := startEtcd(t, "http", nil)
	enableAuth(t, ep)
	mustDial(t, Settings{User: "root", Password: "tops3cret"}, ep)
	patient := 10 * time.Second
	failure{name: "no user", endpoint: ep, settings: Settings{DialTimeout: patient}, reason: AuthRequired,
		text: "authentication is on and none was given", hint: "--user NAME and --password-file FILE"}.run(t)
	failure{name: "wrong password", endpoint: ep, settings: Settings{DialTimeout: patient, User: "root", Password: "wr0ng"}, reason: WrongPassword,
		text: `does not accept user "root" with this password`, hint: "--password-file", notInText: "wr0ng"}.run(t)
	failure{name: "unknown user", endpoint: ep, settings: Settings{DialTimeout: patient, User: "nobody", Password: "x1y2"}, reason: WrongPassword,
		text: `user "nobody"`, hint: "--user", notInText: "x1y2"}.run(t)
	failure{name: "no permission", endpoint: ep, settings: Settings{DialTimeout: patient, User: "guest", Password: "guestpw"}, reason: PermissionDenied,
		text: `denies user "guest" to read /registry/`, hint: "grant-permission", notInText: "guestpw"}.run(t)
}

// With client certificates the user is the certificate's common name.
func TestDialAuthByCertificate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "etcd-ca")
	root, guest := ca.issue(t, "root", nil), ca.issue(t, "guest", nil)
	ep := startEtcd(t, "https", withTLS(ca.issue(t, "server", nil), ca.ca))
	asRoot := Settings{CACert: ca.ca, Cert: root.cert, Key: root.key}
	grantUsers(t, mustDial(t, asRoot, ep).Client)
	mustDial(t, asRoot, ep)
	failure{name: "no permission", endpoint: ep, settings: Settings{DialTimeout: 10 * time.Second, CACert: ca.ca, Cert: guest.cert, Key: guest.key},
		reason: PermissionDenied, text: `denies user "guest" (the client certificate's common name) to read /registry/`, hint: "root may do everything"}.run(t)
}

// An etcd that starts without a quorum takes connections and says nothing.
func TestDialNoQuorumAtStart(t *testing.T) {
	t.Parallel()
	one := peers(t, 2)[0]
	ep := startEtcd(t, "http", one)
	failure{name: "silent", endpoint: ep, reason: Silent,
		text: "accepts connections but said nothing within 1s", hint: "wait for a quorum of its members"}.run(t)
}

// An etcd that lost its quorum must be reachable: that is when it is looked at.
func TestDialLostQuorum(t *testing.T) {
	t.Parallel()
	members := peers(t, 2)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	other := make(chan struct{})
	go func() {
		defer close(other)
		cfg := etcdConfig(t, "http")
		members[1](cfg)
		etcd, err := embed.StartEtcd(cfg)
		if err != nil {
			t.Error(err)
			return
		}
		defer etcd.Close()
		<-ctx.Done()
	}()
	ep := startEtcd(t, "http", members[0])
	c := mustDial(t, Settings{}, ep).Client // it serves only once there was a quorum
	if _, err := c.Put(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	stop()
	<-other
	conn := mustDial(t, Settings{}, ep)
	if len(conn.Warnings) > 0 {
		t.Errorf("warnings %q", conn.Warnings)
	}
}

// A server may hang up on a client certificate without a word.
func TestDialClientCertReset(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "etcd-ca")
	server := ca.issue(t, "server", nil).load(t)
	client := ca.issue(t, "client", nil)
	addr := listen(t, func(c net.Conn) {
		tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2"}})
		_ = tc.Handshake()
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	})
	failure{name: "none given", endpoint: "https://" + addr, settings: Settings{CACert: ca.ca}, reason: ClientCertMissing,
		text: "demands a client certificate", hint: "--cert"}.run(t)
	failure{name: "refused", endpoint: "https://" + addr, settings: Settings{CACert: ca.ca, Cert: client.cert, Key: client.key}, reason: ClientCertRefused,
		text: "it hung up", hint: "--cert"}.run(t)
}

func TestDialUserWithoutAuth(t *testing.T) {
	t.Parallel()
	mustDial(t, Settings{User: "root", Password: "any"}, startEtcd(t, "http", nil))
}

func TestDialUnix(t *testing.T) {
	t.Parallel()
	conn := mustDial(t, Settings{}, startEtcd(t, "unix", nil))
	if _, err := conn.Client.Get(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

func TestDialSomeDead(t *testing.T) {
	t.Parallel()
	alive, dead, hung := startEtcd(t, "http", nil), "http://"+closedPort(t), "http://"+listen(t, nil)
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	start := time.Now()
	conn := mustDial(t, Settings{DialTimeout: 4 * time.Second}, dead, web.URL, alive, hung)
	if took := time.Since(start); took > 4*time.Second+slack {
		t.Errorf("took %s", took)
	}
	want := []string{
		"etcd " + dead + " refuses connections: nothing listens there",
		web.URL + " is not an etcd: an HTTP/1 server answers there",
		"etcd " + hung + " accepts connections but said nothing within 2s",
	}
	if got := strings.Join(conn.Warnings, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("warnings:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
	if got := strings.Join(conn.Endpoints, " "); got != alive {
		t.Errorf("endpoints %s, want %s", got, alive)
	}
	// What may come back stays known to the client, what is wrong does not.
	if got, want := strings.Join(conn.Client.Endpoints(), " "), alive+" "+dead+" "+hung; got != want {
		t.Errorf("client endpoints %s, want %s", got, want)
	}
	for range 5 {
		if _, err := conn.Client.Put(t.Context(), "a", "b"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDialAllDead(t *testing.T) {
	t.Parallel()
	one, two := "http://"+closedPort(t), "http://"+listen(t, nil)
	_, err := Dial(t.Context(), Settings{DialTimeout: testTimeout}, []string{one + "," + two}, nil)
	all := Failures(err)
	if len(all) != 2 || all[0].Reason != Refused || all[1].Reason != Silent {
		t.Fatalf("got %v", err)
	}
	if got, want := err.Error(), all[0].Error()+"\n"+all[1].Error(); got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}

func TestDialMixedClusters(t *testing.T) {
	t.Parallel()
	one, two := startEtcd(t, "http", nil), startEtcd(t, "http", nil)
	_, err := Dial(t.Context(), Settings{DialTimeout: 10 * time.Second}, []string{one, two}, nil)
	all := Failures(err)
	if len(all) != 1 || all[0].Reason != MixedClusters {
		t.Fatalf("got %v", err)
	}
	t.Logf("error: %v\nhint: %s", err, all[0].Hint)
}

func TestDialSettings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name      string
		settings  Settings
		endpoints []string
		want      string
	}{
		{"none", Settings{}, nil, "--endpoints: none is known"},
		{"mixed", Settings{}, []string{"http://127.0.0.1:1", "https://127.0.0.1:2"}, "--endpoints: TLS and plain endpoints are mixed"},
		{"bad", Settings{}, []string{"ftp://x"}, `--endpoints: endpoint "ftp://x" has an unknown scheme`},
		{"missing CA", Settings{CACert: "/nonexistent"}, []string{"https://127.0.0.1:2"}, "--cacert: open /nonexistent: no such file or directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := Dial(t.Context(), tc.settings, tc.endpoints, nil)
			var se *SettingError
			if !errors.As(err, &se) || err.Error() != tc.want {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func TestDialCancel(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	hung := "http://" + listen(t, func(net.Conn) { cancel() })
	start := time.Now()
	_, err := Dial(ctx, Settings{DialTimeout: time.Minute}, []string{hung}, nil)
	if !errors.Is(err, context.Canceled) || time.Since(start) > 30*time.Second {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
}

// The client must outlive the context that Dial got.
func TestDialContextEnds(t *testing.T) {
	t.Parallel()
	ep := startEtcd(t, "http", nil)
	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer
	conn, err := Dial(ctx, Settings{DialTimeout: 10 * time.Second}, []string{ep}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := conn.Client.Put(t.Context(), "a", "b"); err != nil {
		t.Error(err)
	}
	if err := conn.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestDialChangesNothing(t *testing.T) {
	t.Parallel()
	ep := startEtcd(t, "http", nil)
	conn := mustDial(t, Settings{}, ep)
	before, err := conn.Client.Put(t.Context(), "/registry/a", "b")
	if err != nil {
		t.Fatal(err)
	}
	again := mustDial(t, Settings{}, ep)
	after, err := again.Client.Get(t.Context(), "/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	if after.Header.Revision != before.Header.Revision || after.Count != 1 {
		t.Errorf("revision %d, count %d, want %d and 1", after.Header.Revision, after.Count, before.Header.Revision)
	}
}

// TestDialResetAtOnce: a proxy may reset a connection before it is used.
func TestDialResetAtOnce(t *testing.T) {
	t.Parallel()
	p := &prober{limit: testTimeout, dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNRESET)}
	}}
	ep, err := parseEndpoint("http://127.0.0.1:2379")
	if err != nil {
		t.Fatal(err)
	}
	if e := p.one(t.Context(), ep); e == nil || e.Reason != HungUp || !strings.Contains(e.Error(), "hangs up at once") {
		t.Errorf("got %v", e)
	}
}
