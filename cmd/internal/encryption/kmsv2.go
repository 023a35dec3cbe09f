package encryption

import (
	"context"
	"crypto/aes"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/storage/value"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	kmsapi "k8s.io/kms/apis/v2"
	"k8s.io/utils/lru"
)

const (
	// statusEvery is how long a key for writing is used before the plugin is
	// asked whether it has a newer one, as in k8s.io/apiserver
	// pkg/server/options/encryptionconfig/config.go.
	statusEvery = time.Minute

	// v2Keys is how many decrypted keys are kept. Each start of a
	// kube-apiserver made one, and each key of the plugin.
	v2Keys = 1000
)

// kmsV2 is a provider of apiVersion v2. It does what the envelope transformer
// of k8s.io/apiserver pkg/storage/value/encrypt/envelope/kmsv2 does, with the
// same parts. That itself needs a loop around it, logs to stderr when it counts
// more than a hundred key ids, and keeps a cipher for each object it has read.
type kmsV2 struct {
	plugin *plugin
	keys   *lru.Cache // decrypted keys and seeds, by keyID
	now    func() time.Time

	mu    sync.Mutex // over what follows
	write *v2WriteKey
	asked time.Time // for the plugin's status
}

// v2WriteKey encrypts values with one key.
type v2WriteKey struct {
	value.Transformer
	sealed *kmstypes.EncryptedObject // the key, without any data
}

func newKMSv2(p *plugin) *kmsV2 {
	return &kmsV2{plugin: p, keys: lru.New(v2Keys), now: time.Now}
}

var errNotV2 = errors.New("the value is damaged or of a newer release")

// TransformFromStorage is part of value.Transformer.
func (k *kmsV2) TransformFromStorage(ctx context.Context, data []byte, key value.Context) ([]byte, bool, error) {
	var o kmstypes.EncryptedObject
	// What they say may quote the value.
	if proto.Unmarshal(data, &o) != nil || kmsv2.ValidateEncryptedObject(&o) != nil {
		return nil, false, errNotV2
	}
	secret, err := k.decrypted(ctx, &o)
	if err != nil {
		return nil, false, err
	}
	t, err := v2Reader(o.EncryptedDEKSourceType, secret)
	if err != nil {
		return nil, false, err
	}
	plain, _, err := t.TransformFromStorage(ctx, o.EncryptedData, key)
	if err != nil {
		return nil, false, errors.New(wrongKeyPlace)
	}
	return plain, false, nil
}

func v2Reader(kind kmstypes.EncryptedDEKSourceType, secret []byte) (value.Read, error) {
	if kind == kmstypes.EncryptedDEKSourceType_HKDF_SHA256_XNONCE_AES_GCM_SEED {
		return aestransformer.NewHKDFExtendedNonceGCMTransformer(secret)
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return gcmOf(block)
}

// decrypted returns the key or seed of a value, from the plugin if need be.
func (k *kmsV2) decrypted(ctx context.Context, o *kmstypes.EncryptedObject) ([]byte, error) {
	id, err := keyID(o)
	if err != nil {
		return nil, err
	}
	if secret, ok := k.keys.Get(id); ok {
		return secret.([]byte), nil
	}
	var secret []byte
	err = k.do(ctx, func(ctx context.Context, client kmsapi.KeyManagementServiceClient) error {
		answer, err := client.Decrypt(ctx, &kmsapi.DecryptRequest{
			Uid: string(uuid.NewUUID()), Ciphertext: o.EncryptedDEKSource, KeyId: o.KeyID, Annotations: o.Annotations,
		})
		secret = answer.GetPlaintext()
		return err
	})
	if err != nil {
		return nil, err
	}
	k.keys.Add(id, secret)
	return secret, nil
}

// keyID stands for everything that the plugin is told about a key.
func keyID(o *kmstypes.EncryptedObject) ([sha256.Size]byte, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(withData(o, nil))
	return sha256.Sum256(data), err
}

func withData(o *kmstypes.EncryptedObject, data []byte) *kmstypes.EncryptedObject {
	return &kmstypes.EncryptedObject{
		EncryptedData: data, KeyID: o.KeyID, EncryptedDEKSource: o.EncryptedDEKSource,
		Annotations: o.Annotations, EncryptedDEKSourceType: o.EncryptedDEKSourceType,
	}
}

// TransformToStorage is part of value.Transformer.
func (k *kmsV2) TransformToStorage(ctx context.Context, plain []byte, key value.Context) ([]byte, error) {
	w, err := k.writeKey(ctx)
	if err != nil {
		return nil, err
	}
	data, err := w.TransformToStorage(ctx, plain, key)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(withData(w.sealed, data))
}

// writeKey does on demand what kube-apiserver does in a loop
// (isKMSv2ProviderHealthyAndMaybeRotateDEK and rotateDEKOnKeyIDChange).
func (k *kmsV2) writeKey(ctx context.Context) (*v2WriteKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if k.write != nil && now.Sub(k.asked) < statusEvery {
		return k.write, nil
	}
	id, err := k.announced(ctx)
	if err != nil {
		return nil, err
	}
	if k.write == nil || k.write.sealed.KeyID != id {
		w, err := k.newWriteKey(ctx)
		if err != nil {
			return nil, err
		}
		if w.sealed.KeyID != id {
			return nil, k.plugin.errorf("encrypts with another key than the one it announces")
		}
		k.write = w
	}
	k.asked = now
	return k.write, nil
}

// announced returns the id of what the plugin wants values to be written with.
func (k *kmsV2) announced(ctx context.Context) (string, error) {
	var answer *kmsapi.StatusResponse
	err := k.do(ctx, func(ctx context.Context, client kmsapi.KeyManagementServiceClient) (err error) {
		answer, err = client.Status(ctx, &kmsapi.StatusRequest{})
		return err
	})
	if err != nil {
		return "", err
	}
	if answer.Healthz != "ok" {
		return "", k.plugin.errorf("says about its health: %s", clip(answer.Healthz))
	}
	if answer.Version != kmsv2.KMSAPIVersionv2 && answer.Version != kmsv2.KMSAPIVersionv2beta1 {
		return "", k.plugin.errorf("speaks version %s instead of %s", clip(answer.Version), kmsv2.KMSAPIVersionv2)
	}
	return answer.KeyId, nil
}

// newWriteKey makes a key, not the seed that kube-apiserver makes since 1.29:
// those before 1.28 cannot read what is written with a seed, and all can read
// what is written with a key. It must not outlive the process.
func (k *kmsV2) newWriteKey(ctx context.Context) (*v2WriteKey, error) {
	t, secret, err := aestransformer.NewGCMTransformerWithUniqueKeyUnsafe()
	if err != nil {
		return nil, err
	}
	var o *kmstypes.EncryptedObject
	err = k.do(ctx, func(ctx context.Context, client kmsapi.KeyManagementServiceClient) error {
		answer, err := client.Encrypt(ctx, &kmsapi.EncryptRequest{Uid: string(uuid.NewUUID()), Plaintext: secret})
		o = &kmstypes.EncryptedObject{
			KeyID: answer.GetKeyId(), EncryptedDEKSource: answer.GetCiphertext(), Annotations: answer.GetAnnotations(),
			EncryptedDEKSourceType: kmstypes.EncryptedDEKSourceType_AES_GCM_KEY,
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := kmsv2.ValidateEncryptedObject(withData(o, []byte("any"))); err != nil {
		return nil, k.plugin.errorf("gives a key that no kube-apiserver takes: %s", clip(err.Error()))
	}
	id, err := keyID(o)
	if err != nil {
		return nil, err
	}
	k.keys.Add(id, secret)
	return &v2WriteKey{t, o}, nil
}

func (k *kmsV2) do(ctx context.Context, request func(context.Context, kmsapi.KeyManagementServiceClient) error) error {
	return k.plugin.call(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return request(ctx, kmsapi.NewKeyManagementServiceClient(conn))
	})
}
