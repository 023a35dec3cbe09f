// Package codec tells what a stored Kubernetes key and its value mean.
//
// Keys: a [Catalog] knows every resource that some kube-apiserver release has
// stored, plus the custom resources added to it, and turns an etcd key into a
// [Key] and back without loss. Values: [DecodeHead] reads the few fields that
// selecting and counting need, at wire level and in one pass; [Decode] reads
// the whole object; [Render], [FieldSet] and [Cells] give what kubectl and
// kube-apiserver would show of it.
//
// [Show] is what kubectl would show of a value, also of one that this build
// knows in part or not at all.
//
// The package never reads or writes a file, a socket or a clock, never changes
// a value it is given, and never encodes an object for storage: re-encoding
// with this build's types would drop fields that a newer apiserver has written.
// Bytes that go back into etcd come only from [Edit], which changes the named
// fields and keeps all others byte for byte.
//
// The key invariant: [Catalog.ParseKey] followed by [Key.Path] is the
// identity, and ParseKey never takes a key for something that it is not. What
// cannot be told is reported as not told, never guessed.
package codec
