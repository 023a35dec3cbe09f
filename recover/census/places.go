package census

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// place is where the objects of one resource are. No place is inside another:
// codec.Catalog refuses such resources.
type place struct {
	keyspace.Range
	prefix     string          // below the registry's, with a trailing slash
	res        *codec.Resource // nil: only the name of a CRD tells of it
	namespaced bool            // also if that is not known
}

// of is the range of one namespace.
func (p *place) of(namespace string) keyspace.Range {
	return keyspace.Prefix(p.Start + namespace + "/")
}

// learn finds the namespaces and the places.
func (c *counter) learn(ctx context.Context) error {
	c.exists, c.byPrefix = map[string]bool{}, map[string]*place{}
	if err := c.learnNamespaces(ctx); err != nil {
		return fmt.Errorf("read the names of namespaces: %w", err)
	}
	if r := c.req.Resource; r != nil {
		// A view, such as events.events.k8s.io, has the place of another.
		c.place(r.Prefix, r, r.Namespaced)
		c.whole = c.places[0].Range
		return nil
	}
	for _, r := range c.req.Reader.Catalog.Resources() {
		c.place(r.Prefix, r, r.Namespaced)
	}
	err := c.names(ctx, "apiextensions.k8s.io/customresourcedefinitions/", func(name string) {
		plural, group, _ := strings.Cut(name, ".")
		if plural != "" && strings.Contains(group, ".") && c.byPrefix[group+"/"+plural+"/"] == nil {
			c.place(group+"/"+plural+"/", nil, true)
		}
	})
	if err != nil {
		return fmt.Errorf("read the names of CustomResourceDefinitions: %w", err)
	}
	slices.SortFunc(c.places, func(a, b *place) int { return strings.Compare(a.Start, b.Start) })
	return nil
}

func (c *counter) place(prefix string, r *codec.Resource, namespaced bool) {
	p := &place{keyspace.Prefix(c.prefix + prefix), prefix, r, namespaced}
	c.places, c.byPrefix[prefix] = append(c.places, p), p
}

func (c *counter) learnNamespaces(ctx context.Context) error {
	for _, name := range c.req.Namespaces {
		c.exists[name] = true
	}
	if c.req.Namespaces == nil {
		if err := c.names(ctx, "namespaces/", func(name string) { c.exists[name] = true }); err != nil {
			return err
		}
	}
	for name := range c.exists {
		c.namespaces = append(c.namespaces, name)
	}
	// The slash takes part in the order: team-x/ is before team/.
	slices.SortFunc(c.namespaces, func(a, b string) int { return strings.Compare(a+"/", b+"/") })
	return nil
}

// names calls fn for the last segment of every key directly below a prefix.
func (c *counter) names(ctx context.Context, below string, fn func(string)) error {
	r := keyspace.Prefix(c.prefix + below)
	return c.req.Source.Scan(ctx, r, true, func(kv *mvccpb.KeyValue) error {
		if name := string(kv.Key[len(r.Start):]); name != "" && !strings.Contains(name, "/") {
			fn(name)
		}
		return nil
	})
}

// between are the ranges of the whole that are in no place.
func (c *counter) between() (gaps []keyspace.Range) {
	at := c.whole.Start
	for _, p := range c.places {
		if at < p.Start {
			gaps = append(gaps, keyspace.Range{Start: at, End: p.Start})
		}
		at = p.End
	}
	if at < c.whole.End {
		gaps = append(gaps, keyspace.Range{Start: at, End: c.whole.End})
	}
	return gaps
}

// placeOf tells the place of a key below the registry's prefix, nil if there
// is none.
func (c *counter) placeOf(rest string) *place {
	one := strings.IndexByte(rest, '/') + 1
	two := one + strings.IndexByte(rest[one:], '/') + 1
	if p := c.byPrefix[rest[:two]]; p != nil {
		return p
	}
	return c.byPrefix[rest[:one]]
}
