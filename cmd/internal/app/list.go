package app

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

func objectFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: flagSortBy, Usage: "sort by the field at `PATH`, such as .metadata.creationTimestamp", Category: catOutput},
		&cli.BoolFlag{Name: flagShowLabels, Usage: "add the labels as a column", Category: catOutput},
		&cli.BoolFlag{Name: flagNoHeaders, Usage: "print tables without their first line", Category: catOutput},
		&cli.BoolFlag{Name: flagManagedFields, Usage: "keep metadata.managedFields in JSON and YAML", Category: catOutput},
		&cli.BoolFlag{Name: flagShowSecrets, Usage: "show the data of Secrets instead of a marker", Category: catOutput},
		&cli.BoolFlag{Name: flagIncludeBroken, Usage: "in JSON, YAML and templates, also list objects that cannot be decoded, by their key", Category: catOutput},
	}
}

const objectFormatUsage = "table, wide, name, key, json, jsonl, yaml, jsonpath=TEMPLATE, go-template=TEMPLATE, custom-columns=NAME:PATH,… or the last three as jsonpath-file=FILE and so on"

func listCommand() *command {
	return &command{
		name: "list", args: "RESOURCE [NAME…]", minArgs: 0, maxArgs: -1,
		summary: "list objects as kubectl would",
		about: "Lists all namespaces unless -n is given, at one revision. Built-in kinds have kubectl's columns, custom ones those of their definitions. Away from a " +
			"terminal a table is tab-separated and has times instead of ages. Objects that cannot be decoded are listed by their key; the exit code is then 3. Nothing is changed.",
		examples: []string{
			"etcd-rescue list pods -n ops-tools",
			"etcd-rescue list pods --owner job/error-ret --phase Pending -o name",
			"etcd-rescue list jobs --from snapshot.db -o wide",
		},
		flags: slices.Concat(outputFlags(objectFormatUsage), objectFlags(), selectionFlags(), fromFlags(), connectionFlags()),
		run:   runList,
	}
}

func getCommand() *command {
	return &command{
		name: "get", args: "RESOURCE NAME", minArgs: 1, maxArgs: 2,
		summary: "show one object",
		about:   "Shows one object as kubectl would, or with --rev as it was at a revision. Namespaced resources need -n. Nothing is changed.",
		examples: []string{
			"etcd-rescue get job error-ret -n ops-tools -o yaml",
			"etcd-rescue get deployment web -n team --rev 1207 -o yaml",
			"etcd-rescue get namespace ops-tools --from snapshot.db -o json",
		},
		flags: slices.Concat(outputFlags(objectFormatUsage), objectFlags(), []cli.Flag{
			&cli.StringFlag{Name: flagNamespace, Aliases: []string{"n"}, Usage: "the namespace `NAME` that holds the object", Category: catSelection},
			&cli.Int64Flag{Name: flagRev, Usage: "the object as it was at `REVISION`, if the store still holds it (see history)", Category: catSelection},
		}, fromFlags(), connectionFlags()),
		run: runGet,
	}
}

func runList(ctx context.Context, inv *invocation) error {
	if len(inv.args) == 0 && len(inv.StringSlice(flagExactKey)) == 0 {
		return usage("usage: etcd-rescue list RESOURCE [NAME…]", "list takes a resource, or --%s", flagExactKey)
	}
	if err := inv.checkFormat(objectFormats()...); err != nil {
		return err
	}
	s, err := inv.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	sel, err := s.selection(ctx, inv.args)
	if err != nil {
		return err
	}
	return s.list(ctx, sel)
}

func (s *session) list(ctx context.Context, sel filter.Selection) error {
	var resource *codec.Resource
	if sel.Resource != "" {
		resource, _, _ = s.reader.Catalog.Lookup(sel.Resource)
	}
	src, _, _ := s.sourceOf(sel)
	f, _, err := s.filter(sel, src)
	if err != nil {
		return err
	}
	if err := s.checkNamespace(ctx, src, f); err != nil {
		return err
	}
	p, err := s.newPrinter(ctx, resource, sel.Namespace == "", false)
	if err != nil {
		return err
	}
	var undecided int64
	missing := slices.Concat(sel.Names, sel.Keys)
	judging := f.Judging(func(_ context.Context, o filter.Object, d filter.Decision) error {
		switch d {
		case filter.Undecided:
			undecided++
		case filter.Keep:
			return p.print(o)
		}
		return nil
	})
	for _, r := range f.Ranges() {
		err := src.Scan(ctx, r, false, func(kv *mvccpb.KeyValue) error {
			o, err := s.inspect(ctx, f, kv)
			if err != nil {
				return err
			}
			missing = slices.DeleteFunc(missing, func(name string) bool { return name == o.Key.Name || name == string(kv.Key) })
			return judging.Add(ctx, o)
		})
		if err != nil {
			return err
		}
	}
	if err := judging.Flush(ctx); err != nil {
		return err
	}
	if err := p.finish(); err != nil {
		return err
	}
	err = s.listVerdict(p, f, undecided)
	if len(missing) == 0 {
		return err
	}
	absent := fmt.Sprintf("%s not found in %s: %s", objects(int64(len(missing))), s.describe(), term.Clean(joinWords(missing)))
	if err != nil {
		s.inv.say("warning: %s", absent)
		return err
	}
	return partial("", "%s", absent)
}

// listVerdict says what the list lacks, or that it is empty.
func (s *session) listVerdict(p *printer, f *filter.Filter, undecided int64) error {
	if p.shown == 0 && undecided == 0 {
		s.inv.say("no objects found in %s", s.describe())
	}
	hint := ""
	if undecided > 0 {
		hint = s.inv.sayUndecided(f)
	}
	return p.verdict(undecided, hint)
}

func runGet(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat(objectFormats()...); err != nil {
		return err
	}
	if inv.IsSet(flagRev) && inv.Int64(flagRev) < 1 {
		return usage("the history command lists the revisions of an object", "--%s %d: the first revision is 1", flagRev, inv.Int64(flagRev))
	}
	s, key, err := inv.openOne(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.getOne(ctx, key)
}

// openOne opens the store for a command that names one object.
func (inv *invocation) openOne(ctx context.Context) (*session, codec.Key, error) {
	name, first, slash := strings.Cut(inv.args[0], "/")
	names := inv.args[1:]
	if slash {
		names = append([]string{first}, names...)
	}
	if len(names) != 1 {
		return nil, codec.Key{}, usage("usage: etcd-rescue "+inv.command.name+" RESOURCE NAME", "%s takes one resource and one name, got %q", inv.command.name, inv.args)
	}
	s, err := inv.open(ctx)
	if err != nil {
		return nil, codec.Key{}, err
	}
	r, err := s.lookup(ctx, name)
	if err == nil {
		err = checkOneNamespace(r, inv.String(flagNamespace))
	}
	if err != nil {
		s.close()
		return nil, codec.Key{}, err
	}
	return s, codec.Key{Resource: r, Namespace: inv.String(flagNamespace), Name: names[0]}, nil
}

// checkOneNamespace makes sure that a name means one object.
func checkOneNamespace(r *codec.Resource, namespace string) error {
	if r.Namespaced && namespace == "" {
		return usage("add -n NAMESPACE", "%s are namespaced: a name alone does not say which one", r)
	}
	if !r.Namespaced && namespace != "" {
		return usage("leave out -n", "%s are not namespaced", r)
	}
	return nil
}

func (s *session) getOne(ctx context.Context, key codec.Key) error {
	src, _, _ := s.sourceFor(key.Resource)
	kv, err := s.read(ctx, src, key)
	if err != nil {
		return err
	}
	if kv == nil && s.inv.IsSet(flagRev) {
		return fmt.Errorf("%s %q did not exist at revision %d", key.Resource, key.Name, s.inv.Int64(flagRev))
	}
	if kv == nil {
		return s.notFound(ctx, src, key)
	}
	p, err := s.newPrinter(ctx, key.Resource, false, true)
	if err != nil {
		return err
	}
	if err := p.print(filter.NewObject(ctx, s.reader, kv)); err != nil {
		return err
	}
	if err := p.finish(); err != nil {
		return err
	}
	return p.verdict(0, "")
}

// read returns the object as it is, or with --rev as it was.
func (s *session) read(ctx context.Context, src keyspace.Historian, key codec.Key) (*mvccpb.KeyValue, error) {
	if s.inv.IsSet(flagRev) {
		return src.At(ctx, key.Path(s.reader.Prefix), s.inv.Int64(flagRev))
	}
	return src.Get(ctx, key.Path(s.reader.Prefix))
}

// notFound explains why there is no such object.
func (s *session) notFound(ctx context.Context, src keyspace.Source, key codec.Key) error {
	f, _, err := s.filter(filter.Selection{Resource: key.Resource.String(), Namespace: key.Namespace}, src)
	if err != nil {
		return err
	}
	if err := s.checkNamespace(ctx, src, f); err != nil {
		return err
	}
	return fmt.Errorf("%s %q not found in %s", key.Resource, key.Name, s.describe())
}

func objects(n int64) string { return term.Plural(n, "object") }
