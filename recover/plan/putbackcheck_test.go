package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// warningCase is a file that is put back, the store, and what is said of it.
type warningCase struct {
	name    string
	file    []kept
	now     []kept
	sel     filter.Selection // the zero one: everything
	prepare func(*PutBackRequest)
	want    []PutWarning // nil: none
	said    []string     // of the first step; nil: what PutWarning says
	blocked []Blocked
}

const (
	aPod = "pods/a/p"
	// aUID is the UID that owners have which were made again.
	aUID = "another"
)

func meta(more fields) fields { return fields{"metadata": more} }

// space is the Namespace of all these objects.
func space() kept { return keep("namespaces/a", "v1 Namespace") }

func aConfigMap(more ...fields) kept { return keep("configmaps/a/m", "v1 ConfigMap", more...) }

func deployment(name string) kept { return keep("deployments/a/"+name, "apps/v1 Deployment") }

const ofWeb, ofDB = "apps/v1 Deployment deployments/a/web", "apps/v1 Deployment deployments/a/db"

func warned(reason, first, detail string) []PutWarning {
	return []PutWarning{{Reason: reason, Count: 1, First: first, Detail: detail}}
}

func ownerCases() []warningCase {
	m := selects("configmaps", "a", "m")
	foreground := meta(fields{"deletionTimestamp": "2026-11-22T15:00:00Z", "finalizers": []string{"foregroundDeletion"}})
	background := meta(fields{"deletionTimestamp": "2026-11-22T15:00:00Z", "finalizers": []string{"example.com/wait"}})
	encryptedOwner := deployment("web")
	encryptedOwner.raw = "k8s:enc:aescbc:v1:key1:xxxx"
	const first = "configmap a/m"
	return []warningCase{
		{name: "owner there", file: []kept{aConfigMap().by(ofWeb)}, now: []kept{space(), deployment("web")}},
		{name: "owner planned", file: []kept{aConfigMap().by(ofWeb), deployment("web")}, now: []kept{space()}},
		{name: "owner in the file", file: []kept{aConfigMap().by(ofWeb), deployment("web")}, now: []kept{space()}, sel: m,
			want: warned(ownerInFile, first, "deployment/web"), said: []string{"no owner of it exists, but the file holds one (--with-owners): deployment/web"}},
		{name: "owner nowhere", file: []kept{aConfigMap().by(ofWeb)}, now: []kept{space()}, want: warned(noOwner, first, "deployment/web")},
		{name: "owner taken along is blocked", file: []kept{aConfigMap().by("coordination.k8s.io/v1 Lease leases/a/l"), keep("leases/a/l", "coordination.k8s.io/v1 Lease")},
			now: []kept{space()}, prepare: func(r *PutBackRequest) { r.WithOwners = true },
			want: warned(noOwner, first, "lease.coordination.k8s.io/l"), blocked: []Blocked{{Reason: "a Lease says who leads, or lives, at the moment; whoever does makes it again", Count: 1}}},
		{name: "owner made again", file: []kept{aConfigMap().by(ofWeb)}, now: []kept{space(), deployment("web").as(aUID)}, want: warned(ownerAgain, first, "deployment/web")},
		{name: "owner in another namespace", file: []kept{aConfigMap().by(ofWeb)}, now: []kept{space(), keep("deployments/b/web", "apps/v1 Deployment")}, want: warned(noOwner, first, "deployment/web")},
		{name: "owner of no namespace", file: []kept{aConfigMap().by("v1 Node minions/n")}, now: []kept{space(), keep("minions/n", "v1 Node")}},
		{name: "owner going in the foreground", file: []kept{aConfigMap().by(ofWeb)}, now: []kept{space(), keep("deployments/a/web", "apps/v1 Deployment", foreground)},
			want: warned(ownerLeaving, first, "deployment/web")},
		{name: "owner going alone", file: []kept{aConfigMap().by(ofWeb)}, now: []kept{space(), keep("deployments/a/web", "apps/v1 Deployment", background)}},
		{name: "one of two owners gone", file: []kept{aConfigMap().by(ofWeb, ofDB)}, now: []kept{space(), deployment("db")}, want: warned(someOwner, first, "deployment/web")},
		{name: "both gone", file: []kept{aConfigMap().by(ofWeb, ofDB)}, now: []kept{space()}, want: warned(noOwner, first, "deployment/web")},
		{name: "owner of an unknown kind", file: []kept{aConfigMap().by("strange.example.com/v1 Thing things/a/t")}, now: []kept{space()},
			want: warned(unknownOwner, first, "thing.strange.example.com/t")},
		{name: "owner that cannot be read", file: []kept{aConfigMap().by(ofWeb)}, now: []kept{space(), encryptedOwner}, want: warned(unknownOwner, first, "deployment/web")},
		{name: "namespaced owner of a cluster-scoped object", file: []kept{keep("clusterroles/r", "rbac.authorization.k8s.io/v1 ClusterRole").by(ofWeb)},
			want: warned(wrongOwner, "clusterrole r", "deployment/web")},
		{name: "claim before its owner", file: []kept{keep("persistentvolumeclaims/a/c", "v1 PersistentVolumeClaim").by(ofWeb), deployment("web")}, now: []kept{space()},
			want: warned(lateOwner, "persistentvolumeclaim a/c", "deployment/web")},
	}
}

func placeCases() []warningCase {
	going := keep("namespaces/a", "v1 Namespace", meta(fields{"deletionTimestamp": "2026-11-22T15:00:00Z"}))
	w := keep("example.com/ws/a/w", "example.com/v1 W")
	selectW := selects("ws.example.com", "a", "w")
	goingCRD := crd("ws", "v1")
	goingCRD.more = merged(goingCRD.more, meta(fields{"deletionTimestamp": "2026-11-22T15:00:00Z"}))
	migrated := crd("ws", "v1", "v2")
	migrated.more = merged(migrated.more, fields{"status": fields{"storedVersions": []string{"v2"}}})
	old := crd("ws")
	old.more = merged(old.more, fields{"spec": fields{"version": "v1"}})
	encrypted := crd("ws", "v1")
	encrypted.raw = "k8s:enc:aescbc:v1:key1:xxxx"
	const first = "w.example.com a/w"
	return []warningCase{
		{name: "namespace there", file: []kept{aConfigMap()}, now: []kept{space()}},
		{name: "namespace planned", file: []kept{aConfigMap(), space()}},
		{name: "namespace in the file", file: []kept{aConfigMap(), space()}, sel: selects("configmaps", "a", "m"),
			want: warned(noNamespace, "configmap a/m", "put-back namespaces a")},
		{name: "namespace nowhere", file: []kept{aConfigMap()}, want: warned(noNamespace, "configmap a/m", "namespace a, which the file does not hold either")},
		{name: "namespace going", file: []kept{aConfigMap()}, now: []kept{going}, want: warned(namespaceLeaving, "configmap a/m", "namespace a")},
		{name: "namespace replaced", file: []kept{aConfigMap(), space()}, now: []kept{going}, prepare: func(r *PutBackRequest) { r.Replace = true }},
		{name: "namespace that was going", file: []kept{aConfigMap(), going}, want: []PutWarning{
			{Reason: namespaceLeaving, Count: 1, First: "configmap a/m", Detail: "namespace a"}, {Reason: leaving, Count: 1, First: "namespace a"},
		}},
		{name: "namespace made again", file: []kept{aConfigMap(), space()}, now: []kept{space().as(aUID)}, sel: selects("configmaps", "a", "m"),
			want: warned(namespaceAgain, "configmap a/m", "namespace a")},

		{name: "definition there", file: []kept{crd("ws", "v1"), w}, now: []kept{space(), crd("ws", "v2", "v1")}, sel: selectW},
		{name: "definition planned", file: []kept{crd("ws", "v1"), w}, now: []kept{space()}},
		{name: "definition missing", file: []kept{crd("ws", "v1"), w}, now: []kept{space()}, sel: selectW,
			want: warned(noDefinition, first, "put-back customresourcedefinitions ws.example.com")},
		{name: "definition of v1beta1", file: []kept{crd("ws", "v1"), w}, now: []kept{space(), old}, sel: selectW},
		{name: "definition going", file: []kept{crd("ws", "v1"), w}, now: []kept{space(), goingCRD}, sel: selectW, want: warned(definitionLeaving, first, "ws.example.com")},
		{name: "version unknown", file: []kept{crd("ws", "v1"), w}, now: []kept{space(), crd("ws", "v2")}, sel: selectW, want: warned(otherVersion, first, "v1")},
		{name: "version not stored", file: []kept{crd("ws", "v1"), w}, now: []kept{space(), migrated}, sel: selectW, want: warned(notStored, first, "v1")},
		{name: "definition that cannot be read", file: []kept{crd("ws", "v1"), w}, now: []kept{space(), encrypted}, sel: selectW, want: warned(definitionUnread, first, "ws.example.com")},
	}
}

func claimed(uid, policy string) kept {
	spec := fields{"persistentVolumeReclaimPolicy": policy}
	if uid != "" {
		spec["claimRef"] = fields{"kind": "PersistentVolumeClaim", "namespace": "a", "name": "c", "uid": uid}
	}
	return keep("persistentvolumes/v", "v1 PersistentVolume", fields{"spec": spec})
}

func volumeCases() []warningCase {
	claim := keep("persistentvolumeclaims/a/c", "v1 PersistentVolumeClaim", fields{"spec": fields{"volumeName": "v"}})
	free := keep("persistentvolumeclaims/a/c", "v1 PersistentVolumeClaim")
	own := uidOf(claim.key)
	const first = "persistentvolumeclaim a/c"
	destroyed := Blocked{Reason: "data loss: the claim of the volume is missing, so that it is reclaimed at once and destroyed (reclaim policy Delete)", Allow: "--unsafe-kind persistentvolumes", Count: 1}
	unsafe := func(r *PutBackRequest) { r.Overrides.Kinds = []string{"persistentvolumes"} }
	return []warningCase{
		{name: "claim with its volume", file: []kept{claim}, now: []kept{space(), claimed(own, "Delete")}},
		{name: "claim of no volume", file: []kept{free}, now: []kept{space()}},
		{name: "claim of a free volume", file: []kept{claim}, now: []kept{space(), claimed("", "Delete")}},
		{name: "claim of a volume that waits for it", file: []kept{claim}, now: []kept{space(), keep("persistentvolumes/v", "v1 PersistentVolume", fields{"spec": fields{"claimRef": fields{"name": "c", "namespace": "a"}}})}},
		{name: "claim and volume", file: []kept{claim, claimed(own, "Delete")}, now: []kept{space()}},
		{name: "claim without its volume", file: []kept{claim}, now: []kept{space()}, want: warned(noVolume, first, "persistentvolume v")},
		{name: "claim of a volume that has another", file: []kept{claim}, now: []kept{space(), claimed(aUID, "Retain")}, want: warned(volumeTaken, first, "persistentvolume v")},

		{name: "free volume", file: []kept{claimed("", "Delete")}},
		{name: "volume whose claim is there", file: []kept{claimed(own, "Delete")}, now: []kept{space(), claim}},
		{name: "volume whose claim is missing", file: []kept{claimed(own, "Delete")}, blocked: []Blocked{destroyed}},
		{name: "volume whose claim was made again", file: []kept{claimed(own, "Delete")}, now: []kept{space(), free.as(aUID)}, blocked: []Blocked{destroyed}},
		{name: "volume whose claim is blocked", file: []kept{claimed(own, "Delete"), {thing: claim.thing, raw: "x"}}, now: []kept{space()}, blocked: []Blocked{
			{Reason: "API servers could not decode the value, and could not list its resource any more", Count: 1}, destroyed,
		}},
		{name: "volume that is let pass", file: []kept{claimed(own, "Delete")}, prepare: unsafe,
			want: warned(destroyed.Reason, "persistentvolume v", "")},
		{name: "volume that is wiped", file: []kept{claimed(own, "Recycle")}, blocked: []Blocked{{
			Reason: "data loss: the claim of the volume is missing, so that it is reclaimed at once and wiped (reclaim policy Recycle)", Allow: destroyed.Allow, Count: 1}}},
		{name: "volume that stays", file: []kept{claimed(own, "Retain")},
			want: warned("the claim of the volume is missing: it becomes Released, and its data stays (reclaim policy Retain)", "persistentvolume v", "")},
		{name: "volume of an unknown policy", file: []kept{claimed(own, "")}, blocked: []Blocked{{
			Reason: "data loss cannot be ruled out: the claim of the volume is missing, and the reclaim policy cannot be read", Allow: destroyed.Allow, Count: 1}}},
	}
}

func otherCases() []warningCase {
	secret := keep("secrets/a/s", "v1 Secret")
	secret.raw = "k8s:enc:aescbc:v1:key1:xxxx"
	token := keep("secrets/a/t", "v1 Secret", fields{"type": "kubernetes.io/service-account-token"},
		meta(fields{"annotations": fields{"kubernetes.io/service-account.name": "s", "kubernetes.io/service-account.uid": uidOf(prefix + "serviceaccounts/a/s")}}))
	account := keep("serviceaccounts/a/s", "v1 ServiceAccount")
	service := func(name, ip string, port int) kept {
		return keep("services/specs/a/"+name, "v1 Service", fields{"spec": fields{
			"clusterIP": ip, "clusterIPs": []string{ip}, "ports": []fields{{"port": 80, "nodePort": port, "protocol": "TCP"}}}})
	}
	pod := func(phase string) kept {
		return keep(aPod, "v1 Pod", fields{"spec": fields{"nodeName": "n"}, "status": fields{"phase": phase}})
	}
	node := keep("minions/n", "v1 Node")
	deleted := meta(fields{"deletionTimestamp": "2026-11-22T15:00:00Z"})
	replace := func(r *PutBackRequest) { r.Replace = true }
	systemMap := keep("configmaps/kube-system/m", "v1 ConfigMap", fields{"data": fields{"k": "then"}})
	return []warningCase{
		{name: "encrypted, not checked", file: []kept{secret}, now: []kept{space()}, want: warned(unchecked, "secret a/s", "aescbc:v1:key1")},
		{name: "encrypted by an unknown key", file: []kept{secret}, now: []kept{space()}, prepare: func(r *PutBackRequest) { r.Reader.Decrypter = keys{} },
			want: warned(unreadable, "secret a/s", "aescbc:v1:key1")},
		{name: "encrypted by a known key", file: []kept{secret}, now: []kept{space()},
			prepare: func(r *PutBackRequest) {
				r.Reader.Decrypter = keys{"aescbc:v1:key1": string(keep("secrets/a/s", "v1 Secret").value())}
			}},

		{name: "in the clear, which is not read", file: []kept{keep("secrets/a/s", "v1 Secret")}, now: []kept{space()},
			prepare: func(r *PutBackRequest) { r.Reader.Decrypter = strictKeys{} }, want: warned(inTheClear, "secret a/s", "")},
		{name: "in the clear, which is read", file: []kept{aConfigMap()}, now: []kept{space()},
			prepare: func(r *PutBackRequest) { r.Reader.Decrypter = strictKeys{} }},

		{name: "token of an account", file: []kept{token}, now: []kept{space(), account}},
		{name: "token and account", file: []kept{account, token}, now: []kept{space()}},
		{name: "token without its account", file: []kept{account, token}, now: []kept{space()}, sel: selects("secrets", "a", "t"), want: warned(noAccount, "secret a/t", "serviceaccount s")},
		{name: "token of an account made again", file: []kept{token}, now: []kept{space(), account.as(aUID)}, want: warned(noAccount, "secret a/t", "serviceaccount s")},

		{name: "service", file: []kept{service("x", "10.0.0.1", 30001)}, now: []kept{space(), service("y", "10.0.0.2", 30002)}},
		{name: "cluster IP taken", file: []kept{service("x", "10.0.0.1", 30001)}, now: []kept{space(), service("y", "10.0.0.1", 30002)}, want: warned(addressTaken, "service a/x", "10.0.0.1 of service a/y")},
		{name: "node port taken", file: []kept{service("x", "10.0.0.1", 30001)}, now: []kept{space(), service("y", "10.0.0.2", 30001)},
			want: warned(addressTaken, "service a/x", "node port 30001/TCP of service a/y")},
		{name: "its own cluster IP", file: []kept{service("x", "10.0.0.1", 30001)}, now: []kept{space(), service("x", "10.0.0.1", 30002)}, prepare: replace},
		{name: "headless", file: []kept{service("x", "None", 0)}, now: []kept{space(), service("y", "None", 0)}},

		{name: "pod of a node", file: []kept{pod("Running")}, now: []kept{space(), node}},
		{name: "pod and node", file: []kept{pod("Running"), node}, now: []kept{space()}},
		{name: "pod of a node that is gone", file: []kept{pod("Running")}, now: []kept{space()}, want: warned(noNode, "pod a/p", "node n")},
		{name: "pod of a controller that lives", file: []kept{pod("Running").by(ofWeb)}, now: []kept{space(), node, deployment("web")}, want: warned(twin, "pod a/p", "deployment/web")},
		{name: "finished pod of a controller that lives", file: []kept{pod("Failed").by(ofWeb)}, now: []kept{space(), node, deployment("web")}},
		{name: "pod that is there", file: []kept{pod("Running").by(ofWeb)}, now: []kept{space(), node, deployment("web"), pod("Pending").by(ofWeb)}, prepare: replace},
		{name: "pod of a controller that comes too", file: []kept{pod("Running").by(ofWeb), deployment("web")}, now: []kept{space(), node}},

		{name: "being deleted", file: []kept{aConfigMap(deleted)}, now: []kept{space()}, want: warned(leaving, "configmap a/m", "")},
		{name: "replaced", file: []kept{aConfigMap()}, now: []kept{space(), aConfigMap(fields{"data": fields{"k": "now"}})}, prepare: replace},
		{name: "another one is replaced", file: []kept{aConfigMap()}, now: []kept{space(), aConfigMap().as(aUID)}, prepare: replace, want: warned(otherObject, "configmap a/m", "")},
		{name: "missing in kube-system", file: []kept{systemMap}, now: []kept{system()}},
		{name: "replaced in kube-system", file: []kept{systemMap}, now: []kept{system(), keep("configmaps/kube-system/m", "v1 ConfigMap")}, prepare: replace,
			want: warned(systemObject, "configmap kube-system/m", "")},
		{name: "kube-system itself", file: []kept{keep("namespaces/kube-system", "v1 Namespace", meta(fields{"labels": fields{"a": "b"}}))}, now: []kept{system()}, prepare: replace,
			want: warned(systemObject, "namespace kube-system", "")},
	}
}

// keys decrypts by provider.
type keys map[string]string

func (k keys) Decrypt(_ context.Context, _ *codec.Resource, _ string, value []byte) ([]byte, error) {
	plain, ok := k[codec.ProviderOf(value)]
	if !ok {
		return nil, errors.New("no such key")
	}
	return []byte(plain), nil
}

// strictKeys reads no Secret that is in the clear.
type strictKeys struct{ keys }

func (strictKeys) ReadsClear(r *codec.Resource) bool { return r.String() != "secrets" }

// TestEachWarning: what is said of one object, of it alone, and that there is
// no warning which is never given.
func TestEachWarning(t *testing.T) {
	t.Parallel()
	given := map[string]bool{}
	for _, tt := range slices.Concat(ownerCases(), placeCases(), volumeCases(), otherCases()) {
		for _, w := range tt.want {
			given[w.Reason] = true
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.check(t)
		})
	}
	for _, reason := range putWarnings() {
		if !given[reason] {
			t.Errorf("no test for %q", reason)
		}
	}
}

func (tt warningCase) check(t *testing.T) {
	f, now := stored(t, nil, tt.file...), stored(t, nil, tt.now...)
	sel := tt.sel
	if !sel.Narrow() {
		sel = everything()
	}
	req := putRequest(t, f, keyspace.FromFile(f), keyspace.FromFile(now), sel)
	if tt.prepare != nil {
		tt.prepare(&req)
	}
	sum, lines := putsBack(t, req)
	if diff := cmp.Diff(tt.want, sum.PutWarnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(tt.blocked, sum.Blocked); diff != "" || sum.Warned != nil {
		t.Errorf("warned %v, blocked (-want +got):\n%s", sum.Warned, diff)
	}
	said := 0
	for _, l := range lines {
		said += len(l.Step.Warnings)
		if tt.said != nil && len(l.Step.Warnings) > 0 && !slices.Equal(l.Step.Warnings, tt.said) {
			t.Errorf("the step says %q, want %q", l.Step.Warnings, tt.said)
		}
	}
	if said != len(tt.want) {
		t.Errorf("the steps say %d warnings, want %d", said, len(tt.want))
	}
	if len(lines) == 0 && tt.blocked == nil {
		t.Error("nothing was planned")
	}
}

// TestNeverPutBack: what belongs to others, or would do harm; Overrides do not
// reach it, and the rest is put back.
func TestNeverPutBack(t *testing.T) {
	t.Parallel()
	outside := keep("x/y/z", "v1 ConfigMap")
	outside.key = "compact_rev_key"
	broken, foreign := aConfigMap(), aConfigMap()
	broken.raw, foreign.raw = "k8s\x00broken", `{"some":"json"}`
	const undecodable = "API servers could not decode the value, and could not list its resource any more"
	for _, tt := range []struct {
		name, want string
		object     kept
	}{
		{"compaction", "keys outside /registry/ are none of Kubernetes' own", outside},
		{"masterlease", "masterleases belong to the API servers alone", keep("masterleases/10.0.0.1", "v1 Endpoints")},
		{"allocation", "ranges belong to the API servers alone", keep("ranges/serviceips", "v1 RangeAllocation")},
		{"leader", "a Lease says who leads, or lives, at the moment; whoever does makes it again", keep("leases/kube-system/kube-scheduler", "coordination.k8s.io/v1 Lease")},
		{"broken", undecodable, broken},
		{"foreign", undecodable, foreign},
		{"misnamed", "the value names another object than its key does", aConfigMap(meta(fields{"name": "other"}))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := stored(t, nil, tt.object, keep("configmaps/a/n", "v1 ConfigMap"))
			sel := filter.Selection{Keys: []string{tt.object.key, prefix + "configmaps/a/n"}}
			req := putRequest(t, f, keyspace.FromFile(f), keyspace.FromFile(stored(t, nil, space())), sel)
			req.Overrides = filter.Overrides{Namespaces: []string{"kube-system"}, Kinds: filter.UnsafeKinds()}
			sum, lines := putsBack(t, req)
			if diff := cmp.Diff([]Blocked{{Reason: tt.want, Count: 1}}, sum.Blocked); diff != "" {
				t.Errorf("blocked (-want +got):\n%s", diff)
			}
			if len(lines) != 1 || lines[0].Step.Name != "n" {
				t.Errorf("steps %v", order(lines))
			}
		})
	}
}

// TestLongNamesAreCut: owner references are other people's input.
func TestLongNamesAreCut(t *testing.T) {
	t.Parallel()
	f := stored(t, nil, aConfigMap().by("apps/v1 Deployment deployments/a/"+strings.Repeat("ü", 100_000)))
	sum, lines := putsBack(t, putRequest(t, f, keyspace.FromFile(f), keyspace.FromFile(stored(t, nil, space())), everything()))
	if len(sum.PutWarnings) != 1 || len(sum.PutWarnings[0].Detail) > maxDetail || !utf8.ValidString(sum.PutWarnings[0].Detail) || len(lines[0].Step.Warnings[0]) > 2*maxDetail {
		t.Errorf("warnings %d, %d bytes", len(sum.PutWarnings), len(sum.PutWarnings[0].Detail))
	}
}

// TestWarningsAreCounted, with the first object, the worst first.
func TestWarningsAreCounted(t *testing.T) {
	t.Parallel()
	var objects []kept
	for i := range 700 {
		pod := keep(fmt.Sprintf("pods/a/p-%04d", i), "v1 Pod", fields{"spec": fields{"nodeName": fmt.Sprintf("n-%d", i%7)}})
		if i%2 == 0 {
			pod = pod.by(ofWeb)
		}
		objects = append(objects, pod)
	}
	f := stored(t, nil, objects...)
	sum, lines := putsBack(t, putRequest(t, f, keyspace.FromFile(f), empty(t), everything()))
	if diff := cmp.Diff([]PutWarning{
		{Reason: noOwner, Count: 350, First: "pod a/p-0000", Detail: "deployment/web"},
		{Reason: noNamespace, Count: 700, First: "pod a/p-0000", Detail: "namespace a, which the file does not hold either"},
		{Reason: noNode, Count: 700, First: "pod a/p-0000", Detail: "node n-0"},
	}, sum.PutWarnings); diff != "" || len(lines) != 700 {
		t.Errorf("%d steps, warnings (-want +got):\n%s", len(lines), diff)
	}
	if sum.Owned != 350 {
		t.Errorf("%d owned", sum.Owned)
	}
}
