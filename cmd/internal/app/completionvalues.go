package app

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// flagValues are the flags that take one of a few words. What is called FILE
// or DIR needs no entry here, nor does what anything may follow.
func flagValues() map[string][]string {
	return map[string][]string{
		flagBy:              groupings(),
		flagShow:            {showStatus, showRoutine, showAll},
		flagUnsafeKind:      filter.UnsafeKinds(),
		flagUnsafeNamespace: {"kube-system", "kube-public", "kube-node-lease"},
		flagPhase:           {"Pending", "Running", "Succeeded", "Failed", "Unknown", "Active", "Terminating", "Available", "Bound", "Lost", "Released"},
		flagRate:            {rateAdaptive, rateMax},
		flagConsistency:     {"l", "s"},
		flagLogLevel:        {"debug", "info", "warn", "error"},
		flagCompress:        {"zstd"},
	}
}

// listFlags are those of flagValues that take several, comma-separated.
func listFlags() []string { return []string{flagBy, flagShow} }

// valuesOf says what may be the value of a flag, of which a part is typed.
func valuesOf(f cli.Flag, typed string) (kind string, words []candidate, list bool) {
	name := f.Names()[0]
	switch {
	case name == flagOutput:
		if format, _, filled := strings.Cut(typed, "="); filled && strings.HasSuffix(format, fileSuffix) {
			return completeFiles, nil, false
		}
		return completeWords, plainCandidates(formatsOf(f)), false
	case name == flagOwner && !strings.Contains(typed, "/"):
		return completeWords, ownerKinds(), false
	case flagValues()[name] != nil:
		return completeWords, plainCandidates(flagValues()[name]), slices.Contains(listFlags(), name)
	case !takesValue(f):
		return completeWords, plainCandidates([]string{"true", "false"}), false
	}
	switch valueName(f) {
	case "FILE":
		return completeFiles, nil, false
	case "DIR":
		return completeDirectories, nil, false
	}
	return completeWords, nil, false
}

// valueName is what the help calls the value of a flag.
func valueName(f cli.Flag) string {
	if d, ok := f.(cli.DocGenerationFlag); ok {
		if parts := strings.Split(d.GetUsage(), "`"); len(parts) == 3 {
			return parts[1]
		}
	}
	return ""
}

// formatsOf reads the output formats off the flag's usage, where they stand
// for people. A template follows those that end in =.
func formatsOf(f cli.Flag) []string {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return nil
	}
	_, text, _ := strings.Cut(d.GetUsage(), ": ")
	var formats []string
	for _, format := range strings.Split(text, ", ") {
		name, _, template := strings.Cut(format, "=")
		if template {
			formats = append(formats, name+"=", name+fileSuffix+"=")
			continue
		}
		formats = append(formats, name)
	}
	return formats
}

// argumentValues says what may stand where a usage line has name. Words in
// lower case are to be typed as they stand there.
func argumentValues(name, typed string) (kind string, words []candidate) {
	for _, part := range strings.Split(name, "|") {
		switch {
		case part == "FILE" || part == "PLAN" || part == "ARCHIVE" || part == "A" || part == "B":
			return completeFiles, nil
		case part == "RESOURCE":
			words = append(words, resourceNames(strings.Contains(typed, "."))...)
		case part == "SCENARIO":
			words = append(words, candidate{text: scenarioRunawayJob})
		case part != "" && part == strings.ToLower(part):
			words = append(words, candidate{text: part})
		}
	}
	return completeWords, words
}

func plainCandidates(texts []string) []candidate {
	words := make([]candidate, len(texts))
	for i, text := range texts {
		words[i] = candidate{text: text}
	}
	return words
}

// resourceNames are the built-in resources; custom ones are known only to
// etcd. Each has its plural, or with its group where the plural alone would
// find another, or where groups are asked for.
func resourceNames(withGroup bool) []candidate {
	catalog := codec.NewCatalog()
	var words []candidate
	for _, r := range catalog.Resources() {
		if r.Internal {
			continue
		}
		name := r.Plural
		if first, _, ok := catalog.Lookup(name); withGroup || !ok || first != r {
			name = r.String()
		}
		words = append(words, candidate{name, strings.Join(append([]string{r.Kind}, r.ShortNames...), ", ")})
	}
	return words
}

// ownerKinds are the same, as --owner has them before the owner's name.
func ownerKinds() []candidate {
	var words []candidate
	for _, r := range codec.NewCatalog().Resources() {
		if !r.Internal {
			words = append(words, candidate{r.Word() + "/", r.Kind})
		}
	}
	return words
}
