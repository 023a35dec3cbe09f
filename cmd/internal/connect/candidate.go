package connect

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Candidate is one way to an etcd that the machine shows.
type Candidate struct {
	// Name says what it is: "static pod of kube-apiserver", "k3s's files".
	Name string
	// From is the file, the directory, or the process that says so.
	From string
	// Endpoints are those of the main etcd, EventsEndpoints of the one that
	// holds only Events. Either may be empty.
	Endpoints, EventsEndpoints []string
	// CACert, Cert and Key are the files to sign in with, as paths on this
	// machine; empty if it names none.
	CACert, Cert, Key string
	// Prefix is where it says that Kubernetes keeps its keys, "" if it does
	// not.
	Prefix string
	// EncryptionConfig is the file with kube-apiserver's encryption keys.
	EncryptionConfig string
	// EtcdQuota (bytes, 0 unknown), DataDir and MetricsURLs are those of the
	// etcd that it describes.
	EtcdQuota   int64
	DataDir     string
	MetricsURLs []string
	// CertFiles are all files with certificates that it names and that exist,
	// servers' too.
	CertFiles []string
	// Used says that its endpoints were taken; else WhyNot says why not.
	Used   bool
	WhyNot string
	// Notes are what else is to be said of it.
	Notes []string

	rank   rank
	server bool     // it is what kube-apiserver is told
	said   string   // what Found.Why calls it
	hosts  []string // that its etcd listens on or advertises
	ports  []string // of its etcd
	// tlsErr says why its TLS files cannot be used.
	tlsErr error
	// err says why nothing of it can be used; fatal that it must not be passed
	// over either.
	err   error
	fatal bool
}

// rank orders candidates: who is told where etcd is comes before who is etcd,
// and what runs or is to run before what files are left.
type rank int

const (
	rankServerPod rank = iota
	rankServerProcess
	rankEtcdPod
	rankEtcdProcess
	rankFiles
)

// Usable says that the candidate may be tried: that it is for this machine, and
// names endpoints.
func (c *Candidate) Usable() bool {
	return c.err == nil && len(c.Endpoints)+len(c.EventsEndpoints) > 0
}

func (c *Candidate) files() tlsFiles { return tlsFiles{c.CACert, c.Cert, c.Key} }

// fail marks a candidate of which nothing can be used.
func (c *Candidate) fail(err error) *Candidate {
	c.err = cmp.Or(c.err, err)
	return c
}

// from tells Found.Why where it came from.
func (c *Candidate) from() string { return cmp.Or(c.said, c.From) }

// note adds what could not be used.
func (c *Candidate) note(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}

// wantsTLS says that it makes sense to look at its files.
func (c *Candidate) wantsTLS() bool { return mayUseTLS(c.Endpoints) || mayUseTLS(c.EventsEndpoints) }

// pathOn maps a path that a program names to one on this machine.
type pathOn func(inside string) (string, error)

// setServer takes over what kube-apiserver is told. An unusable endpoint makes
// the candidate unusable, for no other may be guessed in its place.
func (c *Candidate) setServer(flags flagValues, host pathOn) {
	c.server = true
	eps, err := parseEndpoints(c.From, hostSockets(splitEndpoints(flags["etcd-servers"]), host))
	if err != nil {
		c.fatal = true
		c.fail(err)
		return
	}
	events, others := overrides(flags["etcd-servers-overrides"])
	eventEPs, err := parseEndpoints(c.From, events)
	if err != nil {
		c.fatal = true
		c.fail(err)
		return
	}
	c.Endpoints, c.EventsEndpoints = eps, eventEPs
	if len(others) > 0 {
		c.note("not used: --etcd-servers-overrides of %v", others)
	}
	c.Prefix = flags.last("etcd-prefix")
	if inside := flags.last(encryptionFlag); inside != "" {
		file, err := host(inside)
		if err != nil {
			c.note("--%s=%s not used: %v", encryptionFlag, inside, err)
		} else {
			c.EncryptionConfig = file
		}
	}
	c.setFiles([3]string{"etcd-cafile", "etcd-certfile", "etcd-keyfile"}, flags, host)
}

// setFiles takes over the TLS files that flags name, and checks them.
func (c *Candidate) setFiles(names [3]string, flags flagValues, host pathOn) {
	var f tlsFiles
	for i, p := range []*string{&f.ca, &f.cert, &f.key} {
		inside := flags.last(names[i])
		if inside == "" {
			continue
		}
		var err error
		if *p, err = host(inside); err != nil {
			c.tlsErr = cmp.Or(c.tlsErr, fmt.Errorf("--%s=%s: %w", names[i], inside, err))
			*p = ""
		}
	}
	c.CACert, c.Cert, c.Key = f.ca, f.cert, f.key
	c.addCertFiles(f.ca, f.cert)
	switch {
	case c.tlsErr != nil:
	case (f.cert == "") != (f.key == ""):
		c.tlsErr = fmt.Errorf("--%s and --%s need each other", names[1], names[2])
	case c.wantsTLS():
		prefix := c.From + ": --"
		c.tlsErr = checkFiles(f, [3]string{prefix + names[0], prefix + names[1], prefix + names[2]})
	}
}

// addCertFiles notes files that exist.
func (c *Candidate) addCertFiles(files ...string) {
	for _, f := range files {
		if _, err := os.Stat(f); f != "" && err == nil && !slices.Contains(c.CertFiles, f) {
			c.CertFiles = append(c.CertFiles, f)
		}
	}
}

// overrides takes --etcd-servers-overrides apart: the endpoints for Events, and
// the resources that are kept in yet other etcds.
func overrides(given []string) (events, others []string) {
	for _, o := range splitEndpoints(given) {
		resource, servers, _ := strings.Cut(o, "#")
		if resource != "/events" {
			others = append(others, redact(resource))
			continue
		}
		for s := range strings.SplitSeq(servers, ";") {
			events = append(events, splitEndpoints([]string{s})...)
		}
	}
	return events, others
}

// hostSockets maps the paths of sockets like those of files.
func hostSockets(eps []string, host pathOn) []string {
	out := slices.Clone(eps)
	for i, e := range eps {
		scheme, rest, ok := strings.Cut(e, ":")
		if !ok || (scheme != "unix" && scheme != "unixs") {
			continue
		}
		if p, err := host(strings.TrimPrefix(rest, "//")); err == nil {
			out[i] = scheme + "://" + p
		}
	}
	return out
}

// setEtcd takes over what an etcd is told: flags, its environment or its
// configuration file, under the names of the flags. Its own certificate is what
// there is to sign in with, if it may be shown by a client.
func (c *Candidate) setEtcd(flags flagValues, host pathOn) {
	listen := etcdURLs(flags["listen-client-urls"])
	for _, u := range append(slices.Clone(listen), etcdURLs(flags["advertise-client-urls"])...) {
		c.hosts, c.ports = append(c.hosts, u.Hostname()), append(c.ports, u.Port())
	}
	if ep := nearestURL(listen); ep != "" {
		c.Endpoints = []string{ep}
	}
	for _, u := range etcdURLs(flags["listen-metrics-urls"]) {
		c.MetricsURLs = append(c.MetricsURLs, reachable(u).String())
	}
	c.EtcdQuota = bytesOf(flags.last("quota-backend-bytes"))
	if dir := flags.last("data-dir"); dir != "" {
		if on, err := host(dir); err == nil {
			c.DataDir = on
		}
	}
	c.setFiles([3]string{"trusted-ca-file", "cert-file", "key-file"}, flags, host)
	for _, name := range []string{"peer-cert-file", "peer-trusted-ca-file"} {
		if inside := flags.last(name); inside != "" {
			if on, err := host(inside); err == nil {
				c.addCertFiles(on)
			}
		}
	}
	if c.tlsErr == nil && c.Cert != "" {
		c.preferClient()
	}
	if slices.ContainsFunc([]string{filepath.Base(c.From), flags.last("name"), flags.last("cluster-name"), filepath.Base(flags.last("data-dir"))}, namesEvents) {
		c.EventsEndpoints, c.Endpoints = c.Endpoints, nil
	}
}

// namesEvents recognises kops' etcd-events, kubespray's etcd1-events and the
// like. A member is mostly named after its machine, which may be called
// anything: events alone is not enough.
func namesEvents(name string) bool {
	return name == "events" || strings.Contains(name, "etcd") && strings.Contains(name, "events")
}

// preferClient takes the pair that kubeadm makes for health checks if it lies
// beside the server's own, and refuses the latter if it is for servers only.
func (c *Candidate) preferClient() {
	dir := filepath.Dir(c.Cert)
	cert, key := filepath.Join(dir, "healthcheck-client.crt"), filepath.Join(dir, "healthcheck-client.key")
	if checkFiles(tlsFiles{c.CACert, cert, key}, [3]string{}) == nil {
		c.Cert, c.Key = cert, key
		c.addCertFiles(cert)
		return
	}
	if b, err := readFile(c.Cert, maxPEM); err == nil && !maySignIn(b) {
		c.tlsErr = fmt.Errorf("%s is a certificate for servers only", c.Cert)
	}
}

// etcdURLs reads a list of etcd's, leaving out what a shell would have to fill
// in, and sockets.
func etcdURLs(given []string) []*url.URL {
	var out []*url.URL
	for _, s := range splitEndpoints(given) {
		u, err := url.Parse(s)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Port() == "" || u.User != nil || strings.ContainsAny(u.Hostname(), "$(){} ") {
			continue
		}
		out = append(out, &url.URL{Scheme: u.Scheme, Host: u.Host})
	}
	return out
}

// reachable is the URL to use for one that is listened on.
func reachable(u *url.URL) *url.URL {
	out := *u
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "" || (ip != nil && ip.IsUnspecified()) || u.Hostname() == "__name__" {
		out.Host = net.JoinHostPort("127.0.0.1", u.Port())
	}
	return &out
}

// nearestURL picks one of those that a single etcd listens on: this machine's
// own address first, else the first.
func nearestURL(listen []*url.URL) string {
	for _, u := range listen {
		if r := reachable(u); isLocal(r.Hostname()) {
			return r.String()
		}
	}
	if len(listen) > 0 {
		return listen[0].String()
	}
	return ""
}

func isLocal(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// means says that one of the endpoints is this candidate's etcd.
func (c *Candidate) means(endpoints []string) bool {
	for _, e := range endpoints {
		ep, err := parseEndpoint(e)
		if err != nil || ep.network != "tcp" {
			continue
		}
		_, port, _ := net.SplitHostPort(ep.addr)
		if slices.Contains(c.ports, port) && (isLocal(ep.host) || slices.Contains(c.hosts, ep.host)) {
			return true
		}
	}
	return false
}

// agrees says that two candidates may mean the same etcd: they have an endpoint
// in common, or one of them has none.
func (c *Candidate) agrees(d *Candidate) bool {
	if len(c.Endpoints) == 0 || len(d.Endpoints) == 0 {
		return true
	}
	return slices.ContainsFunc(c.Endpoints, func(e string) bool { return slices.Contains(d.Endpoints, e) })
}

// readFile reads a file that must not be longer than that. What a process names
// may be a pipe, that must not block, or a device, of which some take being
// opened for an order.
func readFile(file string, most int64) ([]byte, error) {
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New(file + " is no regular file")
	}
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(err, errors.New(file+" is no regular file"))
	}
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > most {
		return nil, errors.New(file + " is too long")
	}
	return b, nil
}
