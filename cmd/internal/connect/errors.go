package connect

import (
	"errors"
	"fmt"
)

// Reason classifies why an endpoint cannot be used. Its text is stable.
type Reason string

// The reasons of Error.
const (
	// Refused: nothing listens on that port or socket.
	Refused Reason = "refused"
	// Timeout: the connection was not established in time.
	Timeout Reason = "timeout"
	// Unreachable: the machine has no route to the address, or may not use it.
	Unreachable Reason = "unreachable"
	// NoSuchHost: the name has no address.
	NoSuchHost Reason = "no-such-host"
	// Silent: the connection was established, but no answer came in time.
	Silent Reason = "silent"
	// HungUp: the connection was established and ended without an answer.
	HungUp Reason = "hung-up"
	// NotEtcd: something else answers there.
	NotEtcd Reason = "not-etcd"
	// PlainPort: https was spoken to a port of plain http.
	PlainPort Reason = "plain-port"
	// TLSPort: http was spoken to a TLS port.
	TLSPort Reason = "tls-port"
	// ServerCA: the server's certificate is signed by a CA that is not trusted.
	ServerCA Reason = "server-ca"
	// ServerExpired: the server's certificate is expired or not yet valid.
	ServerExpired Reason = "server-expired"
	// ServerName: the server's certificate is for other hosts.
	ServerName Reason = "server-name"
	// ClientCertMissing: the server demands a client certificate.
	ClientCertMissing Reason = "client-cert-missing"
	// ClientCertRefused: the server does not accept the client certificate.
	ClientCertRefused Reason = "client-cert-refused"
	// TLSFailed: any other failure of the TLS handshake.
	TLSFailed Reason = "tls-failed"
	// AuthRequired: authentication is on and no user is known.
	AuthRequired Reason = "auth-required"
	// WrongPassword: user and password do not match.
	WrongPassword Reason = "wrong-password"
	// PermissionDenied: the user may not read the prefix.
	PermissionDenied Reason = "permission-denied"
	// MixedClusters: the endpoints belong to different etcd clusters.
	MixedClusters Reason = "mixed-clusters"
	// Unhealthy: etcd answers with an error of its own.
	Unhealthy Reason = "unhealthy"
)

// Error says why one endpoint cannot be used: one line of text without a
// secret, and a Hint, possibly empty, that says what to do next. Err is the
// cause and may be nil.
type Error struct {
	Endpoint string
	Reason   Reason
	Err      error
	Hint     string

	text string
}

func (e *Error) Error() string {
	if e.text == "" {
		return fmt.Sprintf("etcd %s: %s: %v", e.Endpoint, e.Reason, e.Err)
	}
	if e.Reason == NotEtcd {
		return e.Endpoint + " " + e.text
	}
	return "etcd " + e.Endpoint + " " + e.text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Failures returns every *Error that err joins or wraps, in the order of the
// endpoints.
func Failures(err error) []*Error {
	var one *Error
	if e, ok := err.(*Error); ok { // the tree is walked by hand below
		return []*Error{e}
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []*Error
		for _, e := range many.Unwrap() {
			out = append(out, Failures(e)...)
		}
		return out
	}
	if errors.As(err, &one) {
		return []*Error{one}
	}
	return nil
}

// join makes one error of the endpoints' errors.
func join(errs []*Error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	all := make([]error, len(errs))
	for i, e := range errs {
		all[i] = e
	}
	return errors.Join(all...)
}
