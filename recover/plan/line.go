package plan

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// A step is written and read here for a fifth or less of what encoding/json
// takes: seconds of a processor that etcd needs, for a million steps. The bytes
// are those of encoding/json, which does whatever is not plain.

// stepWriter writes lines of steps.
type stepWriter struct {
	reason string // of the last step, as most have the same
	quoted []byte
}

// append adds the line of a step to buf.
func (w *stepWriter) append(buf []byte, s *Step) []byte {
	buf = append(buf, `{"type":"step","action":`...)
	buf = appendText(buf, string(s.Action))
	buf = append(buf, `,"key":`...)
	buf = appendText(buf, s.Key)
	buf = append(buf, `,"modRevision":`...)
	buf = strconv.AppendInt(buf, s.ModRevision, 10)
	buf = numberField(buf, `,"createRevision":`, s.CreateRevision)
	buf = textField(buf, `,"uid":`, s.UID)
	buf = textField(buf, `,"resource":`, s.Resource)
	buf = textField(buf, `,"namespace":`, s.Namespace)
	buf = textField(buf, `,"name":`, s.Name)
	buf = append(buf, `,"size":`...)
	buf = strconv.AppendInt(buf, s.Size, 10)
	buf = append(buf, `,"role":`...)
	buf = appendText(buf, string(s.Role))
	if s.Reason != w.reason || w.quoted == nil {
		w.reason, w.quoted = s.Reason, appendText(nil, s.Reason)
	}
	buf = append(buf, `,"reason":`...)
	buf = append(buf, w.quoted...)
	for i, text := range s.Warnings {
		if i == 0 {
			buf = append(buf, `,"warnings":[`...)
		} else {
			buf = append(buf, ',')
		}
		buf = appendText(buf, text)
	}
	if len(s.Warnings) > 0 {
		buf = append(buf, ']')
	}
	buf = textField(buf, `,"ownerUID":`, s.OwnerUID)
	buf = numberField(buf, `,"source":`, int64(s.Source))
	buf = textField(buf, `,"position":`, s.Position)
	buf = numberField(buf, `,"sourceModRevision":`, s.SourceModRevision)
	if s.Owned {
		buf = append(buf, `,"owned":true`...)
	}
	buf = numberField(buf, `,"lease":`, s.Lease)
	buf = numberField(buf, `,"leaseTTL":`, s.LeaseTTL)
	return append(buf, '}', '\n')
}

func numberField(buf []byte, name string, n int64) []byte {
	if n == 0 {
		return buf
	}
	return strconv.AppendInt(append(buf, name...), n, 10)
}

func textField(buf []byte, name, text string) []byte {
	if text == "" {
		return buf
	}
	return appendText(append(buf, name...), text)
}

// plainByte reports whether JSON holds the byte as it is.
func plainByte(c byte) bool { return c >= ' ' && c < 0x7f && c != '"' && c != '\\' }

// plain returns how much of the beginning of text JSON holds as it is.
func plain(text string) int {
	for i := range len(text) {
		if !plainByte(text[i]) {
			return i
		}
	}
	return len(text)
}

func appendText(buf []byte, text string) []byte {
	if plain(text) == len(text) {
		buf = append(buf, '"')
		buf = append(buf, text...)
		return append(buf, '"')
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(text) // a string and a buffer never fail
	return append(buf, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}

// readStep reads the line of a step.
func readStep(line []byte) (Step, error) {
	r := &stepReader{rest: string(line)} // the step's texts are parts of it
	if s := r.step(); !r.strange {
		return s, nil
	}
	var s Step
	return s, json.Unmarshal(line, &s)
}

// stepReader reads a line that stepWriter wrote. What is in any way different
// is strange.
type stepReader struct {
	rest    string
	strange bool
}

func (r *stepReader) step() (s Step) {
	r.expect(`{"type":"step"`)
	s.Type = "step"
	s.Action = Action(r.text(`,"action":`))
	s.Key = r.text(`,"key":`)
	s.ModRevision = r.number(`,"modRevision":`)
	s.CreateRevision = r.number(`,"createRevision":`)
	s.UID = r.text(`,"uid":`)
	s.Resource = r.text(`,"resource":`)
	s.Namespace = r.text(`,"namespace":`)
	s.Name = r.text(`,"name":`)
	s.Size = r.number(`,"size":`)
	s.Role = Role(r.text(`,"role":`))
	s.Reason = r.text(`,"reason":`)
	s.Warnings = r.texts(`,"warnings":[`)
	s.OwnerUID = r.text(`,"ownerUID":`)
	source := r.number(`,"source":`)
	if source > math.MaxInt32 || source < 0 {
		r.strange = true
	}
	s.Source = int(source)
	s.Position = r.text(`,"position":`)
	s.SourceModRevision = r.number(`,"sourceModRevision":`)
	s.Owned = r.skip(`,"owned":true`)
	s.Lease = r.number(`,"lease":`)
	s.LeaseTTL = r.number(`,"leaseTTL":`)
	r.expect("}\n")
	r.strange = r.strange || r.rest != ""
	return s
}

func (r *stepReader) skip(what string) bool {
	rest, ok := strings.CutPrefix(r.rest, what)
	r.rest = rest
	return ok
}

func (r *stepReader) expect(what string) {
	if !r.skip(what) {
		r.strange = true
	}
}

// text reads a field, which may be missing.
func (r *stepReader) text(field string) string {
	if !r.skip(field) {
		return ""
	}
	return r.value()
}

func (r *stepReader) value() string {
	r.expect(`"`)
	n := plain(r.rest)
	text := r.rest[:n]
	r.rest = r.rest[n:]
	r.expect(`"`)
	return text
}

func (r *stepReader) texts(field string) (texts []string) {
	if !r.skip(field) {
		return nil
	}
	for !r.strange {
		texts = append(texts, r.value())
		if r.skip("]") {
			break
		}
		r.expect(",")
	}
	return texts
}

func (r *stepReader) number(field string) int64 {
	if !r.skip(field) {
		return 0
	}
	end := strings.IndexAny(r.rest, ",}")
	if end < 1 || r.rest[0] == '0' && end > 1 || r.rest[0] == '-' || r.rest[0] == '+' {
		r.strange = true
		return 0
	}
	n, err := strconv.ParseInt(r.rest[:end], 10, 64)
	if err != nil {
		r.strange = true
	}
	r.rest = r.rest[end:]
	return n
}
