package encryption

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// resource finds one of the catalog, or makes a custom one.
func resource(t *testing.T, name string) *codec.Resource {
	t.Helper()
	for _, r := range codec.NewCatalog().Resources() {
		if r.String() == name {
			return r
		}
	}
	plural, group, _ := strings.Cut(name, ".")
	return &codec.Resource{Group: group, Plural: plural, Custom: true}
}

// sealed encrypts with a provider of a file of its own.
func sealed(t *testing.T, provider, key, plain string) []byte {
	t.Helper()
	out, err := load(t, header+entry("secrets", provider)).Encrypt(t.Context(), resource(t, "secrets"), key, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRules shows which entry decides on a resource. Keys have the name of the
// entry's resource.
func TestRules(t *testing.T) {
	t.Parallel()
	file := header
	for _, name := range []string{
		"secrets", "ingresses.extensions", "events.events.k8s.io", "deployments.extensions", "deployments.apps", "*.apps", "*.", "jobs.batch.volcano.sh",
	} {
		file += entry("'"+name+"'", keys("aesgcm", name, key32))
	}
	c, all := load(t, file), load(t, file+entry("'*.*'", keys("aesgcm", "*.*", key32)))
	for _, tc := range []struct {
		resource      string
		write, read   string // by the first file; "" is plain
		everyoneWrite string // by the file that ends in *.*
	}{
		{"secrets", "secrets", "secrets", "secrets"},
		{"configmaps", "*.", "*.", "*."},
		{"events", "*.", "*. events.events.k8s.io", "*."},
		{"deployments.apps", "deployments.apps", "deployments.apps deployments.extensions", "deployments.apps"},
		{"daemonsets.apps", "*.apps", "*.apps", "*.apps"},
		{"ingresses.networking.k8s.io", "", "ingresses.extensions", "*.*"},
		{"networkpolicies.networking.k8s.io", "", "", "*.*"},
		{"jobs.batch", "", "", "*.*"},
		{"jobs.batch.volcano.sh", "jobs.batch.volcano.sh", "jobs.batch.volcano.sh", "jobs.batch.volcano.sh"},
		{"customresourcedefinitions.apiextensions.k8s.io", "", "", "*.*"},
		{"masterleases", "", "", ""},
		{"ranges", "", "", ""},
	} {
		r := resource(t, tc.resource)
		var read []string
		for _, p := range c.readers(r) {
			read = append(read, strings.Trim(strings.TrimPrefix(p.prefix, "k8s:enc:aesgcm:v1:"), ":"))
		}
		if got := strings.Join(read, " "); got != tc.read {
			t.Errorf("%s is read with %q, want %q", r, got, tc.read)
		}
		for config, want := range map[*Config]string{c: tc.write, all: tc.everyoneWrite} {
			out, err := config.Encrypt(t.Context(), r, "/registry/x", []byte("plain"))
			if err != nil {
				t.Fatal(err)
			}
			if want == "" {
				if string(out) != "plain" {
					t.Errorf("%s is written as %q, want it plain", r, out)
				}
			} else if !bytes.HasPrefix(out, []byte("k8s:enc:aesgcm:v1:"+want+":")) {
				t.Errorf("%s is not written with %q", r, want)
			}
		}
	}
}

// TestOrder holds that the first provider writes and that any can read, also
// where several have the same kind, or the same kind and key name.
func TestOrder(t *testing.T) {
	t.Parallel()
	const key, plain = "/registry/secrets/ns/name", "k8s\x00 a value"
	kinds := []string{"aescbc", "aesgcm", "secretbox"}
	for _, kind := range kinds {
		old, renamed := sealed(t, keys(kind, "k", key32), key, plain), sealed(t, keys(kind, "k:l", key32), key, plain)
		for name, file := range map[string]string{
			"two keys":                  entry("secrets", keys(kind, "l", other, "k", key32, "k:l", key32)),
			"two providers":             entry("secrets", keys(kind, "l", other), keys(kind, "k", key32, "k:l", key32)),
			"two entries":               entry("secrets", keys(kind, "l", other)) + entry("secrets", keys(kind, "k", key32, "k:l", key32)),
			"identity between":          entry("secrets", keys(kind, "l", other), identity, keys(kind, "k", key32, "k:l", key32)),
			"same name, other secret":   entry("secrets", keys(kind, "k", other, "k", key32, "k:l", key32)),
			"same name, other provider": entry("secrets", keys(kind, "k", other), keys(kind, "k", key32, "k:l", key32)),
		} {
			c := load(t, header+file)
			for _, stored := range [][]byte{old, renamed} {
				got, err := c.Decrypt(t.Context(), resource(t, "secrets"), key, stored)
				// CBC with a wrong key may succeed, here as in kube-apiserver.
				rubbish := kind == "aescbc" && err == nil && strings.HasPrefix(name, "same")
				if string(got) != plain && !rubbish {
					t.Errorf("%s, %s: %q, %v", kind, name, got, err)
				}
			}
			out, err := c.Encrypt(t.Context(), resource(t, "secrets"), key, []byte(plain))
			if err != nil || !bytes.HasPrefix(out, []byte(c.entries[0][0].prefix)) {
				t.Errorf("%s, %s: not written with the first key: %v", kind, name, err)
			}
		}
	}
}

// TestServerReads lets apiserver's own prefix transformers read what is
// written here, and the other way round.
func TestServerReads(t *testing.T) {
	t.Parallel()
	const key, plain = "/registry/secrets/ns/name", "k8s\x00 a value"
	for kind, build := range map[string]func([]byte) (value.Transformer, error){"aescbc": newCBC, "aesgcm": newGCM, "secretbox": newSecretbox} {
		inner, err := build([]byte("0123456789abcdef0123456789abcdef"))
		if err != nil {
			t.Fatal(err)
		}
		server := value.NewPrefixTransformers(nil, value.PrefixTransformer{Prefix: []byte("k8s:enc:" + kind + ":v1:"),
			Transformer: value.NewPrefixTransformers(nil, value.PrefixTransformer{Prefix: []byte("k:"), Transformer: inner})})
		got, _, err := server.TransformFromStorage(t.Context(), sealed(t, keys(kind, "k", key32), key, plain), value.DefaultContext(key))
		if err != nil || string(got) != plain {
			t.Errorf("%s: server reads %q, %v", kind, got, err)
		}
		stored, err := server.TransformToStorage(t.Context(), []byte(plain), value.DefaultContext(key))
		if err != nil {
			t.Fatal(err)
		}
		got, err = load(t, header+entry("secrets", keys(kind, "k", key32))).Decrypt(t.Context(), resource(t, "secrets"), key, stored)
		if err != nil || string(got) != plain {
			t.Errorf("%s: read %q, %v", kind, got, err)
		}
	}
}

func TestDecryptErrors(t *testing.T) {
	t.Parallel()
	const key = "/registry/secrets/ns/name"
	file := header + entry("secrets", keys("aescbc", "k", key32), keys("aesgcm", "k", key32), keys("secretbox", "k", key32), identity) +
		entry("configmaps, pods, nodes, services", keys("aesgcm", "m", key32)) + entry("'*.apps'", identity)
	c := load(t, file)
	const cannot = "its key is not the one that the value was written with, or the value is damaged"
	gcm := sealed(t, keys("aesgcm", "k", key32), key, "plain")
	for _, tc := range []struct{ name, resource, key, stored, want string }{
		{"no entry", "jobs.batch", key, "k8s:enc:aesgcm:v1:z:data", `by provider aesgcm:v1:z: FILE has no entry for jobs.batch`},
		{"no entry, but another", "jobs.batch", key, "k8s:enc:aesgcm:v1:k:data", `by provider aesgcm:v1:k: FILE has no entry for jobs.batch; only others have it: resources[0], for secrets`},
		{"no such key", "secrets", key, "k8s:enc:aescbc:v1:z:data", `by provider aescbc:v1:z: the entry of FILE for secrets lacks that key`},
		{"no such provider", "secrets", key, "k8s:enc:kms:v2:z:data", `by provider kms:v2:z: the entry of FILE for secrets lacks that key`},
		{"another entry has it", "secrets", key, "k8s:enc:aesgcm:v1:m:data", `by provider aesgcm:v1:m: the entry of FILE for secrets lacks that key; only others have it: resources[1], for configmaps, pods, nodes, and 1 more`},
		{"identity alone", "deployments.apps", key, "k8s:enc:aesgcm:v1:k:data", `by provider aesgcm:v1:k: the entry of FILE for deployments.apps lacks that key; only others have it: resources[0], for secrets`},
		{"internal", "masterleases", key, "k8s:enc:aesgcm:v1:z:data", `by provider aesgcm:v1:z: FILE has no entry for masterleases`},
		{"no name", "secrets", key, "k8s:enc:aesgcm", `by provider unknown: the entry of FILE for secrets lacks that key`},
		{"long name", "secrets", key, "k8s:enc:aesgcm:v1:" + strings.Repeat("x", 9999) + ":", `by provider unknown: the entry of FILE for secrets lacks that key`},
		{"GCM, cut off", "secrets", key, "k8s:enc:aesgcm:v1:k:" + strings.Repeat("x", 27), `by provider aesgcm:v1:k: resources[0].providers[1] of FILE: the value is cut off`},
		{"GCM, damaged", "secrets", key, "k8s:enc:aesgcm:v1:k:" + strings.Repeat("x", 28), `by provider aesgcm:v1:k: resources[0].providers[1] of FILE: ` + cannot + ` or comes from another etcd key`},
		{"GCM, moved", "secrets", key + "x", string(gcm), `by provider aesgcm:v1:k: resources[0].providers[1] of FILE: ` + cannot + ` or comes from another etcd key`},
		{"CBC, nothing behind its vector", "secrets", key, "k8s:enc:aescbc:v1:k:" + strings.Repeat("x", 16), `by provider aescbc:v1:k: resources[0].providers[0] of FILE: the value is cut off`},
		{"CBC, not a block", "secrets", key, "k8s:enc:aescbc:v1:k:" + strings.Repeat("x", 33), `by provider aescbc:v1:k: resources[0].providers[0] of FILE: ` + cannot},
		{"secretbox, cut off", "secrets", key, "k8s:enc:secretbox:v1:k:", `by provider secretbox:v1:k: resources[0].providers[2] of FILE: the value is cut off`},
		{"secretbox, damaged", "secrets", key, "k8s:enc:secretbox:v1:k:" + strings.Repeat("x", 50), `by provider secretbox:v1:k: resources[0].providers[2] of FILE: ` + cannot},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			plain, err := c.Decrypt(t.Context(), resource(t, tc.resource), tc.key, []byte(tc.stored))
			want := codec.ErrEncrypted.Error() + " " + strings.ReplaceAll(tc.want, "FILE", c.Path())
			if plain != nil || !errors.Is(err, codec.ErrEncrypted) || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

// TestManyKeysFail names every key that was tried.
func TestManyKeysFail(t *testing.T) {
	t.Parallel()
	const key = "/registry/secrets/ns/name"
	c := load(t, header+entry("secrets", keys("aesgcm", "k", other), keys("aesgcm", "k", key16)))
	_, err := c.Decrypt(t.Context(), resource(t, "secrets"), key, sealed(t, keys("aesgcm", "k", key32), key, "plain"))
	for _, at := range []string{"resources[0].providers[0] of ", "; resources[0].providers[1] of "} {
		if err == nil || !strings.Contains(err.Error(), at) {
			t.Errorf("%v lacks %q", err, at)
		}
	}
}

// TestPlainValues returns what was never encrypted, whatever the file says.
func TestPlainValues(t *testing.T) {
	t.Parallel()
	c := load(t, header+entry("secrets", keys("aesgcm", "k", key32)))
	for _, stored := range []string{"k8s\x00x", "{}", "", "k8s:en"} {
		got, err := c.Decrypt(t.Context(), resource(t, "secrets"), "/k", []byte(stored))
		if err != nil || string(got) != stored {
			t.Errorf("%q: got %q, %v", stored, got, err)
		}
	}
}

// TestReadsClear: only where identity is listed, or nothing is said.
func TestReadsClear(t *testing.T) {
	t.Parallel()
	c := load(t, header+entry("secrets", keys("aescbc", "k", key32))+entry("configmaps", keys("aescbc", "k", key32), identity)+entry("'*.apps'", keys("aescbc", "k", key32)))
	for name, want := range map[string]bool{"secrets": false, "configmaps": true, "deployments.apps": false, "pods": true, "masterleases": true} {
		if got := c.ReadsClear(resource(t, name)); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// TestEmptyKey is refused: a transformer of KMS v2 panics on it.
func TestEmptyKey(t *testing.T) {
	t.Parallel()
	c := load(t, header+entry("secrets", keys("aesgcm", "k", key32)))
	if _, err := c.Decrypt(t.Context(), resource(t, "secrets"), "", []byte("k8s:enc:aesgcm:v1:k:x")); !errors.Is(err, errNoKey) {
		t.Errorf("Decrypt: %v", err)
	}
	if _, err := c.Encrypt(t.Context(), resource(t, "secrets"), "", nil); !errors.Is(err, errNoKey) {
		t.Errorf("Encrypt: %v", err)
	}
}

// TestReaderSaysItOnce: codec adds what wrote a value to errors that lack it.
func TestReaderSaysItOnce(t *testing.T) {
	t.Parallel()
	r := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: "/registry/", Decrypter: load(t, header+entry("pods", identity))}
	err := r.Read(context.Background(), "/registry/secrets/a/b", []byte("k8s:enc:aescbc:v1:k:x")).Head.Err
	want := fmt.Sprintf(`%s by provider aescbc:v1:k: %s has no entry for secrets`, codec.ErrEncrypted, r.Decrypter.(*Config).Path())
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// FuzzDecrypt holds that no value makes a provider panic, and that none passes
// for what it is not: only aescbc, which authenticates nothing, yields
// something for a changed value.
func FuzzDecrypt(f *testing.F) {
	const key = "/registry/secrets/ns/name"
	path := f.TempDir() + "/config"
	file := header + entry("secrets", keys("aescbc", "k", key32), keys("aesgcm", "k", key32), keys("secretbox", "k", key32), identity)
	if err := writeFile(path, file); err != nil {
		f.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		f.Fatal(err)
	}
	r := &codec.Resource{Plural: "secrets"}
	for _, p := range c.entries[0][:3] {
		data, err := p.TransformToStorage(context.Background(), []byte("plain"), value.DefaultContext(key))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append([]byte(p.prefix), data...))
		f.Add([]byte(p.prefix + strings.Repeat("x", 16)))
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		plain, err := c.Decrypt(t.Context(), r, key, stored)
		sealed := bytes.HasPrefix(stored, []byte(prefixEncrypted))
		if !sealed && !bytes.Equal(plain, stored) {
			t.Errorf("plain value changed")
		}
		if sealed && err == nil && !bytes.HasPrefix(stored, []byte("k8s:enc:aescbc:")) && string(plain) != "plain" {
			t.Errorf("%q passed for %q", stored, plain)
		}
	})
}
