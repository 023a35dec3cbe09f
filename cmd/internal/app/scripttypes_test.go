package app

import (
	"bytes"
	"context"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/runtime"
)

const protobufMagic = "k8s\x00"

// changeEnvelope puts what change makes of a protobuf value under a key.
func changeEnvelope(ts *testscript.TestScript, s *scriptStore, from, to string, change func(*runtime.Unknown)) {
	got, err := s.client.Get(context.Background(), from)
	ts.Check(err)
	if len(got.Kvs) != 1 || !bytes.HasPrefix(got.Kvs[0].Value, []byte(protobufMagic)) {
		ts.Fatalf("%s is no protobuf value", from)
	}
	var u runtime.Unknown
	ts.Check(u.Unmarshal(got.Kvs[0].Value[len(protobufMagic):]))
	change(&u)
	b, err := u.Marshal()
	ts.Check(err)
	_, err = s.client.Put(context.Background(), to, protobufMagic+string(b))
	ts.Check(err)
}

// cmdRetype copies a protobuf value to another key, as an object of another
// kind: etcdretype NAME FROM TO APIVERSION KIND.
func cmdRetype(ts *testscript.TestScript, neg bool, args []string) {
	s, args := named(ts, neg, args, 4, 4, "etcdretype NAME FROM TO APIVERSION KIND")
	changeEnvelope(ts, s, args[0], args[1], func(u *runtime.Unknown) {
		u.APIVersion, u.Kind = args[2], args[3]
	})
}

// cmdGrow adds a field that no release knows to a protobuf value, as a newer
// API server would: etcdgrow NAME KEY.
func cmdGrow(ts *testscript.TestScript, neg bool, args []string) {
	s, args := named(ts, neg, args, 1, 1, "etcdgrow NAME KEY")
	changeEnvelope(ts, s, args[0], args[0], func(u *runtime.Unknown) {
		u.Raw = protowire.AppendTag(u.Raw, 999, protowire.BytesType)
		u.Raw = protowire.AppendString(u.Raw, "from the future")
	})
}
