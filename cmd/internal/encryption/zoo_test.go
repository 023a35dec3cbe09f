package encryption

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

const zooDir = "../../../testdata/zoo-1.36/"

// TestMain fails if anything has been written to stderr: the packages of
// apiserver could.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(m.Run()) // tells its progress there
	}
	stderr, err := os.CreateTemp("", "stderr")
	if err != nil {
		panic(err)
	}
	os.Stderr = stderr
	code := m.Run()
	if written, err := os.ReadFile(stderr.Name()); err != nil || len(written) > 0 {
		fmt.Printf("on stderr: %v\n%s", err, written)
		code = 1
	}
	os.Remove(stderr.Name())
	os.Exit(code)
}

// zoo returns the live values of a real cluster, by key, and a reader of them.
func zoo(t *testing.T) (map[string][]byte, *codec.Reader) {
	t.Helper()
	packed, err := os.ReadFile(zooDir + "snapshot.db.zst")
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "zoo.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := snapshots.Open(path, snapshots.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: "/registry/"}
	values := map[string][]byte{}
	err = keyspace.FromFile(f).Scan(t.Context(), keyspace.Prefix(r.Prefix), false, func(kv *mvccpb.KeyValue) error {
		values[string(kv.Key)] = bytes.Clone(kv.Value)
		if strings.HasPrefix(string(kv.Key), "/registry/apiextensions.k8s.io/customresourcedefinitions/") {
			_, err = r.Catalog.AddCRD(kv.Value)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return values, r
}

// load writes a file and loads it.
func load(t *testing.T, content string) *Config {
	t.Helper()
	c, err := Load(write(t, content))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := writeFile(path, content); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeFile(path, content string) error { return os.WriteFile(path, []byte(content), 0o600) }

// TestZoo reads what a real kube-apiserver has encrypted, with the file it ran
// with: every value is the object of its key.
func TestZoo(t *testing.T) {
	t.Parallel()
	values, r := zoo(t)
	c, err := Load(zooDir + "encryption-config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r.Decrypter = c
	providers := map[string]int{}
	for key, stored := range values {
		before := bytes.Clone(stored)
		v := r.Read(t.Context(), key, stored)
		if v.Provider == "" {
			continue
		}
		providers[v.Provider]++
		if v.Head.Err != nil || !codec.MetaMatchesKey(v.Head, v.Key) {
			t.Errorf("%s: %s, %v", key, v.Head.Status, v.Head.Err)
		}
		if !bytes.Equal(before, stored) {
			t.Errorf("%s: the stored value was changed", key)
		}
	}
	want := map[string]int{"aescbc:v1:key1": 4, "aescbc:v1:key2": 11, "secretbox:v1:box1": 33, "aesgcm:v1:gcm1": 21}
	if diff := cmp.Diff(want, providers); diff != "" {
		t.Errorf("values by provider, -want +got:\n%s", diff)
	}
}

// TestZooOtherSecrets reads the same values with a file whose keys have the
// right names and wrong secrets. What authenticates never yields anything;
// aescbc may yield rubbish, but no object.
func TestZooOtherSecrets(t *testing.T) {
	t.Parallel()
	values, r := zoo(t)
	data, err := os.ReadFile(zooDir + "encryption-config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	for i, line := range lines {
		if at := strings.Index(line, "secret: "); at >= 0 {
			lines[i] = line[:at] + "secret: " + key32
		}
	}
	r.Decrypter = load(t, strings.Join(lines, "\n"))
	statuses := map[string]int{}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		v := r.Read(t.Context(), key, values[key])
		if v.Provider == "" {
			continue
		}
		kind, _, _ := strings.Cut(v.Provider, ":")
		statuses[kind+" "+string(v.Head.Status)]++
		if v.Head.Err == nil {
			t.Errorf("%s: read with a wrong key", key)
		}
		if kind != "aescbc" && !errors.Is(v.Head.Err, codec.ErrEncrypted) {
			t.Errorf("%s: %v", key, v.Head.Err)
		}
	}
	if statuses["aesgcm encrypted"] != 21 || statuses["secretbox encrypted"] != 33 {
		t.Errorf("got %v", statuses)
	}
}

// TestZooEncrypt encrypts every plain object as the file says for its resource
// and reads it back.
func TestZooEncrypt(t *testing.T) {
	t.Parallel()
	values, r := zoo(t)
	c, err := Load(zooDir + "encryption-config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r.Decrypter = c
	providers := map[string]string{}
	for key, stored := range values {
		v := r.Read(t.Context(), key, stored)
		if v.Key.Resource == nil || v.Head.Err != nil {
			continue
		}
		sealed, err := c.Encrypt(t.Context(), v.Key.Resource, key, v.Plain)
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		again := r.Read(t.Context(), key, sealed)
		if again.Head.Err != nil || !bytes.Equal(again.Plain, v.Plain) {
			t.Errorf("%s: %s, %v", key, again.Head.Status, again.Head.Err)
		}
		if again.Provider != "" {
			providers[v.Key.Resource.String()] = again.Provider
		} else if !bytes.Equal(sealed, v.Plain) {
			t.Errorf("%s: neither encrypted nor the plain value", key)
		}
	}
	want := map[string]string{
		"secrets": "aescbc:v1:key2", "configmaps": "secretbox:v1:box1",
		"serviceaccounts": "aesgcm:v1:gcm1", "gateways.gateway.networking.k8s.io": "aesgcm:v1:gcm1",
	}
	if diff := cmp.Diff(want, providers); diff != "" {
		t.Errorf("resources that are encrypted, -want +got:\n%s", diff)
	}
}
