package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/recover/alive"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// statusReport is what one look found.
type statusReport struct {
	st    *statusing
	at    time.Time
	took  time.Duration
	etcds []*etcdStatus
	certs []statusCert
	// reasons are why not all is well, of all etcds and of the certificates.
	reasons []statusReason
}

// etcdStatus is one etcd: the main one, or that of events.
type etcdStatus struct {
	*etcdmembers.Report
	name     string
	given    []string // its endpoints
	warnings []string // of connecting
	// What the main one holds; nil if it could not be read, and then why.
	plane      *alive.View
	planeErr   error
	compaction *compaction
}

// statusReason is why not all is well.
type statusReason struct {
	etcdmembers.Reason
	etcd string // "" of certificates
}

// look asks everybody once. It takes less than twice the dial timeout.
func (st *statusing) look(ctx context.Context) (*statusReport, error) {
	r := &statusReport{st: st, at: st.inv.Now()}
	begun := time.Now()
	r.etcds = []*etcdStatus{{name: etcdMain, given: st.found.Endpoints}}
	if len(st.found.EventsEndpoints) > 0 {
		r.etcds = append(r.etcds, &etcdStatus{name: etcdEvents, given: st.found.EventsEndpoints})
	}
	var all sync.WaitGroup
	errs := make([]error, len(r.etcds))
	for i, e := range r.etcds {
		all.Go(func() { errs[i] = st.survey(ctx, e) })
	}
	all.Go(func() {
		st.serve(ctx, slices.Concat(st.found.Endpoints, st.found.EventsEndpoints), st.found.DialTimeout)
	})
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	st.serve(ctx, r.addresses(), st.found.DialTimeout/10)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	r.takeCertificates()
	r.judge()
	r.took = time.Since(begun)
	return r, nil
}

// survey asks the members of one etcd.
func (st *statusing) survey(ctx context.Context, e *etcdStatus) (err error) {
	opt := etcdmembers.SurveyOptions{
		Endpoints: e.given, Timeout: st.found.DialTimeout,
		Dial: st.dialer(func(warning string) { e.warnings = append(e.warnings, warning) }),
	}
	var metrics []string // what was found of this node's etcd is of the main one
	if e.name == etcdMain {
		opt.Quota, metrics = st.quota, st.found.MetricsURLs
	}
	fetch, done := st.fetcher(metrics)
	defer done()
	opt.Metrics = fetch
	if e.name == etcdMain {
		opt.Store = func(ctx context.Context, client *clientv3.Client, m *etcdmembers.Surveyed, quorum bool) {
			st.readStore(ctx, e, client, m, quorum)
		}
	}
	e.Report, err = etcdmembers.Survey(ctx, opt)
	slices.Sort(e.warnings)
	e.warnings = slices.Compact(e.warnings)
	return err
}

// dialer gives errors whose text does not name the endpoint, which the report
// names itself.
func (st *statusing) dialer(warn func(string)) etcdmembers.Dialer {
	dial := st.inv.dialer(st.found.Settings, warn)
	return func(ctx context.Context, endpoint string) (*clientv3.Client, error) {
		client, err := dial(ctx, endpoint)
		if e, ok := errors.AsType[*connect.Error](err); ok {
			err = unnamed{e}
		}
		return client, err
	}
}

// unnamed is an error of an endpoint without its name.
type unnamed struct{ err *connect.Error }

func (u unnamed) Error() string {
	text := strings.TrimPrefix(u.err.Error(), "etcd ")
	return strings.TrimPrefix(strings.TrimPrefix(text, u.err.Endpoint), " ")
}

func (u unnamed) Unwrap() error { return u.err }

// quota is what this node says of an etcd that runs on it.
func (st *statusing) quota(m *etcdmembers.Member) (int64, string) {
	if st.found.EtcdQuota == 0 || !local(m.Endpoint) {
		return 0, ""
	}
	return st.found.EtcdQuota, st.found.EtcdQuotaFrom
}

// tellQuotas fills in the quotas of members whose status does not tell them:
// from their metrics, else from what this node says.
func (st *statusing) tellQuotas(ctx context.Context, all []etcdmembers.Member) {
	fetch, done := st.fetcher(st.found.MetricsURLs)
	defer done()
	if fetch != nil {
		etcdmembers.TellQuotas(ctx, all, fetch, min(st.found.DialTimeout, 3*time.Second))
	}
	for i := range all {
		if m := &all[i]; m.Quota == 0 && m.Answers() {
			m.Quota, _ = st.quota(m)
		}
	}
}

// local says that an endpoint is on this machine.
func local(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme == "unix" || u.Scheme == "unixs" {
		return err == nil
	}
	if u.Hostname() == "localhost" {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	if ip == nil || ip.IsLoopback() {
		return ip != nil
	}
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip)
	})
}

// addresses are where certificates may be shown beside the given endpoints:
// where members answered, and what they advertise, also those that do not
// answer us, which may be for their certificate.
func (r *statusReport) addresses() []string {
	var urls []string
	for _, e := range r.etcds {
		for _, m := range e.Members {
			urls = append(append(append(urls, m.Endpoint), m.ClientURLs...), m.PeerURLs...)
		}
	}
	return urls
}

// judge brings all reasons together: what stops etcd first, the certificates
// last.
func (r *statusReport) judge() {
	for _, e := range r.etcds {
		for _, reason := range e.Reasons {
			r.reasons = append(r.reasons, statusReason{reason, e.name})
		}
	}
	for _, c := range r.certs {
		if reason, ok := c.reason(r.at); ok {
			r.reasons = append(r.reasons, statusReason{Reason: reason})
		}
	}
}

const (
	verdictHealthy     = "healthy"
	verdictDegraded    = "degraded"
	verdictUnreachable = "unreachable"
)

// word is the verdict.
func (r *statusReport) word() string {
	switch {
	case !r.etcds[0].Answers():
		return verdictUnreachable
	case len(r.reasons) > 0:
		return verdictDegraded
	}
	return verdictHealthy
}

// verdict is the verdict as an error, nil if all is well.
func (r *statusReport) verdict() error {
	switch r.word() {
	case verdictUnreachable:
		return &failure{exitConnect, errors.New("no member of etcd can be used"), r.connectHint()}
	case verdictDegraded:
		return partial(r.advice(), "etcd is degraded: %s", r.summary())
	}
	return nil
}

func (r *statusReport) summary() string {
	text := r.reasons[0].Text
	if r.reasons[0].etcd == etcdEvents {
		text = "events: " + text
	}
	if more := len(r.reasons) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// connectHint is what to do about the first endpoint.
func (r *statusReport) connectHint() string {
	for _, s := range r.etcds[0].Silent {
		if e, ok := errors.AsType[*connect.Error](s.Err); ok && e.Hint != "" {
			return e.Hint
		}
		if e, ok := errors.AsType[*failure](s.Err); ok && e.hint != "" {
			return e.hint
		}
	}
	return "etcd-rescue connect shows what was found on this node, and what was tried"
}

// advice is what to do about the first reason that has any, or else about the
// first member that could not be used.
func (r *statusReport) advice() string {
	advice := map[string]string{
		etcdmembers.ReasonNoSpace:  "etcd-rescue reclaim is the whole way out of NOSPACE; without --execute it shows what it would do",
		etcdmembers.ReasonCorrupt:  "change nothing yet: find out which member is wrong (etcdctl endpoint hashkv --cluster), and replace it",
		etcdmembers.ReasonNoQuorum: "bring a majority of the members back; until then --" + flagConsistency + " s reads what one member holds, and snapshot save saves it",
		etcdmembers.ReasonLearner:  "name a member that votes with --" + flagEndpoints + " (another control plane node's address)",
		etcdmembers.ReasonFull:     "etcd-rescue count --bytes shows what fills it, etcd-rescue defrag gives back what is free in it",
		reasonExpired:              "renew it (kubeadm certs renew all, then restart etcd and the API servers)",
		reasonExpiring:             "renew it (kubeadm certs renew all, then restart etcd and the API servers)",
	}
	for _, reason := range r.reasons {
		if text := advice[reason.Code]; text != "" {
			return text
		}
	}
	for _, e := range r.etcds {
		for _, m := range e.Members {
			if text := memberHint(m.Err); text != "" {
				return text
			}
		}
	}
	return ""
}

// memberHint is what to do about one of several members. That a certificate is
// of another CA is its fault then, not that of --cacert.
func memberHint(err error) string {
	if e, ok := errors.AsType[*connect.Error](err); ok && e.Reason == connect.ServerCA {
		return "give that member a certificate of the CA that signed those of the others"
	}
	return hintOf(err)
}

// fetcher opens the metrics of members: at their client URL, and those of the
// etcd of this node also where that listens for metrics alone.
func (st *statusing) fetcher(alone []string) (fetch func(ctx context.Context, endpoint string) (io.ReadCloser, error), done func()) {
	client, err := st.httpClient()
	if err != nil {
		return nil, func() {}
	}
	return func(ctx context.Context, endpoint string) (io.ReadCloser, error) {
		urls := []string{endpoint}
		if local(endpoint) {
			urls = append(urls, alone...)
		}
		return firstMetrics(ctx, client, urls)
	}, client.CloseIdleConnections
}
