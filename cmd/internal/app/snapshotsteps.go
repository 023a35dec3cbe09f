package app

import (
	"fmt"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"sigs.k8s.io/yaml"
)

// restoreStep is one thing for the operator to do.
type restoreStep struct {
	Text     string
	Commands []string
}

// notes are what is particular to this restore.
func (r *restoring) notes() []string {
	res := r.result
	var notes []string
	if !res.HashChecked {
		notes = append(notes, "the file's bytes were not checked against a sum, for which "+map[bool]string{true: "--" + flagSkipHash + " asked", false: "it has none"}[res.HasHash]+"; its pages and entries are sound")
	}
	if v := res.EtcdVersion; v != "" {
		notes = append(notes, "etcd "+v+" wrote it: start that release on it, or a newer one")
	}
	if len(res.Alarms) > 0 {
		notes = append(notes, fmt.Sprintf("the snapshot brings along the alarm %s, as it was when it was taken: etcd-rescue disarm, once etcd runs", joinWords(res.Alarms)))
	}
	if r.kubernetes && !r.opt.MarkCompacted {
		notes = append(notes, "revisions are taken back. Restart everything that has ever watched this cluster, on every node, before anything is written")
	}
	if len(res.Members) > 1 {
		notes = append(notes, "the other members need data directories from the same file, with the same values; a member with others makes the cluster's stores differ")
	}
	return notes
}

// steps are in the order of https://kubernetes.io/docs/tasks/administer-cluster/configure-upgrade-etcd/: every API server
// is stopped first, and all that watches is restarted last.
func (r *restoring) steps() []restoreStep {
	stop := []string{}
	if r.node != nil {
		stop = append([]string{"mkdir " + stoppedDir}, r.moves(manifestDir, stoppedDir, "kube-controller-manager", "kube-scheduler", "kube-apiserver", "etcd")...)
	}
	steps := []restoreStep{{
		"Stop every kube-apiserver of the cluster, its kube-controller-managers and kube-schedulers, and then every etcd. Static pods stop when their manifests are moved away; wait until crictl ps shows none of them.",
		stop,
	}}
	if others := r.others(); len(others) > 0 {
		steps = append(steps, restoreStep{"Restore the same file for each other member, on its node:", others})
	}
	steps = append(steps,
		restoreStep{"Put the new directory in the place of the old one, which is kept until all is well. Or point etcd's --data-dir, and the volume of its manifest, to the new one. " + r.place(), r.swap()},
		restoreStep{"Start etcd on all members. " + r.healthy(), append(r.moves(stoppedDir, manifestDir, "etcd"),
			"etcdctl endpoint health --cluster", "etcdctl endpoint status --cluster -w table", fmt.Sprintf("etcdctl endpoint hashkv --cluster --rev %d", r.result.Revision), "etcdctl alarm list")},
		restoreStep{"Start the API servers.", r.moves(stoppedDir, manifestDir, "kube-apiserver")},
		restoreStep{"Start kube-controller-manager and kube-scheduler again, and restart the kubelet of every node, workers too: what they remember is of the time that was taken back.",
			append(r.moves(stoppedDir, manifestDir, "kube-controller-manager", "kube-scheduler"), "systemctl restart kubelet")},
	)
	if r.opt.MarkCompacted {
		return append(steps, restoreStep{Text: "Everything else that watches, such as kube-proxy, networks and operators, lists anew by itself, since all that it remembers is compacted. What does not look right after some minutes, restart."})
	}
	return append(steps, restoreStep{Text: "Restart everything else that watches: kube-proxy, networks, operators, all of it. Nothing tells them that revisions were taken back."})
}

// Where kubelet looks for static pods, and where the steps put them meanwhile.
const (
	manifestDir = "/etc/kubernetes/manifests"
	stoppedDir  = "/etc/kubernetes/stopped"
)

// moves are the commands that stop or start static pods, if this node has them.
func (r *restoring) moves(from, to string, pods ...string) []string {
	if r.node == nil {
		return nil
	}
	var commands []string
	for _, pod := range pods {
		commands = append(commands, fmt.Sprintf("mv %s/%s.yaml %s/", from, pod, to))
	}
	return commands
}

// healthy says what must be so before anything writes.
func (r *restoring) healthy() string {
	if len(r.result.Members) > 1 {
		return fmt.Sprintf("All must be healthy, with one leader, one cluster id, the hash %d at revision %d:", r.result.HashKV.Hash, r.result.Revision)
	}
	return fmt.Sprintf("It must be healthy, with the hash %d at revision %d:", r.result.HashKV.Hash, r.result.Revision)
}

// others are the commands for the members that this is not.
func (r *restoring) others() []string {
	var all, commands []string
	for _, m := range r.result.Members {
		for _, u := range m.PeerURLs {
			all = append(all, m.Name+"="+u)
		}
	}
	for _, m := range r.result.Members {
		if m.Name != r.result.Name {
			commands = append(commands, fmt.Sprintf("etcd-rescue snapshot restore %s --data-dir %s --name %s --initial-cluster %s%s",
				quoteWord(r.inv.args[0]), quoteWord(r.result.DataDir), quoteWord(m.Name), quoteWord(strings.Join(all, ",")), r.words()))
		}
	}
	return commands
}

// usualPlace is where kubeadm, and most packages, have etcd's data.
const usualPlace = "/var/lib/etcd"

func (r *restoring) place() string {
	if r.node != nil {
		return fmt.Sprintf("This node's etcd has %s, as %s says:", r.node.dataDir, r.node.path)
	}
	return "If etcd has " + usualPlace + ":"
}

// swap are the commands that put the new directory in place.
func (r *restoring) swap() []string {
	made, place := r.result.DataDir, usualPlace
	if r.node != nil {
		place = r.node.dataDir
	}
	var commands []string
	if made != place {
		// Without -T a directory that is still there, such as a mount point that did not move, would take in the new one,
		// and etcd would start on what it has.
		commands = []string{fmt.Sprintf("mv -T %s %s", quoteWord(place), quoteWord(place+".before-restore")), fmt.Sprintf("mv -T %s %s", quoteWord(made), quoteWord(place))}
	}
	if who := otherOwner(os.Geteuid(), filepath.Join(r.inv.Root, place), filepath.Dir(made)); who != "" {
		commands = append(commands, fmt.Sprintf("chown -R %s %s", who, quoteWord(place)))
	}
	return commands
}

// otherOwner names who owns the first of these paths that exists, as chown takes it; "" if we do, or none does. etcd often
// runs as a user of its own.
func otherOwner(euid int, paths ...string) string {
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			continue
		}
		s, ok := st.Sys().(*syscall.Stat_t)
		if !ok || int(s.Uid) == euid {
			return ""
		}
		owner, group := strconv.Itoa(int(s.Uid)), strconv.Itoa(int(s.Gid))
		if u, err := user.LookupId(owner); err == nil {
			owner = u.Username
		}
		if g, err := user.LookupGroupId(group); err == nil {
			group = g.Name
		}
		return quoteWord(owner + ":" + group)
	}
	return ""
}

// etcdPod is what the manifest of this node's static etcd says.
type etcdPod struct {
	path           string // of the manifest
	name, peerURLs string
	dataDir        string // on the node
}

// readEtcdPod returns nil where there is no such manifest, or none that can be read: it only helps to say things.
func readEtcdPod(root string) *etcdPod {
	at := manifestDir + "/etcd.yaml"
	b, err := os.ReadFile(filepath.Join(root, at))
	if err != nil {
		return nil
	}
	var pod struct {
		Spec struct {
			Containers []struct {
				Command, Args []string
				VolumeMounts  []struct{ Name, MountPath string }
			}
			Volumes []struct {
				Name     string
				HostPath struct{ Path string }
			}
		}
	}
	if yaml.Unmarshal(b, &pod) != nil {
		return nil
	}
	for _, c := range pod.Spec.Containers {
		flags := map[string]string{}
		for _, word := range append(append([]string{}, c.Command...), c.Args...) {
			if name, value, ok := strings.Cut(word, "="); ok {
				flags[strings.TrimLeft(name, "-")] = value
			}
		}
		inside := flags["data-dir"]
		if inside == "" {
			continue
		}
		p := &etcdPod{path: at, name: flags["name"], peerURLs: flags["initial-advertise-peer-urls"], dataDir: inside}
		for _, m := range c.VolumeMounts {
			rest, below := strings.CutPrefix(path.Clean(inside)+"/", path.Clean(m.MountPath)+"/")
			for _, v := range pod.Spec.Volumes {
				if below && v.Name == m.Name && v.HostPath.Path != "" {
					p.dataDir = path.Join(v.HostPath.Path, rest)
				}
			}
		}
		return p
	}
	return nil
}
