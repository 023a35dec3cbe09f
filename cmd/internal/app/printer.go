package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// The output formats of objects. What follows the equals sign is the template.
const (
	formatTable      = "table"
	formatWide       = "wide"
	formatName       = "name"
	formatKey        = "key"
	formatJSON       = "json"
	formatJSONL      = "jsonl"
	formatYAML       = "yaml"
	formatJSONPath   = "jsonpath"
	formatGoTemplate = "go-template"
	formatColumns    = "custom-columns"
)

func objectFormats() []string {
	return []string{formatTable, formatWide, formatName, formatKey, formatJSON, formatJSONL, formatYAML,
		formatJSONPath, formatGoTemplate, formatColumns}
}

// sink writes objects in one format, one by one, so that a list of any length
// needs little memory.
type sink interface {
	print(o filter.Object) error
	finish() error
}

// printer hands objects to the sink of the format asked for and keeps account
// of what could not be shown.
type printer struct {
	inv       *invocation
	out       *bufio.Writer
	resource  *codec.Resource // nil: of any kind
	namespace bool            // show the namespace in tables
	single    bool            // one object, no list around it
	now       time.Time
	render    codec.RenderOptions
	sink      sink

	shown     int64
	broken    listed // not shown, or not whole
	omitted   listed // shown without fields that this build does not know
	unknown   listed // of a kind that this build does not know
	encrypted listed // not shown, or not whole, because they could not be decrypted
	locked    listed // why, each reason once
}

// newPrinter prepares printing objects of a resource, or of any kind. single
// prints one object without a list around it.
func (s *session) newPrinter(ctx context.Context, r *codec.Resource, allNamespaces, single bool) (*printer, error) {
	p := &printer{
		inv: s.inv, resource: r, out: bufio.NewWriterSize(s.inv.Streams.Out, 1<<16),
		namespace: allNamespaces && (r == nil || r.Namespaced), single: single,
		render: codec.RenderOptions{ManagedFields: s.inv.Bool(flagManagedFields), ShowSecrets: s.inv.Bool(flagShowSecrets)},
	}
	var err error
	if p.sink, err = p.newSink(); err != nil {
		return nil, err
	}
	if _, ok := p.sink.(*tableSink); ok {
		if p.now, err = s.clock(ctx); err != nil {
			return nil, err
		}
	}
	if by := s.inv.String(flagSortBy); by != "" {
		if p.sink, err = newSorter(p, by); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *printer) newSink() (sink, error) {
	switch p.inv.format() {
	case formatTable, formatWide:
		return newTableSink(p), nil
	case formatName, formatKey:
		return nameSink{p}, nil
	case formatColumns:
		return newColumnsSink(p)
	case formatJSONPath, formatGoTemplate:
		return newTemplateSink(p)
	}
	return &documentSink{p: p}, nil
}

func (p *printer) print(o filter.Object) error {
	p.shown++
	return p.sink.print(o)
}

func (p *printer) finish() error {
	if err := p.sink.finish(); err != nil {
		return err
	}
	return p.out.Flush()
}

// nameSink prints resource/name, or the key.
type nameSink struct{ p *printer }

func (n nameSink) print(o filter.Object) error {
	text := string(o.KV.Key)
	if n.p.inv.format() == formatName && o.Key.Resource != nil {
		text = n.p.resourceOf(o).SingularName() + "/" + o.Key.Name
	}
	if n.p.inv.Streams.OutTTY {
		text = term.Clean(text)
	}
	_, err := fmt.Fprintln(n.p.out, text)
	return err
}

func (n nameSink) finish() error { return nil }

// resourceOf is the resource that was asked for, where one key is served as
// several, as events are.
func (p *printer) resourceOf(o filter.Object) *codec.Resource {
	if p.resource != nil && o.Key.Resource != nil && p.resource.Prefix == o.Key.Resource.Prefix {
		return p.resource
	}
	return o.Key.Resource
}

// whole returns the object as kubectl would show it. ok is false if there is
// nothing to print: the object is then accounted for as broken.
func (p *printer) whole(o filter.Object) (m map[string]any, ok bool) {
	m, err := p.object(o)
	if err == nil {
		if err = disagrees(o); err == nil {
			return m, true
		}
	}
	p.miss(o, err)
	if m != nil && p.single {
		return m, true // what was asked for by its key is shown as it is
	}
	if !p.inv.Bool(flagIncludeBroken) {
		return nil, false
	}
	return p.placeholder(o), true
}

// object decodes and renders what is stored.
func (p *printer) object(o filter.Object) (map[string]any, error) {
	if o.Head.Err != nil {
		return nil, o.Head.Err
	}
	shown, err := codec.Show(o.Plain, o.KV.ModRevision, p.resourceOf(o))
	if err != nil {
		return nil, err
	}
	p.note(o, shown)
	opt := p.render
	opt.Secret = isSecrets(o.Key.Resource)
	return codec.Render(shown.Object, opt)
}

// disagrees reports metadata that names another object than the key.
func disagrees(o filter.Object) error {
	if o.Key.Resource == nil || codec.MetaMatchesKey(o.Head, o.Key) {
		return nil
	}
	return fmt.Errorf("its metadata names %s/%s", o.Head.Meta.Namespace, o.Head.Meta.Name)
}

// note remembers what is not in the object that is shown.
func (p *printer) note(o filter.Object, shown codec.Shown) {
	switch {
	case shown.ByMetadata:
		p.unknown.add(fmt.Sprintf("%s (%s %s)", o.KV.Key, o.Head.Meta.APIVersion, o.Head.Meta.Kind))
	case len(shown.Omitted) > 0:
		p.omitted.add(fmt.Sprintf("%s (%s)", o.KV.Key, joinWords(shown.Omitted)))
	}
}

// miss accounts for an object that cannot be shown whole.
func (p *printer) miss(o filter.Object, err error) {
	if !errors.Is(err, codec.ErrEncrypted) {
		p.broken.add(fmt.Sprintf("%s (%v)", o.KV.Key, err))
		return
	}
	p.encrypted.add(string(o.KV.Key))
	if why := err.Error(); !slices.Contains(p.locked.first, why) {
		p.locked.add(why)
	}
}

// placeholder stands for an object that cannot be shown, named by its key.
func (p *printer) placeholder(o filter.Object) map[string]any {
	metadata := map[string]any{"name": o.Key.Name, "resourceVersion": fmt.Sprint(o.KV.ModRevision)}
	if o.Key.Namespace != "" {
		metadata["namespace"] = o.Key.Namespace
	}
	m := map[string]any{"metadata": metadata, "status": map[string]any{"etcdRescue": string(o.Head.Status), "key": string(o.KV.Key), "bytes": o.Size}}
	if r := o.Key.Resource; r != nil {
		m["kind"] = r.Kind
	}
	return m
}

// verdict says on stderr what could not be shown, or not whole, and makes the
// error that the command ends with.
func (p *printer) verdict(undecided int64, hint string) error {
	inv := p.inv
	inv.sayList(p.omitted, "object holds fields that this build does not know and does not show", "objects hold fields that this build does not know and does not show")
	inv.sayList(p.unknown, "object is of a kind that this build does not know: shown by its metadata", "objects are of a kind that this build does not know: shown by their metadata")
	inv.sayList(p.broken, "object cannot be shown whole", "objects cannot be shown whole")
	inv.sayList(p.encrypted, "object is encrypted", "objects are encrypted")
	const reasons = 3
	for _, why := range p.locked.first[:min(reasons, len(p.locked.first))] {
		inv.say("note: %s", term.Clean(why))
	}
	missing := p.broken.count + p.encrypted.count
	switch {
	case undecided > 0:
		return partial(hint, "%s not decided, and not listed", objects(undecided))
	case missing > 0:
		return partial(p.missingHint(), "%s could not be shown whole", objects(missing))
	}
	return nil
}

func (p *printer) missingHint() string {
	if p.encrypted.count > 0 && p.inv.String(flagEncryption) == "" {
		return "--" + flagEncryption + " FILE decrypts them: the file that kube-apiserver is given as --encryption-provider-config"
	}
	return "such an object can still be counted, and deleted by its key with --" + flagExactKey
}
