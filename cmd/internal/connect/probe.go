package connect

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// preface opens an HTTP/2 connection: the client's magic and an empty SETTINGS
// frame. A server answers with its own SETTINGS (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// frameHeader is the length of an HTTP/2 frame header.
const frameHeader = 9

// errStraggler ends probes that lag behind an endpoint that answered.
var errStraggler = errors.New("another endpoint answered long before")

// prober finds out what answers at an endpoint. gRPC would report most of this
// as "connection error" after its own timeouts, or as a deadline.
type prober struct {
	material tlsMaterial
	config   *tls.Config
	files    tlsFiles // for messages
	limit    time.Duration
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	now      func() time.Time
}

// all probes every endpoint at once. The result at i is nil if endpoint i
// speaks HTTP/2. It takes no longer than p.limit, and once an endpoint is good
// the others get no more than half of it.
func (p *prober) all(ctx context.Context, eps []endpoint) []*Error {
	ctx, stop := context.WithTimeout(ctx, p.limit)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	enough := time.Now().Add(p.limit / 2)
	results := make([]*Error, len(eps))
	var wg sync.WaitGroup
	for i, ep := range eps {
		wg.Go(func() {
			results[i] = p.one(ctx, ep)
			if results[i] == nil {
				t := time.AfterFunc(time.Until(enough), func() { cancel(errStraggler) })
				context.AfterFunc(ctx, func() { t.Stop() })
			}
		})
	}
	wg.Wait()
	return results
}

// waited is how long a probe that timed out had waited.
func (p *prober) waited(ctx context.Context) time.Duration {
	if errors.Is(context.Cause(ctx), errStraggler) {
		return p.limit / 2
	}
	return p.limit
}

func (p *prober) one(ctx context.Context, ep endpoint) *Error {
	conn, err := p.connect(ctx, ep)
	if err != nil {
		return p.dialError(ctx, ep, err)
	}
	defer conn.Close()
	if ep.tls {
		return p.secure(ctx, ep, conn)
	}
	return p.plain(ctx, ep, conn)
}

// connect returns a connection that fails all I/O once ctx is done.
func (p *prober) connect(ctx context.Context, ep endpoint) (net.Conn, error) {
	conn, err := p.dial(ctx, ep.network, ep.addr)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return conn, nil
}

// plain speaks HTTP/2 without TLS.
func (p *prober) plain(ctx context.Context, ep endpoint, conn net.Conn) *Error {
	first, err := speak(conn)
	switch {
	case isSettings(first):
		return nil
	case isTimeout(ctx, err) && len(first) == 0:
		return p.silent(ctx, ep, err)
	case isTLSRecord(first) || p.answersTLS(ctx, ep):
		return p.tlsPort(ep, err)
	case len(first) > 0:
		return p.notEtcd(ep, first, err)
	}
	return p.notEtcd(ep, nil, err)
}

// secure speaks TLS, then HTTP/2.
func (p *prober) secure(ctx context.Context, ep endpoint, conn net.Conn) *Error {
	tc, asked, err := p.handshake(ctx, ep, conn)
	if err != nil {
		return p.handshakeError(ctx, ep, asked, err)
	}
	if tc.ConnectionState().NegotiatedProtocol != "h2" && asked == nil {
		return p.notEtcd(ep, nil, errors.New("it speaks TLS, but not HTTP/2"))
	}
	first, err := speak(tc)
	switch {
	case isSettings(first):
		return nil
	case isTimeout(ctx, err) && len(first) == 0:
		return p.silent(ctx, ep, err)
	case len(first) > 0:
		return p.notEtcd(ep, first, err)
	case asked != nil:
		// In TLS 1.3 the server judges the client certificate after the
		// handshake, and its alert can be lost: the preface that it has not
		// read makes the kernel reset the connection. So ask again and say
		// nothing.
		if remoteAlert(err) == "" {
			err = p.alertOf(ctx, ep, err)
		}
		return p.clientCert(ep, asked, err)
	}
	return p.notEtcd(ep, nil, err)
}

// handshake also returns what the server asked for, nil if it wanted no client
// certificate.
func (p *prober) handshake(ctx context.Context, ep endpoint, conn net.Conn) (*tls.Conn, *tls.CertificateRequestInfo, error) {
	var asked *tls.CertificateRequestInfo
	cfg := p.config.Clone()
	cfg.ServerName = cmp.Or(cfg.ServerName, ep.host)
	cfg.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = info
		if p.material.cert == nil {
			return &tls.Certificate{}, nil
		}
		return p.material.cert, nil
	}
	tc := tls.Client(conn, cfg)
	err := tc.HandshakeContext(ctx)
	return tc, asked, err
}

// alertOf repeats the handshake and waits for the server to say why it hangs
// up. Without an answer it returns the first error.
func (p *prober) alertOf(ctx context.Context, ep endpoint, first error) error {
	conn, err := p.connect(ctx, ep)
	if err != nil {
		return first
	}
	defer conn.Close()
	tc, _, err := p.handshake(ctx, ep, conn)
	if err == nil {
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		_, err = tc.Read(make([]byte, 1))
	}
	if remoteAlert(err) != "" {
		return err
	}
	return first
}

// answersTLS tries a handshake without a certificate of ours and without
// checking theirs: nothing is sent that matters.
func (p *prober) answersTLS(ctx context.Context, ep endpoint) bool {
	conn, err := p.connect(ctx, ep)
	if err != nil {
		return false
	}
	defer conn.Close()
	tc := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: ep.host, NextProtos: []string{"h2"}}) // see above
	err = tc.HandshakeContext(ctx)
	return err == nil || remoteAlert(err) != ""
}

// answersPlain reports what a plain connection finds: nil for HTTP/2.
func (p *prober) answersPlain(ctx context.Context, ep endpoint) (first []byte, ok bool) {
	conn, err := p.connect(ctx, ep)
	if err != nil {
		return nil, false
	}
	defer conn.Close()
	first, _ = speak(conn)
	return first, isSettings(first)
}

// speak sends the preface and returns the first bytes of the answer, at most a
// frame header. The answer counts even if sending failed: a server that hangs
// up early has often said why.
func speak(conn io.ReadWriter) ([]byte, error) {
	_, werr := io.WriteString(conn, preface)
	buf := make([]byte, frameHeader)
	n, err := io.ReadFull(conn, buf)
	if err == nil || n > 0 {
		return buf[:n], err
	}
	if remoteAlert(err) == "" && remoteAlert(werr) != "" {
		err = werr
	}
	return nil, err
}

// isSettings recognises the header of a SETTINGS frame on stream 0.
func isSettings(b []byte) bool {
	return len(b) == frameHeader && b[0] == 0 && b[3] == 4 && bytes.Equal(b[5:], []byte{0, 0, 0, 0})
}

// isTLSRecord recognises the header of a TLS alert or handshake record.
func isTLSRecord(b []byte) bool {
	return len(b) >= 2 && (b[0] == 0x15 || b[0] == 0x16) && b[1] == 3
}
