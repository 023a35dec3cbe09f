package connect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Where a kubeadm node keeps things, below Node.Root. See
// https://github.com/kubernetes/kubernetes/blob/master/cmd/kubeadm/app/constants/constants.go
const (
	manifestPath    = "/etc/kubernetes/manifests/kube-apiserver.yaml"
	kubeadmCA       = "/etc/kubernetes/pki/etcd/ca.crt"
	kubeadmCert     = "/etc/kubernetes/pki/apiserver-etcd-client.crt"
	kubeadmKey      = "/etc/kubernetes/pki/apiserver-etcd-client.key"
	kubeadmEndpoint = "https://127.0.0.1:2379"
	guessEndpoint   = "http://127.0.0.1:2379"
)

func (r *resolver) hostPath(p string) string { return filepath.Join(r.node.Root, p) }

// lookAtNode fills what flags and environment left open. If endpoints are known
// already it is a favour: what it cannot use it notes instead of failing.
func (r *resolver) lookAtNode() error {
	needEndpoints := len(r.out.Endpoints) == 0
	m, err := readManifest(r.hostPath(manifestPath))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		m = nil
	case errors.Is(err, fs.ErrPermission) && needEndpoints:
		return &SettingError{Setting: r.hostPath(manifestPath), Err: errors.Unwrap(err), Hint: fileHint(err)}
	case err != nil:
		r.note("%s not used: %v", r.hostPath(manifestPath), err)
		m = nil
	}
	if m != nil && r.out.Prefix == "" && m.prefix != "" {
		r.out.Prefix, r.prefixFrom = m.prefix, r.hostPath(manifestPath)
	}
	r.favourEncryption(m)
	if needEndpoints {
		return r.nodeEndpoints(m)
	}
	wantTLS := r.tlsFrom == "" && r.env.insecureTransport != "true" &&
		(mayUseTLS(r.out.Endpoints) || mayUseTLS(r.out.EventsEndpoints))
	if wantTLS {
		r.favourTLS(m)
	}
	return nil
}

func (r *resolver) nodeEndpoints(m *manifest) error {
	if m != nil {
		return r.useManifest(m)
	}
	found, err := r.kubeadmFiles()
	if err != nil {
		return err
	}
	switch {
	case found != (tlsFiles{}):
		r.out.Endpoints, r.endpointsFrom = []string{kubeadmEndpoint}, "kubeadm's certificates in "+r.hostPath("/etc/kubernetes/pki")
		r.takeTLS(found, r.endpointsFrom)
	default:
		// With TLS files given by hand the likely etcd is the one that wants them.
		r.out.Endpoints, r.guessed = []string{guessEndpoint}, true
		if r.tlsFrom != "" {
			r.out.Endpoints = []string{kubeadmEndpoint}
		}
		r.endpointsFrom = fmt.Sprintf("no --endpoints, no ETCDCTL_ENDPOINTS, no %s, no kubeadm certificates", r.hostPath(manifestPath))
	}
	return nil
}

func (r *resolver) useManifest(m *manifest) error {
	from := r.hostPath(manifestPath)
	fail := func(err error) error {
		e := &SettingError{Setting: from, Err: err}
		errors.As(err, &e) // which names more than the manifest
		if e.Hint == "" {
			e.Hint = "give --endpoints, and --cacert, --cert and --key if etcd speaks TLS"
		}
		return e
	}
	eps, err := parseEndpoints(from, m.servers)
	if err != nil {
		return fail(err)
	}
	r.out.Endpoints, r.endpointsFrom = eps, from
	if len(r.out.EventsEndpoints) == 0 {
		events, err := parseEndpoints(from, m.events)
		if err != nil {
			return fail(err)
		}
		r.out.EventsEndpoints = events
	}
	if len(m.otherOverrides) > 0 {
		r.note("not used: --etcd-servers-overrides of %v", m.otherOverrides)
	}
	if r.tlsFrom != "" || (!mayUseTLS(r.out.Endpoints) && !mayUseTLS(r.out.EventsEndpoints)) {
		return nil
	}
	files, err := r.manifestFiles(m)
	if err != nil {
		return fail(err)
	}
	r.takeTLS(files, from)
	return nil
}

// favourTLS looks for TLS material to go with endpoints that were given.
func (r *resolver) favourTLS(m *manifest) {
	if m != nil {
		files, err := r.manifestFiles(m)
		if err == nil {
			r.takeTLS(files, r.hostPath(manifestPath))
			return
		}
		r.note("TLS files not used: %v", err)
	}
	files, err := r.kubeadmFiles()
	if err != nil {
		r.note("TLS files not used: %v", err)
		return
	}
	r.takeTLS(files, r.hostPath("/etc/kubernetes/pki"))
}

// favourEncryption says where the encryption configuration of the manifest is
// on this machine. Whether it can be read is for whoever needs it to find out.
func (r *resolver) favourEncryption(m *manifest) {
	if m == nil || m.encryption == "" {
		return
	}
	host, err := m.hostPath(m.encryption)
	if err != nil {
		r.note("%s=%s not used: %v", encryptionFlag, m.encryption, err)
		return
	}
	r.encryption = r.hostPath(host)
}

func (r *resolver) takeTLS(f tlsFiles, from string) {
	if f == (tlsFiles{}) || r.tlsFrom != "" {
		return
	}
	r.out.CACert, r.out.Cert, r.out.Key, r.tlsFrom = f.ca, f.cert, f.key, from
}

// manifestFiles returns the manifest's TLS files as paths on this machine,
// checked. Files that the manifest does not name stay empty.
func (r *resolver) manifestFiles(m *manifest) (tlsFiles, error) {
	var f tlsFiles
	for _, p := range []struct {
		flag, inside string
		host         *string
	}{
		{"--etcd-cafile", m.cafile, &f.ca},
		{"--etcd-certfile", m.certfile, &f.cert},
		{"--etcd-keyfile", m.keyfile, &f.key},
	} {
		if p.inside == "" {
			continue
		}
		host, err := m.hostPath(p.inside)
		if err != nil {
			return tlsFiles{}, fmt.Errorf("%s=%s: %w", p.flag, p.inside, err)
		}
		*p.host = r.hostPath(host)
	}
	if (f.cert == "") != (f.key == "") {
		return tlsFiles{}, errors.New("--etcd-certfile and --etcd-keyfile need each other")
	}
	from := r.hostPath(manifestPath)
	return f, checkFiles(f, [3]string{from + ": --etcd-cafile", from + ": --etcd-certfile", from + ": --etcd-keyfile"})
}

// kubeadmFiles returns kubeadm's default files, or nothing if they are not
// there.
func (r *resolver) kubeadmFiles() (tlsFiles, error) {
	f := tlsFiles{r.hostPath(kubeadmCA), r.hostPath(kubeadmCert), r.hostPath(kubeadmKey)}
	for _, p := range []string{f.ca, f.cert, f.key} {
		_, err := os.Stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			return tlsFiles{}, nil
		}
		if err != nil {
			return tlsFiles{}, &SettingError{Setting: "kubeadm's certificates", Err: err, Hint: fileHint(err)}
		}
	}
	const name = "kubeadm's certificates"
	return f, checkFiles(f, [3]string{name, name, name})
}
