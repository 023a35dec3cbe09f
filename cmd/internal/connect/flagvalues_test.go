package connect

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseFlags(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		args []string
		want flagValues
	}{
		{"each way to write one", []string{"etcd", "--a=1", "--b", "2", "-c=3", "-d", "4", `--e="5"`}, flagValues{"a": {"1"}, "b": {"2"}, "c": {"3"}, "d": {"4"}, "e": {"5"}}},
		{"one without a value", []string{"--a", "--b=2", "--last"}, flagValues{"a": {""}, "b": {"2"}, "last": {""}}},
		{"twice", []string{"--a=1", "--a", "2"}, flagValues{"a": {"1", "2"}}},
		{"a value with an equals sign", []string{"--a=b=c"}, flagValues{"a": {"b=c"}}},
		{"of a shell", []string{"/bin/sh", "-c", "exec etcd \\\n  --a=1 \\\n  --b '2'"}, flagValues{"c": {"exec"}, "a": {"1"}, "b": {"2"}}},
		{"dashes", []string{"-", "--", "---", "--=x"}, flagValues{}},
	} {
		if diff := cmp.Diff(tc.want, parseFlags(tc.args)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tc.name, diff)
		}
	}
}

func TestEtcdSettings(t *testing.T) {
	t.Parallel()
	env := etcdEnv([]string{"# ETCD_A=1", "ETCD_DATA_DIR=/d", "export ETCD_NAME='n'", "AWS_SECRET=x", "ETCD_EMPTY=", "ETCD_CERT_FILE"})
	if diff := cmp.Diff(flagValues{"data-dir": {"/d"}, "name": {"n"}}, env); diff != "" {
		t.Errorf("environment: -want +got:\n%s", diff)
	}
	got, err := etcdSettings(flagValues{"data-dir": {"/flag"}}, env, nil)
	if diff := cmp.Diff(flagValues{"data-dir": {"/flag"}, "name": {"n"}}, got); err != nil || diff != "" {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	config, err := configFlags([]byte("quota-backend-bytes: 8589934592\nname: m1\npeer-transport-security: {cert-file: /p}\nother: [1]\n"))
	if diff := cmp.Diff(flagValues{"quota-backend-bytes": {"8589934592"}, "name": {"m1"}, "peer-cert-file": {"/p"}}, config); err != nil || diff != "" {
		t.Errorf("file: %v, -want +got:\n%s", err, diff)
	}
	for text, want := range map[string]int64{"": 0, "8589934592": 8 << 30, "-1": 0, "2G": 0, "99999999999999999999": 0} {
		if got := bytesOf(text); got != want {
			t.Errorf("quota %q: %d, want %d", text, got, want)
		}
	}
}

// TestOverrides: servers separated by commas, which kube-apiserver does not
// take, must not show their passwords.
func TestOverrides(t *testing.T) {
	t.Parallel()
	events, others := overrides([]string{"/events#https://a:1;https://b:2,apps/deployments#https://c:3,https://me:s3cret@d:4"})
	if diff := cmp.Diff([][]string{{"https://a:1", "https://b:2"}, {"apps/deployments", "https://***@d:4"}}, [][]string{events, others}); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
