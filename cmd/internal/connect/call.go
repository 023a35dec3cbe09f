package connect

import (
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// isForeign recognises an HTTP/2 server that does not speak gRPC. gRPC says so
// in words only.
func isForeign(err error) bool {
	s := err.Error()
	return strings.Contains(s, "unexpected HTTP status code") || strings.Contains(s, "unexpected content-type") ||
		strings.Contains(s, "malformed header")
}

func isUnimplemented(err error) bool {
	return err != nil && status.Code(err) == codes.Unimplemented && !isForeign(err)
}

// callError explains what a call of etcd's API returned.
func (d *dialer) callError(ctx context.Context, ep string, err error) *Error {
	e := &Error{Endpoint: ep, Err: err}
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(rpctypes.Error(err), t) {
				return true
			}
		}
		return false
	}
	switch {
	case is(rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken):
		e.Reason = AuthRequired
		e.text = "demands a user: authentication is on and none was given"
		e.Hint = "give --user NAME and --password-file FILE, or a client certificate whose common name is an etcd user"
	case is(rpctypes.ErrAuthFailed):
		e.Reason = WrongPassword
		e.text = fmt.Sprintf("does not accept user %q with this password", d.s.User)
		e.Hint = "check --user and --password-file (or ETCDCTL_USER and ETCDCTL_PASSWORD)"
	case is(rpctypes.ErrPermissionDenied):
		e.Reason = PermissionDenied
		e.text = fmt.Sprintf("denies %s to read %s", d.who(), d.s.Prefix)
		e.Hint = "use a user with a role that may read this prefix (etcdctl role grant-permission ROLE readwrite --prefix=true " + d.s.Prefix + "); root may do everything"
	case isForeign(err):
		e.Reason = NotEtcd
		e.text = "is not an etcd: it speaks HTTP/2, but not gRPC"
		e.Hint = portsHint
	case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		e.Reason = Silent
		e.text = "accepts connections but answers no requests in time"
		e.Hint = "etcd may hang: look at its logs and its disk; --dial-timeout waits longer"
		if d.s.User != "" {
			e.Hint = "etcd may hang, or have no leader, which a user's password needs: look at its logs and its disk; --dial-timeout waits longer"
		}
	default:
		e.Reason = Unhealthy
		e.text = fmt.Sprintf("answers requests with an error: %s", oneLine(rpctypes.ErrorDesc(err)))
		e.Hint = "look at etcd's logs (crictl logs, journalctl -u etcd)"
	}
	return e
}

// who names the user that etcd sees.
func (d *dialer) who() string {
	if d.s.User != "" {
		return fmt.Sprintf("user %q", d.s.User)
	}
	if c := d.prober.material.cert; c != nil && c.Leaf != nil {
		return fmt.Sprintf("user %q (the client certificate's common name)", c.Leaf.Subject.CommonName)
	}
	return "this user"
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// distinguishedName reads a DER name as servers list their authorities.
func distinguishedName(raw []byte) string {
	var seq pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &seq); err != nil || len(rest) > 0 {
		return ""
	}
	var n pkix.Name
	n.FillFromRDNSequence(&seq)
	return name(n)
}
