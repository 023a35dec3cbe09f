package app

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

func resourcesCommand() *command {
	return &command{
		name: "resources", maxArgs: 0,
		summary: "list which kinds of objects are stored, and what else is",
		about: "Lists every resource of which objects are stored: built-in ones, custom ones by their definitions, and those that only the stored " +
			"objects tell of, because this build is older or the definition is gone. Values that cannot be decoded, objects whose metadata disagrees " +
			"with their key and keys that are no object's are named. Reads every value once. Nothing is changed.",
		examples: []string{
			"etcd-rescue resources",
			"etcd-rescue resources --from snapshot.db -o wide",
		},
		flags: slices.Concat(outputFlags("table, wide, json, yaml"), fromFlags(), connectionFlags()),
		run:   runResources,
	}
}

// Where the knowledge of a resource comes from.
const (
	knownBuiltin = "built-in"
	knownCRD     = "crd"
	knownStored  = "stored"
	knownNot     = "unknown"
)

// storedResource is a line of the report: a resource, or a place below the
// prefix that none is known for.
type storedResource struct {
	resource   *codec.Resource // nil if none is known
	prefix     string
	objects    int64
	bytes      int64
	stored     map[codec.Status]int64
	mismatched int64
}

type inventory struct {
	s      *session
	filter *filter.Filter
	by     map[string]*storedResource
	survey *survey
}

func runResources(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat(formatTable, formatWide, formatJSON, formatYAML); err != nil {
		return err
	}
	s, err := inv.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.learn(ctx); err != nil {
		return err
	}
	i := &inventory{s: s, by: map[string]*storedResource{}, survey: newSurvey()}
	for _, src := range s.sources() {
		if i.filter, _, err = s.filter(filter.Selection{}, src); err != nil {
			return err
		}
		err := scanAny(ctx, src, keyspace.Prefix(s.reader.Prefix), false, func(kv *mvccpb.KeyValue) error { return i.add(ctx, kv) })
		if err != nil {
			return err
		}
	}
	i.survey.lookOutside(ctx, s, s.mainSource)
	return i.show()
}

func (i *inventory) add(ctx context.Context, kv *mvccpb.KeyValue) error {
	o, err := i.s.inspect(ctx, i.filter, kv)
	if err != nil {
		return err
	}
	i.survey.add(o, false)
	prefix := i.place(o)
	r := i.by[prefix]
	if r == nil {
		r = &storedResource{prefix: prefix, stored: map[codec.Status]int64{}}
		i.by[prefix] = r
	}
	// The last one counts: an object may have proved by now what the first
	// keys of an unknown place could not.
	r.resource = cmp.Or(o.Key.Resource, r.resource)
	r.objects++
	r.bytes += o.Size
	r.stored[o.Head.Status]++
	if disagrees(o) != nil {
		r.mismatched++
	}
	return nil
}

// place is the part of the key that names the resource: the first segment, or
// the first two if the first is a group.
func (i *inventory) place(o filter.Object) string {
	if o.Key.Resource != nil {
		return o.Key.Resource.Prefix
	}
	rest := strings.TrimPrefix(string(o.KV.Key), i.s.reader.Prefix)
	first, after, ok := strings.Cut(rest, "/")
	if !ok {
		return rest
	}
	if second, _, ok := strings.Cut(after, "/"); ok && strings.Contains(first, ".") {
		return first + "/" + second + "/"
	}
	return first + "/"
}

func (r *storedResource) known() string {
	switch {
	case r.resource == nil:
		return knownNot
	case r.resource.Learned || r.resource.Custom && r.resource.Kind == "":
		return knownStored
	case r.resource.Custom:
		return knownCRD
	}
	return knownBuiltin
}

// note says in words what is unusual.
func (r *storedResource) note() string {
	var notes []string
	switch known := r.known(); {
	case known == knownStored && r.resource.Custom:
		notes = append(notes, "its definition is gone")
	case known == knownStored:
		notes = append(notes, "not in this build")
	case known == knownBuiltin && r.resource.Internal:
		notes = append(notes, "kube-apiserver's own")
	}
	for _, status := range []codec.Status{codec.StatusEncrypted, codec.StatusUndecodable, codec.StatusForeign} {
		if n := r.stored[status]; n > 0 {
			notes = append(notes, fmt.Sprintf("%s %s", term.Count(n), status))
		}
	}
	if r.mismatched > 0 {
		notes = append(notes, term.Count(r.mismatched)+" with another's metadata")
	}
	return joinWords(notes)
}

func (r *storedResource) name() string {
	if r.resource == nil {
		return unknownResource
	}
	return r.resource.Plural
}

func (i *inventory) show() error {
	inv := i.s.inv
	list := slices.SortedFunc(maps.Values(i.by), func(a, b *storedResource) int {
		group := func(r *storedResource) string {
			if r.resource == nil {
				return "\xff" // behind everything that has a name
			}
			return r.resource.Group
		}
		return cmp.Or(cmp.Compare(group(a), group(b)), cmp.Compare(a.name(), b.name()), cmp.Compare(a.prefix, b.prefix))
	})
	i.survey.say(inv)
	if inv.format() == formatTable || inv.format() == formatWide {
		return i.table(list)
	}
	return inv.document(i.document(list))
}

func (i *inventory) table(list []*storedResource) error {
	inv := i.s.inv
	t, wide := inv.table(), inv.format() == formatWide
	header := []string{"NAME", "SHORTNAMES", "GROUP", "KIND", "SCOPE", "PREFIX", "OBJECTS"}
	if wide {
		header = append(header, "BYTES", "STORED")
	}
	t.Header(append(header, "NOTE")...)
	var objects, bytes int64
	for _, r := range list {
		names, group, kind, scope := "", "", "", ""
		if r.resource != nil {
			names, group, kind, scope = strings.Join(r.resource.ShortNames, ","), r.resource.Group, r.resource.Kind, scopeOf(r.resource)
		}
		row := []string{r.name(), names, group, kind, scope, r.prefix, inv.number(r.objects)}
		if wide {
			row = append(row, inv.size(r.bytes), storedText(r.stored))
		}
		t.Row(append(row, r.note())...)
		objects += r.objects
		bytes += r.bytes
	}
	total := []string{"TOTAL", "", "", "", "", "", inv.number(objects)}
	if wide {
		total = append(total, inv.size(bytes), "")
	}
	t.Row(append(total, "")...)
	return t.Flush()
}

func scopeOf(r *codec.Resource) string {
	if r.Namespaced {
		return "Namespaced"
	}
	return "Cluster"
}

// storedText lists the forms in which values are stored, the most frequent
// first.
func storedText(stored map[codec.Status]int64) string {
	var texts []string
	statuses := slices.SortedFunc(maps.Keys(stored), func(a, b codec.Status) int {
		return cmp.Or(cmp.Compare(stored[b], stored[a]), cmp.Compare(a, b))
	})
	for _, s := range statuses {
		texts = append(texts, fmt.Sprintf("%s %s", s, term.Count(stored[s])))
	}
	return joinWords(texts)
}

func (i *inventory) document(list []*storedResource) map[string]any {
	resources := []any{}
	var objects, bytes int64
	for _, r := range list {
		stored := map[string]any{}
		for status, n := range r.stored {
			stored[string(status)] = n
		}
		entry := map[string]any{
			"prefix": r.prefix, "objects": r.objects, "bytes": r.bytes, "stored": stored,
			"known": r.known(), "mismatched": r.mismatched,
		}
		if r.resource != nil {
			entry["name"], entry["group"], entry["kind"] = r.resource.Plural, r.resource.Group, r.resource.Kind
			entry["shortNames"], entry["namespaced"] = append([]string{}, r.resource.ShortNames...), r.resource.Namespaced
		}
		resources = append(resources, entry)
		objects += r.objects
		bytes += r.bytes
	}
	doc := map[string]any{
		"version": 1, "kind": "resources", "revision": i.s.mainSource.Revision(),
		"resources": resources, "objects": objects, "bytes": bytes,
	}
	i.survey.document(doc)
	return doc
}
