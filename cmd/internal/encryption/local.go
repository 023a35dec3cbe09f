package encryption

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/storage/value"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	"k8s.io/apiserver/pkg/storage/value/encrypt/secretbox"
)

// providers builds those of one entry of the file, one for each key.
func (c *Config) providers(entry int, list []apiserver.ProviderConfiguration) ([]*provider, error) {
	var all []*provider
	for j, conf := range list {
		at := fmt.Sprintf("resources[%d].providers[%d]", entry, j)
		var err error
		var built []*provider
		switch {
		case conf.AESGCM != nil:
			built, err = withKeys("aesgcm", conf.AESGCM.Keys, newGCM)
		case conf.AESCBC != nil:
			built, err = withKeys("aescbc", conf.AESCBC.Keys, newCBC)
		case conf.Secretbox != nil:
			built, err = withKeys("secretbox", conf.Secretbox.Keys, newSecretbox)
		case conf.KMS != nil:
			built, err = c.kms(conf.KMS)
		case conf.Identity != nil:
			built = []*provider{{}}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		for _, p := range built {
			p.at = at
		}
		all = append(all, built...)
	}
	return all, nil
}

func withKeys(kind string, keys []apiserver.Key, build func(secret []byte) (value.Transformer, error)) ([]*provider, error) {
	var all []*provider
	for _, key := range keys {
		secret, err := base64.StdEncoding.DecodeString(key.Secret)
		if err != nil {
			return nil, fmt.Errorf("the secret of key %q is not base64", key.Name)
		}
		t, err := build(secret)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", key.Name, err)
		}
		all = append(all, &provider{prefix: prefixEncrypted + kind + ":v1:" + key.Name + ":", Transformer: t})
	}
	return all, nil
}

// guarded keeps data from a transformer that is too short for it, because the
// one for CBC panics on a value that ends behind its initialisation vector. It
// also says what a failure means, which the transformers do not.
type guarded struct {
	value.Transformer
	shortest int // bytes
	failure  string
}

// TransformFromStorage is part of value.Transformer.
func (g guarded) TransformFromStorage(ctx context.Context, data []byte, key value.Context) ([]byte, bool, error) {
	if len(data) < g.shortest {
		return nil, false, errors.New("the value is cut off")
	}
	plain, stale, err := g.Transformer.TransformFromStorage(ctx, data, key)
	if err != nil {
		return nil, false, errors.New(g.failure)
	}
	return plain, stale, nil
}

const (
	wrongKey      = "its key is not the one that the value was written with, or the value is damaged"
	wrongKeyPlace = wrongKey + " or comes from another etcd key"
)

func newCBC(secret []byte) (value.Transformer, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cbcOf(block), nil
}

func cbcOf(block cipher.Block) value.Transformer {
	return guarded{aestransformer.NewCBCTransformer(block), 2 * aes.BlockSize, wrongKey}
}

func newGCM(secret []byte) (value.Transformer, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return gcmOf(block)
}

func gcmOf(block cipher.Block) (value.Transformer, error) {
	t, err := aestransformer.NewGCMTransformer(block)
	return guarded{t, 12 + 16, wrongKeyPlace}, err
}

func newSecretbox(secret []byte) (value.Transformer, error) {
	if len(secret) != 32 {
		return nil, fmt.Errorf("its secret has %d bytes instead of 32", len(secret))
	}
	return guarded{secretbox.NewSecretboxTransformer([32]byte(secret)), 24 + 16, wrongKey}, nil
}
