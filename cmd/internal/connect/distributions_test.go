package connect

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	defaultWant = "/registry/"
	manifests   = "/etc/kubernetes/manifests/"
)

// serverArgv is what kubeadm and those who follow it tell kube-apiserver.
func serverArgv(servers, ca, cert, key string, more ...string) []string {
	return append([]string{"kube-apiserver", "--advertise-address=10.0.0.1", "--etcd-cafile=" + ca, "--etcd-certfile=" + cert,
		"--etcd-keyfile=" + key, "--etcd-servers=" + servers}, more...)
}

// kubeadmNode is a stacked control plane: "kubeadm init" with a quota.
func kubeadmNode(n *node) {
	n.kubeadm()
	for _, name := range []string{"server", "peer", "healthcheck-client"} {
		p := n.ca.issue(n.t, name, nil)
		n.copy("/etc/kubernetes/pki/etcd/"+name+".crt", p.cert)
		n.copy("/etc/kubernetes/pki/etcd/"+name+".key", p.key)
	}
	n.write(manifestPath, kubeadmManifest)
	n.kubeadmEtcd("/etc/kubernetes/pki/etcd")
}

func (n *node) kubeadmEtcd(pki string) {
	n.pod(manifests+"etcd.yaml", []string{"etcd", "--advertise-client-urls=https://10.0.0.1:2379", "--cert-file=" + pki + "/server.crt",
		"--client-cert-auth=true", "--data-dir=/var/lib/etcd", "--key-file=" + pki + "/server.key",
		"--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379", "--listen-metrics-urls=http://127.0.0.1:2381",
		"--listen-peer-urls=https://10.0.0.1:2380", "--name=cp-1", "--peer-cert-file=" + pki + "/peer.crt",
		"--peer-trusted-ca-file=" + pki + "/ca.crt", "--quota-backend-bytes=8589934592", "--trusted-ca-file=" + pki + "/ca.crt"},
		"/var/lib/etcd:/var/lib/etcd", pki+":"+pki)
}

// distribution is one tree and what it must lead to.
type distribution struct {
	name  string
	setup func(n *node)
	want  facts
}

func TestDistributions(t *testing.T) {
	t.Parallel()
	for _, d := range slices.Concat(kubeadmDistributions(), rancherDistributions(), otherDistributions(), kineDistributions()) {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			d.setup(n)
			// Users are given beside whatever the node shows.
			n.env = map[string]string{"ETCDCTL_USER": "root", "ETCDCTL_PASSWORD": "s3cret"}
			got, err := Resolve(Settings{}, n.Node())
			if err != nil {
				t.Fatal(err)
			}
			if got.User != "root" || got.Password != "s3cret" || strings.Contains(got.Why, "s3cret") {
				t.Errorf("user %q, password %q, why %q", got.User, got.Password, got.Why)
			}
			want := d.want
			want.Prefix = or(want.Prefix, defaultWant)
			const user = `; user "root" from ETCDCTL_USER`
			if !strings.Contains(got.Why, user) {
				t.Errorf("why %q does not name the user", got.Why)
			}
			got.Why = strings.Replace(got.Why, user, "", 1)
			if diff := cmp.Diff(want, factsOf(n, got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func kubeadmDistributions() []distribution {
	const pki = "ROOT/etc/kubernetes/pki/"
	etcdFacts := facts{
		Endpoints: []string{"https://127.0.0.1:2379"}, CACert: "ROOT" + kubeadmCA, Cert: "ROOT" + kubeadmCert, Key: "ROOT" + kubeadmKey,
		Quota: 8 << 30, QuotaFrom: "ROOT" + manifests + "etcd.yaml", DataDir: "ROOT/var/lib/etcd", Metrics: []string{"http://127.0.0.1:2381"},
		Why:  "etcd https://127.0.0.1:2379 (from ROOT/etc/kubernetes/manifests/kube-apiserver.yaml)",
		Used: "static pod of kube-apiserver", Others: []string{"static pod of etcd", "kubeadm's certificates"}, NotUsedBecause: "static pod of kube-apiserver comes first",
		ExtraCertificatesOf: []string{pki + "etcd/healthcheck-client.crt", pki + "etcd/peer.crt", pki + "etcd/server.crt"},
	}
	kind := etcdFacts
	kind.Others = []string{"running kube-apiserver", "static pod of etcd", "running etcd", "kubeadm's certificates"}
	moved := etcdFacts
	moved.Cert, moved.Key = pki+"etcd/healthcheck-client.crt", pki+"etcd/healthcheck-client.key"
	moved.Why, moved.Used, moved.Others = "etcd https://127.0.0.1:2379 (from ROOT/etc/kubernetes/manifests/etcd.yaml)", "static pod of etcd", []string{"kubeadm's certificates"}
	moved.NotUsedBecause = "static pod of etcd comes first"
	moved.ExtraCertificatesOf = []string{pki + "apiserver-etcd-client.crt", pki + "etcd/peer.crt", pki + "etcd/server.crt"}
	return []distribution{
		{"kubeadm", kubeadmNode, etcdFacts},
		{"kind, in its container", func(n *node) {
			kubeadmNode(n)
			n.process(500, 0, serverArgv("https://127.0.0.1:2379", kubeadmCA, kubeadmCert, kubeadmKey), nil, "mnt")
			n.process(400, 0, []string{"etcd", "--listen-client-urls=https://127.0.0.1:2379,https://172.18.0.2:2379", "--data-dir=/var/lib/etcd",
				"--cert-file=" + "/etc/kubernetes/pki/etcd/server.crt", "--key-file=/etc/kubernetes/pki/etcd/server.key", "--trusted-ca-file=" + kubeadmCA}, nil)
		}, kind},
		{"kubeadm, apiserver's manifest moved away", func(n *node) {
			kubeadmNode(n)
			if err := os.Remove(filepath.Join(n.root, manifestPath)); err != nil {
				n.t.Fatal(err)
			}
		}, moved},
		{"minikube", func(n *node) {
			const certs = "/var/lib/minikube/certs"
			n.pki(certs+"/etcd/ca.crt", certs+"/apiserver-etcd-client.crt", certs+"/apiserver-etcd-client.key")
			p := n.ca.issue(n.t, "minikube", nil)
			n.copy(certs+"/etcd/server.crt", p.cert)
			n.copy(certs+"/etcd/server.key", p.key)
			n.pod(manifestPath, serverArgv("https://127.0.0.1:2379", certs+"/etcd/ca.crt", certs+"/apiserver-etcd-client.crt", certs+"/apiserver-etcd-client.key"), certs+":"+certs)
		}, facts{
			Endpoints: []string{"https://127.0.0.1:2379"}, CACert: "ROOT/var/lib/minikube/certs/etcd/ca.crt",
			Cert: "ROOT/var/lib/minikube/certs/apiserver-etcd-client.crt", Key: "ROOT/var/lib/minikube/certs/apiserver-etcd-client.key",
			Why:  "etcd https://127.0.0.1:2379 (from ROOT/etc/kubernetes/manifests/kube-apiserver.yaml)",
			Used: "static pod of kube-apiserver", Others: []string{"minikube's certificates"}, NotUsedBecause: "static pod of kube-apiserver comes first",
			ExtraCertificatesOf: []string{"ROOT/var/lib/minikube/certs/etcd/server.crt"},
		}},
		{"kubespray", func(n *node) {
			const ssl = "/etc/ssl/etcd/ssl"
			n.pki(ssl+"/ca.pem", ssl+"/admin-cp-1.pem", ssl+"/admin-cp-1-key.pem")
			for _, name := range []string{"member-cp-1", "node-cp-1"} {
				p := n.ca.issue(n.t, name, nil)
				n.copy(ssl+"/"+name+".pem", p.cert)
				n.copy(ssl+"/"+name+"-key.pem", p.key)
			}
			n.write("/etc/etcd.env", "# Environment file for etcd 3.5.21\nETCD_DATA_DIR=/var/lib/etcd\nETCD_ADVERTISE_CLIENT_URLS=https://10.0.0.1:2379\nETCD_METRICS=basic\n"+
				"ETCD_LISTEN_CLIENT_URLS=https://10.0.0.1:2379,https://127.0.0.1:2379\nETCD_LISTEN_PEER_URLS=https://10.0.0.1:2380\nETCD_NAME=etcd1\nETCD_QUOTA_BACKEND_BYTES=4294967296\n"+
				"\n# TLS settings\nETCD_TRUSTED_CA_FILE="+ssl+"/ca.pem\nETCD_CERT_FILE="+ssl+"/member-cp-1.pem\nETCD_KEY_FILE="+ssl+"/member-cp-1-key.pem\nETCD_CLIENT_CERT_AUTH=true\n")
			n.write("/etc/etcd-events.env", "ETCD_LISTEN_CLIENT_URLS=https://10.0.0.1:2383,https://127.0.0.1:2383\nETCD_NAME=etcd1-events\n")
		}, facts{
			Endpoints: []string{"https://127.0.0.1:2379"}, Events: []string{"https://127.0.0.1:2383"},
			CACert: "ROOT/etc/ssl/etcd/ssl/ca.pem", Cert: "ROOT/etc/ssl/etcd/ssl/admin-cp-1.pem", Key: "ROOT/etc/ssl/etcd/ssl/admin-cp-1-key.pem",
			Quota: 4 << 30, QuotaFrom: "ROOT/etc/ssl/etcd/ssl", DataDir: "ROOT/var/lib/etcd",
			Why:  "etcd https://127.0.0.1:2379 (from kubespray's certificates in ROOT/etc/ssl/etcd/ssl; events in https://127.0.0.1:2383)",
			Used: "kubespray's certificates", ExtraCertificatesOf: []string{"ROOT/etc/ssl/etcd/ssl/member-cp-1.pem"},
		}},
	}
}

func rancherDistributions() []distribution {
	var out []distribution
	for _, where := range [][2]string{{"k3s", "/var/lib/rancher/k3s"}, {"rke2", "/var/lib/rancher/rke2"}, {"k3s", "/srv/k3s"}, {"rke2", "/data/rke2"}} {
		name, dir := where[0], where[1]
		server := dir + "/server"
		tls := server + "/tls/etcd"
		base := facts{
			Endpoints: []string{"https://127.0.0.1:2379"}, CACert: "ROOT" + tls + "/server-ca.crt", Cert: "ROOT" + tls + "/client.crt", Key: "ROOT" + tls + "/client.key",
			Encryption: "ROOT" + server + "/cred/encryption-config.json", DataDir: "ROOT" + server + "/db/etcd", Metrics: []string{"http://127.0.0.1:2381"},
			Why:  "etcd https://127.0.0.1:2379 (from " + name + "'s certificates in ROOT" + tls + ")",
			Used: name + "'s certificates", ExtraCertificatesOf: []string{"ROOT" + tls + "/peer-ca.crt", "ROOT" + tls + "/peer-server-client.crt", "ROOT" + tls + "/server-client.crt"},
		}
		setup := func(n *node) {
			if !strings.HasPrefix(dir, "/var/lib") {
				n.write("/etc/rancher/"+name+"/config.yaml", "cluster-init: true\ndata-dir: "+dir+"/\n")
			}
			n.pki(tls+"/server-ca.crt", tls+"/client.crt", tls+"/client.key")
			n.pki(tls+"/peer-ca.crt", tls+"/server-client.crt", tls+"/server-client.key")
			n.pki(tls+"/peer-ca.crt", tls+"/peer-server-client.crt", tls+"/peer-server-client.key")
			n.write(server+"/cred/encryption-config.json", "{}")
			n.write(server+"/db/etcd/config", "client-transport-security:\n  cert-file: "+tls+"/server-client.crt\n  client-cert-auth: true\n  key-file: "+tls+"/server-client.key\n"+
				"  trusted-ca-file: "+tls+"/server-ca.crt\ndata-dir: "+server+"/db/etcd\nlisten-client-http-urls: https://127.0.0.1:2382\n"+
				"listen-client-urls: https://127.0.0.1:2379,https://10.0.0.1:2379\nlisten-metrics-urls: http://127.0.0.1:2381\nname: cp-1-933c287a\n"+
				"peer-transport-security:\n  cert-file: "+tls+"/peer-server-client.crt\n  trusted-ca-file: "+tls+"/peer-ca.crt\n")
		}
		out = append(out, distribution{name + " in " + dir, setup, base}, distribution{name + " in " + dir + ", once with a database", func(n *node) {
			setup(n)
			n.write(server+"/kine.sock", "")
		}, base})
		if name == "rke2" {
			running := base
			pods := dir + "/agent/pod-manifests/"
			running.Why = "etcd https://127.0.0.1:2379 (from ROOT" + pods + "kube-apiserver.yaml)"
			running.Used, running.Others = "static pod of kube-apiserver", []string{"static pod of etcd", "rke2's certificates"}
			running.NotUsedBecause = "static pod of kube-apiserver comes first"
			out = append(out, distribution{"rke2 in " + dir + ", its static pods", func(n *node) {
				setup(n)
				n.pod(pods+"kube-apiserver.yaml", serverArgv("https://127.0.0.1:2379", tls+"/server-ca.crt", tls+"/client.crt", tls+"/client.key",
					"--encryption-provider-config="+server+"/cred/encryption-config.json"),
					server+"/cred:"+server+"/cred", tls+"/client.crt:"+tls+"/client.crt")
				n.pod(pods+"etcd.yaml", []string{"etcd", "--config-file=" + server + "/db/etcd/config"}, server+"/db/etcd:"+server+"/db/etcd")
			}, running})
		}
	}
	return append(out, distribution{"RKE1", func(n *node) {
		n.pki("/etc/kubernetes/ssl/kube-ca.pem", "/etc/kubernetes/ssl/kube-etcd-10-0-0-1.pem", "/etc/kubernetes/ssl/kube-etcd-10-0-0-1-key.pem")
	}, facts{
		Endpoints: []string{"https://127.0.0.1:2379"}, CACert: "ROOT/etc/kubernetes/ssl/kube-ca.pem",
		Cert: "ROOT/etc/kubernetes/ssl/kube-etcd-10-0-0-1.pem", Key: "ROOT/etc/kubernetes/ssl/kube-etcd-10-0-0-1-key.pem",
		Why: "etcd https://127.0.0.1:2379 (from RKE's certificates in ROOT/etc/kubernetes/ssl)", Used: "RKE's certificates",
	}}, distribution{"RKE1, running in Docker", func(n *node) {
		n.process(4242, 0, serverArgv("https://10.0.0.1:2379,https://10.0.0.2:2379", "/etc/kubernetes/ssl/kube-ca.pem", "/etc/kubernetes/ssl/kube-node.pem", "/etc/kubernetes/ssl/kube-node-key.pem",
			"--etcd-prefix=/registry"), nil, "mnt")
		n.pki("/proc/4242/root/etc/kubernetes/ssl/kube-ca.pem", "/proc/4242/root/etc/kubernetes/ssl/kube-node.pem", "/proc/4242/root/etc/kubernetes/ssl/kube-node-key.pem")
	}, facts{
		Endpoints: []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379"}, CACert: "ROOT/proc/4242/root/etc/kubernetes/ssl/kube-ca.pem",
		Cert: "ROOT/proc/4242/root/etc/kubernetes/ssl/kube-node.pem", Key: "ROOT/proc/4242/root/etc/kubernetes/ssl/kube-node-key.pem",
		Why: "etcd https://10.0.0.1:2379,https://10.0.0.2:2379 (from process 4242 (kube-apiserver))", Used: "running kube-apiserver",
	}})
}

func otherDistributions() []distribution {
	const (
		kopsPKI = "/etc/kubernetes/pki/kube-apiserver"
		ocp     = "/etc/kubernetes/static-pod-resources"
		certs   = ocp + "/etcd-certs"
		hyper   = "/etc/etcd/tls"
		k0s     = "/var/lib/k0s/pki"
	)
	kopsFiles := func(n *node) {
		n.pki(kopsPKI+"/etcd-ca.crt", kopsPKI+"/etcd-client.crt", kopsPKI+"/etcd-client.key")
		n.write("/etc/kubernetes/pki/etcd-manager-main/etcd-clients-ca.crt", "x")
		n.write("/etc/kubernetes/pki/etcd-manager-events/etcd-clients-ca.crt", "x")
	}
	kops := facts{
		Endpoints: []string{"https://127.0.0.1:4001"}, Events: []string{"https://127.0.0.1:4002"},
		CACert: "ROOT" + kopsPKI + "/etcd-ca.crt", Cert: "ROOT" + kopsPKI + "/etcd-client.crt", Key: "ROOT" + kopsPKI + "/etcd-client.key",
		Why:  "etcd https://127.0.0.1:4001 (from kops's certificates in ROOT" + kopsPKI + "; events in https://127.0.0.1:4002)",
		Used: "kops's certificates",
	}
	running := kops
	running.Why = "etcd https://127.0.0.1:4001 (from ROOT/etc/kubernetes/manifests/kube-apiserver.manifest; events in https://127.0.0.1:4002)"
	running.Used, running.Others = "static pod of kube-apiserver", []string{"static pod of etcd-manager", "static pod of etcd-manager", "running etcd", "running etcd", "kops's certificates"}
	running.NotUsedBecause = "it names no endpoints of the main etcd"
	running.Quota, running.QuotaFrom, running.DataDir = 6<<30, "process 702 (etcd)", "ROOT/mnt/master-vol-0/data/token"
	managed := kops
	managed.Why = "etcd https://127.0.0.1:4001 (from ROOT/etc/kubernetes/manifests/etcd-manager-main.manifest; TLS files from kops's certificates in ROOT" + kopsPKI +
		"; events in https://127.0.0.1:4002; TLS files of ROOT/etc/kubernetes/manifests/etcd-manager-main.manifest not used: it names no certificate to sign in with)"
	managed.Used, managed.Others = "static pod of etcd-manager", []string{"static pod of etcd-manager", "kops's certificates"}
	managed.NotUsedBecause = "it names no endpoints of the main etcd"
	manager := func(n *node, name, cluster string, port, more string) {
		n.pod(manifests+name, []string{"/bin/sh", "-c", "mkfifo /tmp/pipe; (tee -a /var/log/etcd.log < /tmp/pipe & ) ; exec /etcd-manager --backup-store=memfs://x/backups/etcd/main " +
			"--client-urls=https://__name__:" + port + " --cluster-name=" + cluster + " --containerized=true --peer-urls=https://__name__:2380" + more + " > /tmp/pipe 2>&1"},
			"/rootfs:/", "/etc/kubernetes/pki/etcd-manager:/etc/kubernetes/pki/etcd-manager-main")
	}
	return []distribution{
		{"kops, its files", kopsFiles, kops},
		{"kops, apiserver's manifest moved away", func(n *node) {
			kopsFiles(n)
			manager(n, "etcd-manager-events.manifest", "etcd-events", "4002", "")
			manager(n, "etcd-manager-main.manifest", "etcd", "4001", "")
		}, managed},
		{"kops", func(n *node) {
			kopsFiles(n)
			n.pod(manifests+"kube-apiserver.manifest", []string{"/go-runner", "--log-file=/var/log/kube-apiserver.log", "/usr/local/bin/kube-apiserver",
				"--etcd-cafile=" + kopsPKI + "/etcd-ca.crt", "--etcd-certfile=" + kopsPKI + "/etcd-client.crt", "--etcd-keyfile=" + kopsPKI + "/etcd-client.key",
				"--etcd-servers-overrides=/events#https://127.0.0.1:4002", "--etcd-servers=https://127.0.0.1:4001"}, kopsPKI+":"+kopsPKI)
			manager(n, "etcd-manager-events.manifest", "etcd-events", "4002", "")
			manager(n, "etcd-manager-main.manifest", "etcd", "4001", "")
			for i, port := range []string{"4002", "4001"} {
				name := []string{"etcd-events", "etcd"}[i]
				n.process(701+i, 0, []string{"/opt/etcd-v3.5.9/etcd"}, []string{"AWS_SECRET_ACCESS_KEY=hunter2", "ETCD_NAME=" + name + "-a", "ETCD_LISTEN_CLIENT_URLS=https://0.0.0.0:" + port,
					"ETCD_ADVERTISE_CLIENT_URLS=https://" + name + "-a.internal:" + port, "ETCD_DATA_DIR=/mnt/master-vol-" + fmt.Sprint(1-i) + "/data/token", "ETCD_QUOTA_BACKEND_BYTES=6442450944"})
			}
		}, running},
		{"OpenShift", func(n *node) {
			n.pki(ocp+"/kube-apiserver-pod-7/configmaps/etcd-serving-ca/ca-bundle.crt", ocp+"/kube-apiserver-pod-7/secrets/etcd-client/tls.crt", ocp+"/kube-apiserver-pod-7/secrets/etcd-client/tls.key")
			n.pki(certs+"/configmaps/etcd-all-bundles/server-ca-bundle.crt", certs+"/secrets/etcd-all-certs/etcd-peer-cp-0.crt", certs+"/secrets/etcd-all-certs/etcd-peer-cp-0.key")
			n.write(ocp+"/kube-apiserver-pod-7/configmaps/config/config.yaml", `{"apiServerArguments":{"etcd-cafile":["/etc/kubernetes/static-pod-resources/configmaps/etcd-serving-ca/ca-bundle.crt"],`+
				`"etcd-certfile":["/etc/kubernetes/static-pod-resources/secrets/etcd-client/tls.crt"],"etcd-keyfile":["/etc/kubernetes/static-pod-resources/secrets/etcd-client/tls.key"],`+
				`"etcd-prefix":["kubernetes.io"],"etcd-servers":["https://10.0.0.1:2379","https://localhost:2379"],"event-ttl":["3h"]},"kind":"KubeAPIServerConfig"}`)
			n.pod(manifests+"kube-apiserver-pod.yaml", []string{"/bin/bash", "-ec", "exec watch-termination --kubeconfig=/x -- hyperkube kube-apiserver --openshift-config=" + ocp + "/configmaps/config/config.yaml --advertise-address=${HOST_IP}"},
				ocp+":"+ocp+"/kube-apiserver-pod-7", "/etc/kubernetes/static-pod-certs:"+certs)
			n.pod(manifests+"etcd-pod.yaml", []string{"/bin/sh", "-c", "#!/bin/sh\nset -euo pipefail\nexec nice -n -19 ionice -c2 -n0 etcd \\\n  --logger=zap \\\n  --cert-file=/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-serving-cp-0.crt \\\n" +
				"  --trusted-ca-file=/etc/kubernetes/static-pod-certs/configmaps/etcd-all-bundles/server-ca-bundle.crt \\\n  --data-dir=/var/lib/etcd \\\n" +
				"  --advertise-client-urls=https://${NODE_cp_0_IP}:2379 \\\n  --listen-client-urls=https://0.0.0.0:2379,unixs://${NODE_cp_0_IP}:0 \\\n  --listen-metrics-urls=https://0.0.0.0:9978 ||  mv a b"},
				"/etc/kubernetes/static-pod-certs:"+certs, "/var/lib/etcd/:/var/lib/etcd")
		}, facts{
			Endpoints: []string{"https://10.0.0.1:2379", "https://localhost:2379"}, Prefix: "/kubernetes.io/",
			CACert: "ROOT" + ocp + "/kube-apiserver-pod-7/configmaps/etcd-serving-ca/ca-bundle.crt",
			Cert:   "ROOT" + ocp + "/kube-apiserver-pod-7/secrets/etcd-client/tls.crt", Key: "ROOT" + ocp + "/kube-apiserver-pod-7/secrets/etcd-client/tls.key",
			DataDir: "ROOT/var/lib/etcd", Metrics: []string{"https://127.0.0.1:9978"},
			Why:  "etcd https://10.0.0.1:2379,https://localhost:2379 (from ROOT/etc/kubernetes/manifests/kube-apiserver-pod.yaml; prefix /kubernetes.io/ from ROOT/etc/kubernetes/manifests/kube-apiserver-pod.yaml)",
			Used: "static pod of kube-apiserver", Others: []string{"static pod of etcd", "OpenShift's certificates"}, NotUsedBecause: "static pod of kube-apiserver comes first",
			ExtraCertificatesOf: []string{"ROOT" + certs + "/configmaps/etcd-all-bundles/server-ca-bundle.crt", "ROOT" + certs + "/secrets/etcd-all-certs/etcd-peer-cp-0.crt"},
		}},
		{"OpenShift, its files", func(n *node) {
			n.pki(certs+"/configmaps/etcd-serving-ca/ca-bundle.crt", certs+"/secrets/etcd-all-certs/etcd-peer-cp-1.crt", certs+"/secrets/etcd-all-certs/etcd-peer-cp-1.key")
			n.pki(certs+"/configmaps/etcd-serving-ca/ca-bundle.crt", certs+"/secrets/etcd-all-certs/etcd-serving-cp-1.crt", certs+"/secrets/etcd-all-certs/etcd-serving-cp-1.key")
		}, facts{
			Endpoints: []string{"https://localhost:2379"}, Prefix: "/kubernetes.io/", CACert: "ROOT" + certs + "/configmaps/etcd-serving-ca/ca-bundle.crt",
			Cert: "ROOT" + certs + "/secrets/etcd-all-certs/etcd-peer-cp-1.crt", Key: "ROOT" + certs + "/secrets/etcd-all-certs/etcd-peer-cp-1.key",
			Why:  "etcd https://localhost:2379 (from OpenShift's certificates in ROOT" + certs + "; prefix /kubernetes.io/ from ROOT" + certs + ")",
			Used: "OpenShift's certificates", ExtraCertificatesOf: []string{"ROOT" + certs + "/secrets/etcd-all-certs/etcd-serving-cp-1.crt"},
		}},
		{"HyperShift, in the pod of etcd", func(n *node) {
			n.pki(hyper+"/etcd-ca/ca.crt", hyper+"/client/etcd-client.crt", hyper+"/client/etcd-client.key")
		}, facts{
			Endpoints: []string{"https://localhost:2379"}, Prefix: "/kubernetes.io/", CACert: "ROOT" + hyper + "/etcd-ca/ca.crt",
			Cert: "ROOT" + hyper + "/client/etcd-client.crt", Key: "ROOT" + hyper + "/client/etcd-client.key",
			Why:  "etcd https://localhost:2379 (from HyperShift's certificates in ROOT" + hyper + "; prefix /kubernetes.io/ from ROOT" + hyper + ")",
			Used: "HyperShift's certificates",
		}},
		{"k0s", func(n *node) {
			n.pki(k0s+"/etcd/ca.crt", k0s+"/apiserver-etcd-client.crt", k0s+"/apiserver-etcd-client.key")
			n.process(77, 997, []string{"/var/lib/k0s/bin/kube-apiserver", "--etcd-servers=https://127.0.0.1:2379", "--etcd-cafile=" + k0s + "/etcd/ca.crt",
				"--etcd-certfile=" + k0s + "/apiserver-etcd-client.crt", "--etcd-keyfile=" + k0s + "/apiserver-etcd-client.key"}, nil)
		}, facts{
			Endpoints: []string{"https://127.0.0.1:2379"}, CACert: "ROOT" + k0s + "/etcd/ca.crt", Cert: "ROOT" + k0s + "/apiserver-etcd-client.crt", Key: "ROOT" + k0s + "/apiserver-etcd-client.key",
			Why: "etcd https://127.0.0.1:2379 (from process 77 (kube-apiserver))", Used: "running kube-apiserver", Others: []string{"k0s's certificates"},
			NotUsedBecause: "running kube-apiserver comes first",
		}},
		{"Talos", func(n *node) {
			n.pki("/system/secrets/etcd/ca.crt", "/system/secrets/etcd/admin.crt", "/system/secrets/etcd/admin.key")
		}, facts{
			Endpoints: []string{"http://127.0.0.1:2379"},
			Why:       "etcd http://127.0.0.1:2379 (a guess: no --endpoints, no ETCDCTL_ENDPOINTS, and nothing on this machine says where etcd is)",
			Others:    []string{"Talos"}, NotUsedBecause: "Talos has no shell: use talosctl etcd, or run etcd-rescue elsewhere with --endpoints and this folder's ca.crt, admin.crt and admin.key",
		}},
	}
}

func kineDistributions() []distribution {
	const snap = "/var/snap/microk8s/current"
	args := "--cert-dir=${SNAP_DATA}/certs\n# a comment\n--etcd-servers=\"unix://${SNAP_DATA}/var/kubernetes/backend/kine.sock:12379\"\n--event-ttl=5m\n"
	socket := "unix://ROOT" + snap + "/var/kubernetes/backend/kine.sock:12379"
	return []distribution{
		{"k3s with SQL", func(n *node) {
			// k3s makes etcd's certificates all the same.
			n.pki("/var/lib/rancher/k3s/server/tls/etcd/server-ca.crt", "/var/lib/rancher/k3s/server/tls/etcd/client.crt", "/var/lib/rancher/k3s/server/tls/etcd/client.key")
			n.write("/var/lib/rancher/k3s/server/kine.sock", "")
		}, facts{
			Endpoints: []string{"unix://ROOT/var/lib/rancher/k3s/server/kine.sock"}, Used: "k3s's kine",
			Why: "etcd unix://ROOT/var/lib/rancher/k3s/server/kine.sock (from k3s's kine at ROOT/var/lib/rancher/k3s/server/kine.sock)",
		}},
		{"k0s with SQL", func(n *node) { n.write("/run/k0s/kine/kine.sock:2379", "") }, facts{
			Endpoints: []string{"unix://ROOT/run/k0s/kine/kine.sock:2379"}, Used: "k0s's kine",
			Why: "etcd unix://ROOT/run/k0s/kine/kine.sock:2379 (from k0s's kine at ROOT/run/k0s/kine/kine.sock:2379)",
		}},
		{"microk8s", func(n *node) { n.write(snap+"/args/kube-apiserver", args) }, facts{
			Endpoints: []string{socket}, Used: "microk8s' arguments", Why: "etcd " + socket + " (from ROOT" + snap + "/args/kube-apiserver)",
		}},
		{"microk8s, running", func(n *node) {
			n.write("/var/snap/microk8s/8695/args/kube-apiserver", args)
			n.process(900, 0, []string{"/snap/microk8s/8695/kubelite", "--scheduler-args-file=/x", "--apiserver-args-file=/var/snap/microk8s/8695/args/kube-apiserver"}, nil)
		}, facts{
			Endpoints: []string{"unix://ROOT/var/snap/microk8s/8695/var/kubernetes/backend/kine.sock:12379"}, Used: "running kubelite",
			Why: "etcd unix://ROOT/var/snap/microk8s/8695/var/kubernetes/backend/kine.sock:12379 (from process 900 (kubelite))",
		}},
	}
}
