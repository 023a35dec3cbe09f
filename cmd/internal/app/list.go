package app

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

func objectFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: flagManagedFields, Usage: "keep metadata.managedFields in JSON and YAML", Category: catOutput},
		&cli.BoolFlag{Name: flagShowSecrets, Usage: "show the data of Secrets instead of a marker", Category: catOutput},
		&cli.BoolFlag{Name: flagIncludeBroken, Usage: "in JSON and YAML, also list objects that cannot be decoded, by their key", Category: catOutput},
	}
}

const objectFormats = "table, wide, name, key, json, jsonl, yaml"

func listCommand() *command {
	return &command{
		name: "list", args: "RESOURCE [NAME…]", minArgs: 0, maxArgs: -1,
		summary: "list objects as kubectl would",
		about: "Lists all namespaces unless -n is given, at one revision. Pods, Jobs and Namespaces have kubectl's columns. Away from a " +
			"terminal a table is tab-separated and has times instead of ages. Objects that cannot be decoded are listed by their key; the exit code is then 3. Nothing is changed.",
		examples: []string{
			"etcd-rescue list pods -n ops-tools",
			"etcd-rescue list pods --owner job/error-ret --phase Pending -o name",
			"etcd-rescue list jobs --from snapshot.db -o wide",
		},
		flags: slices.Concat(outputFlags(objectFormats), objectFlags(), selectionFlags(), fromFlags(), connectionFlags()),
		run:   runList,
	}
}

func getCommand() *command {
	return &command{
		name: "get", args: "RESOURCE NAME", minArgs: 1, maxArgs: 2,
		summary: "show one object",
		about:   "Shows one object as kubectl would. Namespaced resources need -n. Nothing is changed.",
		examples: []string{
			"etcd-rescue get job error-ret -n ops-tools -o yaml",
			"etcd-rescue get namespace ops-tools --from snapshot.db -o json",
		},
		flags: slices.Concat(outputFlags(objectFormats), objectFlags(), []cli.Flag{
			&cli.StringFlag{Name: flagNamespace, Aliases: []string{"n"}, Usage: "the namespace `NAME` that holds the object", Category: catSelection},
		}, fromFlags(), connectionFlags()),
		run: runGet,
	}
}

func runList(ctx context.Context, inv *invocation) error {
	if len(inv.args) == 0 && len(inv.StringSlice(flagExactKey)) == 0 {
		return usage("usage: etcd-rescue list RESOURCE [NAME…]", "list takes a resource, or --%s", flagExactKey)
	}
	if err := inv.checkFormat(strings.Split(objectFormats, ", ")...); err != nil {
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
	p, err := s.newPrinter(ctx, resource, sel.Namespace == "")
	if err != nil {
		return err
	}
	var undecided int64
	for _, r := range f.Ranges() {
		err := src.Scan(ctx, r, false, func(kv *mvccpb.KeyValue) error {
			o := f.Inspect(ctx, kv)
			d, err := f.Judge(ctx, o)
			switch {
			case err != nil:
				return err
			case d == filter.Undecided:
				undecided++
			case d == filter.Keep:
				return p.print(o)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := p.finish(); err != nil {
		return err
	}
	return s.listVerdict(p, undecided)
}

func (s *session) listVerdict(p *printer, undecided int64) error {
	s.inv.sayList(p.broken, "object cannot be shown whole", "objects cannot be shown whole")
	switch {
	case undecided > 0:
		return partial("they cannot be decoded, so the filter cannot decide on them; they are not listed", "%s not decided", objects(undecided))
	case p.broken.count > 0:
		return partial("what cannot be decoded can still be counted, and deleted with --"+flagExactKey, "%s could not be shown whole", objects(p.broken.count))
	case p.shown == 0:
		s.inv.say("no objects found in %s", s.describe())
	}
	return nil
}

func runGet(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat(strings.Split(objectFormats, ", ")...); err != nil {
		return err
	}
	name, first, slash := strings.Cut(inv.args[0], "/")
	names := inv.args[1:]
	if slash {
		names = append([]string{first}, names...)
	}
	if len(names) != 1 {
		return usage("usage: etcd-rescue get RESOURCE NAME", "get takes one resource and one name, got %q", inv.args)
	}
	s, err := inv.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.lookup(ctx, name)
	if err != nil {
		return err
	}
	namespace := inv.String(flagNamespace)
	if err := checkOneNamespace(r, namespace); err != nil {
		return err
	}
	return s.getOne(ctx, codec.Key{Resource: r, Namespace: namespace, Name: names[0]})
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
	kv, err := src.Get(ctx, key.Path(s.reader.Prefix))
	if err != nil {
		return err
	}
	if kv == nil {
		f, _, err := s.filter(filter.Selection{Resource: key.Resource.String(), Namespace: key.Namespace}, src)
		if err != nil {
			return err
		}
		if err := s.checkNamespace(ctx, src, f); err != nil {
			return err
		}
		return fmt.Errorf("%s %q not found in %s", key.Resource, key.Name, s.describe())
	}
	p, err := s.newPrinter(ctx, key.Resource, false)
	if err != nil {
		return err
	}
	p.single = true
	if err := p.print(filter.NewObject(ctx, s.reader, kv)); err != nil {
		return err
	}
	if err := p.finish(); err != nil {
		return err
	}
	return s.listVerdict(p, 0)
}

// printer writes objects one by one, so that a list of any length needs
// little memory.
type printer struct {
	inv       *invocation
	out       *bufio.Writer
	resource  *codec.Resource // nil: of any kind
	namespace bool            // show the namespace in tables
	single    bool            // one object, no list around it
	now       time.Time
	table     *term.Table
	render    codec.RenderOptions
	shown     int64
	listItems int64
	broken    listed
}

func (s *session) newPrinter(ctx context.Context, r *codec.Resource, allNamespaces bool) (*printer, error) {
	p := &printer{
		inv: s.inv, resource: r, out: bufio.NewWriterSize(s.inv.Streams.Out, 1<<16),
		namespace: allNamespaces && (r == nil || r.Namespaced),
		render:    codec.RenderOptions{ManagedFields: s.inv.Bool(flagManagedFields), ShowSecrets: s.inv.Bool(flagShowSecrets)},
	}
	if p.tabular() {
		now, err := s.clock(ctx)
		if err != nil {
			return nil, err
		}
		p.now = now
		p.table = term.NewTable(p.out, s.inv.Streams.OutTTY)
	}
	return p, nil
}

func (p *printer) tabular() bool { return p.inv.format() == "table" || p.inv.format() == "wide" }

func (p *printer) print(o filter.Object) error {
	p.shown++
	switch p.inv.format() {
	case "key":
		_, err := fmt.Fprintln(p.out, string(o.KV.Key))
		return err
	case "name":
		return p.name(o)
	case "table", "wide":
		return p.row(o)
	}
	return p.whole(o)
}

func (p *printer) name(o filter.Object) error {
	if o.Key.Resource == nil {
		_, err := fmt.Fprintln(p.out, string(o.KV.Key))
		return err
	}
	_, err := fmt.Fprintf(p.out, "%s/%s\n", o.Key.Resource.SingularName(), o.Key.Name)
	return err
}

func (p *printer) finish() error {
	if p.table != nil {
		if err := p.table.Flush(); err != nil {
			return err
		}
	}
	if !p.single {
		if err := p.closeList(); err != nil {
			return err
		}
	}
	return p.out.Flush()
}

func objects(n int64) string { return term.Plural(n, "object") }
