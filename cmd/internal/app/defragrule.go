package app

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"

	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

const (
	// maxRuleText and maxRuleCost bound an expression: it has five numbers to look at.
	maxRuleText = 4 << 10
	maxRuleCost = 10_000
)

// The names are those of etcd-defrag, so that its rules can be kept.
const (
	celDBSize  = "dbSize"
	celInUse   = "dbSizeInUse"
	celFree    = "dbSizeFree"
	celQuota   = "dbQuota"
	celUsage   = "dbQuotaUsage"
	celMembers = celDBSize + ", " + celInUse + ", " + celFree + ", " + celQuota + " and " + celUsage
)

var errQuotaUnknown = errors.New("its quota is not known: etcd tells it from 3.6 on, and before that in its metrics only")

// defragRule compiles --only-if.
func defragRule(expr string) (etcdmembers.Rule, error) {
	if len(expr) > maxRuleText {
		return nil, usage("", "--%s: the expression is longer than %d bytes", flagOnlyIf, maxRuleText)
	}
	env, err := cel.NewEnv(
		cel.Variable(celDBSize, cel.IntType), cel.Variable(celInUse, cel.IntType), cel.Variable(celFree, cel.IntType),
		cel.Variable(celQuota, cel.IntType), cel.Variable(celUsage, cel.DoubleType), cel.CrossTypeNumericComparisons(true))
	if err != nil {
		return nil, fmt.Errorf("prepare CEL: %w", err)
	}
	checked, issues := env.Compile(expr)
	if issues.Err() != nil {
		return nil, usage("it is CEL over "+celMembers+", such as 'dbSizeFree > 200*1024*1024 || dbQuotaUsage > 0.8'", "--%s: %s", flagOnlyIf, firstIssue(issues))
	}
	if t := checked.OutputType(); t != cel.BoolType {
		return nil, usage("", "--%s: the expression gives %s, but must give bool", flagOnlyIf, t)
	}
	program, err := env.Program(checked, cel.CostLimit(maxRuleCost))
	if err != nil {
		return nil, usage("", "--%s: %w", flagOnlyIf, err)
	}
	return func(s etcdmembers.Sizes) (bool, error) { return evalRule(program, s) }, nil
}

func firstIssue(issues *cel.Issues) string {
	all := issues.Errors()
	if len(all) == 0 {
		return "it cannot be read"
	}
	e := all[0]
	return fmt.Sprintf("line %d, column %d: %s", e.Location.Line(), e.Location.Column()+1, strings.TrimSuffix(e.Message, " (in container '')"))
}

func evalRule(program cel.Program, s etcdmembers.Sizes) (bool, error) {
	vars := map[string]any{celDBSize: s.DBSize, celInUse: s.InUse, celFree: s.Free, celQuota: s.Quota, celUsage: s.Usage}
	unknown := s.Quota <= 0
	if unknown {
		// An error, and no number: what the expression does not come to, as behind "dbQuota > 0 &&", does not matter.
		vars[celUsage] = types.WrapErr(errQuotaUnknown)
	}
	result, _, err := program.Eval(vars)
	switch {
	case err != nil && unknown && strings.Contains(err.Error(), errQuotaUnknown.Error()):
		return false, fmt.Errorf("--%s asks for %s, and %w", flagOnlyIf, celUsage, errQuotaUnknown)
	case err != nil:
		return false, fmt.Errorf("--%s: evaluation fails: %w", flagOnlyIf, err)
	}
	worth, ok := result.(types.Bool)
	if !ok {
		return false, fmt.Errorf("--%s gives no bool", flagOnlyIf)
	}
	return bool(worth), nil
}
