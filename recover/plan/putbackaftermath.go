package plan

// seenChanged is seenAdded where some of the steps replace.
const seenChanged = "who watches sees what was missing as new, with its old UID, and what is replaced as changed, and acts on it; neither admission nor a quota has looked at them"

// PutBackAftermath says what happens next, of itself, once objects of these
// resources are put back, as [UndoAftermath] does; replacing of them take the
// place of something else.
func PutBackAftermath(resources []string, owned, replacing int64, alive Alive) []Consequence {
	next := UndoAftermath(resources, owned, alive)
	if replacing == 0 {
		return next
	}
	for i := range next {
		if next[i].Text == seenAdded {
			next[i].Text = seenChanged
		}
	}
	return next
}
