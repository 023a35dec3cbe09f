package connect

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"sigs.k8s.io/yaml"
)

// manifest is what the static pod of kube-apiserver says about etcd and about
// what it stores there. File names are paths inside the container.
type manifest struct {
	servers, events           []string
	otherOverrides            []string // resources kept in yet another etcd
	cafile, certfile, keyfile string
	prefix                    string
	encryption                string // the EncryptionConfiguration

	mounts  []volumeMount
	volumes []volume
}

// staticPod holds the few fields of a Pod that are read here. The whole type
// would refuse a manifest for reasons that do not matter.
type staticPod struct {
	Spec struct {
		Containers []struct {
			Command      []string      `json:"command"`
			Args         []string      `json:"args"`
			VolumeMounts []volumeMount `json:"volumeMounts"`
		} `json:"containers"`
		Volumes []volume `json:"volumes"`
	} `json:"spec"`
}

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

// readManifest returns an error that wraps fs.ErrNotExist or fs.ErrPermission
// where that is the cause.
func readManifest(file string) (*manifest, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	var pod staticPod
	if err := yaml.Unmarshal(b, &pod); err != nil {
		// The parser may quote the file, over several lines.
		return nil, errors.New("it is not a readable pod manifest")
	}
	for _, c := range pod.Spec.Containers {
		flags := storageFlags(append(append([]string{}, c.Command...), c.Args...))
		if len(flags["--etcd-servers"]) == 0 {
			continue
		}
		m := &manifest{mounts: c.VolumeMounts, volumes: pod.Spec.Volumes}
		m.setFlags(flags)
		return m, nil
	}
	return nil, errors.New("it has no container with --etcd-servers")
}

func (m *manifest) setFlags(flags map[string][]string) {
	last := func(name string) string {
		v := flags[name]
		if len(v) == 0 {
			return ""
		}
		return v[len(v)-1]
	}
	m.servers = splitEndpoints(flags["--etcd-servers"])
	m.cafile, m.certfile, m.keyfile = last("--etcd-cafile"), last("--etcd-certfile"), last("--etcd-keyfile")
	m.prefix, m.encryption = last("--etcd-prefix"), last(encryptionFlag)
	for _, o := range splitEndpoints(flags["--etcd-servers-overrides"]) {
		resource, servers, _ := strings.Cut(o, "#")
		if resource != "/events" {
			m.otherOverrides = append(m.otherOverrides, resource)
			continue
		}
		for s := range strings.SplitSeq(servers, ";") {
			m.events = append(m.events, splitEndpoints([]string{s})...)
		}
	}
}

const encryptionFlag = "--encryption-provider-config"

// storageFlags collects --etcd-… flags and encryptionFlag from an argument
// list, "--flag=v" or "--flag", "v". Arguments that hold a shell command line
// are split too.
func storageFlags(args []string) map[string][]string {
	var words []string
	for _, a := range args {
		if strings.Contains(a, " --etcd-") {
			words = append(words, strings.Fields(a)...)
			continue
		}
		words = append(words, a)
	}
	flags := map[string][]string{}
	for i, w := range words {
		name, value, inline := strings.Cut(w, "=")
		if strings.HasPrefix(name, "-") && !strings.HasPrefix(name, "--") {
			name = "-" + name
		}
		if !strings.HasPrefix(name, "--etcd-") && name != encryptionFlag {
			continue
		}
		if !inline && i+1 < len(words) {
			value = words[i+1]
		}
		flags[name] = append(flags[name], strings.Trim(value, `"'`))
	}
	return flags
}

// hostPath maps a path inside the container to one on the host, through the
// deepest mount that holds it. A path that no mount holds is returned as it is:
// manifests written by hand often mount nothing and run on the host.
func (m *manifest) hostPath(inside string) (string, error) {
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
