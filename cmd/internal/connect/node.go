package connect

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// guessEndpoint is where an etcd without TLS listens unless told otherwise.
const guessEndpoint = "http://127.0.0.1:2379"

// lookAtNode fills what flags and environment left open. If endpoints are known
// already it is a favour: what it cannot use it notes instead of failing.
func (r *resolver) lookAtNode() error {
	needEndpoints := len(r.out.Endpoints) == 0
	r.nodePrefix()
	r.nodeEncryption()
	if needEndpoints {
		return r.nodeEndpoints()
	}
	r.eventsBeside()
	wantTLS := r.tlsFrom == "" && r.env.insecureTransport != "true" &&
		(mayUseTLS(r.out.Endpoints) || mayUseTLS(r.out.EventsEndpoints))
	if wantTLS {
		r.favourTLS()
	}
	return nil
}

// nodePrefix takes the prefix that kube-apiserver is told, or, where nothing
// says what it is told, the one of the distribution.
func (r *resolver) nodePrefix() {
	if r.out.Prefix != "" {
		return
	}
	for _, c := range r.candidates {
		if c.err == nil && (c.server || c.Prefix != "") {
			r.out.Prefix, r.prefixFrom = c.Prefix, c.From
			return
		}
	}
}

// nodeEncryption names the file with kube-apiserver's encryption keys. Whether
// it can be read is for whoever needs it to find out.
func (r *resolver) nodeEncryption() {
	for _, c := range r.candidates {
		if c.err != nil {
			continue
		}
		if r.encryption = c.EncryptionConfig; c.server || r.encryption != "" {
			r.noteOf(c, "--"+encryptionFlag)
			return
		}
	}
}

// noteOf repeats what a candidate notes of a flag.
func (r *resolver) noteOf(c *Candidate, flag string) {
	for _, n := range c.Notes {
		if strings.Contains(n, flag) {
			r.note("%s", n)
		}
	}
}

// nodeEndpoints takes the endpoints of the first candidate that has any. It
// never takes those of a later one because an earlier one cannot be used: they
// may be of another etcd.
func (r *resolver) nodeEndpoints() error {
	var chosen *Candidate
	for _, c := range r.candidates {
		if c.err != nil {
			if c.fatal && chosen == nil {
				return r.unusable(c, c.err)
			}
			r.noteSkipped(c)
			continue
		}
		if len(c.Endpoints) > 0 {
			chosen = c
			break
		}
	}
	if chosen == nil {
		r.guess()
		return nil
	}
	if err := r.ambiguous(chosen); err != nil {
		return err
	}
	return r.use(chosen)
}

// noteSkipped says why something that ought to have been used was not: of each
// rank the first. What is of no interest to most is left to Candidates.
func (r *resolver) noteSkipped(c *Candidate) {
	if c.rank <= rankEtcdPod && !r.skipped[c.rank] {
		r.skipped[c.rank] = true
		r.note("%s not used: %v", c.From, c.err)
	}
}

// guess takes the likely etcd of a machine that shows nothing.
func (r *resolver) guess() {
	r.out.Endpoints, r.guessed = []string{guessEndpoint}, true
	if r.tlsFrom != "" {
		// With TLS files given by hand it is the one that wants them.
		r.out.Endpoints = []string{localTLS}
	}
	r.endpointsFrom = "no --endpoints, no ETCDCTL_ENDPOINTS, and nothing on this machine says where etcd is"
}

// ambiguous refuses to choose between candidates of one rank that mean
// different etcds: only one of them can be the right one.
func (r *resolver) ambiguous(chosen *Candidate) error {
	for _, c := range r.candidates {
		if c == chosen || c.err != nil || c.rank != chosen.rank || c.agrees(chosen) {
			continue
		}
		return &SettingError{Setting: "--endpoints",
			Err: fmt.Errorf("this machine shows more than one etcd: %s (%s) and %s (%s)",
				strings.Join(chosen.Endpoints, ","), chosen.from(), strings.Join(c.Endpoints, ","), c.from()),
			Hint: "name the right one with --endpoints; etcd-rescue connect shows all that was found"}
	}
	return nil
}

// use takes a candidate's endpoints, and TLS files for them.
func (r *resolver) use(c *Candidate) error {
	c.Used = true
	r.chosen = c
	r.out.Endpoints, r.endpointsFrom = c.Endpoints, c.from()
	if len(r.out.EventsEndpoints) == 0 {
		r.out.EventsEndpoints = r.eventsOf(c)
	}
	r.noteOf(c, "--etcd-servers-overrides")
	if r.tlsFrom != "" || (!mayUseTLS(r.out.Endpoints) && !mayUseTLS(r.out.EventsEndpoints)) {
		return nil
	}
	if c.tlsErr == nil {
		r.takeTLS(c.files(), c.from())
		return nil
	}
	if errors.Is(c.tlsErr, fs.ErrPermission) {
		return r.unusable(c, c.tlsErr)
	}
	// Others' files are no danger: they open this etcd or none.
	for _, other := range r.candidates {
		if other.err == nil && other.tlsErr == nil && other.Cert != "" {
			r.takeTLS(other.files(), other.from())
			r.note("TLS files of %s not used: %v", c.from(), c.tlsErr)
			return nil
		}
	}
	return r.unusable(c, c.tlsErr)
}

// eventsOf are the candidate's endpoints for Events. What kube-apiserver is told
// is all there is; else another candidate of the same rank may be their etcd.
func (r *resolver) eventsOf(c *Candidate) []string {
	if c.server || len(c.EventsEndpoints) > 0 {
		return c.EventsEndpoints
	}
	for _, other := range r.candidates {
		if other.err == nil && other.rank == c.rank && len(other.Endpoints) == 0 && len(other.EventsEndpoints) > 0 {
			return other.EventsEndpoints
		}
	}
	return nil
}

// eventsBeside finds the etcd for Events of endpoints that were given: if the
// machine names one of them, it says of that very etcd where its Events are.
// With TLS files other than the machine's nothing is taken: another etcd may be
// meant, through a forwarded port.
func (r *resolver) eventsBeside() {
	if len(r.out.EventsEndpoints) > 0 {
		return
	}
	given := slices.Concat(withScheme(r.out.Endpoints, true), withScheme(r.out.Endpoints, false))
	own := tlsFiles{r.out.CACert, r.out.Cert, r.out.Key}
	for _, c := range r.candidates {
		if c.err != nil || !slices.ContainsFunc(c.Endpoints, func(ep string) bool { return slices.Contains(given, ep) }) {
			continue
		}
		if r.tlsFrom == "" || own == c.files() {
			if r.out.EventsEndpoints = r.eventsOf(c); len(r.out.EventsEndpoints) > 0 {
				r.note("events' etcd from %s", c.from())
			}
		}
		return
	}
}

// unusable makes a SettingError of what is wrong with a candidate.
func (r *resolver) unusable(c *Candidate, err error) error {
	c.Used = false
	e := &SettingError{Setting: c.From, Err: err}
	if errors.Is(err, fs.ErrPermission) && !errors.As(err, &e) {
		e.Err, e.Hint = cmp.Or(errors.Unwrap(err), err), fileHint(err)
	}
	errors.As(err, &e) // which names more than the source
	if e.Hint == "" {
		e.Hint = "give --endpoints, and --cacert, --cert and --key if etcd speaks TLS"
	}
	return e
}

// favourTLS looks for TLS material to go with endpoints that were given.
func (r *resolver) favourTLS() {
	for _, c := range r.candidates {
		if c.err != nil {
			if c.fatal {
				r.note("TLS files not used: %v", c.err)
			}
			continue
		}
		if c.tlsErr != nil {
			r.note("TLS files not used: %v", c.tlsErr)
			continue
		}
		if c.files() != (tlsFiles{}) && c.wantsTLS() {
			r.takeTLS(c.files(), c.From)
			return
		}
	}
}

func (r *resolver) takeTLS(f tlsFiles, from string) {
	if f == (tlsFiles{}) || r.tlsFrom != "" {
		return
	}
	r.out.CACert, r.out.Cert, r.out.Key, r.tlsFrom = f.ca, f.cert, f.key, from
}

// found is the outcome: what was decided, what the machine says of the etcd that
// the endpoints mean, and of each candidate why it was not used.
func (r *resolver) found() Found {
	own := slices.DeleteFunc(slices.Clone(r.candidates), func(c *Candidate) bool { return !r.concerns(c) })
	f := Found{Settings: r.out, EncryptionConfig: r.encryption, CertFiles: certFiles(r.candidates, r.out), OwnCertFiles: certFiles(own, r.out)}
	for _, c := range r.candidates {
		c.WhyNot = r.whyNot(c)
		if c.err == nil && c.tlsErr != nil {
			c.note("TLS files not used: %v", c.tlsErr)
		}
		f.Candidates = append(f.Candidates, *c)
		if c.err != nil || !c.means(r.out.Endpoints) {
			continue
		}
		if f.EtcdQuota == 0 && c.EtcdQuota > 0 {
			f.EtcdQuota, f.EtcdQuotaFrom = c.EtcdQuota, c.From
		}
		f.DataDir = cmp.Or(f.DataDir, c.DataDir)
		if len(f.MetricsURLs) == 0 {
			f.MetricsURLs = c.MetricsURLs
		}
	}
	return f
}

// concerns says that a candidate may mean the etcd that is used. Endpoints that
// are given may be of another one than what runs on this machine.
func (r *resolver) concerns(c *Candidate) bool {
	all := slices.Concat(r.out.Endpoints, r.out.EventsEndpoints)
	given := r.chosen == nil && r.endpointsFrom != ""
	return !given || c.means(all) || slices.ContainsFunc(c.Endpoints, func(e string) bool { return slices.Contains(all, e) })
}

func (r *resolver) whyNot(c *Candidate) string {
	switch {
	case c.Used:
		return ""
	case c.err != nil:
		return c.err.Error()
	case c == r.chosen:
		return "its TLS files cannot be used"
	case r.chosen == nil && r.endpointsFrom == "":
		return "none was chosen"
	case r.chosen == nil:
		return "endpoints come from " + r.endpointsFrom
	case len(c.Endpoints) == 0:
		return "it names no endpoints of the main etcd"
	}
	return r.chosen.Name + " comes first"
}

func certFiles(all []*Candidate, s Settings) []string {
	var out []string
	for _, c := range all {
		if c.err == nil {
			out = append(out, c.CertFiles...)
		}
	}
	for _, f := range []string{s.CACert, s.Cert} {
		if f != "" {
			out = append(out, f)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
