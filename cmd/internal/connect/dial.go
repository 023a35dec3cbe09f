package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Conn is a client of an etcd that answered. Close it.
type Conn struct {
	Client *clientv3.Client
	// Endpoints are those that answered; Client also knows endpoints that
	// may come back.
	Endpoints []string
	// Leaderless are those of them that know no leader: they answer
	// serializable reads only.
	Leaderless []string
	// Kine says that this is no etcd but kine, which answers etcd's calls
	// from an SQL table, and not all of them.
	Kine bool
	// Warnings has one line for each endpoint that did not answer, and for
	// what else is odd but no reason to stop.
	Warnings []string

	members map[string]uint64 // of endpoints that answered: who answers there
	cluster uint64            // 0: unknown
	cancel  context.CancelFunc
}

// Close ends the client's connections.
func (c *Conn) Close() error {
	err := c.Client.Close()
	c.cancel()
	if errors.Is(err, context.Canceled) {
		// This is how the client says that it was closed.
		return nil
	}
	return err
}

// Dial connects to the etcd that the endpoints are members of and makes sure
// that it answers and that its keys below s.Prefix may be read. It only reads.
//
// If an endpoint answers, the others that do not are named in Conn.Warnings.
// If none does, the error joins one *Error for each (see Failures). An unusable
// setting is a *SettingError. Dial returns within s.DialTimeout plus a quarter,
// whatever is wrong; if ctx ends first it returns ctx.Err(). The client lives
// on when ctx ends. A nil log drops what the etcd client has to tell.
func Dial(ctx context.Context, s Settings, endpoints []string, log *slog.Logger) (*Conn, error) {
	d, err := newDialer(s, endpoints, log)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	failed := d.prober.all(ctx, d.eps)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var good, later []string
	var errs []*Error
	for i, e := range failed {
		switch {
		case e == nil:
			good = append(good, d.eps[i].raw)
			continue
		case mayComeBack(e.Reason):
			later = append(later, d.eps[i].raw)
		}
		errs = append(errs, e)
	}
	if len(good) == 0 {
		return nil, join(errs)
	}
	left := max(d.s.DialTimeout-time.Since(start), d.s.DialTimeout/4)
	callCtx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	conn, err := d.open(callCtx, good, later, errs)
	if ctx.Err() != nil {
		if conn != nil {
			_ = conn.Close()
		}
		return nil, ctx.Err()
	}
	return conn, err
}

// mayComeBack tells endpoints that are down from those that are wrong. The
// latter must never get a request.
func mayComeBack(r Reason) bool {
	return r == Refused || r == Timeout || r == Silent || r == HungUp || r == Unreachable || r == NoSuchHost
}

// dialer is one call of Dial.
type dialer struct {
	s      Settings
	eps    []endpoint
	tls    *tls.Config // nil: plain
	prober *prober
	log    *slog.Logger
}

func newDialer(s Settings, endpoints []string, log *slog.Logger) (*dialer, error) {
	if s.DialTimeout <= 0 {
		s.DialTimeout = DefaultDialTimeout
	}
	if s.Prefix == "" {
		s.Prefix = DefaultPrefix
	}
	d := &dialer{s: s, log: log}
	given := splitEndpoints(endpoints)
	if len(given) == 0 {
		return nil, &SettingError{Setting: "--endpoints", Err: errors.New("none is known"), Hint: "give --endpoints https://HOST:2379"}
	}
	parsed, err := parseEndpoints("--endpoints", given)
	if err != nil {
		return nil, err
	}
	var secure int
	for _, raw := range withScheme(parsed, s.CACert != "" || s.Cert != "" || s.InsecureSkipVerify) {
		ep, err := parseEndpoint(raw)
		if err != nil {
			return nil, &SettingError{Setting: "--endpoints", Err: err}
		}
		if ep.tls {
			secure++
		}
		d.eps = append(d.eps, ep)
	}
	if secure > 0 && secure < len(d.eps) {
		// The client would use the first one's choice for all of them.
		return nil, &SettingError{Setting: "--endpoints", Err: errors.New("TLS and plain endpoints are mixed"), Hint: "give endpoints that are all https, or all http"}
	}
	files := tlsFiles{s.CACert, s.Cert, s.Key}
	d.prober = &prober{files: files, limit: s.DialTimeout, dial: new(net.Dialer).DialContext, now: time.Now}
	if secure == 0 {
		return d, nil
	}
	if d.prober.material, err = loadTLS(files, [3]string{"--cacert", "--cert", "--key"}); err != nil {
		return nil, err
	}
	d.tls = d.prober.material.clientConfig(s.InsecureSkipVerify)
	d.tls.ServerName = s.ServerName
	d.prober.config = d.tls
	return d, nil
}

// open builds the client and makes the first calls with it.
func (d *dialer) open(ctx context.Context, good, later []string, failed []*Error) (*Conn, error) {
	conn, err := d.newClient(ctx, append(append([]string{}, good...), later...))
	if err != nil {
		return nil, join(append(failed, d.callError(ctx, good[0], err)))
	}
	alive, errs, warnings := d.status(ctx, conn, good)
	failed = append(failed, errs...)
	if len(alive) == 0 {
		_ = conn.Close()
		return nil, join(failed)
	}
	// A member that takes connections but no requests would get its share.
	conn.Client.SetEndpoints(append(append([]string{}, alive...), later...)...)
	conn.Endpoints = alive
	for _, e := range failed {
		if e.Reason == MixedClusters || e.Reason == AuthRequired || e.Reason == PermissionDenied {
			_ = conn.Close()
			return nil, e
		}
		conn.Warnings = append(conn.Warnings, e.Error())
	}
	conn.Warnings = append(conn.Warnings, warnings...)
	var e *Error
	if conn.Kine, e = d.read(ctx, conn.Client, alive[0]); e != nil {
		if e.Reason != Unhealthy && e.Reason != Silent {
			_ = conn.Close()
			return nil, e
		}
		// Status, disarm and the like must work on an etcd that cannot read.
		conn.Warnings = append(conn.Warnings, e.Error())
	}
	return conn, nil
}

func (d *dialer) newClient(ctx context.Context, endpoints []string) (*Conn, error) {
	// The client outlives ctx, but opening it, which may mean logging in, must
	// not.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	bo := backoff.DefaultConfig
	bo.MaxDelay = 3 * time.Second // a member that comes back is used soon
	options := []grpc.DialOption{
		// The probe does not go through a proxy of the environment.
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: bo, MinConnectTimeout: d.s.DialTimeout}),
	}
	if d.s.ServerName != "" {
		// gRPC would check each endpoint's host, whatever d.tls says.
		options = append(options, grpc.WithAuthority(d.s.ServerName))
	}
	client, err := clientv3.New(clientv3.Config{
		Context:              life,
		Endpoints:            endpoints,
		TLS:                  d.tls,
		Username:             d.s.User,
		Password:             d.s.Password,
		DialTimeout:          d.s.DialTimeout,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		Logger:               zapLogger(d.log),
		DialOptions:          options,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	if !stop() {
		cancel()
		_ = client.Close()
		return nil, ctx.Err()
	}
	return &Conn{Client: client, cancel: cancel, members: map[string]uint64{}}, nil
}

// status asks every endpoint, so that one which speaks HTTP/2 but is no etcd,
// or belongs to another cluster, is never used.
func (d *dialer) status(ctx context.Context, conn *Conn, endpoints []string) (alive []string, failed []*Error, warnings []string) {
	type answer struct {
		cluster, member, leader uint64
		err                     error
	}
	if end, ok := ctx.Deadline(); ok {
		// One member that hangs must leave time to read from the others.
		half, cancel := context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
		ctx = half
	}
	answers := make([]answer, len(endpoints))
	var wg sync.WaitGroup
	for i, ep := range endpoints {
		wg.Go(func() {
			resp, err := conn.Client.Status(ctx, ep)
			if err != nil {
				answers[i].err = err
				return
			}
			answers[i].cluster, answers[i].member, answers[i].leader = resp.Header.GetClusterId(), resp.Header.GetMemberId(), resp.Leader
		})
	}
	wg.Wait()
	cluster, clusterOf := conn.cluster, "the others"
	for i, ep := range endpoints {
		a := answers[i]
		switch {
		case isUnimplemented(a.err):
			warnings = append(warnings, fmt.Sprintf("etcd %s does not know the status call: it is not etcd itself, perhaps an old kine", ep))
			alive = append(alive, ep)
		case status.Code(a.err) == codes.Unknown && !isForeign(a.err) && ctx.Err() == nil:
			// An old kine over an SQLite without dbstat.
			warnings = append(warnings, fmt.Sprintf("etcd %s answers the status call with an error: %s", ep, oneLine(rpctypes.ErrorDesc(a.err))))
			alive = append(alive, ep)
		case a.err != nil:
			failed = append(failed, d.callError(ctx, ep, a.err))
		case a.cluster != 0 && cluster != 0 && a.cluster != cluster:
			failed = append(failed, &Error{Endpoint: ep, Reason: MixedClusters,
				text: fmt.Sprintf("belongs to etcd cluster %x, but %s to %x", a.cluster, clusterOf, cluster),
				Hint: "give --endpoints of one cluster only"})
		default:
			if a.cluster != 0 && cluster == 0 { // kine says 0
				cluster, clusterOf = a.cluster, ep
			}
			conn.members[ep] = a.member
			if a.cluster != 0 && a.leader == 0 {
				conn.Leaderless = append(conn.Leaderless, ep)
			}
			alive = append(alive, ep)
		}
	}
	conn.cluster = cluster
	return alive, failed, warnings
}

// read finds out whether the prefix may be read. It asks one member for what it
// has, so that it works without a leader; kine knows no such read.
func (d *dialer) read(ctx context.Context, c *clientv3.Client, ep string) (kine bool, failed *Error) {
	resp, err := c.Get(ctx, d.s.Prefix, clientv3.WithKeysOnly(), clientv3.WithSerializable())
	if err == nil && !nameless(resp) {
		err = d.mayReadAll(ctx, c)
	}
	if err == nil {
		return nameless(resp), nil
	}
	if isUnimplemented(err) {
		// The key is kine's own. One that ends in "/" would make an old kine
		// load all that is below it.
		if resp, err := c.Get(ctx, d.s.Prefix+"health"); err == nil && nameless(resp) {
			return true, nil
		}
		return false, &Error{Endpoint: ep, Reason: NotEtcd, Err: err, Hint: portsHint, text: "is not an etcd: it does not know etcd's calls"}
	}
	e := d.callError(ctx, ep, err)
	if e.Reason == Unhealthy || e.Reason == Silent {
		e.text = strings.Replace(e.text, "requests", "reads", 1)
	}
	return false, e
}

// mayReadAll asks for the whole prefix at a revision that is never reached. etcd
// checks permissions first, and then says so without going over a single key,
// which even a limit of one would make it do (server/storage/mvcc/
// kvstore_txn.go, rangeKeys).
func (d *dialer) mayReadAll(ctx context.Context, c *clientv3.Client) error {
	_, err := c.Get(ctx, d.s.Prefix, clientv3.WithPrefix(), clientv3.WithRev(math.MaxInt64), clientv3.WithKeysOnly(), clientv3.WithSerializable())
	if errors.Is(err, rpctypes.ErrFutureRev) {
		return nil
	}
	return err
}

// nameless tells kine's answers, which name neither cluster nor member, from
// etcd's, which always do.
func nameless(resp *clientv3.GetResponse) bool {
	return resp.Header.GetClusterId() == 0 && resp.Header.GetMemberId() == 0
}
