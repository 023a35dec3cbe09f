// Package codec tells what a stored Kubernetes key and its value mean.
//
// Keys: a [Catalog] knows every resource that some kube-apiserver release has
// stored, plus the custom resources added to it, and turns an etcd key into a
// [Key] and back without loss. Values: [DecodeHead] reads the few fields that
// selecting and counting need, at wire level and in one pass; [Decode] reads
// the whole object; [Render], [FieldSet] and [Cells] give what kubectl and
// kube-apiserver would show of it.
//
// The package never reads or writes a file, a socket or a clock, never
// changes a value it is given, and never encodes an object for storage: bytes
// that go back into etcd do not come from here, because re-encoding with this
// build's types would drop fields that a newer apiserver has written.
//
// The key invariant: [Catalog.ParseKey] followed by [Key.Path] is the
// identity, and ParseKey never takes a key for something that it is not. What
// cannot be told is reported as not told, never guessed.
package codec
