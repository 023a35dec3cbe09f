package connect

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxArguments bounds how much of a command line or an environment is read.
	maxArguments = 256 << 10
	// maxProcesses is how many processes of one kind are looked at, and of those
	// that may not be used as many again: they must not hide the others.
	maxProcesses = 16
	// ordinaryUsers is the first user id of people: system users, as which
	// kubeadm and k0s run things without root, are below it (login.defs).
	ordinaryUsers = 1000
)

var (
	errOtherNetwork = errors.New("it runs in another network namespace, where its addresses mean other machines: run etcd-rescue there (docker exec, kubectl exec, or nsenter -t PID -n), or give --endpoints")
	errOrdinaryUser = errors.New("it belongs to an ordinary user of this machine, who could name any etcd")
	errAnyUser      = errors.New("its program is set-user-id: any user of this machine could have started it, and name any etcd")
	errEnded        = errors.New("it has ended meanwhile")
)

// process is one running program, looked at through /proc.
type process struct {
	pid  int
	dir  string // below Root
	argv []string
	// unfit says why nothing that it names may be used, or even be opened.
	unfit error
}

// processes lists what runs and is of interest, by id. What ends meanwhile, or
// may not be looked at, is left out.
func (l *lookout) processes() []process {
	entries, err := os.ReadDir(l.path("/proc"))
	if err != nil {
		return nil
	}
	var out []process
	count := map[string]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid <= 0 {
			continue
		}
		p := process{pid: pid, dir: l.path("/proc/" + e.Name())}
		p.argv = nulSeparated(filepath.Join(p.dir, "cmdline"))
		kind := p.kind()
		if kind == "" {
			continue
		}
		if p.unfit = l.unfit(p); p.unfit != nil {
			kind += ", unfit"
		}
		if count[kind] < maxProcesses {
			count[kind]++
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b process) int { return a.pid - b.pid })
	return out
}

// nulSeparated reads a command line or an environment, as far as it may be.
func nulSeparated(file string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, maxArguments))
	if len(b) == 0 {
		return nil
	}
	return strings.Split(string(bytes.TrimRight(b, "\x00")), "\x00")
}

// The kinds of processes.
const (
	kubeAPIServer = "kube-apiserver"
	kubelite      = "kubelite" // microk8s: all of Kubernetes in one, with its flags in files
	etcdServer    = "etcd"
)

// kind is what the process is, "" if it is of no interest.
func (p process) kind() string {
	if len(p.argv) == 0 {
		return ""
	}
	name := path.Base(p.argv[0])
	if name == "hyperkube" && len(p.argv) > 1 && (p.argv[1] == kubeAPIServer || p.argv[1] == "apiserver") {
		return kubeAPIServer
	}
	if name == etcdServer && slices.Contains(p.argv, "grpc-proxy") {
		return ""
	}
	if slices.Contains([]string{kubeAPIServer, kubelite, etcdServer}, name) {
		return name
	}
	return ""
}

// candidate is one for the process, with what speaks against using it.
func (l *lookout) processCandidate(p process, r rank) *Candidate {
	c := &Candidate{Name: "running " + p.kind(), From: fmt.Sprintf("process %d (%s)", p.pid, p.kind()), rank: r}
	if errors.Is(p.unfit, fs.ErrPermission) {
		c.fatal = true
		return c.fail(&SettingError{Setting: c.From, Err: p.unfit, Hint: "run as root, or give --endpoints"})
	}
	if p.unfit != nil {
		c.fail(p.unfit)
	}
	return c
}

// unfit says why a process is not to be believed, nil if it is.
func (l *lookout) unfit(p process) error {
	if err := p.startedByAnyone(); err != nil {
		return err
	}
	switch shared, err := l.shares(p, "net"); {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("whether it runs in this network namespace may not be seen: %w", fs.ErrPermission)
	case err != nil:
		return errEnded
	case !shared:
		return errOtherNetwork
	}
	return nil
}

// startedByAnyone looks at all of its user ids and at the program: whoever
// starts a set-user-id program, su for one, names it and its arguments as he
// likes, and the effective id is then root's.
func (p process) startedByAnyone() error {
	ids := p.users()
	if len(ids) == 0 {
		return errEnded
	}
	if slices.ContainsFunc(ids, func(uid int) bool { return uid >= ordinaryUsers && uid != os.Geteuid() }) {
		return errOrdinaryUser
	}
	if info, err := os.Stat(filepath.Join(p.dir, "exe")); err == nil && info.Mode()&os.ModeSetuid != 0 {
		return errAnyUser
	}
	return nil
}

// users are its user ids: real, effective, saved, and that of the file system.
func (p process) users() []int {
	b, err := readFile(filepath.Join(p.dir, "status"), maxArguments)
	if err != nil {
		return nil
	}
	var out []int
	for line := range strings.Lines(string(b)) {
		ids, ok := strings.CutPrefix(line, "Uid:")
		if !ok {
			continue
		}
		for _, id := range strings.Fields(ids) {
			uid, err := strconv.Atoi(id)
			if err != nil {
				return nil
			}
			out = append(out, uid)
		}
		break
	}
	return out
}

// shares says that the process lives in a namespace of ours. A machine without
// namespaces has one of each.
func (l *lookout) shares(p process, namespace string) (bool, error) {
	ours, err := os.Readlink(l.path("/proc/self/ns/" + namespace))
	if err != nil {
		return true, nil
	}
	theirs, err := os.Readlink(filepath.Join(p.dir, "ns", namespace))
	return ours == theirs, err
}

// on maps paths of the process: those of a container lead through its root.
func (l *lookout) onProcess(p process) pathOn {
	same, _ := l.shares(p, "mnt")
	return func(inside string) (string, error) {
		switch {
		case !path.IsAbs(inside):
			return filepath.Join(p.dir, "cwd", inside), nil
		case same:
			return l.path(inside), nil
		}
		return filepath.Join(p.dir, "root", inside), nil
	}
}

// serverProcesses looks at the command lines of kube-apiservers that run.
func (l *lookout) serverProcesses(all []process) []*Candidate {
	var out []*Candidate
	for _, p := range all {
		flags := parseFlags(p.argv[1:])
		if p.kind() != kubeAPIServer && (p.kind() != kubelite || !flags.has("apiserver-args-file")) {
			continue
		}
		c := l.processCandidate(p, rankServerProcess)
		if c.err != nil {
			// Nothing that it names is opened.
			if eps, err := parseEndpoints(c.From, splitEndpoints(flags["etcd-servers"])); err == nil {
				c.Endpoints = eps
			}
		} else if err := l.fillServer(c, p, flags); err != nil {
			c.fatal = c.fatal || errors.Is(err, fs.ErrPermission)
			c.fail(err)
		}
		out = append(out, c)
	}
	return out
}

func (l *lookout) fillServer(c *Candidate, p process, flags flagValues) error {
	var err error
	host := l.onProcess(p)
	config := flags.last("openshift-config")
	switch {
	case p.kind() == kubelite:
		args := flags.last("apiserver-args-file")
		file, _ := host(args)
		flags, err = argsFile(file, snapData(args))
	case config != "" && !flags.has("etcd-servers"):
		err = openshiftFlags(config, host, flags)
	}
	if err != nil {
		return err
	}
	if !flags.has("etcd-servers") {
		return errors.New("its command line has no --etcd-servers")
	}
	c.setServer(flags, host)
	l.processPermission(c)
	return nil
}

// processPermission makes of keys that may not be read an advice to be root.
func (l *lookout) processPermission(c *Candidate) {
	if c.err == nil && errors.Is(c.tlsErr, fs.ErrPermission) {
		c.tlsErr = &SettingError{Setting: c.From, Err: c.tlsErr, Hint: fileHint(c.tlsErr)}
	}
}

// etcdProcesses looks at the command lines and environments of etcds that run.
func (l *lookout) etcdProcesses(all []process) []*Candidate {
	var out []*Candidate
	for _, p := range all {
		if p.kind() != etcdServer {
			continue
		}
		c := l.processCandidate(p, rankEtcdProcess)
		flags := parseFlags(p.argv[1:])
		if c.err != nil {
			// Nothing that it names is opened.
			if ep := nearestURL(etcdURLs(flags["listen-client-urls"])); ep != "" {
				c.Endpoints = []string{ep}
			}
			out = append(out, c)
			continue
		}
		env := etcdEnv(nulSeparated(filepath.Join(p.dir, "environ")))
		own, err := etcdSettings(flags, env, l.onProcess(p))
		switch {
		case err != nil:
			c.fatal = errors.Is(err, fs.ErrPermission)
			c.fail(err)
		case !own.has("listen-client-urls"):
			c.fail(errors.New("neither its command line nor its environment say where it listens"))
		default:
			c.setEtcd(own, l.onProcess(p))
			l.processPermission(c)
		}
		out = append(out, c)
	}
	return out
}

// snapData is the directory of a snap's data that a file of arguments lies in.
func snapData(args string) string { return path.Dir(path.Dir(args)) }

// argsFile reads a file of arguments as microk8s keeps them: one on a line,
// with variables of the snap.
func argsFile(file, data string) (flagValues, error) {
	b, err := readFile(file, maxManifest)
	if err != nil {
		return nil, err
	}
	text := strings.NewReplacer("${SNAP_DATA}", data, "$SNAP_DATA", data).Replace(string(b))
	var args []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "-") {
			args = append(args, line)
		}
	}
	return parseFlags(args), nil
}
