package encryption

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Secrets of the tests. No error may hold one, or a part of one.
const (
	key32  = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	other  = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
	key16  = "MDEyMzQ1Njc4OWFiY2RlZg=="
	header = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"
)

// entry is one of a file: resources separated by commas, and its providers.
func entry(resources string, providers ...string) string {
	text := "- resources: [" + resources + "]\n  providers:\n"
	for _, p := range providers {
		text += "  - " + p + "\n"
	}
	return text
}

// keys is a provider: its kind, then names and secrets.
func keys(kind string, namesAndSecrets ...string) string {
	text := kind + ": {keys: ["
	for i := 0; i < len(namesAndSecrets); i += 2 {
		text += "{name: '" + namesAndSecrets[i] + "', secret: '" + namesAndSecrets[i+1] + "'},"
	}
	return text + "]}"
}

const identity = "identity: {}"

func TestLoad(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"yaml":             header + entry("secrets", keys("aescbc", "k", key32), identity),
		"json":             `{"apiVersion":"apiserver.config.k8s.io/v1","kind":"EncryptionConfiguration","resources":[{"resources":["secrets"],"providers":[{"aescbc":{"keys":[{"name":"k","secret":"` + key32 + `"}]}}]}]}`,
		"json with tabs":   "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"EncryptionConfig\",\n\t\"resources\": [{\"resources\":[\"secrets\"],\n\t\"providers\":[{\"aescbc\":{\"keys\":[{\"name\":\"k\",\"secret\":\"" + key32 + "\"}]}}]}]}",
		"the old kind":     strings.Replace(strings.Replace(header, "apiserver.config.k8s.io/", "", 1), "Configuration", "Config", 1) + entry("secrets", keys("aescbc", "k", key32)),
		"short AES keys":   header + entry("secrets", keys("aescbc", "k", key16)),
		"KMS of all kinds": header + entry("secrets", keys("aescbc", "k", key16), "kms: {name: a, endpoint: 'unix:///a'}", "kms: {apiVersion: v2, name: b, endpoint: 'unix:///@b', timeout: 5s}", "kms: {apiVersion: v1, name: a, endpoint: 'unix:///c', cachesize: -1}"),
		"old groups":       header + entry("secrets, ingresses.extensions, events.events.k8s.io", keys("aescbc", "k", key32)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := write(t, content)
			c, err := Load(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.rule("", "secrets"); len(got) == 0 || got[0].prefix != "k8s:enc:aescbc:v1:k:" {
				t.Errorf("got %v", got)
			}
			if c.Path() != path {
				t.Errorf("path %q, want %q", c.Path(), path)
			}
			for _, p := range c.plugins {
				if p.conn != nil {
					t.Errorf("plugin %s was connected to", p.name)
				}
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	t.Parallel()
	kms := func(fields string) string { return header + entry("secrets", "kms: {"+fields+"}") }
	for _, tc := range []struct{ name, content, want string }{
		{"empty", " \n", "it is empty"},
		{"large", strings.Repeat("#", maxFile+1), "it is larger than 1 MiB"},
		{"no YAML", header + "- [", "it is neither YAML nor JSON at line 4"},
		{"no YAML, with a secret", header + "secret: " + key32 + ": x", "it is neither YAML nor JSON at line 4"},
		{"other kind", "apiVersion: v1\nkind: Pod", "it is not of kind EncryptionConfiguration, apiVersion apiserver.config.k8s.io/v1"},
		{"other version", strings.Replace(header, "/v1", "/v2", 1), "it is not of kind EncryptionConfiguration, apiVersion apiserver.config.k8s.io/v1"},
		{"a list", "[1]", "it is not of kind EncryptionConfiguration, apiVersion apiserver.config.k8s.io/v1"},
		{"misspelt field", header + "- resource: [secrets]", `unknown field "resources[0].resource"`},
		{"misspelt provider", header + entry("secrets", identity, keys("aesccbc", "k", key32)), `unknown field "resources[0].providers[1].aesccbc"`},
		{"missing space", header + entry("secrets", "aescbc: {keys: [{name: k, secret:"+key32+"}]}"), "unknown field in resources[0].providers[0].aescbc.keys[0]"},
		{"secret at the top", header + entry("secrets", identity) + key32 + ": x", "unknown field at the top"},
		{"many misspelt fields", header + "a: 1\nb: 1\nc: 1\nd: 1\ne: 1", `unknown field "a"; unknown field "b"; unknown field "c"; and 2 more`},
		{"field twice", header + entry("secrets", identity) + "  resources: [pods]", "a field is given twice at line 7"},
		{"number for a secret", header + entry("secrets", "aescbc: {keys: [{name: k, secret: 1234567890}]}"), "resources.providers.aescbc.keys.secret has a value of the wrong type"},
		{"text for resources", header + "- resources: secrets", "resources.resources has a value of the wrong type"},
		{"nothing in it", header, "resources: at least one resources is required"},
		{"no resources", header + entry("", identity), "resources[0].resources: at least one resources[0].resources is required"},
		{"no providers", header + entry("secrets"), "resources[0].providers: at least one resources[0].providers is required"},
		{"no keys", header + entry("secrets", "aesgcm: {keys: []}"), "resources[0].providers[0].aesgcm.keys: at least one keys is required"},
		{"no key name", header + entry("secrets", identity, keys("aesgcm", "", key32)), "resources[0].providers[1].aesgcm.keys[0].name: name is a mandatory field for a key"},
		{"no secret", header + entry("secrets", keys("secretbox", "k", key32, "l", "")), "resources[0].providers[0].secretbox.keys[1].secret: secret is a mandatory field for a key"},
		{"no base64", header + entry("secrets", keys("aescbc", "k", key32[:43])), "resources[0].providers[0].aescbc.keys[0].secret: secrets must be base64 encoded"},
		{"wrong length", header + entry("secrets", identity) + entry("pods", keys("secretbox", "k", key16)), "resources[1].providers[0].secretbox.keys[0].secret: secret is not of the expected length, got 16, expected one of [32]"},
		{"two providers in one", header + entry("secrets", keys("aescbc", "k", key32)+"\n    "+identity), "resources[0].providers[0]: more than one provider specified in a single element, should split into different list elements"},
		{"empty provider", header + entry("secrets", "{}"), "resources[0].providers[0]: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"},
		{"null provider", header + entry("secrets", "null"), "resources[0].providers[0]: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"},
		{"capitals", header + entry("Secrets", identity), "resources[0].resources[0]: resource name should not contain capital letters"},
		{"star", header + entry("'*'", identity), "resources[0].resources[0]: use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"},
		{"overlap in an entry", header + entry("'*.', secrets", identity), "resources[0].resources: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked"},
		{"masked by a group", header + entry("'*.apps'", identity) + entry("pods, deployments.apps", identity), `resources[1].resources[1]: "deployments.apps" is masked by an earlier entry for "*.apps"`},
		{"masked by all", header + entry("'*.*'", identity) + entry("'*.'", identity), `resources[1].resources[0]: "*." is masked by an earlier entry for "*.*"`},
		{"KMS without name", kms("endpoint: 'unix:///a'"), "resources[0].providers[0].kms.name: name is a mandatory field for a provider"},
		{"KMS name with a colon", kms("apiVersion: v2, name: 'a:b', endpoint: 'unix:///a'"), "resources[0].providers[0].kms.name: invalid KMS provider name a:b, must not contain ':'"},
		{"KMS over TCP", kms("name: a, endpoint: 'tcp://h:1'"), `resources[0].providers[0].kms.endpoint: unsupported scheme "tcp" for KMS provider, only unix is supported`},
		{"KMS without endpoint", kms("name: a"), "resources[0].providers[0].kms.endpoint: endpoint is a mandatory field for a kms"},
		{"KMS timeout", kms("name: a, endpoint: 'unix:///a', timeout: 0s"), "resources[0].providers[0].kms.timeout: timeout should be a positive value"},
		{"KMS timeout without unit", kms("name: a, endpoint: 'unix:///a', timeout: '3'"), "a value is of the wrong type, or a timeout lacks its unit, as in 3s"},
		{"KMS cache size", kms("apiVersion: v2, name: a, endpoint: 'unix:///a', cachesize: 5"), "resources[0].providers[0].kms.cachesize: cachesize is not supported in v2"},
		{"KMS version", kms("apiVersion: v3, name: a, endpoint: 'unix:///a'"), "resources[0].providers[0].kms.apiVersion: unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported"},
		{"KMS v2 twice", header + entry("secrets", "kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}", "kms: {apiVersion: v2, name: a, endpoint: 'unix:///b'}"), "resources[0].providers[1].kms.name: duplicate KMS provider name a, names must be unique"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			path := write(t, tc.content)
			c, err := Load(path)
			if err == nil || c != nil {
				t.Fatalf("got %v, want an error", c)
			}
			if want := "encryption configuration " + path + ": " + tc.want; err.Error() != want {
				t.Errorf("got  %s\nwant %s", err, want)
			}
			if strings.Contains(err.Error(), key32[:8]) {
				t.Errorf("a secret in %q", err)
			}
		})
	}
}

func TestLoadUnreadable(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "none")
	if _, err := Load(missing); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("a directory was read")
	}
}

// FuzzLoad holds that no file makes Load panic and that no error quotes what
// follows "secret".
func FuzzLoad(f *testing.F) {
	data, err := os.ReadFile(zooDir + "encryption-config.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(header + entry("'*.apps'", "kms: {name: a, endpoint: 'unix:///a'}", identity) + entry("'*.*'", keys("aesgcm", "k", key16))))
	path := filepath.Join(f.TempDir(), "config")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		if err != nil && strings.Contains(err.Error(), "tyT3GWAafDbLCTLd") {
			t.Errorf("a secret in %q", err)
		}
	})
}
