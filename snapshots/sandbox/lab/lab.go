// Package lab makes what tests on a large scale need: db files with a million pods, and real servers of other
// versions. Only tests import it. Both are made once and kept in the user's cache directory.
package lab
