package app

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

// freeSpace tells how many bytes an ordinary user may still write in dir.
func freeSpace(dir string) (int64, bool) {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return 0, false
	}
	return int64(fs.Bavail) * int64(fs.Bsize), true
}

// etcdData are the data directories that distributions give a local etcd.
func etcdData() []string {
	return []string{
		"/var/lib/etcd/member", "/var/lib/etcd", "/var/lib/minikube/etcd",
		"/var/lib/rancher/k3s/server/db/etcd", "/var/lib/rancher/rke2/server/db/etcd", "/var/lib/k0s/etcd",
	}
}

// sharedEtcdDevice returns the data directory of a local etcd that lies on
// the same device as dir, "" if there is none.
func sharedEtcdDevice(root, dir string) string {
	var here unix.Stat_t
	if unix.Stat(dir, &here) != nil {
		return ""
	}
	for _, data := range etcdData() {
		var there unix.Stat_t
		if unix.Stat(filepath.Join(root, data), &there) == nil && there.Dev == here.Dev {
			return data
		}
	}
	return ""
}
