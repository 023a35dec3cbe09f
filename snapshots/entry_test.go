package snapshots

import (
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// checkParse holds fields.parse to what proto.Unmarshal makes of the same bytes.
func checkParse(t *testing.T, b []byte) {
	t.Helper()
	var want mvccpb.KeyValue
	var f fields
	wantErr, err := proto.Unmarshal(b, &want), f.parse(b)
	if (wantErr == nil) != (err == nil) {
		t.Fatalf("%x: %v, proto says %v", b, err, wantErr)
	}
	if err != nil {
		return
	}
	want.ProtoReflect().SetUnknown(nil)
	if got := f.clone(false); !proto.Equal(got, &want) {
		t.Fatalf("%x: %v, proto says %v", b, got, &want)
	}
	if key, ok := keyOf(b); !f.odd && len(b) > 0 && (!ok || string(key) != string(f.key)) {
		t.Fatalf("%x: the key is %q, %v; want %q", b, key, ok, f.key)
	}
}

func parseSeeds(t testing.TB) (seeds [][]byte) {
	t.Helper()
	kv := pod(7, 40)
	kv.Lease = -5
	b, err := proto.Marshal(kv)
	if err != nil {
		t.Fatal(err)
	}
	twice := append(append([]byte(nil), b...), b...)
	unknown := protowire.AppendFixed64(protowire.AppendTag(append([]byte(nil), b...), 77, protowire.Fixed64Type), 1)
	group := protowire.AppendTag(protowire.AppendTag(append([]byte(nil), b...), 9, protowire.StartGroupType), 9, protowire.EndGroupType)
	wrongType := protowire.AppendVarint(protowire.AppendTag(nil, fieldKey, protowire.VarintType), 3)
	tooHigh := protowire.AppendVarint(protowire.AppendVarint(nil, (1<<29)<<3), 3)
	return [][]byte{nil, b, b[:len(b)-1], b[1:], twice, unknown, group, wrongType, tooHigh, {keyTag}, {keyTag, 0}, {0x07}, {0x0c}, {0x00}}
}

func TestParseAgreesWithProto(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 14))
	for _, seed := range parseSeeds(t) {
		checkParse(t, seed)
		for range 2000 {
			b := append([]byte(nil), seed...)
			for range r.IntN(4) {
				if len(b) > 0 {
					b[r.IntN(len(b))] = byte(r.Uint32())
				}
			}
			checkParse(t, b[:r.IntN(len(b)+1)])
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range parseSeeds(f) {
		f.Add(seed)
	}
	f.Fuzz(checkParse)
}
