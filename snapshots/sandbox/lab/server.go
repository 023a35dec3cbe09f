package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Server returns the path of a real server, or of a client that comes with one: "etcd-3.6", "kine",
// "etcd-3.6/etcdctl" and so on are directories below testdata/servers. It is built on first use, for which the Go
// module proxy is needed. The working directory must lie in this module, as that of its tests does. DebianEtcd is none
// of these directories.
func Server(ctx context.Context, name string) (string, error) {
	if name == DebianEtcd {
		path, err := cached("servers", name)
		if err != nil {
			return "", err
		}
		return path, once(path, func(part string) error { return debian(ctx, part) })
	}
	module, command, _ := strings.Cut(name, "/")
	return built(ctx, name, filepath.Join("servers", module), "./"+command)
}

// Kubernetes returns the path of a real program of Kubernetes, "kube-apiserver", "kube-controller-manager" or
// "kubectl", of the release that testdata/controlplane names. It is built as Server builds, in some minutes.
func Kubernetes(ctx context.Context, program string) (string, error) {
	return built(ctx, program, "controlplane", "k8s.io/kubernetes/cmd/"+program)
}

// built returns the program that a package of a module below testdata is, under a name of its own in the cache.
func built(ctx context.Context, name, module, pkg string) (string, error) {
	gomod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	dir := filepath.Join(filepath.Dir(strings.TrimSpace(string(gomod))), "testdata", module)
	sum, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		return "", fmt.Errorf("there is no server %q: %w", name, err)
	}
	sources, _ := filepath.Glob(filepath.Join(dir, "*.go")) // of the servers that need a main of their own
	for _, path := range sources {
		source, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		sum = append(sum, source...)
	}
	hash := sha256.Sum256(append(sum, runtime.Version()...))
	path, err := cached("servers", fmt.Sprintf("%s-%x", strings.ReplaceAll(name, "/", "-"), hash[:8]))
	if err != nil {
		return "", err
	}
	return path, once(path, func(part string) error { return build(ctx, dir, pkg, part) })
}

func build(ctx context.Context, dir, pkg, to string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-C", dir, "-buildvcs=false", "-o", to, pkg)
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("build %s: %w", dir, err), errors.New(string(out)))
	}
	return nil
}
