package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// TestLongPreviewsSayWhatTheyLeaveOut, on screen and as a document.
func TestLongPreviewsSayWhatTheyLeaveOut(t *testing.T) {
	t.Parallel()
	sum := &plan.Summary{Steps: 9000, MakersTotal: 6000, MakersPlanned: 4000}
	for i := range 1500 {
		for range 6 - min(i, 5) {
			sum.Namespaces.Add(fmt.Sprintf("ns-%04d", i))
		}
	}
	sum.Phases.Add("Failed")
	for i := range 20 {
		sum.Makers = append(sum.Makers, plan.LiveOwner{Resource: "job", Namespace: "a", Name: fmt.Sprintf("j-%02d", i), Makes: 2, Planned: i%2 == 0})
	}
	pv := &preview{operation: operationDelete, sum: sum, now: time.Now(), free: -1}
	var out bytes.Buffer
	pv.write(&out, 200)
	for _, want := range []string{
		"namespace  ns-0000 6, ns-0001 5, ns-0002 4, ns-0003 3, ns-0004 2, and 1,495 more with 1,495\n",
		"  job a/j-09 (2 of these)\n  and 1,995 more\n",
		"  job a/j-08 (2 of these)\n  and 3,995 more\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the preview does not say %q:\n%s", want, out.String())
		}
	}
	doc := pv.document()
	var got struct {
		By          map[string][]plan.Share
		Others      map[string]plan.Rest
		OtherOwners int64
	}
	text, err := json.Marshal(doc)
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]plan.Rest{"namespace": {Names: 500, Count: 500}}, got.Others); diff != "" {
		t.Errorf("others (-want +got):\n%s", diff)
	}
	if len(got.By["namespace"]) != mostShares || len(got.By["phase"]) != 1 || got.By["owner"] == nil || got.OtherOwners != 5980 {
		t.Errorf("%d namespaces, %v, owners %v and %d others", len(got.By["namespace"]), got.By["phase"], got.By["owner"], got.OtherOwners)
	}
}

// TestApproximateSharesAreMarked, where there were too many names to count.
func TestApproximateSharesAreMarked(t *testing.T) {
	t.Parallel()
	sum := &plan.Summary{Steps: 300_000}
	for i := range 300_000 {
		sum.Owners.Add(fmt.Sprintf("job/%x", i))
		sum.Owners.Add("job/flood")
	}
	pv := &preview{operation: operationDelete, sum: sum, now: time.Now(), free: -1}
	var out bytes.Buffer
	pv.write(&out, 1000)
	if want := "owner      about job/flood 300,000, "; !strings.Contains(out.String(), want) {
		t.Errorf("the preview does not say %q:\n%s", want, out.String())
	}
	others, _ := pv.document()["others"].(map[string]plan.Rest)
	if rest := others["owner"]; !rest.Approximate || rest.Shortfall == 0 || rest.Names < 200_000 {
		t.Errorf("the document says %+v", rest)
	}
}

// TestLongReportsSayWhatTheyLeaveOut: who makes objects again may be many.
func TestLongReportsSayWhatTheyLeaveOut(t *testing.T) {
	t.Parallel()
	var makers []plan.LiveOwner
	for i := range 100 {
		makers = append(makers, plan.LiveOwner{Resource: "job", Namespace: "a", Name: fmt.Sprintf("j-%02d", i)})
	}
	report := &runReport{passes: []passReport{{result: &apply.Result{}}}}
	report.settled(&plan.Summary{Steps: 7, Makers: makers, MakersTotal: 250}, time.Second)
	var out bytes.Buffer
	writer{&out, 100}.leftover(report.left, nil)
	if want := "  made by job a/j-19, which is still there\n  and 230 more\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("the report does not end in %q:\n%s", want, out.String())
	}
	left, _ := (&job{report: report}).document(nil)["left"].(map[string]any)
	if left["otherOwners"] != int64(150) {
		t.Errorf("the document says %v", left["otherOwners"])
	}
}
