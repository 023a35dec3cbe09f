package app

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

func TestArchiveOnEtcdsOwnDiskIsWarnedOf(t *testing.T) {
	t.Parallel()
	root, dir := t.TempDir(), t.TempDir()
	if got := sharedEtcdDevice(root, dir); got != "" {
		t.Errorf("without a local etcd: %q", got)
	}
	if err := os.MkdirAll(filepath.Join(root, "var/lib/etcd/member"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := sharedEtcdDevice(root, dir); got != "/var/lib/etcd/member" {
		t.Errorf("on the same device: %q", got)
	}
	if got := sharedEtcdDevice(root, "/proc"); got != "" {
		t.Errorf("on another device: %q", got)
	}
	pv := &preview{
		operation: operationDelete, sum: &plan.Summary{Steps: 1, Bytes: 1000}, now: time.Now(),
		archive: dir, free: 10, shared: "/var/lib/etcd/member",
	}
	var out bytes.Buffer
	pv.write(&out, 80)
	for _, want := range []string{"share the disk of etcd's own data", "that is more than is free there: nothing would be changed"} {
		if text := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(text, want) {
			t.Errorf("the preview does not say %q:\n%s", want, out.String())
		}
	}
}

func TestFreeSpaceIsNotGuessed(t *testing.T) {
	t.Parallel()
	if free, ok := freeSpace(t.TempDir()); !ok || free <= 0 {
		t.Errorf("freeSpace of a folder: %d, %v", free, ok)
	}
	if _, ok := freeSpace(filepath.Join(t.TempDir(), "absent")); ok {
		t.Error("freeSpace of what is not there was told")
	}
}
