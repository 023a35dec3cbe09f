package app

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

const (
	flagWithDependents  = "with-dependents"
	flagContentsOnly    = "contents-only"
	flagWithoutContents = "without-contents"
)

// namespaceState is what a preview says of a namespace that goes.
type namespaceState struct {
	Name        string    `json:"name"`
	Exists      bool      `json:"exists"`
	Terminating time.Time `json:"deletionTimestamp,omitzero"`
	// SpecFinalizers are what the namespace controller takes away when the
	// namespace is empty; Finalizers are those of metadata.
	SpecFinalizers []string             `json:"specFinalizers,omitempty"`
	Finalizers     []string             `json:"finalizers,omitempty"`
	Conditions     []namespaceCondition `json:"conditions,omitempty"`
	Unreadable     bool                 `json:"unreadable,omitempty"`
}

type namespaceCondition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// mostStates is how many namespaces a preview tells of one by one.
const mostStates = 100

// selectContents finds the namespaces that go with everything in them.
func (d *deletion) selectContents(ctx context.Context) error {
	contents, err := d.contents(ctx, d.sel)
	if contents == nil || err != nil {
		return err
	}
	for _, name := range d.sel.Names {
		if b := filter.GuardSelection(filter.Selection{Namespace: name}, d.overrides); b != nil {
			return refuse("to delete them all the same add "+b.Allow, "blocked: %s", b.Reason)
		}
	}
	d.sel.Contents = contents
	return d.readStates(ctx, contents.Namespaces)
}

// contents are the namespaces that a selection means with everything in them,
// nil for none.
func (s *session) contents(ctx context.Context, sel filter.Selection) (*filter.Contents, error) {
	only, without := s.inv.Bool(flagContentsOnly), s.inv.Bool(flagWithoutContents)
	namespaces := sel.Resource == "namespaces"
	switch {
	case only && without:
		return nil, usage("give one of them", "--%s and --%s contradict each other", flagContentsOnly, flagWithoutContents)
	case (only || without) && !namespaces:
		flag := flagContentsOnly
		if without {
			flag = flagWithoutContents
		}
		return nil, usage("etcd-rescue "+s.inv.command.name+" namespace NAME --"+flag, "--%s is about namespaces", flag)
	case !namespaces || without:
		return nil, nil
	}
	names, err := s.namespaceNames(ctx, sel)
	return &filter.Contents{Namespaces: names, Only: only}, err
}

// namespaceNames are those that are selected. Of names alone also those that
// do not exist: something may have outlived them.
func (s *session) namespaceNames(ctx context.Context, sel filter.Selection) ([]string, error) {
	names := slices.Clone(sel.Names)
	bare := sel
	bare.Names = nil
	if len(names) == 0 || bare.Narrow() {
		var err error
		if names, err = s.selectedNamespaces(ctx, sel); err != nil {
			return nil, err
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > filter.MaxContents {
		return nil, usage("select fewer at a time", "%s namespaces are selected, at most %s go at once", term.Count(int64(len(names))), term.Count(filter.MaxContents))
	}
	for _, name := range names {
		if name == "" || strings.Contains(name, "/") {
			return nil, usage("", "%q is no name of a namespace", name)
		}
	}
	return names, nil
}

func (s *session) selectedNamespaces(ctx context.Context, sel filter.Selection) (names []string, err error) {
	f, _, err := s.filter(sel, s.mainSource)
	if err != nil {
		return nil, err
	}
	judging := f.Judging(func(_ context.Context, o filter.Object, decision filter.Decision) error {
		if decision == filter.Keep {
			names = append(names, o.Key.Name)
		}
		return nil
	})
	for _, r := range f.Ranges() {
		err := s.mainSource.Scan(ctx, r, false, func(kv *mvccpb.KeyValue) error {
			return judging.Add(ctx, f.Inspect(ctx, kv))
		})
		if err != nil {
			return nil, err
		}
	}
	return names, judging.Flush(ctx)
}

// readStates reads what the preview tells of the namespaces.
func (d *deletion) readStates(ctx context.Context, names []string) error {
	for _, name := range names {
		kv, err := d.mainSource.Get(ctx, d.reader.Prefix+"namespaces/"+name)
		if err != nil {
			return err
		}
		st := &namespaceState{Name: name, Exists: kv != nil}
		if kv != nil {
			st.read(d.reader.Read(ctx, string(kv.Key), kv.Value), kv.ModRevision)
		}
		d.spaces = append(d.spaces, st)
	}
	return nil
}

func (st *namespaceState) read(v codec.Value, rev int64) {
	obj, err := codec.Decode(v.Plain, rev)
	ns, ok := obj.(*corev1.Namespace)
	if v.Head.Err != nil || err != nil || !ok {
		st.Unreadable = true
		return
	}
	if ns.DeletionTimestamp == nil {
		return
	}
	st.Terminating = ns.DeletionTimestamp.UTC()
	for _, f := range ns.Spec.Finalizers {
		st.SpecFinalizers = append(st.SpecFinalizers, string(f))
	}
	st.Finalizers = ns.Finalizers
	for _, c := range ns.Status.Conditions {
		st.Conditions = append(st.Conditions, namespaceCondition{string(c.Type), string(c.Status), c.Reason, c.Message})
	}
}

// missing are the names of namespaces that do not exist.
func (d *deletion) missing() (names []string) {
	for _, st := range d.spaces {
		if !st.Exists {
			names = append(names, st.Name)
		}
	}
	return names
}

// checkMissing refuses namespaces that neither exist nor hold anything.
func (d *deletion) checkMissing(ctx context.Context, sum *plan.Summary) error {
	missing := d.missing()
	if len(missing) == 0 || len(sum.Blocked) > 0 || sum.Undecided > 0 {
		return nil
	}
	held := map[string]bool{}
	shares, rest := sum.Namespaces.Largest(0)
	if rest.Approximate {
		return nil
	}
	for _, s := range shares {
		held[s.Name] = true
	}
	for _, name := range missing {
		if !held[name] {
			return refuse(strings.Replace(d.nearNamespace(ctx, name), "-n ", "", 1), "namespace %q does not exist", name)
		}
	}
	return nil
}

// madeAgain is how many objects may be deleted beyond the number that was
// typed: Kubernetes makes two in every namespace until that is gone.
func (d *deletion) madeAgain() (n int64) {
	if d.sel.Contents == nil || d.sel.Contents.Only {
		return 0
	}
	for _, st := range d.spaces {
		if st.Exists && st.Terminating.IsZero() {
			n += 2
		}
	}
	return n
}

// describeContents adds to a preview what is to be said of namespaces and of
// dependents.
func (d *deletion) describeContents(pv *preview) {
	sum := pv.sum
	if sum.Shared > 0 {
		pv.notes = append(pv.notes, objects(sum.Shared)+" owned by others too, which stay: left alone, as the garbage collector does")
	}
	if sum.Spaces > 0 {
		pv.notes = append(pv.notes, d.leftSpaces(sum))
	}
	if d.inv.Bool(flagWithDependents) {
		pv.add("dependents", sum.Dependents)
		pv.add("leftNamespaces", sum.Spaces)
	}
	if d.sel.Contents == nil {
		if d.sel.Resource == "namespaces" && sum.Steps > 0 {
			pv.notes = append(pv.notes, "only the Namespace's own key goes: what is in it stays behind in etcd, as orphans")
		}
		return
	}
	d.describeStates(pv)
	if !sum.Held.Empty() {
		if d.terminating() {
			pv.fields = append(pv.fields, previewField{"held by", shares(sum.Held)})
		}
		held, _ := sum.Held.Largest(mostShares)
		pv.add("held", held)
	}
	if missing := d.missing(); len(missing) > 0 {
		pv.notes = append(pv.notes, fmt.Sprintf("no longer there: %s; what outlived it goes", namesOf("namespace", missing)))
	}
	if sum.Kept > 0 {
		pv.notes = append(pv.notes, objects(sum.Kept)+" left: ServiceAccount default and ConfigMap kube-root-ca.crt, which Kubernetes makes in every namespace")
	}
	if d.madeAgain() > 0 {
		pv.notes = append(pv.notes, "until the Namespace is gone Kubernetes makes its ServiceAccount default and its ConfigMap kube-root-ca.crt again: they go too, beyond a number that is typed")
	}
	if d.sel.Contents.Only && sum.Steps > 0 {
		pv.notes = append(pv.notes, "the Namespaces themselves stay (--"+flagContentsOnly+")")
	}
}

// leftSpaces says how the Namespaces go that are dependents.
func (d *deletion) leftSpaces(sum *plan.Summary) string {
	return fmt.Sprintf("%s owned by these is left, to go with what is in it or not at all: etcd-rescue delete namespace%s", term.Plural(sum.Spaces, "Namespace"), spaceWords(sum))
}

// spaceWords are the names of the first of them, for a command.
func spaceWords(sum *plan.Summary) (words string) {
	for _, name := range sum.LeftSpaces[:min(len(sum.LeftSpaces), topFew)] {
		words += " " + quoteWord(name)
	}
	if more := sum.Spaces - int64(min(len(sum.LeftSpaces), topFew)); more > 0 {
		words += fmt.Sprintf(" … (%s more)", term.Count(more))
	}
	return words
}

// terminating reports whether one of the namespaces is being deleted.
func (d *deletion) terminating() bool {
	return slices.ContainsFunc(d.spaces, func(st *namespaceState) bool { return !st.Terminating.IsZero() })
}

func namesOf(what string, names []string) string {
	few := names[:min(len(names), topFew)]
	text := what + " " + joinWords(few)
	if len(names) > 1 {
		text = what + "s " + joinWords(few)
	}
	if more := len(names) - len(few); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// describeStates shows what holds the namespaces that are being deleted.
func (d *deletion) describeStates(pv *preview) {
	shown := d.spaces[:min(len(d.spaces), mostStates)]
	pv.add("namespaces", append([]*namespaceState{}, shown...))
	n := 0
	for _, st := range shown {
		if st.Terminating.IsZero() {
			continue
		}
		if n++; n > topFew {
			break
		}
		text := fmt.Sprintf("%s is being deleted since %s (%s ago)", st.Name, st.Terminating.Format(time.RFC3339), duration.HumanDuration(pv.now.Sub(st.Terminating)))
		if len(st.SpecFinalizers) > 0 {
			text += "; spec.finalizers: " + strings.Join(st.SpecFinalizers, ", ")
		}
		if len(st.Finalizers) > 0 {
			text += "; metadata.finalizers: " + strings.Join(st.Finalizers, ", ")
		}
		pv.fields = append(pv.fields, previewField{"deleting", text})
		for _, c := range st.Conditions {
			if c.Status == string(corev1.ConditionTrue) {
				pv.fields = append(pv.fields, previewField{"condition", c.Type + ": " + cmp.Or(c.Message, c.Reason)})
			}
		}
	}
}
