// Package connect turns flags, environment and what a control-plane node shows
// into endpoints, TLS material and a working etcd client.
//
// It has two steps. Resolve reads files of this machine, looks at what runs on
// it, and decides what to use; it asks DNS if told to, and opens no connection
// otherwise. Dial looks at every endpoint, names what is
// wrong with each in one line with a hint, and returns a client only if etcd
// answered. The package prints nothing and writes nothing, to disk or to etcd.
//
// Its invariant: TLS material of the node is used for TLS endpoints only, and
// whatever was used is named in Found.Why. What the node shows beyond that, the
// file with its encryption keys, is named and not read.
package connect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"strings"
	"time"
)

// Defaults of settings that neither flags, environment nor the node gave.
const (
	DefaultPrefix         = "/registry/"
	DefaultDialTimeout    = 5 * time.Second
	DefaultCommandTimeout = 30 * time.Second
)

// Settings says how to reach etcd. A zero field was not given. Paths are paths
// on this machine.
type Settings struct {
	// Endpoints are host:port, http(s)://host:port, unix:///path (plain) or
	// unixs:///path (TLS); one entry may hold several, separated by commas.
	Endpoints []string
	// EventsEndpoints are those of the etcd that holds only Events; empty if
	// there is no such etcd.
	EventsEndpoints []string
	// CACert, Cert and Key are PEM files.
	CACert, Cert, Key string
	// User is "name" or, as in etcdctl, "name:password".
	User string
	// PasswordFile holds the password; one trailing newline is not part of it.
	PasswordFile string
	// Password is a secret and must not be printed.
	Password string
	// InsecureSkipVerify accepts any server certificate.
	InsecureSkipVerify bool
	// DialTimeout bounds Dial, CommandTimeout one request of the caller.
	DialTimeout, CommandTimeout time.Duration
	// Prefix is where Kubernetes keeps its keys.
	Prefix string
	// Cluster makes DialAll add the other members, as the first that answers
	// lists them.
	Cluster bool
	// DiscoverySRV is a domain whose DNS records name the endpoints, and
	// DiscoverySRVName the suffix of their service, as in etcdctl. Resolve turns
	// them into Endpoints.
	DiscoverySRV, DiscoverySRVName string
	// ServerName is what etcd's certificates must be for; "" is each endpoint's
	// host.
	ServerName string
}

// Node is what the machine shows: its file tree, /proc in it, its environment
// and its DNS. Root is "/" outside of tests; a nil Getenv is an empty
// environment, a nil LookupSRV the machine's own resolver.
type Node struct {
	Root      string
	Getenv    func(string) string
	LookupSRV func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Found is the outcome of Resolve: Settings complete enough for Dial, with
// endpoints that all have a scheme, Prefix with both slashes, User without its
// password, PasswordFile read into Password.
type Found struct {
	Settings
	// EncryptionConfig is the path, on this machine, of the file that the
	// node gives kube-apiserver as --encryption-provider-config. It is empty if
	// there is none. The file may be missing or unreadable.
	EncryptionConfig string
	// Candidates are all ways to an etcd that the node shows, in the order in
	// which they were considered.
	Candidates []Candidate
	// CertFiles are the files with certificates that candidates name and that
	// exist, servers' too, and those that are used; sorted.
	CertFiles []string
	// OwnCertFiles are those of them that belong to the etcd that is used, as far
	// as that can be seen, and not to another one on this machine.
	OwnCertFiles []string
	// EtcdQuota is --quota-backend-bytes of the etcd on this node that the
	// endpoints mean, and EtcdQuotaFrom what says so. 0 is unknown: etcd has a
	// default, but which one it runs with is not to be seen.
	EtcdQuota     int64
	EtcdQuotaFrom string
	// DataDir is that etcd's, as a path on this machine; "" is unknown.
	DataDir string
	// MetricsURLs are where that etcd has its metrics, beside its endpoints.
	MetricsURLs []string
	// Why says on one line what is used and where it came from. It holds no
	// secret.
	Why string
}

// SettingError reports a setting that cannot be used: it names the flag, the
// environment variable or the file of the node that gave it.
type SettingError struct {
	Setting string // "--cacert", "ETCDCTL_USER", or the path of a manifest
	Err     error
	Hint    string // what to do, may be empty
}

func (e *SettingError) Error() string { return e.Setting + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *SettingError) Unwrap() error { return e.Err }

// Resolve completes flags from the environment (ETCDCTL_*), from DNS if that is
// asked for, and from what the node shows: the first of Found.Candidates that
// has endpoints, else a guess that Found.Why calls a guess. What is given is
// never overridden. An unusable setting is a *SettingError, and Found then holds
// Candidates only. Files are only read.
func Resolve(flags Settings, node Node) (Found, error) {
	if node.Getenv == nil {
		node.Getenv = func(string) string { return "" }
	}
	if node.LookupSRV == nil {
		node.LookupSRV = net.DefaultResolver.LookupSRV
	}
	look := lookout{root: cmp.Or(node.Root, "/")}
	r := resolver{node: node, out: flags, candidates: look.look()}
	for _, step := range []func() error{
		r.readEnv, r.timeouts, r.user, r.givenEndpoints, r.discover, r.givenTLS, r.lookAtNode, r.schemes, r.prefix,
	} {
		if err := step(); err != nil {
			return Found{Candidates: r.found().Candidates}, err
		}
	}
	found := r.found()
	found.Why = r.why()
	return found, nil
}

// resolver carries what Resolve has decided so far.
type resolver struct {
	node       Node
	env        environment
	out        Settings
	candidates []*Candidate
	chosen     *Candidate // nil: endpoints come from elsewhere
	skipped    [rankFiles + 1]bool

	endpointsFrom string
	guessed       bool
	tlsFrom       string // empty: no files given or found
	userFrom      string
	prefixFrom    string
	encryption    string   // Found.EncryptionConfig
	notes         []string // things that Why must add
}

func (r *resolver) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

func (r *resolver) timeouts() error {
	for _, t := range []struct {
		flag  string
		given *time.Duration
		env   time.Duration
		def   time.Duration
	}{
		{"--dial-timeout", &r.out.DialTimeout, r.env.dialTimeout, DefaultDialTimeout},
		{"--command-timeout", &r.out.CommandTimeout, r.env.commandTimeout, DefaultCommandTimeout},
	} {
		switch {
		case *t.given < 0:
			return &SettingError{Setting: t.flag, Err: errors.New("must be greater than 0")}
		case *t.given > 0:
		case t.env > 0:
			*t.given = t.env
		default:
			*t.given = t.def
		}
	}
	return nil
}

func (r *resolver) givenEndpoints() error {
	from := "--endpoints"
	given := splitEndpoints(r.out.Endpoints)
	if len(given) == 0 {
		from, given = "ETCDCTL_ENDPOINTS", splitEndpoints([]string{r.env.endpoints})
	}
	if len(given) > 0 {
		eps, err := parseEndpoints(from, given)
		if err != nil {
			return err
		}
		r.out.Endpoints, r.endpointsFrom = eps, from
	}
	events, err := parseEndpoints("--events-endpoints", splitEndpoints(r.out.EventsEndpoints))
	if err != nil {
		return err
	}
	r.out.EventsEndpoints = events
	return nil
}

// givenTLS merges flags and environment field by field, as etcdctl does.
func (r *resolver) givenTLS() error {
	names := [3]string{"--cacert", "--cert", "--key"}
	for i, f := range []struct {
		given *string
		env   string
		name  string
	}{
		{&r.out.CACert, r.env.cacert, "ETCDCTL_CACERT"},
		{&r.out.Cert, r.env.cert, "ETCDCTL_CERT"},
		{&r.out.Key, r.env.key, "ETCDCTL_KEY"},
	} {
		if *f.given == "" && f.env != "" {
			*f.given, names[i] = f.env, f.name
		}
	}
	r.out.InsecureSkipVerify = r.out.InsecureSkipVerify || r.env.skipVerify
	if r.out.CACert == "" && r.out.Cert == "" && r.out.Key == "" {
		return nil
	}
	switch {
	case r.out.Cert != "" && r.out.Key == "":
		return &SettingError{Setting: names[1], Err: errors.New("a certificate needs its key"), Hint: "add --key FILE"}
	case r.out.Cert == "" && r.out.Key != "":
		return &SettingError{Setting: names[2], Err: errors.New("a key needs its certificate"), Hint: "add --cert FILE"}
	}
	if err := checkFiles(tlsFiles{r.out.CACert, r.out.Cert, r.out.Key}, names); err != nil {
		return err
	}
	r.tlsFrom = "flags"
	for _, n := range names {
		if strings.HasPrefix(n, "ETCDCTL_") {
			r.tlsFrom = "ETCDCTL_*"
		}
	}
	return nil
}

// schemes gives every endpoint a scheme. As in etcdctl, an endpoint without one
// is TLS exactly if there is TLS material or plain transport is switched off.
func (r *resolver) schemes() error {
	secure := r.tlsFrom != "" || r.out.InsecureSkipVerify || r.env.insecureTransport == "false"
	r.out.Endpoints = withScheme(r.out.Endpoints, secure)
	r.out.EventsEndpoints = withScheme(r.out.EventsEndpoints, secure)
	if r.tlsFrom != "" && !anyTLS(r.out.Endpoints) && !anyTLS(r.out.EventsEndpoints) {
		r.note("plain http: TLS files are not used")
	}
	return nil
}

func (r *resolver) prefix() error {
	p := r.out.Prefix
	if p == "" {
		p = DefaultPrefix
	}
	p = path.Join("/", p)
	if p == "/" {
		return &SettingError{Setting: "--etcd-prefix", Err: fmt.Errorf("%q is the whole of etcd", r.out.Prefix),
			Hint: "Kubernetes keeps its keys under a prefix: /registry (the default), /kubernetes.io on OpenShift"}
	}
	r.out.Prefix = p + "/"
	if r.prefixFrom != "" && r.out.Prefix != DefaultPrefix {
		r.note("prefix %s from %s", r.out.Prefix, r.prefixFrom)
	}
	return nil
}

func (r *resolver) why() string {
	var b strings.Builder
	fmt.Fprintf(&b, "etcd %s (", strings.Join(r.out.Endpoints, ","))
	if r.guessed {
		b.WriteString("a guess: ")
	} else {
		b.WriteString("from ")
	}
	b.WriteString(r.endpointsFrom)
	if r.tlsFrom != "" && r.tlsFrom != r.endpointsFrom && r.tlsFrom != "flags" && anyTLS(r.out.Endpoints) {
		b.WriteString("; TLS files from " + r.tlsFrom)
	}
	if len(r.out.EventsEndpoints) > 0 {
		b.WriteString("; events in " + strings.Join(r.out.EventsEndpoints, ","))
	}
	if r.userFrom != "" {
		fmt.Fprintf(&b, "; user %q from %s", r.out.User, r.userFrom)
	}
	if r.out.InsecureSkipVerify && anyTLS(r.out.Endpoints) {
		b.WriteString("; the server's certificate is not checked")
	}
	for _, n := range r.notes {
		b.WriteString("; " + n)
	}
	b.WriteString(")")
	return oneLine(b.String()) // paths may hold anything
}

// fileHint says what to do about a file that cannot be read.
func fileHint(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "run as root (sudo -E keeps the ETCDCTL_* environment)"
	}
	return ""
}
