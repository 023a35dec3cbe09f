package filter

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// GuardSource is where a Guard looks things up; every keyspace.Source is one.
type GuardSource interface {
	Getter
	manyGetter
	Count(ctx context.Context, r keyspace.Range) (int64, error)
	// Revision is 0 where every answer is the newest there is.
	Revision() int64
}

// fact is what matters of a Node or a PersistentVolume that was looked up.
type fact uint8

const (
	absent       fact = iota
	present           // a Node that may run pods, or one that cannot be read; a volume of unknown policy
	outOfService      // a Node that certainly runs none
	retained          // a volume of reclaim policy Retain
	recycled          // Recycle
	destroyed         // Delete
)

// facts are remembered by key, at most 2*maxCached of them: when the young are
// that many, they become the old ones, which are then forgotten.
type facts struct {
	mu         sync.Mutex
	young, old map[string]fact
}

func (f *facts) get(key string) (now fact, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now, known = f.young[key]; !known {
		if now, known = f.old[key]; known {
			f.add(key, now)
		}
	}
	return now, known
}

func (f *facts) put(key string, now fact) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add(key, now)
}

// add is called with the lock held.
func (f *facts) add(key string, now fact) {
	if f.young == nil || len(f.young) >= maxCached {
		f.young, f.old = map[string]fact{}, f.young
	}
	f.young[key] = now
}

// fact looks up the Node or volume of a name that some value holds.
func (g *Guard) fact(ctx context.Context, at, name string) (fact, error) {
	key, ok := g.key(at, name)
	if !ok {
		return absent, nil
	}
	if now, known := g.facts.get(key); known {
		return now, nil
	}
	kv, err := g.src.Get(ctx, key)
	if err != nil {
		return absent, fmt.Errorf("read %s: %w", key, err)
	}
	return g.learn(ctx, key, kv), nil
}

// learn remembers what was read at a key; what may be another thing at the
// next look is not remembered.
func (g *Guard) learn(ctx context.Context, key string, kv *mvccpb.KeyValue) fact {
	now := absent
	if kv != nil {
		now = tell(NewObject(ctx, g.reader, kv))
	}
	if g.src.Revision() != 0 {
		g.facts.put(key, now)
	}
	return now
}

// key returns where an object is stored, false for a name that none can have.
func (g *Guard) key(at, name string) (string, bool) {
	const longest = 253 // a DNS subdomain
	if len(name) > longest {
		return "", false
	}
	key := g.reader.Prefix + at + name
	_, ok := g.reader.Catalog.ParseKey(g.reader.Prefix, key)
	return key, ok
}

// shortName makes a name fit to be shown, whatever the value holds.
func shortName(name string) string {
	const longest = 253
	return name[:min(len(name), longest)]
}

// needs returns the key that checking o looks up, "" if there is none or it is
// remembered.
func (g *Guard) needs(o Object) string {
	at, name := "", ""
	switch r := o.Key.Resource; {
	case g == nil || r == nil || o.Head.Err != nil || g.src.Revision() == 0:
		return ""
	case r.Prefix == podsAt && mayHaveTwin(o.Head):
		at, name = nodesAt, o.Head.Node
	case r.Prefix == claimsAt:
		at = volumesAt
		name, _ = claimedVolume(o) // Check says what is wrong with it
	}
	if name == "" {
		return ""
	}
	key, ok := g.key(at, name)
	if !ok {
		return ""
	}
	if _, known := g.facts.get(key); known {
		return ""
	}
	return key
}

// ahead looks up many keys, which are sorted, with few requests. Few are left
// to be read one by one.
func (g *Guard) ahead(ctx context.Context, keys []string) error {
	for chunk := range slices.Chunk(keys, firstChunk) {
		if len(chunk) <= fewKeys {
			continue
		}
		found, err := g.src.GetAll(ctx, chunk)
		if err != nil {
			return fmt.Errorf("read %s and %d more: %w", chunk[0], len(chunk)-1, err)
		}
		for _, key := range chunk {
			g.learn(ctx, key, found[key])
		}
	}
	return nil
}

// Guarding checks one object after the other. Where that takes a look-up,
// objects wait for one another, so that what many need is read with few
// requests.
type Guarding struct {
	guard   *Guard
	each    func(context.Context, Object, *Verdict) error
	waiting []Object
	keys    []string
	weight  int64
}

// Guarding returns a way to check many objects. each is called once for every
// object, in the order in which they are added; its errors end the checking.
func (g *Guard) Guarding(each func(context.Context, Object, *Verdict) error) *Guarding {
	return &Guarding{guard: g, each: each}
}

// Add checks an object, now or with later ones: until Flush or a later Add has
// called each for it, the object and its value must not change. At most 256
// objects, or a MiB of values and one more, wait. Errors are those of Check and
// of each.
func (c *Guarding) Add(ctx context.Context, o Object) error {
	key := c.guard.needs(o)
	if key == "" && len(c.waiting) == 0 {
		return c.check(ctx, o)
	}
	if key != "" {
		c.keys = append(c.keys, key)
	}
	c.waiting = append(c.waiting, o)
	if c.weight += o.Size; len(c.waiting) < aheadObjects && c.weight < aheadBytes {
		return nil
	}
	return c.Flush(ctx)
}

// Flush checks what waits. It is called after the last Add.
func (c *Guarding) Flush(ctx context.Context) error {
	slices.Sort(c.keys)
	if err := c.guard.ahead(ctx, slices.Compact(c.keys)); err != nil {
		return err
	}
	for _, o := range c.waiting {
		if err := c.check(ctx, o); err != nil {
			return err
		}
	}
	clear(c.waiting)
	clear(c.keys)
	c.waiting, c.keys, c.weight = c.waiting[:0], c.keys[:0], 0
	return nil
}

func (c *Guarding) check(ctx context.Context, o Object) error {
	v, err := c.guard.Check(ctx, o)
	if err != nil {
		return err
	}
	return c.each(ctx, o, v)
}

// tell says what matters of a Node or a PersistentVolume.
func tell(o Object) fact {
	obj, err := decoded(o)
	if err != nil {
		return present
	}
	policy := ""
	switch obj := obj.(type) {
	case *corev1.Node:
		return nodeFact(obj)
	case *corev1.PersistentVolume:
		policy = string(obj.Spec.PersistentVolumeReclaimPolicy)
	case *unstructured.Unstructured:
		// A Node in JSON, which API servers store only if told to, counts as
		// one that may run pods.
		policy, _ = textOf(obj, "PersistentVolume", "spec", "persistentVolumeReclaimPolicy")
	}
	switch corev1.PersistentVolumeReclaimPolicy(policy) {
	case corev1.PersistentVolumeReclaimRetain:
		return retained
	case corev1.PersistentVolumeReclaimRecycle:
		return recycled
	case corev1.PersistentVolumeReclaimDelete:
		return destroyed
	}
	return present
}

// nodeFact believes the taint where Kubernetes itself does: on a Node that is
// not ready (k8s pkg/controller/podgc, gcTerminating).
func nodeFact(n *corev1.Node) fact {
	ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	tainted := slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
	if tainted && !ready {
		return outOfService
	}
	return present
}

// decoded reads the whole object.
func decoded(o Object) (runtime.Object, error) {
	if o.Head.Err != nil {
		return nil, o.Head.Err
	}
	if o.withoutValue() {
		return nil, errNotKept
	}
	return codec.Decode(o.Plain, o.KV.ModRevision)
}

// claimedVolume returns the name of the volume that a claim is bound to, "" if
// it is bound to none.
func claimedVolume(o Object) (string, error) {
	obj, err := decoded(o)
	if err != nil {
		return "", err
	}
	if c, ok := obj.(*corev1.PersistentVolumeClaim); ok {
		return c.Spec.VolumeName, nil
	}
	return textOf(obj, "PersistentVolumeClaim", "spec", "volumeName")
}

func secretType(o Object) (string, error) {
	obj, err := decoded(o)
	if err != nil {
		return "", err
	}
	if s, ok := obj.(*corev1.Secret); ok {
		return string(s.Type), nil
	}
	return textOf(obj, "Secret", "type")
}

func serviceType(o Object) (string, error) {
	obj, err := decoded(o)
	if err != nil {
		return "", err
	}
	if s, ok := obj.(*corev1.Service); ok {
		return string(s.Spec.Type), nil
	}
	return textOf(obj, "Service", "spec", "type")
}

// textOf returns a text of an object that is stored as JSON, "" if it has none.
// Another kind or shape is an error.
func textOf(obj runtime.Object, kind string, path ...string) (string, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok || u.GetKind() != kind {
		return "", fmt.Errorf("%w: no %s", codec.ErrUndecodable, kind)
	}
	text, _, err := unstructured.NestedString(u.Object, path...)
	if err != nil {
		return "", fmt.Errorf("%w: no text at %s", codec.ErrUndecodable, strings.Join(path, "."))
	}
	return text, nil
}
