package filter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	celast "github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
	"k8s.io/apiserver/pkg/cel/library"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// where is a compiled --where expression. It is safe for concurrent use.
type where struct {
	program cel.Program
	// names are the field names and other strings that the expression itself
	// holds: what an error may repeat.
	names  map[string]bool
	tooBig bool // it holds a regular expression that would take too long
	now    time.Time
}

// whereVariables are what an expression may refer to.
func whereVariables() []cel.EnvOption {
	return []cel.EnvOption{
		cel.Variable("object", cel.DynType),
		cel.Variable("key", cel.StringType),
		cel.Variable("size", cel.IntType),
		cel.Variable("modRevision", cel.IntType),
		cel.Variable("version", cel.IntType),
		cel.Variable("now", cel.TimestampType),
	}
}

func newWhere(expr string, now time.Time) (*where, error) {
	if len(expr) > maxWhereText {
		return nil, fmt.Errorf("%w: --where: the expression is longer than %d bytes", ErrUsage, maxWhereText)
	}
	env, err := cel.NewEnv(append(whereVariables(),
		ext.Strings(), ext.Lists(), ext.Sets(), ext.Math(), cel.OptionalTypes(), library.Quantity(),
		cel.CrossTypeNumericComparisons(true), cel.DefaultUTCTimeZone(true),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals()),
	)...)
	if err != nil {
		return nil, fmt.Errorf("prepare CEL: %w", err)
	}
	checked, issues := env.Compile(expr)
	if issues.Err() != nil {
		return nil, whereError(issues)
	}
	if t := checked.OutputType(); t != cel.BoolType && t != cel.DynType {
		return nil, fmt.Errorf("%w: --where: the expression gives %s, but must give bool", ErrUsage, t)
	}
	program, err := env.Program(checked,
		cel.EvalOptions(cel.OptOptimize), cel.CustomDecoratorV2(limitCalls(env)),
		cel.CostLimit(maxWhereCost), cel.CostTracking(whereCost{}), cel.InterruptCheckFrequency(interruptCheck))
	if err != nil {
		return nil, fmt.Errorf("%w: --where: %w", ErrUsage, err)
	}
	w := &where{program: program, names: map[string]bool{}, now: now}
	celast.PreOrderVisit(checked.NativeRep().Expr(), celast.NewExprVisitor(w.note))
	if w.tooBig {
		return nil, fmt.Errorf("%w: --where: a regular expression is too big", ErrUsage)
	}
	return w, nil
}

// note collects the strings that the expression itself holds, and looks at the
// regular expressions among them: CEL compiles those beforehand, so that
// limitCalls does not see their calls.
func (w *where) note(e celast.Expr) {
	switch e.Kind() {
	case celast.SelectKind:
		w.names[e.AsSelect().FieldName()] = true
	case celast.LiteralKind:
		if s, ok := e.AsLiteral().(types.String); ok {
			w.names[string(s)] = true
		}
	case celast.CallKind:
		if args := e.AsCall().Args(); e.AsCall().FunctionName() == overloads.Matches && len(args) > 0 {
			last := args[len(args)-1]
			w.tooBig = w.tooBig || last.Kind() == celast.LiteralKind && !regexFits([]ref.Val{last.AsLiteral()})
		}
	}
}

// maxMessage bounds what is repeated of one of CEL's messages.
const maxMessage = 300

// whereError tells in one line what is wrong with an expression, and where.
func whereError(issues *cel.Issues) error {
	var b strings.Builder
	unknown := false
	for i, e := range issues.Errors() {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(issues.Errors())-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		message := strings.TrimSuffix(e.Message, " (in container '')")
		if len(message) > maxMessage { // it may spell out types without end
			message = strings.ToValidUTF8(message[:maxMessage], "") + "..."
		}
		fmt.Fprintf(&b, "line %d, column %d: %s", e.Location.Line(), e.Location.Column()+1, message)
		unknown = unknown || strings.HasPrefix(e.Message, "undeclared reference")
	}
	if unknown {
		b.WriteString("; the variables are key, modRevision, now, object, size and version")
	}
	return fmt.Errorf("%w: --where: %s", ErrUsage, b.String())
}

// judge evaluates the expression for one object, shown as kubectl shows it when
// it is asked for the selected resource; nil means for the object's own. Of an
// error it tells nothing that the object holds. A non-nil error means that ctx
// has ended.
func (w *where) judge(ctx context.Context, o Object, selected *codec.Resource) (Decision, string, error) {
	vars := &variables{o: o, as: o.Key.Resource, now: w.now}
	if own := o.Key.Resource; own != nil && selected != nil && own.Prefix == selected.Prefix {
		vars.as = selected // a view of the same keys, such as events.events.k8s.io
	}
	result, _, err := w.program.ContextEval(ctx, vars)
	switch {
	case ctx.Err() != nil:
		return Drop, "", ctx.Err()
	case err != nil && vars.err != nil:
		return Undecided, valueReason(vars.err), nil
	case err != nil:
		return Undecided, w.reason(err), nil
	}
	if keep, ok := result.(types.Bool); !ok {
		return Undecided, "--where gives no bool", nil
	} else if !keep {
		return Drop, "", nil
	}
	return Keep, "", nil
}

// reason words an error of the evaluation. Most quote values, so only the one
// that people meet every day is passed on, and only with a name that they have
// written themselves.
func (w *where) reason(err error) string {
	if errors.Is(err, errTooMuch) || strings.Contains(err.Error(), "cost limit exceeded") {
		return "--where takes too much work"
	}
	if name, ok := strings.CutPrefix(err.Error(), "no such key: "); ok && w.names[name] {
		return "--where: no such key: " + name
	}
	return "--where: evaluation fails"
}

// variables are those of one evaluation. The object is read only when the
// expression comes to it, so that one which does without works for values
// that cannot be decoded.
type variables struct {
	o      Object
	as     *codec.Resource // what object is shown as
	now    time.Time
	object any // nil = not read yet
	err    error
}

// Parent is part of cel.Activation: there is none.
func (v *variables) Parent() cel.Activation { return nil }

// ResolveName is part of cel.Activation.
func (v *variables) ResolveName(name string) (any, bool) {
	switch name {
	case "object":
		return v.read(), true
	case "key":
		return types.String(v.o.KV.Key), true
	case "size":
		return types.Int(v.o.Size), true
	case "modRevision":
		return types.Int(v.o.KV.ModRevision), true
	case "version":
		return types.Int(v.o.KV.Version), true
	case "now":
		return types.Timestamp{Time: v.now}, true
	}
	return nil, false
}

func (v *variables) read() any {
	if v.object != nil {
		return v.object
	}
	m, err := shown(v.o, v.as)
	if err != nil {
		v.err, v.object = err, types.WrapErr(err)
	} else {
		v.object = m
	}
	return v.object
}

// errNotKept says that an object is remembered without its value.
var errNotKept = errors.New("the value is not kept")

// shown returns the whole object as kubectl shows it when it is asked for r,
// with nothing left out.
func shown(o Object, r *codec.Resource) (map[string]any, error) {
	if o.Head.Err != nil {
		return nil, o.Head.Err
	}
	if o.withoutValue() {
		return nil, errNotKept
	}
	shown, err := codec.Show(o.Plain, o.KV.ModRevision, r)
	if err != nil {
		return nil, err
	}
	return codec.Render(shown.Object, codec.RenderOptions{ManagedFields: true, ShowSecrets: true})
}

// withoutValue reports whether only the metadata of the object is kept.
func (o Object) withoutValue() bool { return o.Plain == nil && o.Size > 0 }

// valueReason tells why a value could not be read, in the same few words for
// all objects.
func valueReason(err error) string {
	var kind *codec.UnknownKindError
	switch {
	case errors.Is(err, codec.ErrEncrypted):
		return "its value is encrypted"
	case errors.As(err, &kind):
		return "this build does not know its kind"
	}
	return "its value cannot be decoded"
}

// Reason is why a filter could not decide on some objects.
type Reason struct {
	Text string // quotes no value
	Key  string // the etcd key of the first such object
}

// maxReasons bounds how many reasons a filter remembers.
const maxReasons = 5

// WhyUndecided returns the first reasons, at most five, for which Judge
// answered Undecided so far, in the order they were met; more says that there
// were others.
func (f *Filter) WhyUndecided() (reasons []Reason, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.reasons), f.more
}

// Unread keeps for WhyUndecided that the value of o, which cannot be read, would
// have to name its owners.
func (f *Filter) Unread(o Object) { f.undecided(o, valueReason(o.Head.Err)) }

func (f *Filter) undecided(o Object, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case slices.ContainsFunc(f.reasons, func(r Reason) bool { return r.Text == text }):
	case len(f.reasons) == maxReasons:
		f.more = true
	default:
		f.reasons = append(f.reasons, Reason{Text: text, Key: string(o.KV.Key)})
	}
}
