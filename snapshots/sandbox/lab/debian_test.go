//go:build servers

package lab

import (
	"os/exec"
	"strings"
	"testing"
)

// TestDebianEtcd gets Debian's etcd, which needs the network.
func TestDebianEtcd(t *testing.T) {
	path, err := Server(t.Context(), DebianEtcd)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, "--version").Output()
	if err != nil || !strings.HasPrefix(string(out), "etcd Version: 3.") {
		t.Errorf("it says %q, %v", out, err)
	}
}
