package connect

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"strings"
)

// endpoint is one parsed endpoint.
type endpoint struct {
	raw        string
	network    string // "tcp" or "unix"
	addr       string // host:port or path
	host       string // without port; the last path element of a socket
	tls        bool
	schemeless bool
}

func splitEndpoints(given []string) []string {
	var out []string
	for _, g := range given {
		for e := range strings.SplitSeq(g, ",") {
			if e = strings.TrimSpace(e); e != "" {
				out = append(out, e)
			}
		}
	}
	return out
}

// parseEndpoints checks endpoints that the named setting gave and returns them
// in one spelling: no trailing slash, always a port.
func parseEndpoints(setting string, given []string) ([]string, error) {
	var out []string
	for _, g := range given {
		ep, err := parseEndpoint(g)
		if err != nil {
			return nil, &SettingError{Setting: setting, Err: err, Hint: "give --endpoints https://HOST:2379"}
		}
		out = append(out, ep.raw)
	}
	return out, nil
}

func parseEndpoint(s string) (endpoint, error) {
	scheme, rest, found := strings.Cut(s, ":")
	if found && (scheme == "unix" || scheme == "unixs") {
		p := strings.TrimPrefix(rest, "//")
		if p == "" {
			return endpoint{}, fmt.Errorf("endpoint %q names no socket", s)
		}
		return endpoint{raw: s, network: "unix", addr: p, host: path.Base(p), tls: scheme == "unixs"}, nil
	}
	if !strings.Contains(s, "://") {
		ep, err := parseTCP(s, "//"+s)
		ep.schemeless = true
		return ep, err
	}
	return parseTCP(s, s)
}

func parseTCP(given, toParse string) (endpoint, error) {
	u, err := url.Parse(toParse)
	if err != nil {
		// The parser quotes its input, which may hold a password.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return endpoint{}, fmt.Errorf("endpoint %q cannot be read: %w", redact(given), err)
	}
	switch {
	case u.User != nil:
		return endpoint{}, fmt.Errorf("endpoint %q holds a user name: give it with --user", redact(given))
	case u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https":
		return endpoint{}, fmt.Errorf("endpoint %q has an unknown scheme", redact(given))
	case u.Hostname() == "" || strings.ContainsAny(u.Hostname(), "$(){} "): // a manifest may hold $(HOST_IP)
		return endpoint{}, fmt.Errorf("endpoint %q names no host", redact(given))
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return endpoint{}, fmt.Errorf("endpoint %q has a path", redact(given))
	}
	port := u.Port()
	if port == "" {
		port = "2379"
	}
	ep := endpoint{network: "tcp", host: u.Hostname(), addr: net.JoinHostPort(u.Hostname(), port), tls: u.Scheme == "https"}
	ep.raw = ep.addr
	if u.Scheme != "" {
		ep.raw = u.Scheme + "://" + ep.addr
	}
	return ep, nil
}

// redact cuts whatever could be user:password out of an endpoint.
func redact(s string) string {
	at := strings.LastIndex(s, "@")
	if at < 0 {
		return s
	}
	scheme, _, found := strings.Cut(s, "://")
	if !found {
		return "***" + s[at:]
	}
	return scheme + "://***" + s[at:]
}

func withScheme(eps []string, secure bool) []string {
	var out []string
	for _, e := range eps {
		if p, err := parseEndpoint(e); err == nil && p.schemeless {
			if secure {
				e = "https://" + e
			} else {
				e = "http://" + e
			}
		}
		out = append(out, e)
	}
	return out
}

func anyTLS(eps []string) bool {
	for _, e := range eps {
		if p, err := parseEndpoint(e); err == nil && p.tls {
			return true
		}
	}
	return false
}

// mayUseTLS is true if an endpoint is TLS or has no scheme yet.
func mayUseTLS(eps []string) bool {
	for _, e := range eps {
		if p, err := parseEndpoint(e); err == nil && (p.tls || p.schemeless) {
			return true
		}
	}
	return false
}

// IsTLS says that an endpoint, with a scheme, is spoken to with TLS.
func IsTLS(endpoint string) bool { return anyTLS([]string{endpoint}) }
