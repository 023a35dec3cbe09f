package app

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// selection reads the resource, the names and the selection flags. Without a
// resource it means the whole registry, or the keys of --etcd-key.
func (s *session) selection(ctx context.Context, args []string) (filter.Selection, error) {
	inv := s.inv
	sel := filter.Selection{
		Namespace: inv.String(flagNamespace), AllNamespaces: inv.Bool(flagAllNamespaces),
		Labels: inv.String(flagSelector), Fields: inv.String(flagFieldSelector),
		Node: inv.String(flagNode), Phase: inv.String(flagPhase),
		OlderThan: inv.String(flagOlderThan), NewerThan: inv.String(flagNewerThan),
		Terminating: inv.Bool(flagTerminating), Finalizer: inv.String(flagFinalizer),
		Orphaned: inv.Bool(flagOrphaned), Where: inv.String(flagWhere),
		Keys: inv.StringSlice(flagExactKey),
	}
	if sel.Namespace != "" && sel.AllNamespaces {
		return sel, usage("give one of them", "-n %s and -A contradict each other", sel.Namespace)
	}
	if err := s.checkKeys(sel.Keys, args); err != nil {
		return sel, err
	}
	if len(args) > 0 {
		name, first, slash := strings.Cut(args[0], "/")
		r, err := s.lookup(ctx, name)
		if err != nil {
			return sel, err
		}
		sel.Resource, sel.Names = r.String(), args[1:]
		if slash {
			sel.Names = append([]string{first}, sel.Names...)
		}
	}
	if inv.String(flagOwner) != "" {
		owner, err := s.ownerRef(ctx, inv.String(flagOwner))
		if err != nil {
			return sel, err
		}
		sel.Owner = &owner
	}
	sel.Now = inv.Now()
	if sel.OlderThan != "" || sel.NewerThan != "" || sel.Where != "" {
		now, err := s.clock(ctx)
		if err != nil {
			return sel, err
		}
		sel.Now = now
	}
	return sel, nil
}

// checkNarrow refuses the selection of a write that would mean everything of a
// kind, and one by name that does not say where.
func (s *session) checkNarrow(sel filter.Selection) error {
	if !sel.Narrow() {
		return usage("say which: NAMEs, -n NAMESPACE, -l SELECTOR, --owner KIND/NAME, --phase …; -A alone is no selection",
			"%s %s without a selection would mean all of them", s.inv.command.name, sel.Resource)
	}
	if len(sel.Names) == 0 {
		return nil
	}
	if r, _, _ := s.reader.Catalog.Lookup(sel.Resource); r.Namespaced && sel.Namespace == "" {
		return usage("add -n NAMESPACE", "%s are namespaced: a name alone does not say which one", r)
	}
	return nil
}

func (s *session) checkKeys(keys, args []string) error {
	if len(keys) > 0 && len(args) > 0 {
		return usage("give one or the other", "--%s names keys, %q names a resource", flagExactKey, args[0])
	}
	events := s.reader.Prefix + "events/"
	for _, key := range keys {
		if s.eventsSource != nil && strings.HasPrefix(key, events) != strings.HasPrefix(keys[0], events) {
			return usage("run the command once for the events and once for the others", "these keys lie in different etcds: events have their own")
		}
		if !strings.HasPrefix(key, s.reader.Prefix) || key == s.reader.Prefix {
			return usage("only keys below "+s.reader.Prefix+" belong to Kubernetes; another prefix is named by --"+flagPrefix,
				"key %q lies outside %s", key, s.reader.Prefix)
		}
	}
	return nil
}

func (s *session) ownerRef(ctx context.Context, text string) (filter.OwnerRef, error) {
	kind, name, ok := strings.Cut(text, "/")
	if !ok || kind == "" || name == "" {
		return filter.OwnerRef{}, usage("write it as KIND/NAME, such as job/report", "--%s %q names no owner", flagOwner, text)
	}
	r, err := s.lookup(ctx, kind)
	if err != nil {
		return filter.OwnerRef{}, err
	}
	return filter.OwnerRef{Group: r.Group, Kind: r.Kind, Name: name}, nil
}

// filter prepares the selection for judging against a store.
func (s *session) filter(sel filter.Selection, src filter.Getter) (*filter.Filter, *filter.Owners, error) {
	owners := s.owners(src, sel)
	f, err := filter.New(sel, s.reader, owners)
	return f, owners, err
}

// sayUndecided says why a filter could not decide, with an example of each
// reason, and returns what helps.
func (inv *invocation) sayUndecided(f *filter.Filter) (hint string) {
	hint = "what cannot be read is never selected; its key can be named with --" + flagExactKey
	reasons, more := f.WhyUndecided()
	for _, r := range reasons {
		inv.say("note: not decided, such as %s: %s", term.Clean(r.Key), term.Clean(r.Text))
		switch {
		case strings.Contains(r.Text, "no such key"):
			hint = "ask for what may be missing by has(object.spec.x) or object.?spec.?x.orValue(…)"
		case strings.Contains(r.Text, "encrypted") && inv.String(flagEncryption) == "":
			hint = "--" + flagEncryption + " FILE decrypts values: the file that kube-apiserver is given as --encryption-provider-config"
		}
	}
	if more {
		inv.say("note: not decided for other reasons too")
	}
	return hint
}

// inspect reads one key and its value. A resource that neither this build nor
// any CRD explains is learnt from the object itself, if its metadata proves
// what the key means.
func (s *session) inspect(ctx context.Context, f *filter.Filter, kv *mvccpb.KeyValue) (filter.Object, error) {
	o := f.Inspect(ctx, kv)
	if o.Head.Err != nil || o.Key.Resource != nil && (o.Key.Resource.Kind != "" || !o.Key.Resource.Custom) {
		return o, nil
	}
	if err := s.learn(ctx); err != nil {
		return o, err
	}
	// An error says that this object proves nothing; it stays unexplained.
	_, _ = s.reader.Catalog.AddStored(s.reader.Prefix, string(kv.Key), o.Head.Meta)
	return f.Inspect(ctx, kv), nil
}

// checkNamespace refuses a namespace that neither exists nor holds any of the
// objects asked for: an empty answer would hide the misspelling. Objects that
// outlived their namespace are found all the same.
func (s *session) checkNamespace(ctx context.Context, src keyspace.Source, f *filter.Filter) error {
	name := f.Selection().Namespace
	if name == "" {
		return nil
	}
	kv, err := s.mainSource.Get(ctx, s.reader.Prefix+"namespaces/"+name)
	if err != nil || kv != nil {
		return err
	}
	holds, err := s.holdsAny(ctx, src, f)
	if err != nil {
		return err
	}
	if holds {
		s.inv.say("note: namespace %s does not exist any more; these objects outlived it", name)
		if s.inv.command.name == operationDelete {
			s.inv.say("note: all that outlived it goes with: etcd-rescue delete namespace %s", quoteWord(name))
		}
		return nil
	}
	return refuse(s.nearNamespace(ctx, name), "namespace %q does not exist", name)
}

// holdsAny reports whether the namespace of a selection holds any object of its
// resource, or of any if it names none.
func (s *session) holdsAny(ctx context.Context, src keyspace.Source, f *filter.Filter) (bool, error) {
	name := f.Selection().Namespace
	if r := f.Resource(); r != nil {
		start, end := r.Range(s.reader.Prefix, name)
		n, err := src.Count(ctx, keyspace.Range{Start: start, End: end})
		return n > 0, err
	}
	err := f.Inside(ctx, src, []string{name}, s.onKine(src), func(filter.Object, filter.Decision) error { return errEnough })
	if errors.Is(err, errEnough) {
		return true, nil
	}
	return false, err
}

func (s *session) nearNamespace(ctx context.Context, name string) string {
	var names []string
	prefix := s.reader.Prefix + "namespaces/"
	err := s.mainSource.Scan(ctx, keyspace.Prefix(prefix), true, func(kv *mvccpb.KeyValue) error {
		names = append(names, shortened(strings.TrimPrefix(string(kv.Key), prefix)))
		return nil
	})
	if err != nil || len(names) == 0 {
		return ""
	}
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf("did you mean -n %s?", near)
	}
	const most = 20
	if len(names) > most {
		return fmt.Sprintf("there are %d namespaces: %s, …", len(names), joinWords(names[:most]))
	}
	return "the namespaces are: " + joinWords(names)
}

// describe is how messages name the store that was read.
func (s *session) describe() string {
	if s.file != nil {
		return s.file.Path()
	}
	return "etcd"
}
