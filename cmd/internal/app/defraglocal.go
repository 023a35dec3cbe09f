package app

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// walSegment is what etcd may take for its log while the file is copied (server/storage/wal: SegmentSizeBytes).
const walSegment = 64 << 20

// maxAhead is by how much a db file may be longer than the member says: it grows in pieces of 16 MiB (bbolt, AllocSize).
// Any other length is of another etcd, and the endpoint leads there through a tunnel.
const maxAhead = 64 << 20

// localDisk knows where the members that run on this node have their files.
type localDisk struct {
	root  string
	dirs  []string // data directories that somebody named, looked at first
	addrs []net.IP // of this node
	free  func(dir string) (int64, bool)
}

func newLocalDisk(root string, dataDirs ...string) *localDisk {
	l := &localDisk{root: root, free: freeSpace}
	for _, d := range dataDirs {
		if d != "" {
			l.dirs = append(l.dirs, d)
		}
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return l // then nothing is known to be local, and nothing is checked
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			l.addrs = append(l.addrs, n.IP)
		}
	}
	return l
}

// room refuses a member whose disk is here and has no place for the copy. etcd would notice that itself, and keep the old
// file, but only after the stop.
func (l *localDisk) room(step etcdmembers.DefragStep) error {
	dir := l.dir(step.Member)
	if dir == "" {
		return nil
	}
	free, ok := l.free(dir)
	if need := step.Room() + step.Room()/10 + walSegment; ok && free < need {
		return fmt.Errorf("%s has no room for the copy: it takes up to %s beside the old file, and %s has %s free",
			step.Member.Label(), term.Bytes(need), dir, term.Bytes(free))
	}
	return nil
}

// dir is where the db file of the member lies; "" if it is not known to lie on this node.
func (l *localDisk) dir(m etcdmembers.Member) string {
	if !l.here(m) {
		return ""
	}
	dirs := slices.Concat(l.dirs, etcdData())
	if pod := readEtcdPod(l.root); pod != nil {
		if pod.name != "" && m.Name != "" && pod.name != m.Name {
			return "" // an address of this node leads to another member
		}
		dirs = append([]string{pod.dataDir}, dirs...)
	}
	for _, d := range dirs {
		for _, below := range []string{"snap", "member/snap"} {
			dir := filepath.Join(l.root, d, below)
			info, err := os.Stat(filepath.Join(dir, "db"))
			if err == nil && info.Mode().IsRegular() && info.Size() >= m.DBSize && info.Size() <= m.DBSize+maxAhead {
				return dir
			}
		}
	}
	return ""
}

// here says that the member answers at an address of this node.
func (l *localDisk) here(m etcdmembers.Member) bool {
	u, err := url.Parse(m.Endpoint)
	if err != nil {
		return false
	}
	if u.Hostname() == "localhost" {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return ip != nil && (ip.IsLoopback() || slices.ContainsFunc(l.addrs, ip.Equal))
}
