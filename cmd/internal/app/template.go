package app

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"k8s.io/client-go/util/jsonpath"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// maxTemplated bounds what a template over a whole list may hold in memory, in
// bytes as stored; decoded they are about ten times as much.
const maxTemplated = 32 << 20

// templateSink prints by jsonpath or go-template, as kubectl does: over the one
// object, or over a List of all of them. A template that only goes through the
// items is applied to one after the other; another needs the whole list.
type templateSink struct {
	p       *printer
	execute func(w io.Writer, data any) error
	each    bool               // execute takes one object, not a List
	values  *jsonpath.JSONPath // of {.items[*]PATH}: what it finds is joined by spaces
	printed bool
	items   []any
	bytes   int64
}

func newTemplateSink(p *printer) (sink, error) {
	text, err := p.inv.template()
	if err != nil {
		return nil, err
	}
	t := &templateSink{p: p, each: p.single}
	if p.inv.format() == formatJSONPath {
		joined := false
		if !p.single {
			text, joined, t.each = perItem(text)
		}
		var path *jsonpath.JSONPath
		if path, err = jsonPath(text); err == nil {
			t.execute = path.Execute
		}
		if joined {
			t.values = path
		}
	} else {
		t.execute, err = goTemplate(text)
	}
	if err != nil {
		return nil, usage("", "%s %q: %w", p.inv.format(), text, err)
	}
	return t, nil
}

func (t *templateSink) print(o filter.Object) error {
	m, ok := t.p.whole(o)
	if !ok {
		return nil
	}
	if t.each {
		return t.one(m)
	}
	if t.bytes += o.Size; t.bytes > maxTemplated {
		return refuse("narrow the selection, or use -o "+formatColumns+", -o jsonl or -o jsonpath='{range .items[*]}…{end}', which print one object after the other",
			"a template over the whole list would hold more than %s of objects in memory", term.Bytes(maxTemplated))
	}
	t.items = append(t.items, m)
	return nil
}

func (t *templateSink) one(m map[string]any) error {
	if t.values == nil {
		return t.failure(t.execute(t.p.out, m))
	}
	results, err := t.values.FindResults(m)
	if err != nil {
		return t.failure(err)
	}
	for _, found := range slices.Concat(results...) {
		if t.printed {
			t.p.out.WriteString(" ")
		}
		t.printed = true
		if err := t.values.PrintResults(t.p.out, []reflect.Value{found}); err != nil {
			return t.failure(err)
		}
	}
	return nil
}

func (t *templateSink) finish() error {
	if t.each {
		return nil
	}
	if t.items == nil {
		t.items = []any{}
	}
	list := map[string]any{"apiVersion": "v1", "kind": "List", "items": t.items, "metadata": map[string]any{"resourceVersion": ""}}
	return t.failure(t.execute(t.p.out, list))
}

func (t *templateSink) failure(err error) error {
	if err != nil {
		return usage("", "%s: %w", t.p.inv.format(), err)
	}
	return nil
}

// perItem takes a jsonpath over a list apart if it does nothing but go through
// the items: {range .items[*]}…{end} and {.items[*].path}.
func perItem(text string) (item string, joined, ok bool) {
	if m := regexp.MustCompile(`^\{\s*range\s+\.items\[\*\]\s*\}(.*)\{\s*end\s*\}$`).FindStringSubmatch(text); m != nil {
		if !regexp.MustCompile(`\{\s*(range|end)\b|\$`).MatchString(m[1]) {
			return m[1], false, true
		}
	}
	if m := regexp.MustCompile(`^\{\s*\.items\[\*\](\.[\w.\-\\]+)\s*\}$`).FindStringSubmatch(text); m != nil {
		return "{" + m[1] + "}", true, true
	}
	return text, false, false
}

func jsonPath(text string) (*jsonpath.JSONPath, error) {
	path := jsonpath.New("output").AllowMissingKeys(true)
	return path, path.Parse(text)
}

// goTemplate knows the functions of kubectl's templates.
func goTemplate(text string) (func(io.Writer, any) error, error) {
	t, err := template.New("output").Funcs(template.FuncMap{"exists": exists, "base64decode": base64decode}).Parse(text)
	if err != nil {
		return nil, err
	}
	return t.Execute, nil
}

// exists tells whether data has the members and elements that keys name.
func exists(data any, keys ...any) bool {
	v := reflect.ValueOf(data)
	for _, key := range keys {
		for v.Kind() == reflect.Interface {
			v = v.Elem()
		}
		k := reflect.ValueOf(key)
		switch {
		case v.Kind() == reflect.Map && k.IsValid() && k.Type().AssignableTo(v.Type().Key()):
			v = v.MapIndex(k)
		case v.Kind() == reflect.Slice && k.CanInt() && k.Int() >= 0 && k.Int() < int64(v.Len()):
			v = v.Index(int(k.Int()))
		default:
			return false
		}
	}
	return v.IsValid()
}

func base64decode(s string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return "", fmt.Errorf("base64decode: it is no base64; what a Secret holds needs --%s", flagShowSecrets)
	}
	return string(b), nil
}

// template returns what stands after the equals sign of -o, or in the file
// that is named there.
func (inv *invocation) template() (string, error) {
	name, text, _ := strings.Cut(inv.String(flagOutput), "=")
	if strings.HasSuffix(name, fileSuffix) {
		b, err := os.ReadFile(text)
		if err != nil {
			return "", usage("", "-o %s: %w", name, err)
		}
		text = strings.TrimSuffix(string(b), "\n")
	}
	if text == "" {
		return "", usage("write -o "+name+"=…", "-o %s needs a template", name)
	}
	return text, nil
}

// columnsSink prints -o custom-columns=NAME:PATH,….
type columnsSink struct {
	p     *printer
	table *term.Table
	names []string
	paths []*jsonpath.JSONPath
	begun bool
}

func newColumnsSink(p *printer) (sink, error) {
	text, err := p.inv.template()
	if err != nil {
		return nil, err
	}
	c := &columnsSink{p: p, table: term.NewTable(p.out, p.inv.Streams.OutTTY)}
	if lines := strings.Fields(text); strings.HasSuffix(p.inv.formatName(), fileSuffix) && len(lines)%2 == 0 {
		// kubectl's files have the names in one line and the paths below.
		half := len(lines) / 2
		for i := range half {
			lines[i] += ":" + lines[half+i]
		}
		text = strings.Join(lines[:half], ",")
	}
	for _, column := range splitColumns(text) {
		name, path, ok := strings.Cut(column, ":")
		if !ok || name == "" || path == "" {
			return nil, usage("write NAME:PATH,…, such as NAME:.metadata.name,IMAGE:.spec.containers[*].image", "-o %s: %q is no column", formatColumns, column)
		}
		parsed, err := relaxedPath(path)
		if err != nil {
			return nil, usage("", "-o %s: column %s: %w", formatColumns, name, err)
		}
		c.names, c.paths = append(c.names, name), append(c.paths, parsed)
	}
	return c, nil
}

// splitColumns splits at the commas outside of brackets, so that a path may
// hold a filter or a union.
func splitColumns(text string) []string {
	var columns []string
	depth, start := 0, 0
	for i, r := range text {
		switch r {
		case '[', '(', '{':
			depth++
		case ']', ')', '}':
			depth--
		case ',':
			if depth == 0 {
				columns = append(columns, text[start:i])
				start = i + 1
			}
		}
	}
	return append(columns, text[start:])
}

// relaxedPath parses a path that may lack the braces and the leading dot.
func relaxedPath(path string) (*jsonpath.JSONPath, error) {
	path = strings.TrimSpace(path)
	if inner, ok := strings.CutPrefix(path, "{"); ok {
		path, ok = strings.CutSuffix(inner, "}")
		if !ok {
			return nil, fmt.Errorf("path %q has no closing brace", inner)
		}
	}
	if !strings.HasPrefix(path, ".") && !strings.HasPrefix(path, "[") {
		path = "." + path
	}
	parsed := jsonpath.New("path").AllowMissingKeys(true)
	if err := parsed.Parse("{" + path + "}"); err != nil {
		return nil, fmt.Errorf("path %q: %w", path, err)
	}
	return parsed, nil
}

// found returns what a path finds in an object.
func found(path *jsonpath.JSONPath, m map[string]any) []any {
	results, err := path.FindResults(m)
	if err != nil {
		return nil
	}
	var values []any
	for _, list := range results {
		for _, v := range list {
			if v.IsValid() && v.CanInterface() {
				values = append(values, v.Interface())
			}
		}
	}
	return values
}

func (c *columnsSink) print(o filter.Object) error {
	if !c.begun && !c.p.inv.Bool(flagNoHeaders) {
		c.table.Header(c.names...)
	}
	c.begun = true
	m, ok := c.p.whole(o)
	if !ok {
		return nil
	}
	cells := make([]string, len(c.paths))
	for i, path := range c.paths {
		cells[i] = cellText(found(path, m))
	}
	c.table.Row(cells...)
	return nil
}

func cellText(values []any) string {
	var texts []string
	for _, v := range values {
		switch v := v.(type) {
		case nil:
		case string:
			texts = append(texts, v)
		default:
			if b, err := json.Marshal(v); err == nil {
				texts = append(texts, string(b))
			}
		}
	}
	if len(texts) == 0 {
		return none
	}
	return strings.Join(texts, ",")
}

func (c *columnsSink) finish() error { return c.table.Flush() }
