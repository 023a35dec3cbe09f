package app

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
)

// mostNames is how many names of a certificate a table shows.
const mostNames = 6

// connectOnlyFlags are those of the connection, without what is about reading
// values.
func connectOnlyFlags() []cli.Flag {
	return slices.DeleteFunc(connectionFlags(), func(f cli.Flag) bool {
		return slices.Contains([]string{flagConsistency, flagEncryption}, f.Names()[0])
	})
}

func joinList(words []string) string { return strings.Join(words, ",") }

// days is how many whole days are left, negative if it has expired.
func (inv *invocation) days(c connect.Certificate) int64 {
	return int64(math.Floor(c.Left(inv.Now()).Hours() / 24))
}

func (inv *invocation) showConnect(e *explained) error {
	out := inv.Streams.Out
	if e.err == nil {
		fmt.Fprintf(out, "%s\n\n", inv.wrapped(term.Clean(e.found.Why)))
	}
	for _, section := range []func(*explained) error{inv.showCandidates, inv.showTried, inv.showEtcd, inv.showCertificates} {
		if err := section(e); err != nil {
			return err
		}
	}
	if e.err != nil {
		return nil
	}
	fmt.Fprintf(out, "As flags:\n  %s\n\nFor etcdctl, and for etcd-rescue too:\n", inv.flagLines(e.flags()))
	for _, line := range e.asEnvironment() {
		fmt.Fprintf(out, "  %s\n", term.Clean(line))
	}
	return nil
}

func (inv *invocation) showCandidates(e *explained) error {
	if len(e.found.Candidates) == 0 {
		_, err := fmt.Fprint(inv.Streams.Out, "This machine shows nothing of an etcd or a kube-apiserver.\n\n")
		return err
	}
	rows := [][]string{{"FOUND", "IN", "ENDPOINTS", "USED"}}
	for _, c := range e.found.Candidates {
		used := "yes"
		if !c.Used {
			used = "no"
			if c.WhyNot != "" {
				used += ": " + c.WhyNot
			}
		}
		for _, n := range c.Notes {
			used += "; " + n
		}
		endpoints := joinList(c.Endpoints)
		if len(c.EventsEndpoints) > 0 {
			endpoints = strings.TrimSpace(endpoints + " events: " + joinList(c.EventsEndpoints))
		}
		rows = append(rows, []string{c.Name, c.From, cmp.Or(endpoints, notKnown), used})
	}
	return inv.showSheet(rows)
}

func (inv *invocation) endSection(t *term.Table) error {
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(inv.Streams.Out)
	return err
}

func (inv *invocation) showTried(e *explained) error {
	if len(e.tried) == 0 {
		return nil
	}
	rows := [][]string{{"TRIED", "OF", "ANSWER"}}
	for _, one := range e.tried {
		rows = append(rows, []string{one.Endpoint, one.of, one.answer()})
	}
	return inv.showSheet(rows)
}

// answer says on one line what an endpoint said.
func (t tried) answer() string {
	if t.Err != nil {
		return strings.Join(strings.Fields(t.Err.Error()), " ")
	}
	text := "answers"
	switch {
	case t.Kine:
		text += ": kine, not etcd"
	case t.Version != "":
		text += fmt.Sprintf(": etcd %s, member %x of cluster %x", t.Version, t.Member, t.Cluster)
	}
	if t.Leaderless {
		text += ", knows no leader"
	}
	for _, w := range t.Warnings {
		text += "; " + w
	}
	return text
}

func (inv *invocation) showEtcd(e *explained) error {
	f := e.found
	if f.EtcdQuota == 0 && f.DataDir == "" && len(f.MetricsURLs) == 0 {
		return nil
	}
	t := inv.table()
	if f.EtcdQuota > 0 {
		t.Row("QUOTA", inv.size(f.EtcdQuota), f.EtcdQuotaFrom)
	}
	if f.DataDir != "" {
		t.Row("DATA DIRECTORY", f.DataDir)
	}
	if len(f.MetricsURLs) > 0 {
		t.Row("METRICS", joinList(f.MetricsURLs))
	}
	return inv.endSection(t)
}

// everyCertificate are those of files, then those that endpoints showed.
func (e *explained) everyCertificate() (all []connect.Certificate, served int) {
	all = slices.Clone(e.certs)
	for _, t := range e.tried {
		for _, c := range t.Served {
			// Why a dead endpoint shows none stands beside it already.
			if c.Err == nil || t.Err == nil {
				all = append(all, c)
			}
		}
	}
	return all, len(all) - len(e.certs)
}

func (inv *invocation) showCertificates(e *explained) error {
	all, _ := e.everyCertificate()
	if len(all) == 0 {
		return nil
	}
	rows := [][]string{{"CERTIFICATE", "SUBJECT", "NAMES", "ISSUER", "FROM", "UNTIL", "DAYS"}}
	for _, c := range all {
		if c.Err != nil {
			rows = append(rows, []string{c.Where, c.Err.Error()})
			continue
		}
		names := joinList(c.SANs[:min(len(c.SANs), mostNames)])
		if more := len(c.SANs) - mostNames; more > 0 {
			names += fmt.Sprintf(" and %d more", more)
		}
		rows = append(rows, []string{c.Where, cmp.Or(c.Subject, notKnown), cmp.Or(names, notKnown), cmp.Or(c.Issuer, notKnown),
			c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), inv.daysText(c)})
	}
	return inv.showSheet(rows)
}

func (inv *invocation) daysText(c connect.Certificate) string {
	text := strconv.FormatInt(inv.days(c), 10)
	switch now := inv.Now(); {
	case c.Left(now) < 0:
		text += " (expired)"
	case now.Before(c.NotBefore):
		text += " (not valid yet)"
	}
	return text
}

func (inv *invocation) documentConnect(e *explained) error {
	f := e.found
	doc := map[string]any{
		"version": 1, "kind": "connect", "answers": e.verdict() == nil,
		"candidates": documentsOf(f.Candidates, candidateDocument), "tried": documentsOf(e.tried, triedDocument),
		"certificates": inv.certificateDocuments(e),
	}
	if e.err != nil {
		doc["error"] = map[string]any{"reason": reason(e.err), "message": e.err.Error()}
		return inv.document(doc)
	}
	doc["why"], doc["prefix"] = f.Why, f.Prefix
	doc["endpoints"], doc["flags"], doc["environment"] = e.endpoints, e.asFlags(), append([]string{}, e.asEnvironment()...)
	if len(f.EventsEndpoints) > 0 {
		doc["eventsEndpoints"] = f.EventsEndpoints
	}
	setText(doc, map[string]string{"user": f.User, "encryptionConfig": f.EncryptionConfig, "dataDir": f.DataDir, "quotaFrom": f.EtcdQuotaFrom})
	if e.usesTLS() {
		setText(doc, map[string]string{"cacert": f.CACert, "cert": f.Cert, "key": f.Key})
	}
	if f.EtcdQuota > 0 {
		doc["quota"] = f.EtcdQuota
	}
	if len(f.MetricsURLs) > 0 {
		doc["metricsUrls"] = f.MetricsURLs
	}
	return inv.document(doc)
}

// setText adds what is not empty.
func setText(doc map[string]any, texts map[string]string) {
	for name, text := range texts {
		if text != "" {
			doc[name] = text
		}
	}
}

func documentsOf[T any](all []T, document func(T) map[string]any) []map[string]any {
	out := []map[string]any{}
	for _, one := range all {
		out = append(out, document(one))
	}
	return out
}

func candidateDocument(c connect.Candidate) map[string]any {
	doc := map[string]any{"name": c.Name, "from": c.From, "used": c.Used, "usable": c.Usable(),
		"endpoints": append([]string{}, c.Endpoints...), "notes": append([]string{}, c.Notes...)}
	if len(c.EventsEndpoints) > 0 {
		doc["eventsEndpoints"] = c.EventsEndpoints
	}
	setText(doc, map[string]string{"whyNot": c.WhyNot, "cacert": c.CACert, "cert": c.Cert, "key": c.Key, "prefix": c.Prefix,
		"encryptionConfig": c.EncryptionConfig, "dataDir": c.DataDir})
	if c.EtcdQuota > 0 {
		doc["quota"] = c.EtcdQuota
	}
	if len(c.MetricsURLs) > 0 {
		doc["metricsUrls"] = c.MetricsURLs
	}
	return doc
}

func triedDocument(t tried) map[string]any {
	doc := map[string]any{"endpoint": t.Endpoint, "of": t.of, "answers": t.Err == nil, "warnings": append([]string{}, t.Warnings...)}
	if t.Err != nil {
		failed := map[string]any{"reason": reason(t.Err), "message": t.Err.Error()}
		setText(failed, map[string]string{"hint": t.Hint()})
		doc["error"] = failed
		return doc
	}
	doc["kine"], doc["leaderless"] = t.Kine, t.Leaderless
	setText(doc, map[string]string{"serverVersion": t.Version})
	if t.Cluster != 0 {
		doc["cluster"], doc["member"] = fmt.Sprintf("%x", t.Cluster), fmt.Sprintf("%x", t.Member)
	}
	return doc
}

func (inv *invocation) certificateDocuments(e *explained) []map[string]any {
	all, served := e.everyCertificate()
	out := []map[string]any{}
	for i, c := range all {
		doc := map[string]any{"where": c.Where, "served": i >= len(all)-served}
		if c.Err != nil {
			doc["error"] = c.Err.Error()
		} else {
			doc["subject"], doc["issuer"], doc["names"], doc["ca"] = c.Subject, c.Issuer, append([]string{}, c.SANs...), c.CA
			doc["notBefore"], doc["notAfter"], doc["days"] = c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), inv.days(c)
		}
		out = append(out, doc)
	}
	return out
}
