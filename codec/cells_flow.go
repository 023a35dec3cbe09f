package codec

import (
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
)

func flowTables() map[string]table {
	const group = ".flowcontrol.apiserver.k8s.io"
	return map[string]table{
		"flowschemas" + group:                 show("NAME,PRIORITYLEVEL,MATCHINGPRECEDENCE,DISTINGUISHERMETHOD,AGE,MISSINGPL", flowSchemaCells),
		"prioritylevelconfigurations" + group: show("NAME,TYPE,NOMINALCONCURRENCYSHARES,QUEUES,HANDSIZE,QUEUELENGTHLIMIT,AGE", priorityLevelCells),
	}
}

func flowSchemaCells(o *flowcontrolv1.FlowSchema, now time.Time) []string {
	method, dangling := noValue, "?"
	if o.Spec.DistinguisherMethod != nil {
		method = string(o.Spec.DistinguisherMethod.Type)
	}
	for i := range o.Status.Conditions {
		if c := &o.Status.Conditions[i]; c.Type == flowcontrolv1.FlowSchemaConditionDangling {
			dangling = string(c.Status)
			break
		}
	}
	return []string{o.Name, o.Spec.PriorityLevelConfiguration.Name, count(o.Spec.MatchingPrecedence), method,
		age(o.CreationTimestamp, now), dangling}
}

func priorityLevelCells(o *flowcontrolv1.PriorityLevelConfiguration, now time.Time) []string {
	shares, queues, hand, length := noValue, noValue, noValue, noValue
	if limited := o.Spec.Limited; limited != nil {
		// The default of pkg/apis/flowcontrol/v1/defaults.go.
		shares = "30"
		if limited.NominalConcurrencyShares != nil {
			shares = count(*limited.NominalConcurrencyShares)
		}
		if q := limited.LimitResponse.Queuing; q != nil {
			queues, hand, length = count(q.Queues), count(q.HandSize), count(q.QueueLengthLimit)
		}
	}
	return []string{o.Name, string(o.Spec.Type), shares, queues, hand, length, age(o.CreationTimestamp, now)}
}
