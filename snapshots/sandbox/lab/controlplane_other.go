//go:build !linux

package lab

import "syscall"

// tieToParent does nothing: where there is no such signal, a server outlives this process if that is killed.
func tieToParent(*syscall.SysProcAttr) {}
