package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

const portsHint = "etcd listens for clients on port 2379 unless told otherwise (2380 is for its peers, 2381 for metrics); name the right one with --endpoints"

func isTimeout(ctx context.Context, err error) bool {
	if err == nil {
		return false
	}
	var ne net.Error
	return ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) || (errors.As(err, &ne) && ne.Timeout())
}

func isClosed(err error) bool {
	for _, c := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed} {
		if errors.Is(err, c) {
			return true
		}
	}
	return false
}

// remoteAlert returns the text of the TLS alert that the other side sent, or
// "". crypto/tls does not export the type of such an error, only its shape.
func remoteAlert(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" && op.Err != nil {
		return strings.TrimPrefix(op.Err.Error(), "tls: ")
	}
	return ""
}

func (p *prober) dialError(ctx context.Context, ep endpoint, err error) *Error {
	e := &Error{Endpoint: ep.raw, Err: err}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		e.Reason = NoSuchHost
		e.text = fmt.Sprintf("cannot be reached: host name %q cannot be resolved", ep.host)
		e.Hint = "check the spelling, or give an IP address with --endpoints"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Reason = Refused
		e.text = "refuses connections: nothing listens there"
		e.Hint = "is etcd running? (crictl ps -a --name etcd; systemctl status etcd kubelet); if it listens elsewhere, name it with --endpoints"
	case errors.Is(err, syscall.ECONNRESET):
		return p.hungUp(ep, "at once", err)
	case errors.Is(err, fs.ErrNotExist):
		e.Reason = Refused
		e.text = "cannot be reached: there is no such socket"
		e.Hint = "is etcd running? if it listens elsewhere, name it with --endpoints"
	case errors.Is(err, fs.ErrPermission):
		e.Reason = Unreachable
		e.text = "cannot be reached: permission denied by this machine"
		e.Hint = "run as root; for an IP address, look for a local firewall rule"
	case isTimeout(ctx, err):
		e.Reason = Timeout
		e.text = fmt.Sprintf("did not accept a connection within %s: packets to it get lost, or it is overloaded", p.waited(ctx))
		e.Hint = "check the address, the host and firewalls; --dial-timeout waits longer"
	default:
		e.Reason = Unreachable
		e.text = fmt.Sprintf("cannot be reached: %v", cause(err))
		e.Hint = "check the address and this machine's routes"
	}
	return e
}

// cause strips the addresses that net puts before the reason.
func cause(err error) error {
	var sys syscall.Errno
	if errors.As(err, &sys) {
		return sys
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err
	}
	return err
}

func (p *prober) silent(ctx context.Context, ep endpoint, err error) *Error {
	return &Error{Endpoint: ep.raw, Reason: Silent, Err: err,
		text: fmt.Sprintf("accepts connections but said nothing within %s", p.waited(ctx)),
		Hint: "etcd may hang, or wait for a quorum of its members (look at its logs and its disk), or something else listens there; --dial-timeout waits longer",
	}
}

func (p *prober) tlsPort(ep endpoint, err error) *Error {
	return &Error{Endpoint: ep.raw, Reason: TLSPort, Err: err,
		text: "speaks TLS on this port, not plain http",
		Hint: "use --endpoints https://" + ep.addr + " with --cacert, --cert and --key",
	}
}

func (p *prober) plainPort(ep endpoint, err error) *Error {
	return &Error{Endpoint: ep.raw, Reason: PlainPort, Err: err,
		text: "speaks plain http on this port, not TLS",
		Hint: "use --endpoints http://" + ep.addr,
	}
}

func (p *prober) notEtcd(ep endpoint, first []byte, err error) *Error {
	if len(first) == 0 && isClosed(err) {
		return p.hungUp(ep, "without an answer", err)
	}
	e := &Error{Endpoint: ep.raw, Reason: NotEtcd, Err: err, Hint: portsHint}
	switch {
	case strings.HasPrefix(string(first), "HTTP/"):
		e.text = "is not an etcd: an HTTP/1 server answers there"
	case len(first) > 0:
		e.text = fmt.Sprintf("is not an etcd: it answered %q", first)
	default:
		e.text = fmt.Sprintf("is not an etcd: %v", err)
	}
	return e
}

// hungUp does not say that it is no etcd: a proxy hangs up when its etcd is
// down, and an etcd that is just stopping does, too.
func (p *prober) hungUp(ep endpoint, when string, err error) *Error {
	return &Error{Endpoint: ep.raw, Reason: HungUp, Err: err,
		text: "accepts connections but hangs up " + when,
		Hint: "a proxy does so while its etcd is down, and so does a port that is not for clients: " + portsHint,
	}
}

func (p *prober) handshakeError(ctx context.Context, ep endpoint, asked *tls.CertificateRequestInfo, err error) *Error {
	var verify *tls.CertificateVerificationError
	var header tls.RecordHeaderError
	switch {
	case errors.As(err, &verify):
		return p.serverCert(ep, verify)
	case isTimeout(ctx, err):
		return p.silent(ctx, ep, err)
	case remoteAlert(err) == "no application protocol":
		return p.notEtcd(ep, nil, errors.New("it speaks TLS, but not HTTP/2"))
	case asked != nil && (remoteAlert(err) != "" || isClosed(err)):
		return p.clientCert(ep, asked, err)
	case errors.As(err, &header) || isClosed(err):
		first, http2 := p.answersPlain(ctx, ep)
		if http2 {
			return p.plainPort(ep, err)
		}
		if len(first) == 0 && isClosed(err) {
			return p.hungUp(ep, "during the TLS handshake", err)
		}
		return p.notEtcd(ep, first, err)
	}
	return &Error{Endpoint: ep.raw, Reason: TLSFailed, Err: err,
		text: fmt.Sprintf("failed the TLS handshake: %v", cause(err)), Hint: portsHint}
}

func (p *prober) serverCert(ep endpoint, err *tls.CertificateVerificationError) *Error {
	e := &Error{Endpoint: ep.raw, Err: err, Reason: TLSFailed,
		text: fmt.Sprintf("shows a certificate that cannot be accepted: %v", err.Err),
		Hint: "--insecure-skip-tls-verify goes on without checking it"}
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	if len(err.UnverifiedCertificates) == 0 {
		return e
	}
	leaf := err.UnverifiedCertificates[0]
	switch {
	case errors.As(err, &unknown):
		e.Reason = ServerCA
		trusted := "this machine does not trust"
		if p.files.ca != "" {
			trusted = p.files.ca + " does not trust"
		}
		e.text = fmt.Sprintf("shows a certificate that %s: it is signed by %q", trusted, name(leaf.Issuer))
		e.Hint = "give the CA that signed etcd's certificate: --cacert FILE (kubeadm: " + kubeadmCA + ")"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.Reason = ServerExpired
		if p.now().Before(leaf.NotBefore) {
			e.text = fmt.Sprintf("shows a certificate that is not valid before %s", stamp(leaf.NotBefore))
			e.Hint = "is this machine's clock right? --insecure-skip-tls-verify goes on without checking the certificate"
			break
		}
		e.text = fmt.Sprintf("shows a certificate that expired on %s", stamp(leaf.NotAfter))
		e.Hint = "renew it (kubeadm certs renew etcd-server, then restart etcd); --insecure-skip-tls-verify goes on without checking it"
	case errors.As(err, &host):
		e.Reason = ServerName
		e.text = fmt.Sprintf("shows a certificate that is not for %q but for %s", ep.host, hosts(leaf))
		e.Hint = "use one of these names with --endpoints; --insecure-skip-tls-verify goes on without checking it"
	}
	return e
}

// clientCert explains a server that asked for a client certificate and hung up.
func (p *prober) clientCert(ep endpoint, asked *tls.CertificateRequestInfo, err error) *Error {
	e := &Error{Endpoint: ep.raw, Err: err}
	if p.material.cert == nil {
		e.Reason = ClientCertMissing
		e.text = "demands a client certificate and none was given"
		e.Hint = "give --cert FILE and --key FILE (kubeadm: " + kubeadmCert + " and .key)"
		return e
	}
	e.Reason = ClientCertRefused
	why := remoteAlert(err)
	if why == "" {
		why = "it hung up"
	}
	e.text = fmt.Sprintf("refuses the client certificate %s: %s", p.files.cert, why)
	e.Hint = "give a certificate signed by the CA that etcd trusts" + trusts(asked) + ": --cert FILE and --key FILE"
	leaf := p.material.cert.Leaf
	if leaf == nil {
		return e
	}
	switch {
	case p.now().After(leaf.NotAfter):
		e.text = fmt.Sprintf("refuses the client certificate %s: it expired on %s", p.files.cert, stamp(leaf.NotAfter))
		e.Hint = "renew it (kubeadm certs renew apiserver-etcd-client), or give another with --cert and --key"
	case why != "expired certificate":
		e.text = fmt.Sprintf("refuses the client certificate %s, signed by %q: %s", p.files.cert, name(leaf.Issuer), why)
	}
	return e
}

// trusts names the authorities that the server said it accepts.
func trusts(asked *tls.CertificateRequestInfo) string {
	var names []string
	for _, raw := range asked.AcceptableCAs {
		if n := distinguishedName(raw); n != "" {
			names = append(names, fmt.Sprintf("%q", n))
		}
	}
	if len(names) == 0 || len(names) > 3 {
		return ""
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// name is how people call a certificate's subject or issuer.
func name(n pkix.Name) string {
	if n.CommonName != "" {
		return n.CommonName
	}
	return n.String()
}

// hosts lists what a certificate is for, cut to a readable length.
func hosts(c *x509.Certificate) string {
	all := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	switch {
	case len(all) == 0:
		return "no host at all"
	case len(all) > 6:
		return fmt.Sprintf("%s and %d more", strings.Join(all[:6], ", "), len(all)-6)
	}
	return strings.Join(all, ", ")
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
