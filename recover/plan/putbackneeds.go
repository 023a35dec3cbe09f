package plan

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// read returns an object of the store with its value, nil if there is none.
func (c *checks) read(ctx context.Context, key string) (*filter.Object, error) {
	kv, err := c.main.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if kv == nil {
		return nil, nil
	}
	o := filter.NewObject(ctx, c.Reader, kv)
	return &o, nil
}

// decodedAs reads a whole object of a built-in kind, nil for what cannot be
// read. Of what API servers were told to store as JSON it takes what fits.
func decodedAs[T any](o filter.Object) *T {
	if o.Head.Err != nil {
		return nil
	}
	obj, err := codec.Decode(o.Plain, o.KV.ModRevision)
	if err != nil {
		return nil
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		made := new(T)
		if runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, made) != nil {
			return nil
		}
		return made
	}
	made, _ := any(obj).(*T)
	return made
}

// definition is what matters of a CustomResourceDefinition, v1beta1 or v1.
type definition struct {
	Metadata struct {
		DeletionTimestamp *string `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		Version  string              `json:"version"` // v1beta1 may have it alone
		Versions []definitionVersion `json:"versions"`
	} `json:"spec"`
	Status struct {
		StoredVersions []string `json:"storedVersions"`
	} `json:"status"`

	unread bool
}

type definitionVersion struct {
	Name string `json:"name"`
}

func (d *definition) knows(version string) bool {
	if len(d.Spec.Versions) == 0 {
		return d.Spec.Version == version
	}
	return slices.Contains(d.Spec.Versions, definitionVersion{version})
}

// maxDefinitions bounds checks.definitions.
const maxDefinitions = 1 << 12

// defined returns the definition of a name, nil if there is none.
func (c *checks) defined(ctx context.Context, name string) (*definition, error) {
	if d, known := c.definitions[name]; known {
		return d, nil
	}
	o, err := c.read(ctx, c.definitionKey(name))
	if err != nil {
		return nil, err
	}
	if len(c.definitions) >= maxDefinitions {
		clear(c.definitions)
	}
	var d *definition
	if o != nil {
		d = &definition{}
		if o.Head.Err != nil || json.Unmarshal(o.Plain, d) != nil {
			d = &definition{unread: true}
		}
	}
	c.definitions[name] = d
	return d, nil
}

func (c *checks) definitionKey(name string) string {
	return c.Prefix + "apiextensions.k8s.io/customresourcedefinitions/" + name
}

func (c *checks) definition(ctx context.Context, o *pickedObject) error {
	r := o.Key.Resource
	if !r.Custom {
		return nil
	}
	name := r.Plural + "." + r.Group
	d, err := c.defined(ctx, name)
	if err != nil || c.comes(c.definitionKey(name), d != nil) {
		return err
	}
	_, version, _ := strings.Cut(o.Head.Meta.APIVersion, "/")
	switch {
	case d == nil:
		c.warn(o, noDefinition, "put-back customresourcedefinitions "+name)
	case d.unread:
		c.warn(o, definitionUnread, name)
	case d.Metadata.DeletionTimestamp != nil:
		c.warn(o, definitionLeaving, name)
	case o.Head.Err != nil:
	case !d.knows(version):
		c.warn(o, otherVersion, version)
	case len(d.Status.StoredVersions) > 0 && !slices.Contains(d.Status.StoredVersions, version):
		c.warn(o, notStored, version)
	}
	return nil
}

// claim looks for the volume of a claim.
func (c *checks) claim(ctx context.Context, o *pickedObject) error {
	if !isClaim(o.Object) {
		return nil
	}
	claim := decodedAs[corev1.PersistentVolumeClaim](o.Object)
	if claim == nil || claim.Spec.VolumeName == "" {
		return nil
	}
	name := claim.Spec.VolumeName
	key := c.Prefix + "persistentvolumes/" + name
	now, err := c.read(ctx, key)
	if err != nil || c.comes(key, now != nil) {
		return err
	}
	if now == nil {
		c.warn(o, noVolume, "persistentvolume "+name)
		return nil
	}
	volume := decodedAs[corev1.PersistentVolume](*now)
	if volume != nil && volume.Spec.ClaimRef != nil && volume.Spec.ClaimRef.UID != "" && volume.Spec.ClaimRef.UID != claim.UID {
		c.warn(o, volumeTaken, "persistentvolume "+name)
	}
	return nil
}

// volume looks for the claim of a volume.
func (c *checks) volume(ctx context.Context, o *pickedObject) (*filter.Verdict, error) {
	claim, err := claimOf(ctx, o.Object, c.now, c.isDone)
	if err != nil || claim == filter.Exists {
		return nil, err
	}
	return filter.UnsafeVolume(o.Object, c.Overrides), nil
}

// token looks for the ServiceAccount of a Secret.
func (c *checks) token(ctx context.Context, o *pickedObject) error {
	if o.Key.Resource.String() != "secrets" {
		return nil
	}
	account := accountOf(o.Object)
	if account == nil {
		return nil
	}
	now, err := c.now.Named(ctx, filter.Ref{Owner: *account, Namespace: o.Key.Namespace})
	if err != nil || c.comes(c.Prefix+"serviceaccounts/"+o.Key.Namespace+"/"+account.Name, now != nil) {
		return err
	}
	if now == nil || now.Head.Err == nil && account.UID != "" && now.Head.Meta.UID != account.UID {
		c.warn(o, noAccount, "serviceaccount "+account.Name)
	}
	return nil
}

// maxAddresses bounds checks.addresses; a cluster has some per Service.
const maxAddresses = 1 << 18

// service looks for another Service with the same addresses.
func (c *checks) service(ctx context.Context, o *pickedObject) error {
	if o.Key.Resource.String() != "services" {
		return nil
	}
	wanted := addressesOf(o.Object)
	if len(wanted) == 0 {
		return nil
	}
	if c.addresses == nil {
		if err := c.readAddresses(ctx); err != nil {
			return err
		}
	}
	for _, address := range wanted {
		if has := c.addresses[address]; has != "" && has != o.Name() {
			c.warn(o, addressTaken, address+" of "+has)
			return nil
		}
	}
	return nil
}

func (c *checks) readAddresses(ctx context.Context) error {
	c.addresses = map[string]string{}
	services := keyspace.Prefix(c.Prefix + "services/specs/")
	return c.main.Scan(ctx, services, false, func(kv *mvccpb.KeyValue) error {
		o := filter.NewObject(ctx, c.Reader, kv)
		for _, address := range addressesOf(o) {
			if len(c.addresses) < maxAddresses {
				c.addresses[address] = o.Name()
			}
		}
		return nil
	})
}

// addressesOf are the cluster IPs and node ports of a Service.
func addressesOf(o filter.Object) (addresses []string) {
	s := decodedAs[corev1.Service](o)
	if s == nil {
		return nil
	}
	for _, ip := range append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...) {
		if ip != "" && ip != corev1.ClusterIPNone && !slices.Contains(addresses, ip) {
			addresses = append(addresses, ip)
		}
	}
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			addresses = append(addresses, "node port "+strconv.Itoa(int(p.NodePort))+"/"+string(p.Protocol))
		}
	}
	return addresses
}
