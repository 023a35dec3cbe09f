package connect

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestPipesDoNotBlock: what a process names as its files need not be files.
func TestPipesDoNotBlock(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.process(5, 0, serverArgv("https://10.0.0.9:2379", "/ca.crt", "/c.crt", "/c.key"), nil, "mnt")
	n.process(6, 0, []string{"etcd", "--config-file=/etcd.yml"}, nil, "mnt")
	for _, file := range []string{"/proc/5/root/ca.crt", "/proc/6/root/etcd.yml"} {
		n.write(file, "")
		if err := os.Remove(filepath.Join(n.root, file)); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(filepath.Join(n.root, file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := Resolve(Settings{}, n.Node())
	if err == nil || !strings.Contains(err.Error(), "is no regular file") {
		t.Errorf("got %v", err)
	}
	if len(found.Candidates) != 2 || !strings.Contains(found.Candidates[1].WhyNot, "is no regular file") {
		t.Errorf("candidates %+v", found.Candidates)
	}
}
