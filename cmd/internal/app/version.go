package app

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

func versionCommand() *command {
	return &command{
		name: "version", summary: "print the version and what it was built from",
		about:    "Prints one line, or with -o json a document.",
		examples: []string{"etcd-rescue version"},
		flags:    outputFlags("table, json, yaml"),
		run:      runVersion,
	}
}

func runVersion(_ context.Context, inv *invocation) error {
	if err := inv.checkFormat("table", "json", "yaml"); err != nil {
		return err
	}
	version, revision := buildVersion()
	if inv.format() != "table" {
		return inv.document(map[string]any{
			"version": 1, "kind": "version", "tool": version, "commit": revision, "go": runtime.Version(),
			"platform": runtime.GOOS + "/" + runtime.GOARCH,
		})
	}
	if revision != "" {
		version += " (" + revision + ")"
	}
	_, err := fmt.Fprintf(inv.Streams.Out, "etcd-rescue %s, %s, %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// buildVersion reads what the Go linker recorded.
func buildVersion() (version, revision string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", ""
	}
	version = info.Main.Version
	if version == "" || version == "(devel)" {
		version = "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value[:min(len(s.Value), 12)]
		}
	}
	return version, revision
}

func toolVersion() string {
	version, _ := buildVersion()
	return "etcd-rescue " + version
}

// sandboxCommand is what a sandbox runs in its child process.
func sandboxCommand() *command {
	return &command{
		name: sandbox.ChildCommand, hidden: true, summary: "serve a throwaway etcd for a parent process",
		run: func(ctx context.Context, inv *invocation) error {
			if code := sandbox.ServeChild(ctx, inv.Streams.In, inv.Streams.Out, inv.Streams.Err); code != 0 {
				return fmt.Errorf("the sandbox's etcd ended with code %d", code)
			}
			return nil
		},
	}
}
