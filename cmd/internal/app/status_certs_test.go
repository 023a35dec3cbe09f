package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// pki is the part of /etc/kubernetes/pki that is etcd's, as kubeadm lays it out
// below a root.
type pki struct {
	t    *testing.T
	dir  string
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	made int64 // certificates
}

const (
	year = 365 * 24 * time.Hour
	// clientYear is a day less, so that it is clear which ends first.
	clientYear = year - 24*time.Hour
	// apiserver names the files of the certificate that kube-apiserver shows.
	apiserver = "apiserver-etcd-client"
)

func newPKI(t *testing.T, root, ca string) *pki {
	t.Helper()
	p := &pki{t: t, dir: filepath.Join(root, "etc/kubernetes/pki")}
	if err := os.MkdirAll(filepath.Join(p.dir, "etcd"), 0o700); err != nil {
		t.Fatal(err)
	}
	template := p.template(ca, 10*year)
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	p.key = p.newKey("etcd/ca.key")
	der, err := x509.CreateCertificate(rand.Reader, template, template, p.key.Public(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	if p.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	p.write("etcd/ca.crt", "CERTIFICATE", der)
	p.issue("etcd/server", "cp-1", year)
	p.issue(apiserver, apiserver, clientYear)
	return p
}

// issue writes NAME.crt and NAME.key, in place of what was there; left may be
// negative.
func (p *pki) issue(name, commonName string, left time.Duration) {
	p.t.Helper()
	template := p.template(commonName, left)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames, template.IPAddresses = []string{"localhost", commonName}, []net.IP{net.IPv4(127, 0, 0, 1)}
	key := p.newKey(name + ".key")
	der, err := x509.CreateCertificate(rand.Reader, template, p.ca, key.Public(), p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(name+".crt", "CERTIFICATE", der)
}

// template ends an hour later than asked for, so that whole days are left
// however long a test takes.
func (p *pki) template(commonName string, left time.Duration) *x509.Certificate {
	p.made++
	end := time.Now().Add(left + time.Hour)
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: commonName}, SerialNumber: big.NewInt(p.made),
		NotBefore: end.Add(-11 * year), NotAfter: end,
	}
}

func (p *pki) newKey(file string) *ecdsa.PrivateKey {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(file, "EC PRIVATE KEY", der)
	return key
}

func (p *pki) path(file string) string { return filepath.Join(p.dir, file) }

// write replaces a file at once: etcd reads its certificate for each handshake.
func (p *pki) write(file, kind string, der []byte) {
	p.t.Helper()
	b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(p.path(file+".new"), b, 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(p.path(file+".new"), p.path(file)); err != nil {
		p.t.Fatal(err)
	}
}

// etcd is what a server gets that shows these certificates and demands one.
func (p *pki) etcd() *sandbox.TLS {
	return &sandbox.TLS{
		CertFile: p.path("etcd/server.crt"), KeyFile: p.path("etcd/server.key"), CAFile: p.path("etcd/ca.crt"), ClientCertAuth: true,
		ClientCertFile: p.path(apiserver + ".crt"), ClientKeyFile: p.path(apiserver + ".key"),
	}
}
