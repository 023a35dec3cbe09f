package app

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

const (
	// expirySoon is told, expiryNow makes the verdict degraded. Some
	// distributions renew by themselves, but weeks before.
	expirySoon = 30 * 24 * time.Hour
	expiryNow  = 7 * 24 * time.Hour
	// certsAge is how long --watch goes without looking at them again: every
	// look leaves a line in the log of a peer.
	certsAge = time.Minute

	reasonExpired  = "certificate-expired"
	reasonExpiring = "certificate-expiring"
	reasonNotYet   = "certificate-not-yet-valid"
)

// statusCert is one certificate, wherever it was seen.
type statusCert struct {
	connect.Certificate
	where []string // sorted
}

// serve asks addresses for the certificates that they show, all at once.
func (st *statusing) serve(ctx context.Context, urls []string, timeout time.Duration) {
	now := st.inv.Now()
	if now.Sub(st.certsAt) > certsAge {
		st.certs, st.certsAt = map[string][]connect.Certificate{}, now
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	asked := map[string]bool{}
	for _, u := range urls {
		u = strings.TrimSuffix(u, "/")
		mu.Lock()
		_, known := st.certs[u]
		mu.Unlock()
		if known || asked[u] || !strings.Contains(u, "s://") {
			continue
		}
		asked[u] = true
		all.Go(func() {
			chain := connect.Served(ctx, u)
			mu.Lock()
			defer mu.Unlock()
			st.certs[u] = chain
		})
	}
	all.Wait()
}

// takeCertificates puts together what is served and what the files hold. That
// an address shows none is told of the address, not here.
func (r *statusReport) takeCertificates() {
	found := r.st.found
	list := connect.Certificates(slices.Concat(found.OwnCertFiles, []string{found.CACert, found.Cert})...)
	for _, chain := range r.st.certs {
		list = append(list, slices.DeleteFunc(slices.Clone(chain), func(c connect.Certificate) bool { return c.Err != nil })...)
	}
	at := map[string]int{}
	for _, c := range list {
		id := fmt.Sprint(c.Subject, "\x00", c.Issuer, "\x00", c.NotBefore.Unix(), "\x00", c.NotAfter.Unix(), "\x00", c.SANs)
		if c.Err != nil {
			id = c.Where
		}
		i, known := at[id]
		if !known {
			i, at[id] = len(r.certs), len(r.certs)
			r.certs = append(r.certs, statusCert{Certificate: c})
		}
		if cert := &r.certs[i]; !slices.Contains(cert.where, c.Where) {
			cert.where = append(cert.where, c.Where)
		}
	}
	for i := range r.certs {
		slices.Sort(r.certs[i].where)
	}
	slices.SortFunc(r.certs, func(a, b statusCert) int {
		return cmp.Or(a.NotAfter.Compare(b.NotAfter), cmp.Compare(a.where[0], b.where[0]))
	})
}

// reason is why a certificate makes etcd degraded.
func (c statusCert) reason(now time.Time) (etcdmembers.Reason, bool) {
	left := c.Left(now)
	switch {
	case c.Err != nil:
		return etcdmembers.Reason{}, false
	case left <= 0:
		return etcdmembers.Reason{Code: reasonExpired, Text: fmt.Sprintf("%s expired %s ago", c.label(), term.Duration(-left))}, true
	case now.Before(c.NotBefore):
		return etcdmembers.Reason{Code: reasonNotYet, Text: fmt.Sprintf("%s is not valid before %s", c.label(), c.NotBefore.UTC().Format(time.RFC3339))}, true
	case left < expiryNow:
		return etcdmembers.Reason{Code: reasonExpiring, Text: fmt.Sprintf("%s expires in %s", c.label(), term.Duration(left))}, true
	}
	return etcdmembers.Reason{}, false
}

func (c statusCert) label() string { return "certificate " + c.name() }

// name names a certificate by its subject and the first place where it was seen.
func (c statusCert) name() string {
	text := fmt.Sprintf("%s (%s", c.Subject, c.where[0])
	if more := len(c.where) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text + ")"
}

// certificateLines says which of them expires first, which do so soon, and what
// could not be read.
func (r *statusReport) certificateLines(all bool) []string {
	var lines, broken []string
	n := 0
	for _, c := range r.certs {
		if c.Err != nil {
			broken = append(broken, fmt.Sprintf("%s: %v", c.where[0], c.Err))
			continue
		}
		if n++; n == 1 || all || c.Left(r.at) < expirySoon {
			lines = append(lines, fmt.Sprintf("%s  %s", c.NotAfter.UTC().Format(time.DateOnly), c.expiry(r.at)))
		}
	}
	if n > 0 {
		lines = slices.Insert(lines, 0, term.Plural(int64(n), "certificate")+", the first to expire:")
	}
	return append(lines, broken...)
}

// expiry is "in 3d: CN=etcd (/etc/etcd/peer.crt)".
func (c statusCert) expiry(now time.Time) string { return in(c.Left(now)) + ": " + c.name() }

// in says how far away something is.
func in(d time.Duration) string {
	if d < 0 {
		return term.Duration(-d) + " ago"
	}
	return "in " + term.Duration(d)
}
