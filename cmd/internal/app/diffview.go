package app

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/diff"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// diffView shows what two stores differ in.
type diffView interface {
	difference(d *diff.Difference) error
	finish(sum *diff.Summary) error
}

func (d *storeDiff) newView() diffView {
	if f := d.inv.format(); f != formatTable && f != formatWide {
		return newDiffDocument(d)
	}
	list := func() *topEntries { return &topEntries{most: d.opt.limit} }
	return &diffScreen{d: d, changed: list(), status: list(), unreadable: list(), removed: list(), added: list(), statusOf: map[string]int64{}}
}

// diffScreen is the comparison for people: the sums first, then what changed.
// It keeps as many objects as it shows.
type diffScreen struct {
	d                                           *storeDiff
	changed, status, unreadable, removed, added *topEntries
	statusOf                                    map[string]int64 // resource: objects of which only the status changed
}

// diffEntry is one object of a list.
type diffEntry struct {
	rank  int
	head  string
	lines []string
}

// topEntries keeps the entries that matter most, of which those of the same
// rank stay in the order of keys.
type topEntries struct {
	most    int
	entries []diffEntry
	total   int64
}

// add keeps the entry that make makes, if it is among the first.
func (t *topEntries) add(rank int, make func() diffEntry) {
	t.total++
	at := sort.Search(len(t.entries), func(i int) bool { return t.entries[i].rank > rank })
	if at == t.most {
		return
	}
	e := make()
	e.rank = rank
	t.entries = slices.Insert(t.entries[:min(len(t.entries), t.most-1)], at, e)
}

// maxDiffFields is how many changed fields of an object the screen shows.
const maxDiffFields = 20

func (v *diffScreen) difference(d *diff.Difference) error {
	rank := importance(d.Object())
	switch {
	case d.Class == diff.Routine || d.Class == diff.Rewritten:
	case d.Op == diff.Added:
		v.added.add(rank, func() diffEntry { return diffEntry{head: v.bare(d.New) + v.writers(d)} })
	case d.Op == diff.Removed:
		v.removed.add(rank, func() diffEntry { return diffEntry{head: v.bare(d.Old)} })
	case d.Class == diff.Unreadable:
		v.unreadable.add(rank, func() diffEntry {
			why := strings.Split(shortened(d.Err.Error()), "\n")
			return diffEntry{head: shortened(d.New.Name()), lines: append([]string{revisionsOf(d)}, why...)}
		})
	case d.Class == diff.StatusOnly && !v.d.opt.status:
		v.statusOf[resourceName(d.New)]++
	case d.Class == diff.StatusOnly:
		v.status.add(rank, func() diffEntry { return v.entry(d) })
	default:
		v.changed.add(rank, func() diffEntry { return v.entry(d) })
	}
	return nil
}

// bare is an object that only one store has.
func (v *diffScreen) bare(o *filter.Object) string {
	text := fmt.Sprintf("%s, %s", shortened(o.Name()), term.Bytes(o.Size))
	m := &o.Head.Meta
	if !m.Created.IsZero() {
		text += ", made " + m.Created.UTC().Format(time.RFC3339)
	}
	if c := controllerOf(o); c != nil {
		text += fmt.Sprintf(", of %s %s", strings.ToLower(shortened(c.Kind)), shortened(c.Name))
	}
	if o.Head.Err != nil {
		text += ", " + string(o.Head.Status)
	}
	return text
}

// writers is who wrote an object that is new.
func (v *diffScreen) writers(d *diff.Difference) string {
	if controllerOf(d.New) != nil || len(d.By) == 0 {
		return ""
	}
	return ", by " + writerNames(d.By)
}

// entry is a changed object with its fields.
func (v *diffScreen) entry(d *diff.Difference) diffEntry {
	e := diffEntry{head: shortened(d.New.Name())}
	if d.Recreated {
		e.head += ", deleted and made again"
	}
	by := "managedFields do not tell by whom"
	if len(d.By) > 0 {
		by = "by " + writerNames(d.By)
	}
	e.lines = append([]string{revisionsOf(d) + ", " + by}, v.fields(d)...)
	return e
}

// fields are the changes of an object, a line for each, as far as they have
// room. What its status says is only counted where something else changed.
func (v *diffScreen) fields(d *diff.Difference) (lines []string) {
	hidden, more := 0, 0
	for _, c := range d.Changes {
		switch {
		case d.Class == diff.Configured && diff.OfStatus(c.Path) && !v.d.opt.status:
			hidden++
		case len(lines) >= maxDiffFields:
			more++
		default:
			lines = append(lines, shortened(changeText(c)))
		}
	}
	if more > 0 {
		lines = append(lines, fmt.Sprintf("and %s; JSON has all", term.Plural(int64(more), "more change")))
	}
	if hidden > 0 {
		lines = append(lines, fmt.Sprintf("and %s of its status", term.Plural(int64(hidden), "field")))
	}
	return lines
}

func revisionsOf(d *diff.Difference) string {
	return fmt.Sprintf("revision %d → %d", d.Old.KV.ModRevision, d.New.KV.ModRevision)
}

// writerNames names the last three that wrote, newest first.
func writerNames(by []codec.ManagedEntry) string {
	const most = 3
	var names []string
	for _, e := range slices.Backward(by) {
		if len(names) == most {
			names = append(names, fmt.Sprintf("%d more", len(by)-most))
			break
		}
		text := managerName(map[string]any{"manager": shortened(e.Manager), "operation": e.Operation, "subresource": e.Subresource})
		if !e.Time.IsZero() {
			text += " " + e.Time.UTC().Format(time.RFC3339)
		}
		names = append(names, text)
	}
	return joinWords(names)
}

func controllerOf(o *filter.Object) *codec.Owner {
	for i, owner := range o.Head.Meta.Owners {
		if owner.Controller {
			return &o.Head.Meta.Owners[i]
		}
	}
	return nil
}

// importance orders objects: first what people configure and what stops a
// cluster if it is wrong, then the rest, then what is made from something else,
// and last what a controller owns.
func importance(o *filter.Object) int {
	const others, derived, owned = 100, 200, 300
	name := resourceName(o)
	i := slices.Index(configured(), name)
	switch {
	case controllerOf(o) != nil:
		return owned + max(i, 0)
	case inEveryNamespace(o.Key), slices.Contains([]string{"endpoints", "endpointslices.discovery.k8s.io", "pods", "replicasets.apps", "controllerrevisions.apps"}, name):
		return derived
	case i >= 0:
		return i
	}
	return others
}

// inEveryNamespace tells what controllers put into every namespace.
func inEveryNamespace(k codec.Key) bool {
	return k.Resource != nil && slices.Contains([]string{"configmaps/kube-root-ca.crt", "serviceaccounts/default"}, k.Resource.String()+"/"+k.Name)
}

// configured are kinds that people write, the most interesting first.
func configured() []string {
	return []string{
		"mutatingwebhookconfigurations.admissionregistration.k8s.io", "validatingwebhookconfigurations.admissionregistration.k8s.io",
		"mutatingadmissionpolicies.admissionregistration.k8s.io", "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
		"validatingadmissionpolicies.admissionregistration.k8s.io", "validatingadmissionpolicybindings.admissionregistration.k8s.io",
		"customresourcedefinitions.apiextensions.k8s.io", "apiservices.apiregistration.k8s.io", "namespaces",
		"deployments.apps", "statefulsets.apps", "daemonsets.apps", "cronjobs.batch", "jobs.batch", "horizontalpodautoscalers.autoscaling",
		"configmaps", "secrets", "services", "ingresses.networking.k8s.io", "networkpolicies.networking.k8s.io",
		"clusterroles.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io", "roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io",
		"serviceaccounts", "resourcequotas", "limitranges", "poddisruptionbudgets.policy", "priorityclasses.scheduling.k8s.io",
		"storageclasses.storage.k8s.io", "persistentvolumes", "persistentvolumeclaims",
		"flowschemas.flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io", "nodes",
	}
}

func (v *diffScreen) finish(sum *diff.Summary) error {
	inv := v.d.inv
	w := writer{inv.Streams.Out, width(inv.Streams.OutWidth)}
	w.hang("A  ", 3, v.d.a.describe())
	w.hang("B  ", 3, v.d.b.describe())
	w.line("")
	w.hang("", 0, v.sentence(sum))
	if len(sum.Groups) > 0 {
		if err := v.table(sum); err != nil {
			return err
		}
	}
	v.list(w, "Changed", v.changed)
	v.list(w, "Changed, but what changed cannot be told", v.unreadable)
	v.list(w, "Changed in their status only", v.status)
	v.list(w, "Removed", v.removed)
	v.list(w, "Added", v.added)
	v.leftOut(w, sum)
	return nil
}

// sentence is the sum in a line.
func (v *diffScreen) sentence(sum *diff.Summary) string {
	c := &sum.Total
	var parts []string
	for _, p := range []struct {
		n    int64
		what string
	}{{c.Added, "added"}, {c.Removed, "removed"}, {c.Configured, "changed"}, {c.StatusOnly, "changed in status only"}, {c.Unreadable, "changed in a way that cannot be told"}} {
		if p.n > 0 {
			parts = append(parts, term.Count(p.n)+" "+p.what)
		}
	}
	text := "No difference"
	switch {
	case len(parts) > 0:
		text = joinWords(parts)
	case sum.Routine.Different() > 0:
		text += " but in what changes all the time"
	}
	text += fmt.Sprintf(": %s before, %s after", objects(c.Before), term.Count(c.After))
	return text + fmt.Sprintf("; %s before, %s after (%s)", term.Bytes(c.BytesBefore), term.Bytes(c.BytesAfter), growth(c.Growth(), term.Bytes))
}

// growth is a number of bytes with its sign.
func growth(n int64, size func(int64) string) string {
	switch {
	case n > 0:
		return "+" + size(n)
	case n < 0:
		return "-" + size(-n)
	}
	return size(0)
}

func (v *diffScreen) table(sum *diff.Summary) error {
	inv := v.d.inv
	fmt.Fprintln(inv.Streams.Out)
	groups := v.groups(sum)
	most := min(len(groups), v.d.opt.limit)
	t, wide := inv.table(), inv.format() == formatWide
	header := []string{"RESOURCE", "NAMESPACE", "ADDED", "REMOVED", "CHANGED", "STATUS", "GROWTH"}
	if wide {
		header = append(header, "BEFORE", "AFTER", "BYTES")
	}
	t.Header(header...)
	for _, g := range groups[:most] {
		row := []string{cmp.Or(g.Resource, unknownResource), cmp.Or(g.Namespace, none), inv.number(g.Added), inv.number(g.Removed),
			inv.number(g.Configured + g.Unreadable + g.Routine), inv.number(g.StatusOnly), growth(g.Growth(), inv.size)}
		if wide {
			row = append(row, inv.number(g.Before), inv.number(g.After), inv.size(g.BytesAfter))
		}
		t.Row(row...)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if more := int64(len(groups)-most) + sum.OtherGroups; more > 0 {
		fmt.Fprintf(inv.Streams.Out, "… and %s\n", term.Plural(more, "more line"))
	}
	return nil
}

// everywhere stands for the namespaces of a kind that changes all the time.
const everywhere = "<all>"

// groups are the lines of the table, the biggest change first. What changes
// all the time is one line for each kind.
func (v *diffScreen) groups(sum *diff.Summary) []diff.Group {
	var groups []diff.Group
	routine := map[string]*diff.Group{}
	for _, g := range sum.Groups {
		switch known := routine[g.Resource]; {
		case g.Different() == 0:
		case !g.IsRoutine:
			groups = append(groups, g)
		case known == nil:
			g.Namespace = everywhere
			routine[g.Resource] = &g
		default:
			known.Counts = known.Plus(g.Counts)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(routine)) {
		groups = append(groups, *routine[name])
	}
	slices.SortStableFunc(groups, func(a, b diff.Group) int {
		size := func(g diff.Group) int64 { return max(g.Growth(), -g.Growth()) }
		return cmp.Or(cmp.Compare(b.Different(), a.Different()), cmp.Compare(size(b), size(a)))
	})
	return groups
}

func (v *diffScreen) list(w writer, title string, t *topEntries) {
	if t.total == 0 {
		return
	}
	w.line("")
	w.line("%s", title)
	for _, e := range t.entries {
		w.line("  %s", e.head)
		for _, line := range e.lines {
			w.line("    %s", line)
		}
	}
	if more := t.total - int64(len(t.entries)); more > 0 {
		w.line("  and %s more; --%s shows more, JSON has all", term.Count(more), flagLimit)
	}
}

// leftOut says what is counted and not listed.
func (v *diffScreen) leftOut(w writer, sum *diff.Summary) {
	var lines []string
	if len(v.statusOf) > 0 {
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(v.statusOf)) {
			parts = append(parts, fmt.Sprintf("%s %s", term.Count(v.statusOf[name]), name))
		}
		const most = 12
		if more := len(parts) - most; more > 0 {
			parts = append(parts[:most], fmt.Sprintf("and %d more kinds", more))
		}
		lines = append(lines, fmt.Sprintf("only the status changed: %s (--%s %s)", joinWords(parts), flagShow, showStatus))
	}
	if r := &sum.Routine; r.Different() > 0 {
		lines = append(lines, fmt.Sprintf("events, Leases and the like: %s added, %s removed, %s changed (--%s %s)",
			term.Count(r.Added), term.Count(r.Removed), term.Count(r.Routine), flagShow, showRoutine))
	}
	if n := sum.Total.Rewritten; n > 0 {
		lines = append(lines, fmt.Sprintf("written again with no field changed: %s", objects(n)))
	}
	if len(lines) == 0 {
		return
	}
	w.line("")
	w.line("Not listed")
	for _, line := range lines {
		w.hang("  ", 4, line)
	}
}
