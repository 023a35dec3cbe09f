package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// survey collects what is wrong or strange with what is stored. kube-apiserver
// fails the list of a whole resource over one value that it cannot decode, and
// serves an object whose metadata disagrees with its key under a name that
// cannot be deleted: an audit has to name them.
type survey struct {
	unknown     listed           // keys that no resource is known for
	undecodable listed           // with how the value is stored
	mismatched  listed           // whose metadata names another object
	encrypted   map[string]int64 // that could not be decrypted, by provider
	locked      string           // why the first of them could not
	outside     listed           // keys outside the prefix, which are not Kubernetes'
}

func newSurvey() *survey { return &survey{encrypted: map[string]int64{}} }

// add looks at one object. Without values only its key is judged.
func (v *survey) add(o filter.Object, keysOnly bool) {
	if o.Key.Resource == nil {
		addSorted(&v.unknown, string(o.KV.Key))
	}
	switch {
	case keysOnly:
	case errors.Is(o.Head.Err, codec.ErrEncrypted):
		if v.encrypted[o.Provider]++; v.locked == "" {
			v.locked = o.Head.Err.Error()
		}
	case o.Head.Err != nil:
		addSorted(&v.undecodable, fmt.Sprintf("%s (%s)", o.KV.Key, o.Head.Status))
	case disagrees(o) != nil:
		addSorted(&v.mismatched, fmt.Sprintf("%s (%v)", o.KV.Key, disagrees(o)))
	}
}

// addSorted is listed.add for objects that come in no order: the first ones by
// key are kept.
func addSorted(l *listed, text string) {
	l.count++
	text = shortened(text)
	at, _ := slices.BinarySearch(l.first, text)
	if at == maxListed {
		return
	}
	l.first = slices.Insert(l.first, at, text)
	l.first = l.first[:min(len(l.first), maxListed)]
}

// forgetValues leaves what the keys alone have shown.
func (v *survey) forgetValues() {
	v.undecodable, v.mismatched, v.encrypted, v.locked = listed{}, listed{}, map[string]int64{}, ""
}

// addOutside takes in a key outside of the prefix.
func (v *survey) addOutside(key []byte) {
	if string(key) != compactRevKey {
		addSorted(&v.outside, term.Clean(string(key)))
	}
}

// compactRevKey is apiserver's own, outside of every prefix (k8s.io/apiserver
// pkg/storage/etcd3/compact.go).
const compactRevKey = "compact_rev_key"

// lookOutside counts the keys before and behind the prefix, and names a few.
// An account that may only read the prefix is no error.
func (v *survey) lookOutside(ctx context.Context, s *session, src keyspace.Source) {
	inside := keyspace.Prefix(s.reader.Prefix)
	for _, r := range []keyspace.Range{{Start: "\x00", End: inside.Start}, {Start: inside.End, End: "\x00"}} {
		if err := v.lookIn(ctx, src, r); err != nil && ctx.Err() == nil {
			s.inv.say("note: keys outside %s were not counted: %v", s.reader.Prefix, err)
		}
	}
}

func (v *survey) lookIn(ctx context.Context, src keyspace.Source, r keyspace.Range) error {
	total, err := src.Count(ctx, r)
	if err != nil || total == 0 {
		return err
	}
	if compactRevKey >= r.Start && (compactRevKey < r.End || r.End == "\x00") {
		kv, err := src.Get(ctx, compactRevKey)
		if err != nil {
			return err
		}
		if kv != nil {
			total--
		}
	}
	before := v.outside.count
	err = src.Scan(ctx, r, true, func(kv *mvccpb.KeyValue) error {
		if v.outside.count-before == maxListed {
			return errEnough
		}
		if string(kv.Key) != compactRevKey {
			v.outside.add(term.Clean(string(kv.Key)))
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	v.outside.count = before + total
	return err
}

// say names the findings on stderr.
func (v *survey) say(inv *invocation) {
	inv.sayList(v.unknown, "key that no resource is known for", "keys that no resource is known for")
	inv.sayList(v.undecodable, "value that cannot be decoded", "values that cannot be decoded")
	inv.sayList(v.mismatched, "object whose metadata disagrees with its key", "objects whose metadata disagrees with their key")
	if n := v.encryptedCount(); n > 0 {
		help := "--" + flagEncryption + " FILE decrypts them"
		if inv.String(flagEncryption) != "" {
			help = v.locked
		}
		inv.say("note: %s encrypted (%s); %s", encryptedText(n), joinWords(slices.Sorted(maps.Keys(v.encrypted))), help)
	}
	if v.outside.count > 0 {
		const few = 5
		names := v.outside.first[:min(few, len(v.outside.first))]
		more := ""
		if v.outside.count > int64(len(names)) {
			more = ", …"
		}
		inv.say("note: %s outside the prefix, not Kubernetes' and not counted: %s%s", term.Plural(v.outside.count, "key"), strings.Join(names, ", "), more)
	}
}

func encryptedText(n int64) string {
	if n == 1 {
		return "1 value is"
	}
	return term.Count(n) + " values are"
}

func (v *survey) encryptedCount() int64 {
	var n int64
	for _, c := range v.encrypted {
		n += c
	}
	return n
}

// document is the JSON of the findings, as docs/json.md has it.
func (v *survey) document(doc map[string]any) {
	doc["unknownKeys"], doc["undecodable"], doc["mismatched"] = v.unknown.document(), v.undecodable.document(), v.mismatched.document()
	doc["encrypted"], doc["outside"] = v.encryptedCount(), v.outside.document()
}
