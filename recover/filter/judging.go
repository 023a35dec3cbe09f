package filter

import "context"

// aheadObjects and aheadBytes bound what waits while owners are read.
const (
	aheadObjects = 256
	aheadBytes   = 1 << 20
)

// Judging judges one object after the other. Where that takes their owners,
// objects wait for one another, so that the owners of many are read with few
// requests: a store may hold an owner for every few objects.
type Judging struct {
	filter  *Filter
	each    func(context.Context, Object, Decision) error
	waiting []*Object
	weight  int64
}

// Judging returns a way to judge many objects. each is called once for every
// object, in the order in which they are added; its errors end the judging.
func (f *Filter) Judging(each func(context.Context, Object, Decision) error) *Judging {
	return &Judging{filter: f, each: each}
}

// Add judges an object, now or with later ones: until Flush or a later Add has
// called each for it, the object and its value must not change. At most 256
// objects, or a MiB of values and one more, wait. Errors are those of Judge
// and of each.
func (j *Judging) Add(ctx context.Context, o Object) error {
	if !j.filter.LooksUp() {
		return j.judge(ctx, o)
	}
	j.waiting = append(j.waiting, &o)
	if j.weight += o.Size; len(j.waiting) < aheadObjects && j.weight < aheadBytes {
		return nil
	}
	return j.Flush(ctx)
}

// Flush judges what waits. It is called after the last Add.
func (j *Judging) Flush(ctx context.Context) error {
	if len(j.waiting) == 0 {
		return nil
	}
	if err := j.filter.Ahead(ctx, j.waiting); err != nil {
		return err
	}
	for _, o := range j.waiting {
		if err := j.judge(ctx, *o); err != nil {
			return err
		}
	}
	clear(j.waiting)
	j.waiting, j.weight = j.waiting[:0], 0
	return nil
}

func (j *Judging) judge(ctx context.Context, o Object) error {
	d, err := j.filter.Judge(ctx, o)
	if err != nil {
		return err
	}
	return j.each(ctx, o, d)
}
