package connect

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxManifest bounds how much of a manifest or a configuration is read. etcd
// takes no object larger than 1.5 MiB.
const maxManifest = 2 << 20

// manifestPath is where kubeadm has kubelet read kube-apiserver's static pod.
const manifestPath = "/etc/kubernetes/manifests/kube-apiserver.yaml"

// serverManifests are where distributions keep the static pod of
// kube-apiserver: kubeadm, kind, minikube and kubespray; kops; OpenShift; rke2.
func (l *lookout) serverManifests() []string {
	return []string{
		manifestPath,
		"/etc/kubernetes/manifests/kube-apiserver.manifest",
		"/etc/kubernetes/manifests/kube-apiserver-pod.yaml",
		l.rancher("rke2") + "/agent/pod-manifests/kube-apiserver.yaml",
	}
}

// etcdManifests are patterns of where static pods of etcd, or of what runs it,
// are kept.
func (l *lookout) etcdManifests() []string {
	return []string{"/etc/kubernetes/manifests/*etcd*", l.rancher("rke2") + "/agent/pod-manifests/*etcd*"}
}

// staticPod holds the few fields of a Pod that are read here. The whole type
// would refuse a manifest for reasons that do not matter.
type staticPod struct {
	Spec struct {
		Containers []container `json:"containers"`
		Volumes    []volume    `json:"volumes"`
	} `json:"spec"`
}

type container struct {
	Command []string `json:"command"`
	Args    []string `json:"args"`
	Env     []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"env"`
	VolumeMounts []volumeMount `json:"volumeMounts"`
}

func (c *container) argv() []string { return slices.Concat(c.Command, c.Args) }

type volumeMount struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
	SubPath   string `json:"subPath"`
}

type volume struct {
	Name     string `json:"name"`
	HostPath *struct {
		Path string `json:"path"`
	} `json:"hostPath"`
}

// mounts maps paths of one container to paths of the host.
type mounts struct {
	mounts  []volumeMount
	volumes []volume
}

// readPod returns an error that wraps fs.ErrNotExist or fs.ErrPermission where
// that is the cause.
func readPod(file string) (*staticPod, error) {
	b, err := readFile(file, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	var pod staticPod
	if err := yaml.Unmarshal(b, &pod); err != nil {
		// The parser may quote the file, over several lines.
		return nil, errors.New("it is not a readable pod manifest")
	}
	return &pod, nil
}

// hostPath maps a path inside the container to one on the host, through the
// deepest mount that holds it. A path that no mount holds is returned as it is:
// manifests written by hand often mount nothing and run on the host.
func (m *mounts) hostPath(inside string) (string, error) {
	inside = path.Clean(inside)
	var best *volumeMount
	for i := range m.mounts {
		mp := path.Clean(m.mounts[i].MountPath)
		holds := inside == mp || strings.HasPrefix(inside, strings.TrimSuffix(mp, "/")+"/")
		if holds && (best == nil || len(mp) > len(path.Clean(best.MountPath))) {
			best = &m.mounts[i]
		}
	}
	if best == nil {
		return inside, nil
	}
	for _, v := range m.volumes {
		if v.Name != best.Name {
			continue
		}
		if v.HostPath == nil {
			return "", fmt.Errorf("volume %q is not a directory of the host", v.Name)
		}
		rest := strings.TrimPrefix(inside, path.Clean(best.MountPath))
		return path.Join(v.HostPath.Path, best.SubPath, rest), nil
	}
	return "", fmt.Errorf("volume %q does not exist", best.Name)
}

// on returns the mapping for a container of a pod.
func (l *lookout) on(pod *staticPod, c *container) pathOn {
	m := &mounts{c.VolumeMounts, pod.Spec.Volumes}
	return func(inside string) (string, error) {
		host, err := m.hostPath(inside)
		if err != nil {
			return "", err
		}
		return l.path(host), nil
	}
}

// serverPods looks for static pods of kube-apiserver.
func (l *lookout) serverPods() []*Candidate {
	var out []*Candidate
	for _, p := range l.serverManifests() {
		file := l.path(p)
		c := &Candidate{Name: "static pod of kube-apiserver", From: file, rank: rankServerPod}
		pod, err := readPod(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			c.fatal = errors.Is(err, fs.ErrPermission)
			out = append(out, c.fail(err))
			continue
		}
		out = append(out, l.serverPod(c, pod))
	}
	return out
}

func (l *lookout) serverPod(c *Candidate, pod *staticPod) *Candidate {
	for i := range pod.Spec.Containers {
		in := &pod.Spec.Containers[i]
		host := l.on(pod, in)
		flags := parseFlags(in.argv())
		if config := flags.last("openshift-config"); config != "" && !flags.has("etcd-servers") {
			if err := openshiftFlags(config, host, flags); err != nil {
				c.fatal = errors.Is(err, fs.ErrPermission)
				return c.fail(err)
			}
		}
		if flags.has("etcd-servers") {
			c.setServer(flags, host)
			return c
		}
	}
	return c.fail(errors.New("it has no container with --etcd-servers"))
}

// openshiftFlags adds what OpenShift keeps in a file beside the command line.
// See https://github.com/openshift/cluster-kube-apiserver-operator
// bindata/assets/config/defaultconfig.yaml
func openshiftFlags(config string, host pathOn, flags flagValues) error {
	file, err := host(config)
	if err != nil {
		return fmt.Errorf("--openshift-config=%s: %w", config, err)
	}
	b, err := readFile(file, maxManifest)
	if err != nil {
		return fmt.Errorf("--openshift-config: %w", err)
	}
	var doc struct {
		Arguments map[string][]string `json:"apiServerArguments"`
	}
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return fmt.Errorf("%s cannot be read as kube-apiserver's configuration", file)
	}
	for name, values := range doc.Arguments {
		if strings.HasPrefix(name, "etcd-") || name == encryptionFlag {
			flags[name] = append(flags[name], values...)
		}
	}
	return nil
}

// etcdPods looks for static pods of etcd.
func (l *lookout) etcdPods() []*Candidate {
	var out []*Candidate
	for _, file := range l.glob(l.etcdManifests()...) {
		switch filepath.Ext(file) {
		case ".yaml", ".yml", ".json", ".manifest":
		default:
			continue // an editor's backup; kubelet reads it, but whoever wrote it does not mean it
		}
		c := &Candidate{Name: "static pod of etcd", From: file, rank: rankEtcdPod}
		pod, err := readPod(file)
		if err != nil {
			c.fatal = errors.Is(err, fs.ErrPermission)
			out = append(out, c.fail(err))
			continue
		}
		out = append(out, l.etcdPod(c, pod))
	}
	return out
}

func (l *lookout) etcdPod(c *Candidate, pod *staticPod) *Candidate {
	for i := range pod.Spec.Containers {
		in := &pod.Spec.Containers[i]
		host := l.on(pod, in)
		flags := parseFlags(in.argv())
		var env []string
		for _, e := range in.Env {
			env = append(env, e.Name+"="+e.Value)
		}
		if flags.has("client-urls") && hasProgram(in.argv(), "etcd-manager") {
			// kops: etcd-manager starts etcd, and hands its own environment on.
			c.Name = "static pod of etcd-manager"
			c.setEtcd(withDefaults(flagValues{"listen-client-urls": flags["client-urls"], "name": flags["cluster-name"]}, etcdEnv(env)), host)
			c.tlsErr = errors.New("it names no certificate to sign in with")
			return c
		}
		if !hasProgram(in.argv(), "etcd") {
			continue
		}
		own, err := etcdSettings(flags, etcdEnv(env), host)
		if err != nil {
			c.fatal = errors.Is(err, fs.ErrPermission)
			return c.fail(err)
		}
		if own.has("listen-client-urls") {
			c.setEtcd(own, host)
			return c
		}
	}
	return c.fail(errors.New("it has no container with --listen-client-urls"))
}

// etcdSettings merges what an etcd is told as etcd does: with a configuration
// file nothing else counts, and flags win over the environment.
func etcdSettings(flags, env flagValues, host pathOn) (flagValues, error) {
	config := flags.last("config-file")
	if config == "" {
		config = env.last("config-file")
	}
	if config == "" {
		return withDefaults(flags, env), nil
	}
	file, err := host(config)
	if err != nil {
		return nil, fmt.Errorf("--config-file=%s: %w", config, err)
	}
	b, err := readFile(file, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("--config-file: %w", err)
	}
	own, err := configFlags(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return own, nil
}

func withDefaults(flags, defaults flagValues) flagValues {
	out := flagValues{}
	for name, v := range defaults {
		out[name] = v
	}
	for name, v := range flags {
		if len(v) > 0 {
			out[name] = v
		}
	}
	return out
}
