package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// DebianEtcd is the name for Server of the etcd that Debian packs as etcd-server, 3.4.23 in Debian 12. It is not built
// but downloaded by apt-get, which also checks its signature, so it takes Debian or a descendant, but no root: apt-get
// keeps its lists in a directory that goes away again.
const DebianEtcd = "etcd-debian"

// debian gets Debian's etcd.
func debian(ctx context.Context, to string) (err error) {
	dir, err := os.MkdirTemp("", "etcd-rescue-lab-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, lists := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, lists), 0o755); err != nil {
			return err
		}
	}
	// The sandbox of apt-get is a user who may not read what is private to us.
	own := []string{
		"-q", "-o", "Dir::State::lists=" + dir + "/lists", "-o", "Dir::Cache=" + dir,
		"-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User=",
	}
	if err := in(ctx, dir, "apt-get", append(own, "update")...); err != nil {
		return err
	}
	if err := in(ctx, dir, "apt-get", append(own, "download", "etcd-server")...); err != nil {
		return err
	}
	packages, err := filepath.Glob(filepath.Join(dir, "etcd-server_*.deb"))
	if err != nil || len(packages) != 1 {
		return errors.Join(fmt.Errorf("apt-get downloaded %d packages of etcd-server", len(packages)), err)
	}
	if err := in(ctx, dir, "dpkg-deb", "-x", packages[0], "files"); err != nil {
		return err
	}
	binary, err := os.ReadFile(filepath.Join(dir, "files", "usr", "bin", "etcd"))
	if err != nil {
		return err
	}
	return os.WriteFile(to, binary, 0o700)
}

// in runs a command in dir. What it says is part of the error.
func in(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", name, err), errors.New(string(out)))
	}
	return nil
}
