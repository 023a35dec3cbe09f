package codec

import (
	"fmt"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	resourcev1alpha3 "k8s.io/api/resource/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func deviceTables() map[string]table {
	const group = ".resource.k8s.io"
	return map[string]table{
		"deviceclasses" + group:              plain("NAME,AGE"),
		"devicetaintrules" + group:           show("NAME,KEY,VALUE,EFFECT,TIMEADDED,AGE", deviceTaintRuleCells),
		"resourceclaims" + group:             show("NAME,STATE,AGE", resourceClaimCells),
		"resourceclaimtemplates" + group:     plain("NAME,AGE"),
		"resourcepoolstatusrequests" + group: show("NAME,DRIVER,TOTAL,AVAILABLE,ALLOCATED,UNAVAILABLE,ERRORS,POOLS,STATUS,COMPLETED", poolStatusCells),
		"resourceslices" + group:             show("NAME,NODE,DRIVER,POOL,AGE", resourceSliceCells),
	}
}

func deviceTaintRuleCells(o *resourcev1.DeviceTaintRule, now time.Time) []string {
	added := ""
	if o.Spec.Taint.TimeAdded != nil {
		added = age(*o.Spec.Taint.TimeAdded, now)
	}
	return []string{o.Name, o.Spec.Taint.Key, o.Spec.Taint.Value, string(o.Spec.Taint.Effect), added, age(o.CreationTimestamp, now)}
}

func resourceClaimCells(o *resourcev1.ResourceClaim, now time.Time) []string {
	var states []string
	if o.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case o.Status.Allocation == nil:
		if o.DeletionTimestamp == nil {
			states = append(states, "pending")
		}
	case len(o.Status.ReservedFor) > 0:
		states = append(states, "allocated", "reserved")
	default:
		states = append(states, "allocated")
	}
	return []string{o.Name, strings.Join(states, ","), age(o.CreationTimestamp, now)}
}

func resourceSliceCells(o *resourcev1.ResourceSlice, now time.Time) []string {
	return []string{o.Name, deref(o.Spec.NodeName, ""), o.Spec.Driver, o.Spec.Pool.Name, age(o.CreationTimestamp, now)}
}

func poolStatusCells(o *resourcev1alpha3.ResourcePoolStatusRequest, now time.Time) []string {
	const pending = "Pending"
	status, completed, pools := pending, noValue, int32(0)
	sums := []string{"-", "-", "-", "-", "-"}
	if s := o.Status; s != nil {
		status, completed = poolRequestStatus(s.Conditions, now)
		if s.PoolCount != nil {
			pools = *s.PoolCount
		}
		if status != resourcev1alpha3.ResourcePoolStatusRequestConditionFailed {
			sums = poolSums(s.Pools)
		}
		if status == resourcev1alpha3.ResourcePoolStatusRequestConditionComplete && int(pools) > len(s.Pools) {
			status = fmt.Sprintf("%s (%d/%d pools)", status, len(s.Pools), pools)
		}
	}
	cells := append([]string{o.Name, o.Spec.Driver}, sums...)
	return append(cells, count(pools), status, completed)
}

func poolRequestStatus(conditions []metav1.Condition, now time.Time) (status, completed string) {
	for i := range conditions {
		c := &conditions[i]
		if c.Status != metav1.ConditionTrue {
			continue
		}
		switch c.Type {
		case resourcev1alpha3.ResourcePoolStatusRequestConditionComplete:
			return c.Type, age(c.LastTransitionTime, now)
		case resourcev1alpha3.ResourcePoolStatusRequestConditionFailed:
			return c.Type, noValue
		}
	}
	return "Pending", noValue
}

// poolSums adds up the devices of all pools, and the pools with an error.
func poolSums(pools []resourcev1alpha3.PoolStatus) []string {
	var total, available, allocated, unavailable, broken int64
	add := func(sum *int64, n *int32) {
		if n != nil {
			*sum += int64(*n)
		}
	}
	for i := range pools {
		p := &pools[i]
		add(&total, p.TotalDevices)
		add(&available, p.AvailableDevices)
		add(&allocated, p.AllocatedDevices)
		add(&unavailable, p.UnavailableDevices)
		if p.ValidationError != nil {
			broken++
		}
	}
	return []string{count(total), count(available), count(allocated), count(unavailable), count(broken)}
}
