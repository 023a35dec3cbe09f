package codec

import (
	"bytes"
	"context"
	"crypto/aes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apiserver/pkg/storage/value"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	"k8s.io/apiserver/pkg/storage/value/encrypt/secretbox"
	"sigs.k8s.io/yaml"
)

// zooCrypt decrypts and encrypts the fixture's values with the keys of its
// encryption-config.yaml. The product reads such files elsewhere, with more
// care; here every provider is taken for every resource.
type zooCrypt struct{ byPrefix map[string]value.Transformer }

type zooKeys struct {
	Keys []struct{ Name, Secret string }
}

func newZooCrypt(tb testing.TB) *zooCrypt {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(zooDir, "encryption-config.yaml"))
	if err != nil {
		tb.Fatal(err)
	}
	var config struct {
		Resources []struct {
			Providers []struct{ AESCBC, AESGCM, Secretbox *zooKeys }
		}
	}
	if err := yaml.Unmarshal(data, &config); err != nil {
		tb.Fatal(err)
	}
	z := &zooCrypt{map[string]value.Transformer{}}
	for _, r := range config.Resources {
		for _, p := range r.Providers {
			for name, keys := range map[string]*zooKeys{"aescbc": p.AESCBC, "aesgcm": p.AESGCM, "secretbox": p.Secretbox} {
				if keys == nil {
					continue
				}
				for _, key := range keys.Keys {
					z.byPrefix[magicEncrypted+name+":v1:"+key.Name+":"] = zooTransformer(tb, name, key.Secret)
				}
			}
		}
	}
	return z
}

func zooTransformer(tb testing.TB, name, secret string) value.Transformer {
	tb.Helper()
	key, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		tb.Fatal(err)
	}
	if name == "secretbox" {
		return secretbox.NewSecretboxTransformer([32]byte(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		tb.Fatal(err)
	}
	if name == "aescbc" {
		return aestransformer.NewCBCTransformer(block)
	}
	gcm, err := aestransformer.NewGCMTransformer(block)
	if err != nil {
		tb.Fatal(err)
	}
	return gcm
}

func (z *zooCrypt) Decrypt(ctx context.Context, _ *Resource, key string, stored []byte) ([]byte, error) {
	for prefix, t := range z.byPrefix {
		if rest, ok := bytes.CutPrefix(stored, []byte(prefix)); ok {
			plain, _, err := t.TransformFromStorage(ctx, rest, value.DefaultContext(key))
			return plain, err
		}
	}
	return nil, errors.New("no key for it")
}

// Encrypt uses the provider that the fixture's file names first for the
// resource.
func (z *zooCrypt) Encrypt(ctx context.Context, r *Resource, key string, plain []byte) ([]byte, error) {
	first := map[string]string{
		"secrets": "aescbc:v1:key2:", "configmaps": "secretbox:v1:box1:",
		"serviceaccounts": "aesgcm:v1:gcm1:", "gateways.gateway.networking.k8s.io": "aesgcm:v1:gcm1:",
	}[r.String()]
	if first == "" {
		return plain, nil
	}
	out, err := z.byPrefix[magicEncrypted+first].TransformToStorage(ctx, plain, value.DefaultContext(key))
	return append([]byte(magicEncrypted+first), out...), err
}

// zooReader reads the fixture with its CRDs and its keys.
func zooReader(tb testing.TB, live map[string]zooValue) *Reader {
	tb.Helper()
	return &Reader{Catalog: zooCatalog(tb, live), Prefix: prefix, Decrypter: newZooCrypt(tb)}
}

// TestZooDecrypted reads every encrypted value of the fixture: with the keys
// each is the object of its key, without them none is.
func TestZooDecrypted(t *testing.T) {
	live := zoo(t)
	r := zooReader(t, live)
	blind := &Reader{Catalog: r.Catalog, Prefix: prefix}
	providers := map[string]int{}
	for key, stored := range live {
		v := r.Read(t.Context(), key, stored.value)
		if v.Provider == "" {
			if !bytes.Equal(v.Plain, stored.value) {
				t.Errorf("%s: plain value changed", key)
			}
			continue
		}
		providers[v.Provider]++
		if v.Head.Err != nil || v.Key.Resource == nil || !MetaMatchesKey(v.Head, v.Key) {
			t.Errorf("%s: %s, %v", key, v.Head.Status, v.Head.Err)
		}
		v = blind.Read(t.Context(), key, stored.value)
		if v.Head.Status != StatusEncrypted || !errors.Is(v.Head.Err, ErrEncrypted) || !bytes.Equal(v.Plain, stored.value) {
			t.Errorf("%s without keys: %s, %v", key, v.Head.Status, v.Head.Err)
		}
		moved := r.Read(t.Context(), key+"-moved", stored.value)
		if sealed := bytes.HasPrefix(stored.value, []byte(magicEncrypted+"aesgcm:")); sealed != (moved.Head.Status == StatusEncrypted) {
			t.Errorf("%s read at another key: %s", key, moved.Head.Status)
		}
	}
	t.Log(providers)
	for _, p := range []string{"aescbc:v1:key1", "aescbc:v1:key2", "secretbox:v1:box1", "aesgcm:v1:gcm1"} {
		if providers[p] == 0 {
			t.Errorf("nothing under %s", p)
		}
	}
}
