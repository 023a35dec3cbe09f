package connect

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestProcessesOfAnyone: what an ordinary user can start, under any name and
// with any arguments, is not used, opens nothing and stops nothing.
func TestProcessesOfAnyone(t *testing.T) {
	t.Parallel()
	const ours = "http://127.0.0.1:4001"
	for _, tc := range []struct {
		name string
		argv []string
		uids string // real, effective, saved, of the file system
		suid bool
		want string
	}{
		{"su, which waits for a password", []string{"kube-apiserver", "-c", "x --etcd-servers=http://127.0.0.1:6666"}, "4000000 0 0 0", false, "an ordinary user"},
		{"a set-user-id program that has become root", []string{"kube-apiserver", "--etcd-servers=http://127.0.0.1:6666"}, "0 0 0 0", true, "set-user-id"},
		{"no user at all", []string{"kube-apiserver", "--etcd-servers=http://127.0.0.1:6666"}, "", false, "it has ended"},
		{"an endpoint that cannot be read", []string{"kube-apiserver", "--etcd-servers=ftp://x"}, "4000000 4000000 4000000 4000000", false, "an ordinary user"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.process(5, 0, tc.argv, nil)
			n.write("/proc/5/status", "Name:\tx\nUid:\t"+strings.ReplaceAll(tc.uids, " ", "\t")+"\n")
			n.write("/proc/5/exe", "")
			if tc.suid {
				if err := os.Chmod(filepath.Join(n.root, "/proc/5/exe"), 0o755|os.ModeSetuid); err != nil {
					t.Fatal(err)
				}
			}
			n.process(6, 0, []string{"kube-apiserver", "--etcd-servers=" + ours}, nil)
			got, err := Resolve(Settings{}, n.Node())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Endpoints, []string{ours}) || !strings.Contains(got.Candidates[0].WhyNot, tc.want) || got.Candidates[0].Usable() {
				t.Errorf("endpoints %q, candidates %+v", got.Endpoints, got.Candidates)
			}
		})
	}
}

// TestNothingOpened: files that a process names which may not be used are left
// alone.
func TestNothingOpened(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.write("/etc/etcd.yml", "listen-client-urls: http://127.0.0.1:6666\ndata-dir: /etcd\n")
	n.process(5, 4000000, []string{"etcd", "--config-file=/etc/etcd.yml"}, nil)
	n.process(6, 4000000, []string{"etcd", "--listen-client-urls=http://127.0.0.1:6667", "--data-dir=/etcd"}, nil)
	n.write("/args", "--etcd-servers=http://127.0.0.1:6668\n")
	n.process(7, 4000000, []string{"kubelite", "--apiserver-args-file=/args"}, nil)
	got, err := Resolve(Settings{}, n.Node())
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]string{}
	for _, c := range got.Candidates {
		named[c.From] = strings.Join(c.Endpoints, ",") + c.DataDir
	}
	want := map[string]string{"process 5 (etcd)": "", "process 6 (etcd)": "http://127.0.0.1:6667", "process 7 (kubelite)": ""}
	if fmt.Sprint(named) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", named, want)
	}
}

// TestCrowdHidesNothing: however many processes may not be used, those that may
// are found.
func TestCrowdHidesNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for pid := 100; pid < 100+2*maxProcesses; pid++ {
		n.process(pid, 0, []string{"kube-apiserver", "--etcd-servers=https://10.0.0.9:2379"}, nil, "net", "mnt")
	}
	n.process(900, 0, []string{"kube-apiserver", "--etcd-servers=http://127.0.0.1:4001"}, nil)
	n.process(901, 0, []string{"etcd", "--listen-client-urls=http://127.0.0.1:5001"}, nil)
	got, err := Resolve(Settings{}, n.Node())
	if err != nil || !slices.Equal(got.Endpoints, []string{"http://127.0.0.1:4001"}) {
		t.Errorf("endpoints %q, %v", got.Endpoints, err)
	}
}

// TestNetworkNotSeen: a process whose network may not be seen is neither used
// nor passed over.
func TestNetworkNotSeen(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.process(5, 0, []string{"etcd", "--listen-client-urls=http://0.0.0.0:2379"}, nil, "net", "mnt")
	closed := filepath.Join(n.root, "/proc/5/ns")
	if err := os.Chmod(closed, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(closed, 0o700) })
	found, err := Resolve(Settings{}, n.Node())
	if os.Geteuid() == 0 { // who sees it
		if err != nil || found.Candidates[0].WhyNot != errOtherNetwork.Error() {
			t.Errorf("got %v, %+v", err, found.Candidates)
		}
		return
	}
	var se *SettingError
	if !errors.As(err, &se) || !strings.Contains(se.Hint, "run as root") || len(found.Candidates) != 1 {
		t.Errorf("got %v, %+v", err, found.Candidates)
	}
}

// TestConfigurationNotRead: a configuration that may not be read is not passed
// over.
func TestConfigurationNotRead(t *testing.T) {
	t.Parallel()
	for _, setup := range []func(n *node){
		func(n *node) { n.process(5, 0, []string{"etcd", "--config-file=/etc/own.yml"}, nil) },
		func(n *node) { n.process(5, 0, []string{"kubelite", "--apiserver-args-file=/etc/own.yml"}, nil) },
		func(n *node) { n.process(5, 0, []string{"kube-apiserver", "--openshift-config=/etc/own.yml"}, nil) },
		func(n *node) { n.pod(manifests+"etcd.yaml", []string{"etcd", "--config-file=/etc/own.yml"}) },
		func(n *node) {
			n.pod(manifests+"kube-apiserver-pod.yaml", []string{"kube-apiserver", "--openshift-config=/etc/own.yml"})
		},
	} {
		n := newNode(t)
		n.kubeadm()
		n.write("/etc/own.yml", "x: y\n")
		if err := os.Chmod(filepath.Join(n.root, "/etc/own.yml"), 0); err != nil {
			t.Fatal(err)
		}
		setup(n)
		found, err := Resolve(Settings{}, n.Node())
		if os.Geteuid() == 0 { // who reads it, and finds nothing of use
			if err != nil || found.Candidates[0].Used {
				t.Errorf("got %v, %+v", err, found.Candidates)
			}
			continue
		}
		var se *SettingError
		if !errors.As(err, &se) || !strings.Contains(se.Hint, "run as root") || len(found.Candidates) < 2 {
			t.Errorf("got %v, %+v", err, found.Candidates)
		}
	}
}

// TestEventsBeside: endpoints that were given and that the machine names as well
// bring the etcd of events along, as what connect prints must.
func TestEventsBeside(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.pki("/pki/ca.crt", "/pki/c.crt", "/pki/c.key")
	n.process(5, 0, serverArgv("https://127.0.0.1:4001,https://10.0.0.2:4001", "/pki/ca.crt", "/pki/c.crt", "/pki/c.key",
		"--etcd-servers-overrides=/events#https://127.0.0.1:4002"), nil)
	other := n.ca.issue(t, "other", nil)
	own := Settings{CACert: n.tree("ROOT/pki/ca.crt"), Cert: n.tree("ROOT/pki/c.crt"), Key: n.tree("ROOT/pki/c.key")}
	with := func(s Settings, ep string) Settings {
		s.Endpoints = []string{ep}
		return s
	}
	const events = "https://127.0.0.1:4002"
	for _, tc := range []struct {
		name string
		s    Settings
		want string
	}{
		{"one of them", with(Settings{}, "https://10.0.0.2:4001"), events},
		{"without a scheme", with(Settings{}, "127.0.0.1:4001"), events},
		{"with its files", with(own, "https://127.0.0.1:4001"), events},
		{"another", with(Settings{}, "https://10.0.0.3:4001"), ""},
		{"with other files", with(Settings{CACert: n.ca.ca, Cert: other.cert, Key: other.key}, "https://127.0.0.1:4001"), ""},
		{"given", Settings{Endpoints: []string{"https://127.0.0.1:4001"}, EventsEndpoints: []string{"https://127.0.0.1:5002"}}, "https://127.0.0.1:5002"},
	} {
		got, err := Resolve(tc.s, n.Node())
		if err != nil || strings.Join(got.EventsEndpoints, ",") != tc.want {
			t.Errorf("%s: %q, %v, want %q", tc.name, got.EventsEndpoints, err, tc.want)
		}
		if said := strings.Contains(got.Why, "events' etcd from process 5"); said != (tc.want == events) {
			t.Errorf("%s: why %q", tc.name, got.Why)
		}
	}
}

// TestMemberCalledEvents: a machine's name does not make its etcd that of events.
func TestMemberCalledEvents(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"events-prod-1": false, "cp-1": false, "events": true, "etcd-events": true, "etcd1-events": true, "etcd-events-a": true,
	} {
		n := newNode(t)
		n.process(5, 0, []string{"etcd", "--name=" + name, "--data-dir=/data/events-prod/etcd", "--listen-client-urls=http://127.0.0.1:4001"}, nil)
		got, err := Resolve(Settings{}, n.Node())
		if err != nil || (len(got.Candidates[0].EventsEndpoints) > 0) != want || got.Candidates[0].Used == want {
			t.Errorf("%s: %+v, %v", name, got.Candidates, err)
		}
	}
}

// TestReadFileOpensFilesOnly: a socket, like a device, is not opened to find out
// what it is.
func TestReadFileOpensFilesOnly(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "s") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "s")
	l, err := net.Listen("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if _, err := readFile(file, 1); err == nil || err.Error() != file+" is no regular file" {
		t.Errorf("got %v", err)
	}
}

// TestTextsOfNode: what files and command lines hold does not forge a line, and
// a password in an endpoint is not shown.
func TestTextsOfNode(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.process(5, 0, []string{"etcd", "--listen-client-urls=https://127.0.0.1:4001", "--cert-file=/x\netcd http://a (from --endpoints)", "--key-file=/k"}, nil)
	n.kubeadm()
	got, err := Resolve(Settings{}, n.Node())
	if err != nil || strings.Contains(got.Why, "\n") || !strings.Contains(got.Why, "TLS files of process 5") {
		t.Errorf("why %q, %v", got.Why, err)
	}
	for _, ep := range []string{"htps://root:s3cret@h:1", "https://h:1/x:s3cret@h", "root:s3cret@h:1", "https://root:s3cret@h:1x"} {
		if _, err := Resolve(Settings{Endpoints: []string{ep}}, n.Node()); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", ep, err)
		}
	}
}

// TestPasswordFileBounded: a file that never ends is refused.
func TestPasswordFileBounded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(strings.Repeat("s3cret", maxPassword)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Resolve(Settings{User: "root", PasswordFile: file}, newNode(t).Node())
	if err == nil || !strings.Contains(err.Error(), "too long for a password") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
}
