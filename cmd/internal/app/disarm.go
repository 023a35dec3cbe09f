package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

const (
	flagBelow       = "below"
	flagUnsafeQuota = "unsafe-quota"

	defaultBelow = "90%"
)

func disarmCommand() *command {
	return &command{
		name:    "disarm",
		summary: "take back the alarm NOSPACE once every member has room again",
		about: "etcd takes no writes while NOSPACE is raised, also when there is room again: the alarm has to be taken back. That is done only if every member " +
			"answers and its db file is below --below of its quota; else etcd would raise it again at the next write. All alarms are listed; CORRUPT is never taken " +
			"back. Afterwards a write is tried that touches no key: a lease is granted and given back.\n\nThe whole way out of NOSPACE is reclaim. Without --execute it is " +
			"a preview, and nothing is changed.",
		examples: []string{
			"etcd-rescue disarm",
			"etcd-rescue disarm --execute",
			"etcd-rescue disarm --unsafe-quota 8589934592 --execute --yes",
		},
		flags: slices.Concat(memberApproval("take it back"), quotaFlags(), outputFlags("table, json, yaml"), connectionFlags()),
		run:   runDisarm,
	}
}

func quotaFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: flagBelow, Usage: "take NOSPACE back only if every member's db file is below `SHARE` of its quota", Value: defaultBelow, Category: catPace},
		&cli.Int64Flag{Name: flagUnsafeQuota, Usage: "take `BYTES` for the quota of members that do not tell theirs (etcd before 3.6): what their --quota-backend-bytes says", Category: catPace},
	}
}

// disarmOptions reads the flags of quotaFlags.
func (inv *invocation) disarmOptions() (opt etcdmembers.DisarmOptions, err error) {
	text := inv.String(flagBelow)
	share, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if strings.HasSuffix(text, "%") {
		share /= 100
	}
	if err != nil || !(share > 0 && share <= 1) {
		return opt, usage("write it like 90%", "--%s %q is no share of a quota", flagBelow, text)
	}
	quota := inv.Int64(flagUnsafeQuota)
	if inv.IsSet(flagUnsafeQuota) && quota <= 0 {
		return opt, usage("", "--%s takes a positive number of bytes, got %d", flagUnsafeQuota, quota)
	}
	return etcdmembers.DisarmOptions{Below: share, Quota: quota}, nil
}

// disarming is one call of disarm.
type disarming struct {
	*upkeep
	before []etcdmembers.Alarm // all that were raised
	done   []etcdmembers.Alarm
	proved bool
}

func runDisarm(ctx context.Context, inv *invocation) error {
	err := inv.checkFormat(formatTable, formatJSON, formatYAML)
	if err == nil {
		err = inv.checkApproval(false)
	}
	var opt etcdmembers.DisarmOptions
	if err == nil {
		opt, err = inv.disarmOptions()
	}
	if err != nil {
		return err
	}
	u, err := inv.openUpkeep(ctx)
	if err != nil {
		return err
	}
	defer u.close()
	u.opt = opt
	d := &disarming{upkeep: u, before: etcdmembers.Alarms(u.all)}
	if inv.Bool(flagExecute) {
		return d.execute(ctx)
	}
	if err := d.show(); err != nil {
		return err
	}
	if err := d.refusal(); err != nil {
		return err
	}
	return inv.somethingToDo(int64(len(d.raised())))
}

func (u *upkeep) raised() []etcdmembers.Alarm {
	return etcdmembers.Raised(u.all, etcdmembers.AlarmNoSpace)
}

// refusal is why the alarm, if there is one, must not be taken back.
func (d *disarming) refusal() error {
	if len(d.before) == 0 {
		return nil
	}
	return d.disarmFailure(etcdmembers.MayDisarm(d.all, d.opt))
}

// disarmFailure adds what makes it possible.
func (u *upkeep) disarmFailure(err error) error {
	var hint string
	switch {
	case err == nil:
		return nil
	case errors.Is(err, etcdmembers.ErrDisagree):
		hint = corruptHint
	case errors.Is(err, etcdmembers.ErrSilent):
		hint = "start that member, or remove it if it is gone for good (etcdctl member remove); then run this again"
	case errors.Is(err, etcdmembers.ErrNoQuota):
		hint = "look up --quota-backend-bytes in the manifest of etcd (2147483648 if it is not there), and pass the number by --" + flagUnsafeQuota
	case errors.Is(err, etcdmembers.ErrFull):
		hint = "compact and defragment it first, or delete what fills it (count --bytes, top sizes): etcd-rescue reclaim [RESOURCE…] does all of it"
	default:
		return u.maintenanceFailure(err)
	}
	return refuse(hint, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
}

func (d *disarming) execute(ctx context.Context) error {
	inv := d.inv
	raised := d.raised()
	if err := d.refusal(); err != nil || len(raised) == 0 {
		if err == nil {
			err = d.show()
		}
		return err
	}
	if !inv.Bool(flagYes) {
		d.write(writer{inv.Streams.Err, width(inv.Streams.ErrWidth)})
	}
	n := int64(len(d.all))
	if err := inv.confirm(ctx, n, fmt.Sprintf("take back NOSPACE in this etcd of %s", term.Plural(n, "member"))); err != nil {
		return err
	}
	if !inv.Bool(flagYes) { // it may have taken a while to type
		if err := d.look(ctx); err != nil {
			return err
		}
	}
	var err error
	d.done, err = d.disarm(ctx)
	d.proved = err == nil
	if len(d.done) == 0 {
		return err
	}
	if showErr := d.show(); showErr != nil {
		return showErr
	}
	return err
}

// disarm takes NOSPACE back, looks whether it stays away, and proves that a
// write works.
func (u *upkeep) disarm(ctx context.Context) ([]etcdmembers.Alarm, error) {
	done, err := etcdmembers.Disarm(ctx, u.conn.Client, u.all, u.opt)
	if err != nil {
		return done, u.disarmFailure(err)
	}
	return done, u.prove(ctx)
}

// prove writes without touching a key, and looks that no alarm came of it.
func (u *upkeep) prove(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	err := etcdmembers.ProveWrite(limited, u.conn.Client)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = u.look(ctx)
	}
	if err == nil && len(u.raised()) > 0 {
		err = etcdmembers.ErrStillRaised
	}
	if err == nil {
		return nil
	}
	return partial("look at the sizes of all members (status); etcd-rescue reclaim makes room", "etcd does not take a write yet: %w", err)
}

func (d *disarming) show() error {
	inv := d.inv
	if inv.format() != formatTable {
		return inv.document(d.document())
	}
	w := writer{inv.Streams.Out, width(inv.Streams.OutWidth)}
	if len(d.done) > 0 {
		for _, name := range d.alarmNames(d.done) {
			w.line("Took back %s", name)
		}
		if d.proved {
			w.line("%s", provedText)
		}
		return nil
	}
	d.write(w)
	if inv.Bool(flagExecute) || len(d.raised()) == 0 || d.refusal() != nil {
		w.line("Nothing was changed.")
	} else {
		w.line("Nothing was changed. Add --execute to do it.")
	}
	return nil
}

const provedText = "A write works: etcd granted a lease, which was given back; no key was touched."

func (d *disarming) write(w writer) {
	raised := d.raised()
	switch {
	case len(d.before) == 0:
		w.line("Would take back nothing: no alarm is raised.")
	case d.refusal() != nil || len(raised) == 0:
		w.line("Would take back nothing.")
	default:
		for _, name := range d.alarmNames(raised) {
			w.line("Would take back %s", name)
		}
	}
	for _, name := range d.alarmNames(d.before) {
		w.field("raised", name)
	}
	w.line("")
	d.sizes(w)
	w.line("")
}

// sizes is a table of the members.
func (u *upkeep) sizes(w writer) {
	t := term.NewTable(w, true)
	u.inv.fit(t, w, 0)
	t.Header("  MEMBER", "DB FILE", "IN USE", "QUOTA", "USED", "LIMIT")
	for i := range u.all {
		m := &u.all[i]
		if !m.Answers() {
			t.Row("  "+m.Label(), "does not answer", "", "", "", "")
			continue
		}
		quota, used, limit := "unknown", "unknown", "unknown"
		switch q := u.opt.QuotaOf(m); {
		case q < 0:
			quota, used, limit = "none", "", ""
		case q > 0:
			most, _ := u.opt.Limit(m)
			quota, used, limit = term.Bytes(q), fmt.Sprintf("%.0f%%", 100*float64(m.DBSize)/float64(q)), term.Bytes(most)
		}
		t.Row("  "+m.Label(), term.Bytes(m.DBSize), term.Bytes(m.InUse), quota, used, limit)
	}
	_ = t.Flush() // what else is printed fails as well
}

func (d *disarming) document() map[string]any {
	doc := map[string]any{
		"version": 1, "kind": "disarm", "changed": len(d.done) > 0, "proved": d.proved,
		"raised": d.alarmList(d.before), "disarmed": d.alarmList(d.done), "members": d.memberList(),
	}
	if err := d.refusal(); err != nil && len(d.done) == 0 {
		doc["refused"] = err.Error()
	}
	return doc
}

func (u *upkeep) alarmList(alarms []etcdmembers.Alarm) []any {
	list := []any{}
	for _, a := range alarms {
		list = append(list, map[string]any{"member": fmt.Sprintf("%x", a.Member), "alarm": a.Type})
	}
	return list
}

// memberList is what documents say of the members.
func (u *upkeep) memberList() []any {
	list := []any{}
	for i := range u.all {
		m := &u.all[i]
		doc := map[string]any{"id": fmt.Sprintf("%x", m.ID), "name": m.Name, "answers": m.Answers()}
		if m.Answers() {
			doc["dbSize"], doc["dbSizeInUse"] = m.DBSize, m.InUse
		}
		if q := u.opt.QuotaOf(m); q != 0 {
			doc["dbQuota"] = q
		}
		list = append(list, doc)
	}
	return list
}
