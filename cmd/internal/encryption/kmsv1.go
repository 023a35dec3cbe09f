package encryption

//lint:file-ignore SA1019 values written with KMS v1 are there however deprecated it is

import (
	"context"
	"crypto/cipher"
	"sync"

	"google.golang.org/grpc"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope"
	kmsv1beta1 "k8s.io/kms/apis/v1beta1"
	"k8s.io/utils/lru"
)

// v1Protocol is what the API calls the version of KMS v1.
const v1Protocol = "v1beta1"

// kmsV1 is a provider of apiVersion v1. Each value has a key of its own, which
// the plugin decrypts.
type kmsV1 struct {
	plugin *plugin
	keys   *lru.Cache // by their encrypted form; nil if the file disables it

	mu      sync.Mutex
	checked bool // the plugin speaks v1Protocol
}

func newKMSv1(p *plugin, cacheSize int) *kmsV1 {
	k := &kmsV1{plugin: p}
	if cacheSize > 0 {
		k.keys = lru.New(cacheSize)
	}
	return k
}

// TransformFromStorage is part of value.Transformer.
func (k *kmsV1) TransformFromStorage(ctx context.Context, data []byte, key value.Context) ([]byte, bool, error) {
	return k.transformer(ctx).TransformFromStorage(ctx, data, key)
}

// TransformToStorage is part of value.Transformer.
func (k *kmsV1) TransformToStorage(ctx context.Context, data []byte, key value.Context) ([]byte, error) {
	return k.transformer(ctx).TransformToStorage(ctx, data, key)
}

// transformer is made anew for each value, because it does not hand a context
// to the plugin. So its own cache is off, and replaced by k.keys.
func (k *kmsV1) transformer(ctx context.Context) value.Transformer {
	return envelope.NewEnvelopeTransformer(v1Request{ctx, k}, 0, func(block cipher.Block) (value.Transformer, error) {
		gcm, err := gcmOf(block)
		return gcmElseCBC{gcm, cbcOf(block)}, err
	})
}

// gcmElseCBC reads what either has written and writes GCM. kube-apiserver has
// written CBC before 1.25, under the same prefix (envelopePrefixTransformer in
// k8s.io/apiserver pkg/server/options/encryptionconfig/config.go).
type gcmElseCBC struct {
	value.Transformer
	cbc value.Transformer
}

// TransformFromStorage is part of value.Transformer.
func (g gcmElseCBC) TransformFromStorage(ctx context.Context, data []byte, key value.Context) ([]byte, bool, error) {
	plain, stale, err := g.Transformer.TransformFromStorage(ctx, data, key)
	if err == nil {
		return plain, stale, nil
	}
	if plain, _, cbcErr := g.cbc.TransformFromStorage(ctx, data, key); cbcErr == nil {
		return plain, true, nil
	}
	return nil, false, err
}

// v1Request is what asks the plugin on behalf of one value.
type v1Request struct {
	ctx context.Context
	k   *kmsV1
}

// Decrypt is part of envelope.Service.
func (r v1Request) Decrypt(sealed []byte) ([]byte, error) {
	if r.k.keys != nil {
		if key, ok := r.k.keys.Get(string(sealed)); ok {
			return key.([]byte), nil
		}
	}
	var key []byte
	err := r.do(func(ctx context.Context, client kmsv1beta1.KeyManagementServiceClient) error {
		answer, err := client.Decrypt(ctx, &kmsv1beta1.DecryptRequest{Version: v1Protocol, Cipher: sealed})
		key = answer.GetPlain()
		return err
	})
	r.remember(sealed, key, err)
	return key, err
}

// Encrypt is part of envelope.Service.
func (r v1Request) Encrypt(key []byte) ([]byte, error) {
	var sealed []byte
	err := r.do(func(ctx context.Context, client kmsv1beta1.KeyManagementServiceClient) error {
		answer, err := client.Encrypt(ctx, &kmsv1beta1.EncryptRequest{Version: v1Protocol, Plain: key})
		sealed = answer.GetCipher()
		return err
	})
	r.remember(sealed, key, err)
	return sealed, err
}

func (r v1Request) remember(sealed, key []byte, err error) {
	if err == nil && r.k.keys != nil {
		r.k.keys.Add(string(sealed), key)
	}
}

func (r v1Request) do(request func(context.Context, kmsv1beta1.KeyManagementServiceClient) error) error {
	if err := r.k.checkVersion(r.ctx); err != nil {
		return err
	}
	return r.k.plugin.call(r.ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return request(ctx, kmsv1beta1.NewKeyManagementServiceClient(conn))
	})
}

// checkVersion asks once, before anything else, as kube-apiserver does.
func (k *kmsV1) checkVersion(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.checked {
		return nil
	}
	var version string
	err := k.plugin.call(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		answer, err := kmsv1beta1.NewKeyManagementServiceClient(conn).Version(ctx, &kmsv1beta1.VersionRequest{Version: v1Protocol})
		version = answer.GetVersion()
		return err
	})
	if err != nil {
		return err
	}
	if version != v1Protocol {
		return k.plugin.errorf("speaks version %s instead of %s", clip(version), v1Protocol)
	}
	k.checked = true
	return nil
}
