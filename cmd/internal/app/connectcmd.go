package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
)

func connectCommand() *command {
	return &command{
		name: "connect", summary: "explain how etcd is found and reached, and try it",
		about: "Says what this machine shows of etcd and kube-apiserver (static pods, running processes, the files of the known distributions), which of it is used and why the rest is not; " +
			"tries every endpoint by itself; says what the certificates hold that can be read or are shown, and until when; and writes the choice as flags and as ETCDCTL_* lines. " +
			"A password is never printed, and given only to the etcd that is used. It reads and changes nothing, and is meant for when etcd is dead, too: " +
			"exit code 0 if the etcd that is used answers (and that of events, if they have their own), 5 if not.",
		examples: []string{
			"etcd-rescue connect",
			"etcd-rescue connect --endpoints https://10.0.0.1:2379 --cluster",
			"etcd-rescue connect -o json",
		},
		flags: slices.Concat(outputFlags("table, json, yaml"), connectOnlyFlags()),
		run:   runConnect,
	}
}

// explained is all that the command found out.
type explained struct {
	found connect.Found
	err   error // of the settings: found holds candidates only
	tried []tried
	// apart says of etcdMain or etcdEvents why its endpoints cannot be used
	// together, though one of them answers.
	apart map[string]error
	certs []connect.Certificate
	// endpoints are those of the main etcd, with --cluster all members'.
	endpoints []string
}

// tried is one endpoint and whose it is.
type tried struct {
	connect.Trial
	of    string // etcdMain, etcdEvents, or the name of a candidate
	files [3]string
}

func filesOf(s connect.Settings) [3]string { return [3]string{s.CACert, s.Cert, s.Key} }

func runConnect(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat(formatTable, formatJSON, formatYAML); err != nil {
		return err
	}
	if err := inv.checkLogLevel(); err != nil {
		return err
	}
	e := inv.explain(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	show := inv.showConnect
	if inv.format() != formatTable {
		show = inv.documentConnect
	}
	if err := show(e); err != nil {
		return err
	}
	return e.verdict()
}

func (inv *invocation) explain(ctx context.Context) *explained {
	e := &explained{apart: map[string]error{}}
	given := inv.settings()
	e.found, e.err = connect.Resolve(given, connect.Node{Root: inv.Root, Getenv: inv.Getenv})
	limit := given.DialTimeout
	if e.err == nil {
		limit = e.found.DialTimeout
		e.endpoints = inv.allMembers(ctx, e.found)
		e.try(ctx, inv, etcdMain, e.found.Settings, e.endpoints)
		e.together(ctx, inv, etcdMain, e.found.Endpoints)
		e.try(ctx, inv, etcdEvents, e.found.Settings, e.found.EventsEndpoints)
		e.together(ctx, inv, etcdEvents, e.found.EventsEndpoints)
	}
	for _, c := range e.found.Candidates {
		if c.Used || !c.Usable() {
			continue
		}
		// Without user and password: nobody chose this etcd.
		s := connect.Settings{CACert: c.CACert, Cert: c.Cert, Key: c.Key, Prefix: c.Prefix, DialTimeout: limit}
		e.try(ctx, inv, c.Name, s, e.untried(slices.Concat(c.Endpoints, c.EventsEndpoints), s))
	}
	files := e.found.CertFiles
	for _, c := range e.found.Candidates {
		if e.err != nil && c.Usable() {
			files = append(files, c.CertFiles...)
		}
	}
	e.certs = connect.Certificates(files...)
	return e
}

// allMembers adds the members that --cluster asks for.
func (inv *invocation) allMembers(ctx context.Context, found connect.Found) []string {
	endpoints := slices.Clone(found.Endpoints)
	if !found.Cluster {
		return endpoints
	}
	conn, err := connect.DialAll(ctx, found.Settings, found.Endpoints, inv.logger())
	if err != nil {
		return endpoints // each is tried by itself, and says what is wrong
	}
	defer conn.Close()
	for _, w := range conn.Warnings {
		inv.say("warning: %s", w)
	}
	for _, ep := range conn.Endpoints {
		if !slices.Contains(endpoints, ep) {
			endpoints = append(endpoints, ep)
		}
	}
	return endpoints
}

func (e *explained) try(ctx context.Context, inv *invocation, of string, s connect.Settings, endpoints []string) {
	for _, t := range connect.Try(ctx, s, endpoints, inv.logger()) {
		e.tried = append(e.tried, tried{t, of, filesOf(s)})
	}
}

// together connects as every other command does, to all endpoints at once: those
// of two clusters answer each by itself.
func (e *explained) together(ctx context.Context, inv *invocation, of string, endpoints []string) {
	alive := slices.ContainsFunc(e.tried, func(t tried) bool { return t.of == of && t.Err == nil })
	if !alive || len(endpoints) < 2 {
		return
	}
	conn, err := connect.Dial(ctx, e.found.Settings, endpoints, inv.logger())
	if err != nil {
		e.apart[of] = err
		return
	}
	conn.Close()
}

// untried leaves out endpoints that were tried already, unless other files may
// open them.
func (e *explained) untried(endpoints []string, s connect.Settings) []string {
	return slices.DeleteFunc(endpoints, func(ep string) bool {
		return slices.ContainsFunc(e.tried, func(t tried) bool {
			return t.Endpoint == ep && (!t.wantsOtherFiles() || t.files == filesOf(s))
		})
	})
}

// wantsOtherFiles says that what is wrong lies in the TLS files.
func (t tried) wantsOtherFiles() bool {
	var e *connect.Error
	return errors.As(t.Err, &e) && slices.Contains([]connect.Reason{connect.ServerCA, connect.ClientCertMissing, connect.ClientCertRefused}, e.Reason)
}

// verdict is nil if every etcd that is used answers at one endpoint at least.
func (e *explained) verdict() error {
	if e.err != nil {
		return e.undecided()
	}
	for _, of := range []string{etcdMain, etcdEvents} {
		if err := e.dead(of); err != nil {
			return err
		}
	}
	return nil
}

// undecided is for settings that name no etcd to use. What answers all the same
// is written as flags: endpoints alone would take whichever TLS files come first.
func (e *explained) undecided() error {
	err := settingFailure(e.err)
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	answers := ""
	for _, t := range e.tried {
		if t.Err == nil {
			answers += fmt.Sprintf("\n  %s\n    (%s)", t.asFlags(), t.of)
		}
	}
	if answers == "" {
		return err
	}
	return &failure{f.code, f.err, strings.TrimPrefix(f.hint+"; ", "; ") + "these answer:" + answers}
}

func (e *explained) dead(of string) error {
	var first *connect.Trial
	for i := range e.tried {
		t := &e.tried[i]
		switch {
		case t.of != of:
		case t.Err == nil:
			return e.unfitTogether(of)
		case first == nil:
			first = &t.Trial
		}
	}
	if first == nil {
		return nil // there is no such etcd
	}
	hint := first.Hint()
	for _, t := range e.tried {
		if t.of != etcdMain && t.of != etcdEvents && t.Err == nil {
			hint = fmt.Sprintf("%s answers (%s): if it is the right one, give\n  %s", t.Endpoint, t.of, t.asFlags())
			break
		}
	}
	return &failure{exitConnect, fmt.Errorf("the %s etcd does not answer: %w", of, first.Err), hint}
}

func (e *explained) unfitTogether(of string) error {
	err := e.apart[of]
	if err == nil {
		return nil
	}
	return &failure{exitConnect, fmt.Errorf("the endpoints of the %s etcd cannot be used together: %w", of, err), connect.Trial{Err: err}.Hint()}
}

// asFlags writes what was tried as flags.
func (t tried) asFlags() string {
	words := []string{"--" + flagEndpoints + " " + quoteWord(t.Endpoint)}
	for i, name := range []string{flagCACert, flagCert, flagKeyFile} {
		if t.files[i] != "" && connect.IsTLS(t.Endpoint) {
			words = append(words, "--"+name+" "+quoteWord(t.files[i]))
		}
	}
	return strings.Join(words, " ")
}

// asFlags writes what was found as flags.
func (e *explained) asFlags() string {
	return strings.Join(e.flags(), " ")
}

// flags is one text for each flag, with its value.
func (e *explained) flags() []string {
	f := e.found
	var words []string
	add := func(name, value string) {
		if value != "" {
			words = append(words, "--"+name+" "+quoteWord(value))
		}
	}
	add(flagEndpoints, joinList(e.endpoints))
	add(flagEventsEndpoints, joinList(f.EventsEndpoints))
	if e.usesTLS() {
		add(flagCACert, f.CACert)
		add(flagCert, f.Cert)
		add(flagKeyFile, f.Key)
	}
	if e.usesTLS() && f.InsecureSkipVerify {
		words = append(words, "--"+flagInsecureSkip)
	}
	add(flagUser, f.User)
	add(flagPasswordFile, f.PasswordFile)
	if f.Prefix != connect.DefaultPrefix {
		add(flagPrefix, f.Prefix)
	}
	add(flagEncryption, f.EncryptionConfig)
	return words
}

// asEnvironment writes it as etcdctl's variables, which have no place for the
// rest.
func (e *explained) asEnvironment() []string {
	f := e.found
	var lines []string
	add := func(name, value string) {
		if value != "" {
			lines = append(lines, "export ETCDCTL_"+name+"="+quoteWord(value))
		}
	}
	add("ENDPOINTS", joinList(e.endpoints))
	if e.usesTLS() {
		add("CACERT", f.CACert)
		add("CERT", f.Cert)
		add("KEY", f.Key)
	}
	if e.usesTLS() && f.InsecureSkipVerify {
		add("INSECURE_SKIP_TLS_VERIFY", "true")
	}
	add("USER", f.User)
	return lines
}

// usesTLS is false where files were given that plain endpoints have no use for.
func (e *explained) usesTLS() bool {
	return slices.ContainsFunc(slices.Concat(e.endpoints, e.found.EventsEndpoints), connect.IsTLS)
}

// reason is the stable word of an error, "" if it has none.
func reason(err error) string {
	var e *connect.Error
	var s *connect.SettingError
	switch {
	case errors.As(err, &e):
		return string(e.Reason)
	case errors.As(err, &s):
		return "setting"
	}
	return ""
}
