package codec

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
)

// TestEditStored edits encrypted values of each provider and reads back what
// would be stored.
func TestEditStored(t *testing.T) {
	live := zoo(t)
	r := zooReader(t, live)
	enc := newZooCrypt(t)
	tests := []struct{ key, before, after string }{
		{prefix + "secrets/team/old-key-1", "aescbc:v1:key1", "aescbc:v1:key2"},
		{prefix + "secrets/team/rotated", "aescbc:v1:key2", "aescbc:v1:key2"},
		{prefix + "configmaps/team/hot", "secretbox:v1:box1", "secretbox:v1:box1"},
		{prefix + "serviceaccounts/team/default", "aesgcm:v1:gcm1", "aesgcm:v1:gcm1"},
		{prefix + "gateway.networking.k8s.io/gateways/platform/edge-old", "aesgcm:v1:gcm1", "aesgcm:v1:gcm1"},
		{prefix + "secrets/team/legacy-plain", "", ""},
		{prefix + "deployments/team/web", "", ""},
	}
	changes := []Change{SetLabel("edited", "yes"), SetFinalizers("example.com/x")}
	for _, test := range tests {
		old := live[test.key].value
		v := r.Read(t.Context(), test.key, old)
		if v.Provider != test.before || v.Head.Err != nil {
			t.Errorf("%s: provider %q, %v", test.key, v.Provider, v.Head.Err)
			continue
		}
		want, _, err := Edit(v.Plain, changes...)
		if err != nil {
			t.Fatal(err)
		}
		edited, inverse, err := r.EditStored(t.Context(), enc, test.key, old, changes...)
		if err != nil {
			t.Errorf("%s: %v", test.key, err)
			continue
		}
		got := r.Read(t.Context(), test.key, edited)
		if got.Provider != test.after || !bytes.Equal(got.Plain, want) {
			t.Errorf("%s: provider %q, or other bytes", test.key, got.Provider)
		}
		moved := r.Read(t.Context(), test.key+"-moved", edited)
		if sealed := strings.HasPrefix(test.after, "aesgcm"); sealed != (moved.Head.Status == StatusEncrypted) {
			t.Errorf("%s read at another key: %s", test.key, moved.Head.Status)
		}
		back, _, err := r.EditStored(t.Context(), enc, test.key, edited, inverse...)
		if err != nil || !bytes.Equal(r.Read(t.Context(), test.key, back).Plain, v.Plain) {
			t.Errorf("%s: inverse: %v, or other bytes", test.key, err)
		}
		same, _, err := r.EditStored(t.Context(), nil, test.key, old, RemoveLabel("is-not-there"))
		if err != nil || !bytes.Equal(same, old) {
			t.Errorf("%s: no change: %v, or other bytes", test.key, err)
		}
	}
}

// crypt is an Encrypter that a test makes up.
type crypt func(plain []byte) ([]byte, error)

func (c crypt) Encrypt(_ context.Context, _ *Resource, _ string, plain []byte) ([]byte, error) {
	return c(plain)
}

func TestEditStoredErrors(t *testing.T) {
	live := zoo(t)
	r := zooReader(t, live)
	blind := &Reader{Catalog: r.Catalog, Prefix: prefix}
	const secret, corrupt = prefix + "secrets/team/rotated", prefix + "configmaps/team/corrupt"
	broken := errors.New("the plugin is down")
	tests := []struct {
		name string
		r    *Reader
		enc  Encrypter
		key  string
		want []error
		text string
	}{
		{"no keys", blind, newZooCrypt(t), secret, []error{ErrNotEditable, ErrEncrypted}, ""},
		{"no encrypter", r, nil, secret, []error{ErrNotEditable, ErrEncrypted}, "encrypt it again"},
		{"encrypter fails", r, crypt(func([]byte) ([]byte, error) { return nil, broken }), secret, []error{broken}, "encrypt again"},
		{"encrypter returns what cannot be read", r, crypt(func([]byte) ([]byte, error) { return []byte(magicEncrypted + "aescbc:v1:key2:no"), nil }),
			secret, []error{ErrEncrypted}, "read back"},
		{"encrypter returns another value", r, crypt(func([]byte) ([]byte, error) { return live[prefix+"secrets/team/legacy-plain"].value, nil }),
			secret, nil, "not what comes back"},
		{"damaged", r, newZooCrypt(t), corrupt, []error{ErrNotEditable, ErrUndecodable}, ""},
	}
	for _, test := range tests {
		edited, inverse, err := test.r.EditStored(t.Context(), test.enc, test.key, live[test.key].value, SetLabel("a", "b"))
		if err == nil || edited != nil || inverse != nil || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v, or a value with it", test.name, err)
		}
		for _, want := range test.want {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", test.name, err, want)
			}
		}
	}
	// The identity provider configured first stores in the clear.
	identity := crypt(func(plain []byte) ([]byte, error) { return plain, nil })
	edited, _, err := r.EditStored(t.Context(), identity, secret, live[secret].value, SetLabel("a", "b"))
	if err != nil || DecodeHead(edited).Status != StatusProtobuf {
		t.Errorf("identity: %v", err)
	}
}
