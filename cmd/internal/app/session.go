package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/encryption"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// crdPrefix is where CustomResourceDefinitions are stored, below the prefix.
const crdPrefix = "apiextensions.k8s.io/customresourcedefinitions/"

// The names of a cluster's stores in plans and archives.
const (
	etcdMain   = "main"
	etcdEvents = "events"
)

// session is an open store, live or a file, and what it takes to understand
// it.
type session struct {
	inv     *invocation
	timeout time.Duration
	alone   bool         // what one member holds is read (--consistency s)
	log     *slog.Logger // nil: none
	reader  *codec.Reader
	keys    *encryption.Config // nil: nothing can be decrypted
	crds    bool               // the catalog knows the custom kinds
	newest  time.Time
	// unguarded is how many deletes may still go without a guard; nil: none.
	unguarded *atomic.Int64

	file *snapshots.File // with --from
	// target is the live session that the file's objects go to, nil if it is
	// only read. Both have one reader.
	target *session
	main   *connect.Conn
	// events is the events' own etcd, if they have one.
	events *connect.Conn

	saidKine bool

	mainSource   keyspace.Historian
	eventsSource keyspace.Historian // nil without an etcd of their own
}

// open reads --from, or else connects. Every reading command begins with it.
func (inv *invocation) open(ctx context.Context) (*session, error) {
	if err := inv.checkLogLevel(); err != nil {
		return nil, err
	}
	if err := inv.checkConsistency(); err != nil {
		return nil, err
	}
	s := &session{inv: inv, alone: inv.serializable(), log: inv.logger(), reader: &codec.Reader{Catalog: codec.NewCatalog()}}
	var err error
	if inv.from() != "" {
		err = s.openFile(ctx, inv.from())
	} else {
		err = s.connect(ctx)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// has reports whether the command has a flag of that name; reading one that
// it lacks would be a mistake of ours.
func (inv *invocation) has(name string) bool {
	for _, f := range inv.command.flags {
		for _, n := range f.Names() {
			if n == name {
				return true
			}
		}
	}
	return false
}

// from is the file that is read instead of etcd, "" for none.
func (inv *invocation) from() string {
	if inv.command.source || !inv.has(flagFrom) {
		return ""
	}
	return inv.String(flagFrom)
}

// openFile takes a damaged file, too: the command ends with saying what it could
// not read (afterFiles).
func (s *session) openFile(ctx context.Context, path string) error {
	f, err := snapshots.OpenContext(ctx, path, snapshots.Options{Tolerant: true})
	if err != nil {
		return err
	}
	s.file, s.inv.files = f, append(s.inv.files, f)
	s.reader.Prefix = codec.NormalizePrefix("/registry")
	if info, ok := f.Archive(); ok && info.Prefix != "" {
		s.reader.Prefix = info.Prefix
	}
	if p := s.inv.String(flagPrefix); p != "" {
		s.reader.Prefix = codec.NormalizePrefix(p)
	}
	s.mainSource = keyspace.FromFile(f)
	return s.openKeys("")
}

// openKeys reads the encryption configuration: the file that was named, which
// must be sound, or else the one that the node's manifest names, which helps if
// it can be read.
func (s *session) openKeys(found string) error {
	path := s.inv.String(flagEncryption)
	if path == "" && found == "" {
		return nil
	}
	keys, err := encryption.Load(cmp.Or(path, found))
	switch {
	case err != nil && path != "":
		return usage("give the file that kube-apiserver gets as --encryption-provider-config", "--%s: %w", flagEncryption, err)
	case err != nil:
		s.inv.say("warning: encrypted values stay so: %v", err)
		return nil
	}
	s.keys, s.reader.Decrypter = keys, keys
	return nil
}

func (s *session) connect(ctx context.Context) error {
	found, err := connect.Resolve(s.inv.settings(), connect.Node{Root: s.inv.Root, Getenv: s.inv.Getenv})
	if err != nil {
		return settingFailure(err)
	}
	s.reader.Prefix, s.timeout = found.Prefix, found.CommandTimeout
	s.inv.say("%s", found.Why)
	if s.main, s.mainSource, err = s.dial(ctx, found.Settings, found.Endpoints); err != nil {
		return err
	}
	if err := s.openKeys(found.EncryptionConfig); err != nil {
		return err
	}
	if len(found.EventsEndpoints) > 0 {
		s.events, s.eventsSource, err = s.dial(ctx, found.Settings, found.EventsEndpoints)
	}
	if err == nil && s.events != nil && s.sameStore() {
		s.inv.say("note: the etcd for events is the main one")
		s.events.Close()
		s.events, s.eventsSource = nil, nil
	}
	return err
}

func (s *session) dial(ctx context.Context, settings connect.Settings, endpoints []string) (*connect.Conn, keyspace.Historian, error) {
	conn, err := connect.DialAll(ctx, settings, endpoints, s.log)
	if err != nil {
		return nil, nil, settingFailure(err)
	}
	for _, w := range conn.Warnings {
		s.inv.say("warning: %s", w)
	}
	if err := s.announce(conn); err != nil {
		return conn, nil, err
	}
	asking := ctx
	if len(conn.Leaderless) == len(conn.Endpoints) && !s.alone {
		// The members say so soon, if they are asked to; else they wait until
		// the request has taken too long.
		asking = clientv3.WithRequireLeader(ctx)
	}
	src, err := keyspace.Pin(asking, conn.Client, s.reader.Prefix, s.optionsOf(conn))
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		hint := noLeaderHint
		if s.alone {
			hint = "the member answers, but not even a read that needs no leader: look at its logs and its disk"
		}
		return conn, nil, &failure{exitConnect, err, hint}
	}
	return conn, src, nil
}

func settingFailure(err error) error {
	var bad *connect.SettingError
	if errors.As(err, &bad) {
		return &failure{exitConnect, err, bad.Hint}
	}
	return err
}

// close ends connections and closes files.
func (s *session) close() {
	if s.main != nil {
		s.main.Close()
	}
	if s.events != nil {
		s.events.Close()
	}
	if s.file != nil {
		s.file.Close()
	}
	if s.keys != nil {
		s.keys.Close()
	}
}

// sourceFor returns where a resource is read: events may have their own etcd.
func (s *session) sourceFor(r *codec.Resource) (src keyspace.Historian, client *clientv3.Client, etcd string) {
	if s.eventsSource != nil && r != nil && r.Prefix == "events/" {
		return s.eventsSource, s.events.Client, etcdEvents
	}
	if s.main != nil {
		client = s.main.Client
	}
	return s.mainSource, client, etcdMain
}

// holds returns the resource by which the store of a selection is chosen; for
// exact keys that is the one that the first of them names.
func (s *session) holds(sel filter.Selection) *codec.Resource {
	name := sel.Resource
	if len(sel.Keys) > 0 {
		key, ok := s.reader.Catalog.ParseKey(s.reader.Prefix, sel.Keys[0])
		if ok || !strings.HasPrefix(sel.Keys[0], s.reader.Prefix+"events/") {
			return key.Resource
		}
		name = "events" // no object's key, but where kube-apiserver keeps those of events
	}
	r, _, _ := s.reader.Catalog.Lookup(name)
	return r
}

// sourceOf is sourceFor for a selection.
func (s *session) sourceOf(sel filter.Selection) (src keyspace.Historian, client *clientv3.Client, etcd string) {
	return s.sourceFor(s.holds(sel))
}

// sources returns every store, for commands over the whole registry.
func (s *session) sources() []keyspace.Source {
	if s.eventsSource == nil {
		return []keyspace.Source{s.mainSource}
	}
	return []keyspace.Source{s.mainSource, s.eventsSource}
}

// learn adds the custom kinds to the catalog. They are read when a name or an
// owner is met that no built-in explains: on some clusters they weigh tens of
// megabytes.
func (s *session) learn(ctx context.Context) error {
	if s.crds {
		return nil
	}
	s.crds = true
	if s.target != nil {
		// First: where both define a kind, the file's keys are made by its own.
		if err := s.target.learn(ctx); err != nil {
			return err
		}
	}
	var broken listed
	r := keyspace.Prefix(s.reader.Prefix + crdPrefix)
	err := s.mainSource.Scan(ctx, r, false, func(kv *mvccpb.KeyValue) error {
		v := s.reader.Read(ctx, string(kv.Key), kv.Value)
		err := v.Head.Err
		if err == nil {
			_, err = s.reader.Catalog.AddCRD(v.Plain)
		}
		if err != nil {
			broken.add(fmt.Sprintf("%s (%v)", kv.Key, err))
		}
		return nil
	})
	s.inv.sayList(broken, "definition cannot be read, and its kind stays unknown", "definitions cannot be read, and their kinds stay unknown")
	return err
}

// lookup finds a resource by any name that kubectl takes.
func (s *session) lookup(ctx context.Context, name string) (*codec.Resource, error) {
	r, others, ok := s.reader.Catalog.Lookup(name)
	if !ok {
		if err := s.learn(ctx); err != nil {
			return nil, err
		}
		r, others, ok = s.reader.Catalog.Lookup(name)
	}
	if !ok {
		if err := s.discover(ctx, name); err != nil {
			return nil, err
		}
		r, others, ok = s.reader.Catalog.Lookup(name)
	}
	if !ok && strings.Contains(name, ",") {
		return nil, usage("name them one by one", "%q: one resource is taken here, not a list", name)
	}
	if !ok {
		var names []string
		for _, known := range s.reader.Catalog.Resources() {
			names = append(names, known.Plural)
		}
		hint := "resources lists what is stored; custom resources whose definition is gone are named PLURAL.GROUP, and for a key that no name reaches there is --" + flagExactKey
		if near := nearest(strings.ToLower(name), names); near != "" {
			hint = "did you mean " + near + "?"
		}
		return nil, usage(hint, "unknown resource %q", name)
	}
	return r, s.sayOthers(ctx, name, r, others)
}

// errEnough ends a scan that has seen what it wanted.
var errEnough = errors.New("seen enough")

// discover adds the resource that name means if neither this build nor any CRD
// knows it, but objects of it are stored: a kind of a newer release, or custom
// resources that outlived their definition.
func (s *session) discover(ctx context.Context, name string) error {
	const tries = 500
	plural, group, dotted := strings.Cut(strings.ToLower(name), ".")
	// The guess only says where to look; what is found there is proved.
	guess, _ := meta.UnsafeGuessKindToResource(schema.GroupVersionKind{Kind: plural})
	var places []string
	for _, p := range []string{plural, guess.Resource, plural + "s"} {
		places = append(places, p+"/")
		if dotted {
			places = append(places, group+"/"+p+"/")
		}
	}
	for _, place := range places {
		n := 0
		err := s.mainSource.Scan(ctx, keyspace.Prefix(s.reader.Prefix+place), false, func(kv *mvccpb.KeyValue) error {
			if n++; n > tries {
				return errEnough
			}
			head := s.reader.Read(ctx, string(kv.Key), kv.Value).Head
			if n == 1 && head.Err != nil {
				// Of a custom resource the key alone says enough to list it.
				_, _ = s.reader.Catalog.AddOrphan(s.reader.Prefix, string(kv.Key))
			}
			if _, err := s.reader.Catalog.AddStored(s.reader.Prefix, string(kv.Key), head.Meta); err != nil {
				return nil // this object proves nothing; another may
			}
			return errEnough
		})
		if err != nil && !errors.Is(err, errEnough) {
			return err
		}
	}
	return nil
}

// sayOthers names what an ambiguous name could also mean. Custom kinds that
// are not read yet are found by their definitions' keys, plural.group, which
// costs next to nothing.
func (s *session) sayOthers(ctx context.Context, name string, r *codec.Resource, others []*codec.Resource) error {
	var names []string
	for _, o := range others {
		names = append(names, o.String())
	}
	if !s.crds && !r.Custom && !strings.Contains(name, ".") {
		prefix := s.reader.Prefix + crdPrefix
		same := keyspace.Range{Start: prefix + r.Plural + ".", End: prefix + r.Plural + "/"}
		err := s.mainSource.Scan(ctx, same, true, func(kv *mvccpb.KeyValue) error {
			names = append(names, strings.TrimPrefix(string(kv.Key), prefix))
			return nil
		})
		if err != nil {
			return err
		}
	}
	if len(names) > 0 {
		s.inv.say("note: %q is taken for %s; it could also mean %s", name, r, joinWords(names))
	}
	return nil
}

// owners follows owner references in a store.
func (s *session) owners(src filter.Getter, sel filter.Selection) *filter.Owners {
	owners := filter.NewOwners(src, s.reader, s.learn)
	_, _, etcd := s.sourceOf(sel)
	switch {
	case s.eventsSource == nil || src == s.mainSource:
	case src == s.eventsSource:
		owners.Main = s.mainSource
	case etcd == etcdEvents:
		// Events read anew are judged by what is there now: the revision that
		// the session began with is old by then, and may be compacted.
		owners.Main = keyspace.Current(s.main.Client, s.optionsOf(s.main))
	}
	return owners
}

// identity returns the UID of the cluster that the session reads.
func (s *session) identity(ctx context.Context) (string, error) {
	return keyspace.ClusterUID(ctx, s.mainSource, s.reader.Prefix)
}

// clock is the time that ages count from: now, or for a file --now, else the
// newest time that any object in it shows.
func (s *session) clock(ctx context.Context) (time.Time, error) {
	if s.file == nil {
		return s.inv.Now(), nil
	}
	if t := s.inv.Timestamp(flagNow); t != nil {
		return *t, nil
	}
	if !s.newest.IsZero() {
		return s.newest, nil
	}
	newest := ""
	err := scanAny(ctx, s.mainSource, keyspace.Prefix(s.reader.Prefix), false, func(kv *mvccpb.KeyValue) error {
		m := s.reader.Read(ctx, string(kv.Key), kv.Value).Head.Meta
		for _, t := range []time.Time{m.Created, m.Deleted} {
			if t.After(s.newest) {
				s.newest, newest = t, string(kv.Key)
			}
		}
		return nil
	})
	if err != nil {
		return time.Time{}, err
	}
	if s.newest.IsZero() {
		s.newest = s.inv.Now()
		return s.newest, nil // nothing in it has an age
	}
	if s.newest.After(s.inv.Now()) {
		s.inv.say("warning: the newest time in it, that of %s, is in the future; give --%s if ages matter", term.Clean(newest), flagNow)
	}
	s.inv.say("ages count from %s, the newest time in it (--now changes that)", s.newest.UTC().Format(time.RFC3339))
	return s.newest, nil
}

// say writes a line to stderr unless --quiet.
func (inv *invocation) say(format string, args ...any) {
	if !inv.Bool(flagQuiet) {
		fmt.Fprintln(inv.Streams.Err, cleanLines(fmt.Sprintf(format, args...)))
	}
}

// cleanLines makes text fit for a terminal: keys, names and errors may hold
// anything.
func cleanLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = term.Clean(line)
	}
	return strings.Join(lines, "\n")
}

func (inv *invocation) checkLogLevel() error {
	if level := inv.String(flagLogLevel); level != "" {
		var l slog.Level
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return usage("the levels are debug, info, warn and error", "unknown log level %q", level)
		}
	}
	return nil
}

// logger logs to stderr if --log-level is given, else nowhere (nil).
func (inv *invocation) logger() *slog.Logger {
	var level slog.Level
	text := inv.String(flagLogLevel)
	if text == "" || level.UnmarshalText([]byte(text)) != nil {
		return nil
	}
	return slog.New(slog.NewTextHandler(inv.Streams.Err, &slog.HandlerOptions{Level: level}))
}

// newRun names a run: when it began, and enough chance to be its own.
func (inv *invocation) newRun() string {
	b := make([]byte, 4)
	rand.Read(b) // never fails, crypto/rand
	return inv.Now().UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(b)
}
