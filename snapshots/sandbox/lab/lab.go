// Package lab makes what tests on a large scale need: db files with a million pods, real servers of other versions, and
// a real Kubernetes control plane. Only tests import it. Files and programs are made once and kept in the user's cache
// directory.
package lab
