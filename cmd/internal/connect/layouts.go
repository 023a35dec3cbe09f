package connect

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Where kubeadm keeps certificates. See
// https://github.com/kubernetes/kubernetes/blob/master/cmd/kubeadm/app/constants/constants.go
const (
	kubeadmCA   = "/etc/kubernetes/pki/etcd/ca.crt"
	kubeadmCert = "/etc/kubernetes/pki/apiserver-etcd-client.crt"
	kubeadmKey  = "/etc/kubernetes/pki/apiserver-etcd-client.key"

	localTLS = "https://127.0.0.1:2379"
	// openshiftPrefix is where OpenShift and HyperShift keep Kubernetes' keys.
	openshiftPrefix = "kubernetes.io"
)

// layout is how one distribution lays out a control-plane node. Paths are of
// the node; those of certificates are patterns below dir.
type layout struct {
	name string // Candidate.Name
	dir  string // Candidate.From
	// needs must exist for the layout to count, unless it must not.
	needs, without string
	// cas and pairs are tried in order; the key of a pair has the last of its
	// certificate's letters replaced.
	cas   []string
	pairs []pairPattern
	// others are more certificates that may lie there.
	others []string
	// config and env are etcd's configuration file and environment, args
	// kube-apiserver's arguments in a file.
	config, env, eventsEnv, args string
	// endpoint is where etcd listens if neither of those says so; events is
	// the same of the etcd for Events, which is there if eventsNeed exists.
	endpoint, events, eventsNeed string
	prefix, encryption           string
	// advice makes it a hint for people and nothing to use.
	advice string
}

type pairPattern struct{ cert, certSuffix, keySuffix string }

func crt(names ...string) []pairPattern {
	var out []pairPattern
	for _, n := range names {
		out = append(out, pairPattern{n, ".crt", ".key"})
	}
	return out
}

func pemPairs(names ...string) []pairPattern {
	var out []pairPattern
	for _, n := range names {
		out = append(out, pairPattern{n, ".pem", "-key.pem"})
	}
	return out
}

// layouts are all that are known, in the order in which they are tried. Where
// distributions keep what is documented in docs/connect.md.
func (l *lookout) layouts() []layout {
	return slices.Concat(kubeadmLayouts(), l.rancherLayouts(), otherLayouts())
}

func kubeadmLayouts() []layout {
	pairs := crt("apiserver-etcd-client", "etcd/healthcheck-client", "etcd/server")
	others := []string{"etcd/server.crt", "etcd/peer.crt", "etcd/healthcheck-client.crt"}
	return []layout{
		{name: "kubeadm's certificates", dir: "/etc/kubernetes/pki", cas: []string{"etcd/ca.crt"}, pairs: pairs, others: others, endpoint: localTLS},
		{name: "minikube's certificates", dir: "/var/lib/minikube/certs", cas: []string{"etcd/ca.crt"}, pairs: pairs, others: others, endpoint: localTLS},
	}
}

// rancher is the data directory of k3s or rke2: what its configuration says, or
// the usual one. See https://docs.k3s.io/installation/configuration and
// https://docs.k3s.io/cli/server (--data-dir).
func (l *lookout) rancher(name string) string {
	var config struct {
		DataDir string `json:"data-dir"`
	}
	if b, err := readFile(l.path("/etc/rancher/"+name+"/config.yaml"), maxManifest); err == nil {
		_ = yaml.Unmarshal(b, &config) // what cannot be read does not start either
	}
	if path.IsAbs(config.DataDir) {
		return path.Clean(config.DataDir)
	}
	return "/var/lib/rancher/" + name
}

func (l *lookout) rancherLayouts() []layout {
	var out []layout
	for _, name := range []string{"k3s", "rke2"} {
		server := l.rancher(name) + "/server"
		out = append(out, layout{
			name: name + "'s certificates", dir: server + "/tls/etcd", needs: server + "/db/etcd",
			cas: []string{"server-ca.crt"}, pairs: crt("client", "server-client"),
			others: []string{"server-client.crt", "peer-server-client.crt", "peer-ca.crt"},
			config: server + "/db/etcd/config", endpoint: localTLS, encryption: server + "/cred/encryption-config.json",
		}, layout{
			// With an SQL database k3s makes etcd's certificates all the same.
			name: name + "'s kine", dir: server + "/kine.sock", needs: server + "/kine.sock", without: server + "/db/etcd",
			endpoint: "unix://" + server + "/kine.sock", encryption: server + "/cred/encryption-config.json",
		})
	}
	return append(out, layout{
		name: "RKE's certificates", dir: "/etc/kubernetes/ssl", cas: []string{"kube-ca.pem"},
		pairs: pemPairs("kube-etcd-*", "kube-node"), endpoint: localTLS,
	})
}

func otherLayouts() []layout {
	const snap, k0s, kine = "/var/snap/microk8s/current", "/var/lib/k0s/pki", "/run/k0s/kine/kine.sock:2379"
	openshift := "/etc/kubernetes/static-pod-resources/etcd-certs"
	out := []layout{
		{name: "k0s's certificates", dir: k0s, cas: []string{"etcd/ca.crt"}, pairs: crt("apiserver-etcd-client", "etcd/server"),
			others: []string{"etcd/server.crt", "etcd/peer.crt"}, endpoint: localTLS},
		{name: "k0s's kine", dir: kine, needs: kine, without: k0s + "/etcd/ca.crt", endpoint: "unix://" + kine},
		{name: "microk8s' arguments", dir: snap + "/args/kube-apiserver", args: snap + "/args/kube-apiserver"},
	}
	for _, dir := range []string{"/etc/kubernetes/pki/kube-apiserver", "/srv/kubernetes/kube-apiserver"} {
		out = append(out, layout{name: "kops's certificates", dir: dir, cas: []string{"etcd-ca.crt"}, pairs: crt("etcd-client"),
			endpoint: "https://127.0.0.1:4001", events: "https://127.0.0.1:4002", eventsNeed: "/etc/kubernetes/pki/etcd-manager-events"})
	}
	return append(out,
		layout{name: "OpenShift's certificates", dir: openshift,
			cas:   []string{"configmaps/etcd-all-bundles/server-ca-bundle.crt", "configmaps/etcd-serving-ca/ca-bundle.crt"},
			pairs: crt("secrets/etcd-all-certs/etcd-peer-*"), others: []string{"secrets/etcd-all-certs/etcd-serving-*.crt"},
			endpoint: "https://localhost:2379", prefix: openshiftPrefix},
		layout{name: "HyperShift's certificates", dir: "/etc/etcd/tls", cas: []string{"etcd-ca/ca.crt"}, pairs: crt("client/etcd-client"),
			others: []string{"server/server.crt", "peer/peer.crt"}, endpoint: "https://localhost:2379", prefix: openshiftPrefix},
		layout{name: "kubespray's certificates", dir: "/etc/ssl/etcd/ssl", cas: []string{"ca.pem"}, pairs: pemPairs("admin-*", "member-*", "node-*"),
			others: []string{"member-*.pem"}, env: "/etc/etcd.env", eventsEnv: "/etc/etcd-events.env", endpoint: localTLS},
		layout{name: "Talos", dir: "/system/secrets/etcd", needs: "/system/secrets/etcd",
			advice: "Talos has no shell: use talosctl etcd, or run etcd-rescue elsewhere with --endpoints and this folder's ca.crt, admin.crt and admin.key"},
	)
}

// lookout is one look at a machine.
type lookout struct{ root string }

func (l *lookout) path(p string) string { return filepath.Join(l.root, p) }

// exists is false as well for what may not be looked at.
func (l *lookout) exists(p string) bool {
	_, err := os.Stat(l.path(p))
	return err == nil
}

// glob returns the files of this machine that match, each once, sorted within
// a pattern.
func (l *lookout) glob(patterns ...string) []string {
	var out []string
	for _, p := range patterns {
		found, _ := filepath.Glob(l.path(p))
		for _, f := range found {
			if !slices.Contains(out, f) {
				out = append(out, f)
			}
		}
	}
	return out
}

// look returns all that the machine shows, in the order in which it is tried.
func (l *lookout) look() []*Candidate {
	running := l.processes()
	out := slices.Concat(l.serverPods(), l.serverProcesses(running), l.etcdPods(), l.etcdProcesses(running))
	for _, y := range l.layouts() {
		if c := l.layout(y); c != nil {
			out = append(out, c)
		}
	}
	return out
}

// layout returns what is there of a layout, nil if nothing is.
func (l *lookout) layout(y layout) *Candidate {
	c := &Candidate{Name: y.name, From: l.path(y.dir), rank: rankFiles, Prefix: y.prefix}
	c.said = c.Name + " in " + c.From
	if y.needs != "" {
		_, err := os.Stat(l.path(y.needs))
		if errors.Is(err, fs.ErrPermission) {
			c.fatal = true
			return c.fail(permission(c, err))
		}
		if err != nil || y.without != "" && l.exists(y.without) {
			return nil
		}
	}
	switch {
	case y.advice != "":
		return c.fail(errors.New(y.advice))
	case y.args != "":
		return l.arguments(c, y.args)
	case len(y.cas) == 0:
		c.said = c.Name + " at " + c.From
		c.Endpoints = hostSockets([]string{y.endpoint}, func(p string) (string, error) { return l.path(p), nil })
	default:
		there, err := l.pair(y, c)
		if err != nil {
			c.fatal = true
			c.Endpoints = []string{y.endpoint}
			return c.fail(err)
		}
		if !there {
			return nil
		}
		l.ports(y, c)
	}
	if y.encryption != "" && l.exists(y.encryption) {
		c.EncryptionConfig = l.path(y.encryption)
	}
	return c
}

// pair finds a CA and a pair of a layout. There must be both, but whether they
// can be used is for later to say. What may not be looked at is an error.
func (l *lookout) pair(y layout, c *Candidate) (bool, error) {
	ca, err := l.first(y.dir, y.cas)
	if err != nil || ca == "" {
		return false, permission(c, err)
	}
	for _, p := range y.pairs {
		for _, cert := range l.glob(path.Join(y.dir, p.cert+p.certSuffix)) {
			key := strings.TrimSuffix(cert, p.certSuffix) + p.keySuffix
			if strings.HasSuffix(cert, "-key.pem") {
				continue
			}
			switch _, err := os.Stat(key); {
			case errors.Is(err, fs.ErrNotExist):
				continue
			case err != nil:
				return false, permission(c, err)
			}
			c.CACert, c.Cert, c.Key = ca, cert, key
			c.addCertFiles(ca, cert)
			for _, o := range y.others {
				c.addCertFiles(slices.DeleteFunc(l.glob(path.Join(y.dir, o)), func(f string) bool { return strings.HasSuffix(f, "-key.pem") })...)
			}
			c.tlsErr = checkFiles(c.files(), [3]string{c.Name, c.Name, c.Name})
			return true, nil
		}
	}
	return false, nil
}

// first returns the first file that is there.
func (l *lookout) first(dir string, names []string) (string, error) {
	for _, n := range names {
		file := l.path(path.Join(dir, n))
		_, err := os.Stat(file)
		if err == nil {
			return file, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			return "", err
		}
	}
	return "", nil
}

func permission(c *Candidate, err error) error {
	if err == nil {
		return nil
	}
	return &SettingError{Setting: c.Name, Err: err, Hint: fileHint(err)}
}

// ports finds out where the etcds of a layout listen.
func (l *lookout) ports(y layout, c *Candidate) {
	c.Endpoints = []string{y.endpoint}
	own := flagValues{}
	if y.config != "" {
		if b, err := readFile(l.path(y.config), maxManifest); err == nil {
			own, err = configFlags(b)
			if err != nil {
				c.note("%s not used: %v", l.path(y.config), err)
			}
		}
	}
	if y.env != "" {
		own = l.envFile(y.env)
	}
	if own.has("listen-client-urls") {
		l.ownEtcd(c, own)
	}
	if y.eventsNeed != "" && l.exists(y.eventsNeed) {
		c.EventsEndpoints = []string{y.events}
	}
	if y.eventsEnv != "" {
		if ep := nearestURL(etcdURLs(l.envFile(y.eventsEnv)["listen-client-urls"])); ep != "" {
			c.EventsEndpoints = []string{ep}
		}
	}
}

// ownEtcd takes over what the etcd of a layout is told, but not its
// certificates: the layout has better ones.
func (l *lookout) ownEtcd(c *Candidate, own flagValues) {
	e := &Candidate{}
	e.setEtcd(own, func(p string) (string, error) { return l.path(p), nil })
	if len(e.Endpoints) > 0 {
		c.Endpoints = e.Endpoints
	}
	c.hosts, c.ports, c.EtcdQuota, c.DataDir, c.MetricsURLs = e.hosts, e.ports, e.EtcdQuota, e.DataDir, e.MetricsURLs
	c.addCertFiles(e.CertFiles...)
}

func (l *lookout) envFile(p string) flagValues {
	b, err := readFile(l.path(p), maxManifest)
	if err != nil {
		return flagValues{}
	}
	return etcdEnv(strings.Split(string(b), "\n"))
}

// arguments reads a file with kube-apiserver's arguments.
func (l *lookout) arguments(c *Candidate, file string) *Candidate {
	c.From, c.said = l.path(file), l.path(file)
	flags, err := argsFile(c.From, snapData(file))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		c.fatal = errors.Is(err, fs.ErrPermission)
		return c.fail(err)
	case !flags.has("etcd-servers"):
		return c.fail(errors.New("it has no --etcd-servers"))
	}
	c.setServer(flags, func(p string) (string, error) { return l.path(p), nil })
	c.Name = cmp.Or(c.Name, "arguments")
	return c
}
