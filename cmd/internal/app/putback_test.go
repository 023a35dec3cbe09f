package app

import (
	"bytes"
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// configMap is a stored ConfigMap whose data are n values, of rev.
func configMap(name string, n int, rev string) *mvccpb.KeyValue {
	var data []string
	for i := range n {
		data = append(data, fmt.Sprintf(`"k%04d":"%s"`, i, rev))
	}
	return &mvccpb.KeyValue{
		Key: []byte("/registry/configmaps/a/" + name), ModRevision: 7,
		Value: fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"namespace":"a","uid":"u"},"data":{%s}}`, name, strings.Join(data, ",")),
	}
}

// differing is the differences of objects, of which each has changed in so many fields.
func differing(t *testing.T, room int, fields ...int) *differences {
	t.Helper()
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.Bool(flagShowSecrets, false, "")
	d := newDifferences(&session{inv: &invocation{Context: cli.NewContext(nil, flags, nil)}, reader: &codec.Reader{Catalog: codec.NewCatalog(), Prefix: "/registry/"}})
	d.view.room = room
	for i, n := range fields {
		name := fmt.Sprintf("m%02d", i)
		if err := d.add(t.Context(), configMap(name, n, "old"), configMap(name, n, "new"), i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func kept(d *differences) (changes, more int) {
	for _, o := range d.objects {
		changes += len(o.changes.changes)
		more += o.changes.more
	}
	return changes, more
}

// TestDifferencesAreCutOnScreen, and whole in the document as far as they are kept.
func TestDifferencesAreCutOnScreen(t *testing.T) {
	t.Parallel()
	fields := make([]int, 25)
	for i := range fields {
		fields[i] = 12
	}
	d := differing(t, maxChangeBytes, fields...)
	var out bytes.Buffer
	d.write(writer{&out, 80})
	text := out.String()
	for _, want := range []string{
		"  configmap a/m00 (replaced)\n    data.k0000: \"new\" → \"old\"\n", "  configmap a/m01 (left alone)\n",
		"    data.k0007: \"new\" → \"old\"\n    and 4 changes more\n", "  and 15 more\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "m10") || strings.Contains(text, "k0008") {
		t.Errorf("it says more than the first of them:\n%s", text)
	}
	docs := d.document()
	if len(docs) != 25 {
		t.Fatalf("the document holds %d objects", len(docs))
	}
	last := docs[24].(map[string]any)
	if n := len(last["changes"].([]any)); n != 12 || last["moreChanges"] != 0 || last["key"] != "/registry/configmaps/a/m24" {
		t.Errorf("the last object has %d changes: %v", n, last)
	}
}

// TestDifferencesAreBounded by what may be kept of them in all; the rest is counted.
func TestDifferencesAreBounded(t *testing.T) {
	t.Parallel()
	d := differing(t, 3*objectRoom, 100, 100, 100, 100)
	changes, more := kept(d)
	if changes == 0 || changes+more != 100*len(d.objects) || d.more+int64(len(d.objects)) != 4 || d.more == 0 {
		t.Errorf("%d objects with %d changes and %d more are kept, %d objects not", len(d.objects), changes, more, d.more)
	}
	if d.view.room < 0 {
		t.Errorf("%d bytes more are kept than may be", -d.view.room)
	}
}

// TestWhatCannotBeComparedSaysWhy, and is named all the same.
func TestWhatCannotBeComparedSaysWhy(t *testing.T) {
	t.Parallel()
	d := differing(t, maxChangeBytes)
	broken := configMap("m", 1, "old")
	broken.Value = []byte("k8s:enc:aescbc:v1:key1:xyz")
	if err := d.add(t.Context(), broken, configMap("m", 1, "new"), false); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	d.write(writer{&out, 80})
	want := "  configmap a/m (left alone)\n    what the file holds cannot be read: value is encrypted by provider aescbc:v1:key1\n"
	if !strings.Contains(out.String(), want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if doc := d.document()[0].(map[string]any); doc["why"] != "what the file holds cannot be read: value is encrypted by provider aescbc:v1:key1" {
		t.Errorf("the document says %v", doc)
	}
	same := configMap("n", 1, "new")
	same.Value = append(same.Value, ' ')
	if err := d.add(t.Context(), same, configMap("n", 1, "new"), false); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	d.write(writer{&out, 80})
	if !strings.Contains(out.String(), "  configmap a/n (left alone)\n    in no field that is shown\n") {
		t.Errorf("of equal fields it says\n%s", out.String())
	}
}
