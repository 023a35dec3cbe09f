// Package encryption reads and writes values at rest as a kube-apiserver with
// the same EncryptionConfiguration does, with the transformers of
// k8s.io/apiserver below pkg/storage/value/encrypt.
//
// What that server does around them is left out: no health checks, no loops,
// no reloads, no feature gates, nothing logged. A KMS plugin is dialled when
// the first value needs it.
//
// Its invariant: which providers are tried is told by the resource and by the
// first bytes of the value, in the order of the file. No error quotes a key or
// a value.
package encryption

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// Config is a loaded EncryptionConfiguration. It implements [codec.Decrypter]
// and [codec.Encrypter] and is safe for concurrent use. It holds the keys of
// the file in memory.
type Config struct {
	path    string
	entries [][]*provider                        // as in the file
	names   [][]string                           // the resources of each entry
	rules   map[schema.GroupResource][]*provider // as "resource" or "*" of a group
	plugins []*plugin
}

var (
	_ codec.Decrypter = (*Config)(nil)
	_ codec.Encrypter = (*Config)(nil)
)

// provider is one key of a provider of the file, or a provider without keys.
type provider struct {
	at     string // "resources[0].providers[1]"
	prefix string // "k8s:enc:aescbc:v1:key1:"; empty for identity
	value.Transformer
}

// Load reads a file of kind EncryptionConfiguration (apiserver.config.k8s.io/v1)
// or EncryptionConfig (v1, of old documentation), YAML or JSON. What
// kube-apiserver 1.37 refuses is an error, except for the API groups extensions
// and events.k8s.io that older releases let a file name. An error says what is
// wrong at which resources[i].providers[j], and quotes no key; it wraps the
// cause if the file cannot be read. No plugin is asked for anything.
func Load(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	c := &Config{path: path, rules: map[schema.GroupResource][]*provider{}}
	file, err := parse(data)
	if err == nil {
		err = c.build(file)
	}
	if err != nil {
		return nil, fmt.Errorf("encryption configuration %s: %w", path, err)
	}
	return c, nil
}

// Path returns the name of the file as Load was given it.
func (c *Config) Path() string { return c.path }

// Close closes the connections to KMS plugins. Values that need one fail from
// then on. The error is always nil.
func (c *Config) Close() error {
	for _, p := range c.plugins {
		p.giveUp(p.errorf("is no longer connected"))
	}
	return nil
}

func (c *Config) build(file *apiserver.EncryptionConfiguration) error {
	for i, entry := range file.Resources {
		providers, err := c.providers(i, entry.Providers)
		if err != nil {
			return err
		}
		c.entries, c.names = append(c.entries, providers), append(c.names, entry.Resources)
		for j, name := range entry.Resources {
			gr := schema.ParseGroupResource(name)
			for _, all := range wildcards(gr.Group) {
				if _, ok := c.rules[all]; ok {
					return fmt.Errorf("resources[%d].resources[%d]: %q is masked by an earlier entry for %q", i, j, name, all.Resource+"."+all.Group)
				}
			}
			c.rules[gr] = append(c.rules[gr], providers...)
		}
	}
	return nil
}

// wildcards are the rules for all resources of a group and of all groups.
func wildcards(group string) []schema.GroupResource {
	return []schema.GroupResource{{Group: group, Resource: "*"}, {Group: "*", Resource: "*"}}
}

// rule returns the providers of a resource, of the most exact rule alone
// (transformerFromOverrides in k8s.io/apiserver
// pkg/server/options/encryptionconfig/config.go).
func (c *Config) rule(group, resource string) []*provider {
	for _, gr := range append([]schema.GroupResource{{Group: group, Resource: resource}}, wildcards(group)...) {
		if providers, ok := c.rules[gr]; ok {
			return providers
		}
	}
	return nil
}

// readers are the providers that may have written a value of the resource:
// those of its own group, then those that the file has for a group that once
// gave it its place in etcd (AddCohabitatingResources in k8s.io/kubernetes
// pkg/kubeapiserver/default_storage_factory_builder.go).
func (c *Config) readers(r *codec.Resource) []*provider {
	if r.Internal {
		return nil
	}
	all := slices.Clone(c.rule(r.Group, r.Plural))
	for _, group := range r.OldGroups {
		all = append(all, c.rules[schema.GroupResource{Group: group, Resource: r.Plural}]...)
	}
	return all
}

// The stored prefix of everything encrypted.
const prefixEncrypted = "k8s:enc:"

// Decrypt is part of [codec.Decrypter]. A value that is not encrypted is
// returned as it is, whether or not the file lists identity. Several providers
// may have the prefix of the value, if a key was changed but not its name: as
// in kube-apiserver the first that succeeds wins, and aescbc, which
// authenticates nothing, succeeds with a wrong key once in some 250 values.
//
// An error wraps [codec.ErrEncrypted] and names the provider and the key that
// the value was written with. If ctx ends, it wraps that too.
func (c *Config) Decrypt(ctx context.Context, r *codec.Resource, key string, stored []byte) ([]byte, error) {
	if !bytes.HasPrefix(stored, []byte(prefixEncrypted)) {
		return stored, nil
	}
	if key == "" {
		return nil, errNoKey
	}
	var failed error
	for _, p := range c.readers(r) {
		rest, ok := bytes.CutPrefix(stored, []byte(p.prefix))
		if !ok || p.prefix == "" {
			continue
		}
		plain, _, err := p.TransformFromStorage(ctx, rest, value.DefaultContext(key))
		if err == nil {
			return plain, nil
		}
		err = fmt.Errorf("%s of %s: %w", p.at, c.path, err)
		if failed != nil {
			err = fmt.Errorf("%w; %w", failed, err)
		}
		failed = err
		if ctx.Err() != nil {
			break
		}
	}
	if failed == nil {
		failed = c.noProvider(r, stored)
	}
	return nil, fmt.Errorf("%w%s: %w", codec.ErrEncrypted, writtenWith(stored), failed)
}

// ReadsClear reports whether kube-apiserver reads values of the resource that
// nothing has encrypted: the file says nothing of it, or lists identity for it.
func (c *Config) ReadsClear(r *codec.Resource) bool {
	providers := c.readers(r)
	return len(providers) == 0 || slices.ContainsFunc(providers, func(p *provider) bool { return p.prefix == "" })
}

// errNoKey stands for a panic of the transformers, which take the key as
// authenticated data.
var errNoKey = errors.New("an empty etcd key holds no value")

// Encrypt is part of [codec.Encrypter]. kube-apiserver encrypts nothing that it
// keeps for itself, whatever the file says, and looks a resource up under the
// group that serves it now. The value that KMS v2 yields can be read by every
// kube-apiserver that knows KMS v2.
func (c *Config) Encrypt(ctx context.Context, r *codec.Resource, key string, plain []byte) ([]byte, error) {
	var rule []*provider
	if !r.Internal {
		rule = c.rule(r.Group, r.Plural)
	}
	if len(rule) == 0 || rule[0].prefix == "" {
		return plain, nil
	}
	if key == "" {
		return nil, errNoKey
	}
	p := rule[0]
	sealed, err := p.TransformToStorage(ctx, plain, value.DefaultContext(key))
	if err != nil {
		return nil, fmt.Errorf("encrypt by %s of %s: %w", p.at, c.path, err)
	}
	return append([]byte(p.prefix), sealed...), nil
}

// noProvider says what the file lacks for a value, and where else it has that.
func (c *Config) noProvider(r *codec.Resource, stored []byte) error {
	var elsewhere []string
	for i, providers := range c.entries {
		if slices.ContainsFunc(providers, func(p *provider) bool {
			return p.prefix != "" && bytes.HasPrefix(stored, []byte(p.prefix))
		}) {
			elsewhere = append(elsewhere, fmt.Sprintf("resources[%d], for %s", i, some(c.names[i], ", ")))
		}
	}
	text := fmt.Sprintf("%s has no entry for %s", c.path, r)
	if len(c.readers(r)) > 0 {
		text = fmt.Sprintf("the entry of %s for %s lacks that key", c.path, r)
	}
	if len(elsewhere) > 0 {
		text += "; only others have it: " + some(elsewhere, "; ")
	}
	return errors.New(text)
}

// some joins the first few of a list.
func some(list []string, separator string) string {
	const few = 3
	if len(list) <= few {
		return strings.Join(list, separator)
	}
	return fmt.Sprintf("%s%sand %d more", strings.Join(list[:few], separator), separator, len(list)-few)
}

// writtenWith says what wrote "k8s:enc:aescbc:v1:key1:…", as codec does.
func writtenWith(stored []byte) string { return " by provider " + codec.ProviderOf(stored) }
