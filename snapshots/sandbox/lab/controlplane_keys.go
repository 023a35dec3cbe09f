package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// credentials are the paths of what the servers of one control plane need, and the token of its administrator.
type credentials struct {
	ca, cert, key, accountKey, tokens, kubeconfig string

	token     string
	authority *x509.Certificate
}

// newCredentials makes an authority of its own, and below it a certificate for 127.0.0.1.
func newCredentials(dir, url string) (*credentials, error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	k := &credentials{
		ca: at("ca.crt"), cert: at("server.crt"), key: at("server.key"), accountKey: at("account.key"),
		tokens: at("tokens.csv"), kubeconfig: at("kubeconfig"), token: rand.Text(),
	}
	if err := k.certify(); err != nil {
		return nil, err
	}
	if _, err := newKey(k.accountKey); err != nil {
		return nil, err
	}
	if err := os.WriteFile(k.tokens, []byte(k.token+",admin,admin,system:masters\n"), 0o600); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: lab
contexts: [{name: lab, context: {cluster: lab, user: lab}}]
clusters: [{name: lab, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: lab, user: {token: %q}}]
`, url, k.ca, k.token)
	return k, os.WriteFile(k.kubeconfig, []byte(config), 0o600)
}

func (k *credentials) certify() error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	from, until := time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	if k.authority, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	if err := writePEM(k.ca, "CERTIFICATE", der); err != nil {
		return err
	}
	key, err := newKey(k.key)
	if err != nil {
		return err
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	if der, err = x509.CreateCertificate(rand.Reader, server, k.authority, key.Public(), caKey); err != nil {
		return err
	}
	return writePEM(k.cert, "CERTIFICATE", der)
}

func newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(path, "EC PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func (k *credentials) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(k.authority)
	return pool
}
