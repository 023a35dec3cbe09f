package connect

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// tlsFiles are paths of PEM files; an empty one was not given.
type tlsFiles struct{ ca, cert, key string }

// tlsMaterial is what tlsFiles hold.
type tlsMaterial struct {
	roots *x509.CertPool // nil: the machine's own
	cert  *tls.Certificate
}

// checkFiles reads the files and throws them away. names says what to call the
// three settings in an error.
func checkFiles(f tlsFiles, names [3]string) error {
	_, err := loadTLS(f, names)
	return err
}

// loadTLS reports a file that is missing, unreadable or not what it should be
// as a *SettingError that names file and setting, never their content.
func loadTLS(f tlsFiles, names [3]string) (tlsMaterial, error) {
	var m tlsMaterial
	if f.ca != "" {
		b, err := readFile(f.ca, maxPEM)
		if err != nil {
			return m, &SettingError{Setting: names[0], Err: err, Hint: fileHint(err)}
		}
		m.roots = x509.NewCertPool()
		if !m.roots.AppendCertsFromPEM(b) {
			return m, &SettingError{Setting: names[0], Err: fmt.Errorf("%s holds no PEM certificate", f.ca)}
		}
	}
	if f.cert == "" {
		return m, nil
	}
	certPEM, err := readFile(f.cert, maxPEM)
	if err != nil {
		return m, &SettingError{Setting: names[1], Err: err, Hint: fileHint(err)}
	}
	keyPEM, err := readFile(f.key, maxPEM)
	if err != nil {
		return m, &SettingError{Setting: names[2], Err: err, Hint: fileHint(err)}
	}
	if block, _ := pem.Decode(certPEM); block == nil {
		return m, &SettingError{Setting: names[1], Err: fmt.Errorf("%s holds no PEM certificate", f.cert)}
	}
	if block, _ := pem.Decode(keyPEM); block == nil {
		return m, &SettingError{Setting: names[2], Err: fmt.Errorf("%s holds no PEM key", f.key)}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return m, &SettingError{Setting: names[1], Err: fmt.Errorf("%s and %s do not form a pair: %w", f.cert, f.key, err)}
	}
	m.cert = &pair
	return m, nil
}

// clientConfig is used by the probe and by the client alike, so that both meet
// the same answer. The certificate is always offered when the server asks: the
// standard choice sends none if the server's list of authorities does not hold
// ours, and the refusal would then read as if none had been given.
func (m tlsMaterial) clientConfig(skipVerify bool) *tls.Config {
	cfg := &tls.Config{
		RootCAs:            m.roots,
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"h2"},
		InsecureSkipVerify: skipVerify, // only if asked for by --insecure-skip-tls-verify
	}
	if m.cert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.cert, nil }
	}
	return cfg
}
