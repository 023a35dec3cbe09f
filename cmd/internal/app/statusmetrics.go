package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// httpClient asks for metrics with the TLS files that etcd is asked with.
func (st *statusing) httpClient() (*http.Client, error) {
	s := st.found.Settings
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: s.InsecureSkipVerify, ServerName: s.ServerName}
	if s.CACert != "" {
		pem, err := os.ReadFile(s.CACert)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AppendCertsFromPEM(pem)
	}
	if s.Cert != "" {
		pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return &http.Client{
		// Like the connections to etcd itself, not through a proxy.
		Transport:     &http.Transport{TLSClientConfig: cfg, Proxy: nil, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// firstMetrics opens the metrics at the first address that has any.
func firstMetrics(ctx context.Context, client *http.Client, urls []string) (io.ReadCloser, error) {
	err := etcdmembers.ErrNoMetrics
	for _, u := range urls {
		if !strings.HasPrefix(u, "http://") && !strings.HasPrefix(u, "https://") {
			continue
		}
		body, wrong := openMetrics(ctx, client, strings.TrimSuffix(strings.TrimSuffix(u, "/"), "/metrics")+"/metrics")
		if wrong == nil {
			return body, nil
		}
		if errors.Is(err, etcdmembers.ErrNoMetrics) {
			err = wrong
		}
	}
	return nil, err
}

func openMetrics(ctx context.Context, client *http.Client, u string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s answers %s", u, resp.Status)
	}
	return resp.Body, nil
}
