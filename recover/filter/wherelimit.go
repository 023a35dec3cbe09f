package filter

import (
	"errors"
	"math"
	"regexp/syntax"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// The limits of an expression. The cost is CEL's own measure, about one for
// each operation and for ten bytes of a string; counting it takes a time of its
// square in nested comprehensions, so more would be minutes. It is counted
// after each call, and a call cannot be interrupted, so what some functions are
// given is bounded before they are called.
const (
	maxWhereText   = 16 << 10 // bytes of the expression
	maxWhereCost   = 500_000
	interruptCheck = 100     // steps of a comprehension
	maxCallWork    = 1 << 23 // elements and bytes that one call goes through or makes
	maxRegexSteps  = 1000    // instructions of a compiled regular expression
)

// errTooMuch stops an evaluation at such a call.
var errTooMuch = errors.New("too much work")

// callLimits returns, for the functions that could do far more work than CEL
// counts, what tells whether a call stays in bounds.
func callLimits() map[string]func(args []ref.Val) bool {
	inBounds := func(args []ref.Val) bool { return weigh(args...) <= maxCallWork }
	// These compare each element with each.
	pairs := func(args []ref.Val) bool {
		return count(args[0]) <= maxCallWork/max(weigh(args[len(args)-1]), 1) && inBounds(args)
	}
	return map[string]func(args []ref.Val) bool{
		operators.Equals: inBounds, operators.NotEquals: inBounds, operators.In: inBounds,
		"flatten": inBounds, "format": inBounds,
		"distinct": pairs, "sets.contains": pairs, "sets.equivalent": pairs, "sets.intersects": pairs,
		"join": joinFits, "replace": replaceFits, "matches": regexFits,
		"quantity": quantityFits, "isQuantity": quantityFits,
	}
}

// joinFits bounds list.join() and list.join(separator).
func joinFits(args []ref.Val) bool {
	size := weigh(args[0])
	if len(args) > 1 {
		size += count(args[0]) * weigh(args[1])
	}
	return size <= maxCallWork
}

// replaceFits bounds string.replace(from, to[, n]).
func replaceFits(args []ref.Val) bool {
	if len(args) < 3 {
		return true
	}
	s, okS := args[0].(types.String)
	from, okFrom := args[1].(types.String)
	to, okTo := args[2].(types.String)
	if !okS || !okFrom || !okTo {
		return true // no such overload
	}
	return len(s)+strings.Count(string(s), string(from))*len(to) <= maxCallWork
}

// regexFits bounds the time that string.matches(regex) takes, which is the
// length of the string times that of the compiled expression.
func regexFits(args []ref.Val) bool {
	re, ok := args[len(args)-1].(types.String)
	if !ok {
		return true // no such overload
	}
	parsed, err := syntax.Parse(string(re), syntax.Perl)
	if err != nil {
		return true // CEL says so itself
	}
	prog, err := syntax.Compile(parsed.Simplify())
	return err == nil && len(prog.Inst) <= maxRegexSteps
}

func quantityFits(args []ref.Val) bool {
	s, ok := args[0].(types.String)
	return !ok || codec.QuantityFits(string(s)) // of another type there is no such overload
}

// limitCalls puts a limit before the calls of some functions.
func limitCalls(env *cel.Env) interpreter.InterpretableDecoratorV2 {
	limits := callLimits()
	return func(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
		call, ok := i.(interpreter.InterpretableCall)
		if !ok || limits[call.Function()] == nil {
			return i, nil
		}
		fits := limits[call.Function()]
		impl, err := implementation(env, call)
		if err != nil {
			return nil, err
		}
		return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
			if !fits(args) {
				return types.WrapErr(errTooMuch)
			}
			return impl(args...)
		}), nil
	}
}

// implementation returns what a call would call.
func implementation(env *cel.Env, call interpreter.InterpretableCall) (functions.FunctionOp, error) {
	switch call.Function() {
	case operators.Equals:
		return func(args ...ref.Val) ref.Val { return types.Equal(args[0], args[1]) }, nil
	case operators.NotEquals:
		return func(args ...ref.Val) ref.Val { return types.Bool(types.Equal(args[0], args[1]) != types.True) }, nil
	}
	bindings, err := env.Functions()[call.Function()].Bindings()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{call.OverloadID(), call.Function()} {
		for _, b := range bindings {
			switch {
			case b.Operator != name:
			case len(call.Args()) == 1 && b.Unary != nil:
				return func(args ...ref.Val) ref.Val { return b.Unary(args[0]) }, nil
			case len(call.Args()) == 2 && b.Binary != nil:
				return func(args ...ref.Val) ref.Val { return b.Binary(args[0], args[1]) }, nil
			case b.Function != nil:
				return b.Function, nil
			}
		}
	}
	return nil, errors.New("no implementation of " + call.Function())
}

// whereCost counts what CEL itself takes for cheap: going through
// strings, and through what lists and maps hold.
type whereCost struct{}

// CallCost is part of interpreter.ActualCostEstimator; nil leaves it to CEL.
func (whereCost) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	var size int64
	switch function {
	case "math.@max", "math.@min":
		for _, v := range args {
			size += 10 * count(v)
		}
	case overloads.Matches, overloads.Contains, overloads.StartsWith, overloads.EndsWith:
		return nil
	case operators.Equals, operators.NotEquals, operators.In:
		size = weigh(args...)
	default:
		for _, v := range append(args, result) {
			switch v := v.(type) {
			case types.String:
				size += int64(len(v))
			case types.Bytes:
				size += int64(len(v))
			}
		}
	}
	cost := 1 + uint64(size)/10
	return &cost
}

// weigh returns how many elements and bytes there are in values, and what is
// in them, to go through; little more than maxCallWork if there are more than
// that.
func weigh(values ...ref.Val) int64 {
	var total int64
	for _, v := range values {
		total += weighUpTo(v, maxCallWork-total)
	}
	return total
}

func weighUpTo(v ref.Val, limit int64) int64 {
	total := int64(1)
	switch v := v.(type) {
	case types.String:
		return total + int64(len(v))
	case types.Bytes:
		return total + int64(len(v))
	case *types.Optional:
		if v.HasValue() {
			return total + weighUpTo(v.GetValue(), limit-total)
		}
	case traits.Mapper:
		for it := v.Iterator(); it.HasNext() == types.True && total <= limit; {
			key := it.Next()
			total += weighUpTo(key, limit-total)
			total += weighUpTo(v.Get(key), limit-total)
		}
	case traits.Lister:
		for it := v.Iterator(); it.HasNext() == types.True && total <= limit; {
			total += weighUpTo(it.Next(), limit-total)
		}
	}
	return total
}

// count returns the number of elements.
func count(v ref.Val) int64 {
	sizer, ok := v.(traits.Sizer)
	if !ok {
		return 1
	}
	n, ok := sizer.Size().(types.Int)
	if !ok {
		return math.MaxInt32
	}
	return int64(n)
}
