package codec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
)

// Decrypter undoes encryption at rest. Implementations are safe for concurrent
// use and may do I/O, because a KMS plugin answers on a socket; this package
// does none.
type Decrypter interface {
	// Decrypt returns what was encrypted into value. key is the whole etcd
	// key, which is the authenticated data of most providers (k8s.io/apiserver
	// pkg/storage/etcd3/store.go, authenticatedDataString); r is its resource,
	// which decides on the providers. value is not changed. An error says why
	// the value stays unreadable and quotes none of it.
	Decrypt(ctx context.Context, r *Resource, key string, value []byte) ([]byte, error)
}

// Encrypter does what a kube-apiserver does before it writes.
type Encrypter interface {
	// Encrypt returns what would be stored at key: plain encrypted by the
	// first provider that is configured for the resource, plain itself if
	// that is identity.
	Encrypt(ctx context.Context, r *Resource, key string, plain []byte) ([]byte, error)
}

// Reader understands the keys and values of one store. It is safe for
// concurrent use.
type Reader struct {
	Catalog   *Catalog
	Prefix    string    // as NormalizePrefix gives it
	Decrypter Decrypter // nil: encrypted values stay so

	heads sync.Pool // of *HeadDecoder
}

// Value is one stored key and value as a Reader understands them.
type Value struct {
	Key Key // zero for a key that is no object's

	// Plain is the value before encryption, or the stored value itself if it
	// is not encrypted or could not be decrypted. In the latter case it
	// shares its memory.
	Plain []byte

	// Provider names what encrypted the value, such as "aescbc:v1:key2". It
	// is empty for a value that is stored in the clear.
	Provider string

	// Head is that of Plain. Its status is StatusEncrypted only if the value
	// could not be decrypted; Err then says why.
	Head Head
}

// Read tells what one key and its value mean. Whether a value is encrypted is
// told by its first bytes, never by trial.
func (r *Reader) Read(ctx context.Context, key string, value []byte) Value {
	v := Value{Plain: value}
	v.Key, _ = r.Catalog.ParseKey(r.Prefix, key)
	if statusOf(value) != StatusEncrypted {
		v.Head = r.head(value)
		return v
	}
	v.Provider = ProviderOf(value)
	plain, err := r.decrypt(ctx, v.Key, key, value)
	if err != nil {
		v.Head = Head{Status: StatusEncrypted, Err: err}
		return v
	}
	v.Plain = plain
	// What a provider yields is never encrypted again.
	if v.Head = r.head(plain); v.Head.Status == StatusEncrypted {
		v.Head.Status, v.Head.Err = StatusUndecodable, unknownFormError(plain)
	}
	return v
}

// head is DecodeHead with a decoder that has read other values of the store.
func (r *Reader) head(value []byte) Head {
	d, ok := r.heads.Get().(*HeadDecoder)
	if !ok {
		d = new(HeadDecoder)
	}
	defer r.heads.Put(d)
	return d.Decode(value)
}

func (r *Reader) decrypt(ctx context.Context, k Key, key string, value []byte) ([]byte, error) {
	if r.Decrypter == nil {
		return nil, encryptedError(value)
	}
	if k.Resource == nil {
		return nil, fmt.Errorf("%w, and no resource is known for its key", encryptedError(value))
	}
	plain, err := r.Decrypter.Decrypt(ctx, k.Resource, key, value)
	if err != nil && !errors.Is(err, ErrEncrypted) {
		err = fmt.Errorf("%w: %w", encryptedError(value), err)
	}
	return plain, err
}

// ProviderOf returns "aescbc:v1:key2" of the encrypted value "k8s:enc:aescbc:v1:key2:…". Of a value
// that only begins like an encrypted one it is "unknown": what follows may be
// anything.
func ProviderOf(value []byte) string {
	const longest = 253 // a key's name; no rule bounds it
	parts := bytes.SplitN(value[len(magicEncrypted):min(len(value), 512)], []byte(":"), 4)
	if len(parts) < 4 || len(parts[2]) > longest || !isVersion(string(parts[1])) {
		return unknownProvider
	}
	for _, b := range parts[2] {
		if b <= ' ' || b > '~' {
			return unknownProvider
		}
	}
	switch string(parts[0]) {
	case "aescbc", "aesgcm", "secretbox", "kms":
		return string(bytes.Join(parts[:3], []byte(":")))
	}
	return unknownProvider
}

const unknownProvider = "unknown"
