package encryption

//lint:file-ignore SA1019 values written with KMS v1 are there however deprecated it is

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	kmsv1beta1 "k8s.io/kms/apis/v1beta1"
	kmsapi "k8s.io/kms/apis/v2"
	"k8s.io/kms/pkg/service"
)

// vault is what a KMS plugin of the tests and the writer of a value share. It
// seals a key by turning it round behind a name.
type vault struct {
	mu       sync.Mutex
	requests []string // "Decrypt", …
	keyID    string
	healthz  string
	version  string

	// before, if set, may refuse a request or delay it.
	before func(ctx context.Context, method string, sealed []byte) error
}

func (v *vault) note(ctx context.Context, method string, sealed []byte) error {
	v.mu.Lock()
	v.requests = append(v.requests, method)
	before := v.before
	v.mu.Unlock()
	if before != nil {
		return before(ctx, method, sealed)
	}
	return nil
}

// asked returns the requests since it was called last.
func (v *vault) asked() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := v.requests
	v.requests = nil
	return list
}

func (v *vault) set(change func(*vault)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(v)
}

func (v *vault) name() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.keyID
}

func seal(name string, key []byte) []byte {
	turned := bytes.Clone(key)
	slices.Reverse(turned)
	return append([]byte(name+"/"), turned...)
}

func unseal(sealed []byte) ([]byte, error) {
	_, turned, ok := bytes.Cut(sealed, []byte("/"))
	if !ok {
		return nil, errors.New("not sealed here")
	}
	key := bytes.Clone(turned)
	slices.Reverse(key)
	return key, nil
}

// direct is the vault as apiserver's transformers know a service of KMS v1,
// without a connection and without counting.
type direct struct{ *vault }

func (d direct) Encrypt(key []byte) ([]byte, error)    { return seal(d.name(), key), nil }
func (d direct) Decrypt(sealed []byte) ([]byte, error) { return unseal(sealed) }

// direct2 is the same of KMS v2.
type direct2 struct{ *vault }

func (d direct2) Encrypt(_ context.Context, _ string, key []byte) (*service.EncryptResponse, error) {
	return &service.EncryptResponse{Ciphertext: seal(d.name(), key), KeyID: d.name(), Annotations: map[string][]byte{"vault.example.com": []byte("a")}}, nil
}

func (d direct2) Decrypt(_ context.Context, _ string, req *service.DecryptRequest) ([]byte, error) {
	return unseal(req.Ciphertext)
}

func (d direct2) Status(context.Context) (*service.StatusResponse, error) {
	return nil, errors.New("not asked by any transformer")
}

type pluginV1 struct {
	kmsv1beta1.UnimplementedKeyManagementServiceServer
	*vault
}

func (p pluginV1) Version(ctx context.Context, _ *kmsv1beta1.VersionRequest) (*kmsv1beta1.VersionResponse, error) {
	err := p.note(ctx, "Version", nil)
	return &kmsv1beta1.VersionResponse{Version: p.version}, err
}

func (p pluginV1) Encrypt(ctx context.Context, req *kmsv1beta1.EncryptRequest) (*kmsv1beta1.EncryptResponse, error) {
	err := p.note(ctx, "Encrypt", nil)
	return &kmsv1beta1.EncryptResponse{Cipher: seal(p.name(), req.Plain)}, err
}

func (p pluginV1) Decrypt(ctx context.Context, req *kmsv1beta1.DecryptRequest) (*kmsv1beta1.DecryptResponse, error) {
	if err := p.note(ctx, "Decrypt", req.Cipher); err != nil {
		return nil, err
	}
	key, err := unseal(req.Cipher)
	return &kmsv1beta1.DecryptResponse{Plain: key}, err
}

type pluginV2 struct {
	kmsapi.UnimplementedKeyManagementServiceServer
	*vault
}

func (p pluginV2) Status(ctx context.Context, _ *kmsapi.StatusRequest) (*kmsapi.StatusResponse, error) {
	err := p.note(ctx, "Status", nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	return &kmsapi.StatusResponse{Version: p.version, Healthz: p.healthz, KeyId: p.keyID}, err
}

func (p pluginV2) Encrypt(ctx context.Context, req *kmsapi.EncryptRequest) (*kmsapi.EncryptResponse, error) {
	err := p.note(ctx, "Encrypt", nil)
	return &kmsapi.EncryptResponse{Ciphertext: seal(p.name(), req.Plaintext), KeyId: p.name()}, err
}

func (p pluginV2) Decrypt(ctx context.Context, req *kmsapi.DecryptRequest) (*kmsapi.DecryptResponse, error) {
	if err := p.note(ctx, "Decrypt", req.Ciphertext); err != nil {
		return nil, err
	}
	if req.Uid == "" || req.KeyId == "" {
		return nil, errors.New("incomplete request")
	}
	key, err := unseal(req.Ciphertext)
	return &kmsapi.DecryptResponse{Plaintext: key}, err
}

// kms is a running plugin and a configuration that names it, with the given
// fields beside its name and endpoint.
func kms(t *testing.T, version, fields string) (*Config, *vault) {
	t.Helper()
	v := &vault{keyID: "key-a", healthz: "ok", version: map[string]string{"v1": "v1beta1", "v2": "v2"}[version]}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	kmsv1beta1.RegisterKeyManagementServiceServer(s, pluginV1{vault: v})
	kmsapi.RegisterKeyManagementServiceServer(s, pluginV2{vault: v})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return kmsAt(t, version, "unix://"+socket, fields), v
}

func kmsAt(t *testing.T, version, endpoint, fields string) *Config {
	t.Helper()
	return load(t, header+entry("secrets", fmt.Sprintf("kms: {apiVersion: %s, name: p, endpoint: '%s', %s}", version, endpoint, fields), identity))
}
