package connect

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// maxPEM bounds how much of a file with certificates is read: a bundle of all
// public authorities has 220 KiB.
const maxPEM = 4 << 20

// Certificate is what one X.509 certificate says of itself. Its texts come
// from the certificate and may hold anything.
type Certificate struct {
	// Where is the path of the file, or the endpoint that showed it.
	Where string
	// Subject and Issuer are distinguished names on one line.
	Subject, Issuer string
	// SANs are the names that it is for: DNS names, then addresses, then URIs.
	SANs                []string
	NotBefore, NotAfter time.Time
	// CA says that it may sign others.
	CA bool
	// Err says why file or endpoint gave none. Then only Where is set besides.
	Err error
}

// Left is how long the certificate still holds, negative if it has expired.
func (c Certificate) Left(now time.Time) time.Duration { return c.NotAfter.Sub(now) }

// Certificates reads PEM files, in their order: one entry for every certificate
// in a file, none for a file with nothing but a key, one with Err for a file
// that cannot be read or holds neither. Empty and repeated names are left out.
// Keys are not kept.
func Certificates(files ...string) []Certificate {
	var out []Certificate
	seen := map[string]bool{"": true}
	for _, file := range files {
		if seen[file] {
			continue
		}
		seen[file] = true
		b, err := readFile(file, maxPEM)
		if err != nil {
			out = append(out, Certificate{Where: file, Err: err})
			continue
		}
		out = append(out, parsePEM(file, b)...)
	}
	return out
}

func parsePEM(where string, b []byte) []Certificate {
	var out []Certificate
	blocks := 0
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		b = rest
		blocks++
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			out = append(out, Certificate{Where: where, Err: fmt.Errorf("it holds a certificate that cannot be read: %w", err)})
			continue
		}
		out = append(out, describe(where, cert))
	}
	if blocks == 0 {
		return []Certificate{{Where: where, Err: errors.New("it holds no PEM certificate")}}
	}
	return out
}

func describe(where string, c *x509.Certificate) Certificate {
	out := Certificate{Where: where, Subject: c.Subject.String(), Issuer: c.Issuer.String(),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, CA: c.IsCA, SANs: slices.Clone(c.DNSNames)}
	for _, ip := range c.IPAddresses {
		out.SANs = append(out.SANs, ip.String())
	}
	for _, u := range c.URIs {
		out.SANs = append(out.SANs, u.String())
	}
	return out
}

// Served asks a TLS endpoint which certificates it shows: one entry for each of
// its chain, or a single one with Err. An endpoint without TLS gives none. It
// checks none of them, sends no certificate of ours and nothing after the
// handshake. ctx bounds it.
func Served(ctx context.Context, endpoint string) []Certificate {
	ep, err := parseEndpoint(endpoint)
	if err != nil {
		return []Certificate{{Where: endpoint, Err: err}}
	}
	if !ep.tls {
		return nil
	}
	conn, err := new(net.Dialer).DialContext(ctx, ep.network, ep.addr)
	if err != nil {
		return []Certificate{{Where: ep.raw, Err: fmt.Errorf("it shows no certificate: %w", err)}}
	}
	defer conn.Close()
	var chain []*x509.Certificate
	tc := tls.Client(conn, &tls.Config{
		ServerName: ep.host, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, // what is wrong with it is to be seen
		VerifyConnection: func(s tls.ConnectionState) error {
			chain = s.PeerCertificates
			return nil
		},
	})
	// In TLS 1.2 a server that demands a certificate ends the handshake, but
	// has shown its own before.
	err = tc.HandshakeContext(ctx)
	if len(chain) == 0 {
		return []Certificate{{Where: ep.raw, Err: fmt.Errorf("it shows no certificate: %w", err)}}
	}
	var out []Certificate
	for _, c := range chain {
		out = append(out, describe(ep.raw, c))
	}
	return out
}

// maySignIn says that a certificate may be shown by a client. etcd refuses one
// that is for servers only.
func maySignIn(certPEM []byte) bool {
	block, _ := pem.Decode(certPEM)
	if block == nil || !bytes.Contains([]byte(block.Type), []byte("CERTIFICATE")) {
		return true // whoever loads it says what is wrong
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}
