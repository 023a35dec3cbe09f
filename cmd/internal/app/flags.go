package app

import (
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// The categories of flags, in the order of help.
const (
	catApproval   = "Approval"
	catPace       = "Pace and safety"
	catSelection  = "Selection"
	catOutput     = "Output"
	catOther      = "Other"
	catConnection = "Connection (else ETCDCTL_*, else what is found on the node)"
)

// The names of flags. The same name means the same on every command.
const (
	flagEndpoints       = "endpoints"
	flagEventsEndpoints = "events-endpoints"
	flagCACert          = "cacert"
	flagCert            = "cert"
	flagKeyFile         = "key"
	flagUser            = "user"
	flagPasswordFile    = "password-file"
	flagInsecureSkip    = "insecure-skip-tls-verify"
	flagDialTimeout     = "dial-timeout"
	flagCommandTimeout  = "command-timeout"
	flagPrefix          = "etcd-prefix"
	flagAllMembers      = "cluster"
	flagDiscoverySRV    = "discovery-srv"
	flagDiscoveryName   = "discovery-srv-name"
	flagFrom            = "from"
	flagNow             = "now"
	flagEncryption      = "encryption-config"
	flagConsistency     = "consistency"

	flagOutput        = "output"
	flagQuiet         = "quiet"
	flagNoColor       = "no-color"
	flagLogLevel      = "log-level"
	flagIncludeBroken = "include-broken"
	flagManagedFields = "show-managed-fields"
	flagShowSecrets   = "show-secrets"
	flagShowLabels    = "show-labels"
	flagNoHeaders     = "no-headers"
	flagSortBy        = "sort-by"
	flagBy            = "by"
	flagBytes         = "bytes"
	flagKeysOnly      = "keys-only"
	flagRev           = "rev"
	flagLimit         = "limit"

	flagNamespace     = "namespace"
	flagAllNamespaces = "all-namespaces"
	flagSelector      = "selector"
	flagFieldSelector = "field-selector"
	flagOwner         = "owner"
	flagNode          = "node"
	flagPhase         = "phase"
	flagOlderThan     = "older-than"
	flagNewerThan     = "newer-than"
	flagTerminating   = "terminating"
	flagFinalizer     = "finalizer"
	flagOrphaned      = "orphaned"
	flagWhere         = "where"
	flagExactKey      = "etcd-key"

	flagExecute         = "execute"
	flagYes             = "yes"
	flagMaxDeletes      = "max-deletes"
	flagPlan            = "plan"
	flagWithOwners      = "with-owners"
	flagWithLeased      = "with-leased"
	flagDetailedExit    = "detailed-exit-code"
	flagArchiveDir      = "archive-dir"
	flagRate            = "rate"
	flagMinRate         = "min-rate"
	flagMaxRate         = "max-rate"
	flagSettle          = "settle"
	flagStrict          = "strict"
	flagMaxPlanAge      = "max-plan-age"
	flagUnsafeNamespace = "unsafe-namespace"
	flagUnsafeKind      = "unsafe-kind"
	flagUnsafeCluster   = "unsafe-cluster"
	flagUnsafeLive      = "unsafe-live-controllers"
	flagUnsafeUnguarded = "unsafe-unguarded"

	flagServe = "serve"
	flagSize  = "size"
)

const (
	defaultSettle     = 10 * time.Second
	defaultMaxPlanAge = 24 * time.Hour
	defaultFormat     = "table"
)

func connectionFlags() []cli.Flag {
	str := func(name, usage string) cli.Flag {
		return &cli.StringFlag{Name: name, Usage: usage, Category: catConnection}
	}
	return []cli.Flag{
		str(flagEndpoints, "comma-separated `URLS` of etcd"),
		&cli.BoolFlag{Name: flagAllMembers, Usage: "use all members of the etcd, as the first that answers lists them", Category: catConnection},
		str(flagDiscoverySRV, "`DOMAIN` whose DNS records (SRV of _etcd-client-ssl and _etcd-client) name the endpoints"),
		str(flagDiscoveryName, "`NAME` after the service of those records, for one of several clusters"),
		str(flagEventsEndpoints, "`URLS` of the etcd that holds events, if they have their own"),
		str(flagCACert, "`FILE` with the CA that signed etcd's certificate"),
		str(flagCert, "`FILE` with the client certificate"),
		str(flagKeyFile, "`FILE` with the client certificate's private key"),
		str(flagUser, "user `NAME`, or NAME:PASSWORD"),
		str(flagPasswordFile, "`FILE` that holds the user's password"),
		&cli.BoolFlag{Name: flagInsecureSkip, Usage: "do not check etcd's certificate", Category: catConnection},
		&cli.DurationFlag{Name: flagDialTimeout, Usage: "`DURATION` within which etcd must answer first (default 5s)", Category: catConnection},
		&cli.DurationFlag{Name: flagCommandTimeout, Usage: "`DURATION` that one request may take (default 30s)", Category: catConnection},
		str(flagPrefix, "`PREFIX` of Kubernetes' keys (default /registry)"),
		str(flagConsistency, "`MODE` of reads: l asks etcd's leader (linearizable, default); s takes what one member holds (serializable), which works without a leader but may be old"),
		str(flagEncryption, "`FILE` with the EncryptionConfiguration that kube-apiserver is given, to decrypt what is encrypted at rest"),
	}
}

func fromFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: flagFrom, Usage: "read the snapshot, db file or archive `FILE` instead of etcd", Category: catSelection},
		&cli.TimestampFlag{Name: flagNow, Layout: time.RFC3339, Usage: "`TIME` (RFC 3339) that ages count from under --from (default: the newest in the file)", Category: catSelection},
	}
}

func outputFlags(formats string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: flagOutput, Aliases: []string{"o"}, Usage: "`FORMAT` of the result: " + formats, Value: defaultFormat, Category: catOutput},
		&cli.BoolFlag{Name: flagQuiet, Usage: "print nothing but the result and errors", Category: catOutput},
		&cli.BoolFlag{Name: flagNoColor, Usage: "never use colour (NO_COLOR is respected too)", Category: catOutput},
		&cli.StringFlag{Name: flagLogLevel, Usage: "log diagnostics of this `LEVEL` and above to stderr: debug, info, warn, error", Category: catOutput},
	}
}

func selectionFlags() []cli.Flag {
	str := func(name, alias, usage string) cli.Flag {
		f := &cli.StringFlag{Name: name, Usage: usage, Category: catSelection}
		if alias != "" {
			f.Aliases = []string{alias}
		}
		return f
	}
	return []cli.Flag{
		str(flagNamespace, "n", "objects in the namespace `NAME`"),
		&cli.BoolFlag{Name: flagAllNamespaces, Aliases: []string{"A"}, Usage: "objects in all namespaces (alone no selection for a delete)", Category: catSelection},
		str(flagSelector, "l", "objects whose labels match `SELECTOR`"),
		str(flagFieldSelector, "", "objects whose fields match `SELECTOR`"),
		str(flagOwner, "", "objects below `KIND/NAME`, directly or through other owners, such as job/report or jobs.batch.volcano.sh/sync"),
		str(flagNode, "", "pods bound to the node `NAME`"),
		str(flagPhase, "", "objects in `PHASE`, such as Pending or Failed"),
		str(flagOlderThan, "", "objects made longer than `AGE` ago, such as 90m or 2d"),
		str(flagNewerThan, "", "objects made within the last `AGE`"),
		&cli.BoolFlag{Name: flagTerminating, Usage: "objects that are being deleted", Category: catSelection},
		str(flagFinalizer, "", "objects that carry the finalizer `NAME`"),
		&cli.BoolFlag{Name: flagOrphaned, Usage: "objects whose namespace or controlling owner does not exist any more", Category: catSelection},
		str(flagWhere, "", "objects for which the CEL `EXPRESSION` is true, over object, key, size, modRevision, version and now; such as 'size > 100000' or 'object.?spec.?replicas.orValue(1) > 50'"),
		&cli.StringSliceFlag{Name: flagExactKey, Usage: "exactly this etcd `KEY`, for what no resource name reaches; may be repeated", Category: catSelection},
	}
}

func approvalFlags(what string) []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: flagExecute, Usage: "really " + what + "; without it this is a preview", Category: catApproval},
		&cli.BoolFlag{Name: flagYes, Usage: "with --execute: do not ask for the number of objects to be typed", Category: catApproval},
		&cli.BoolFlag{Name: flagDetailedExit, Usage: "a preview that finds something to do ends with exit code 6", Category: catApproval},
	}
}

func paceFlags() []cli.Flag {
	return append(rateFlags(),
		&cli.StringFlag{Name: flagArchiveDir, Usage: "`DIR` for the archive and the plan", Value: ".", Category: catPace},
		&cli.StringFlag{Name: flagUnsafeCluster, Usage: "accept a plan, archive or snapshot of the cluster whose kube-system has `UID`", Category: catPace},
	)
}

func deletePaceFlags() []cli.Flag {
	return []cli.Flag{
		&cli.DurationFlag{Name: flagSettle, Usage: "after the delete wait `DURATION` and count again, to see whether it stopped", Value: defaultSettle, Category: catPace},
		&cli.BoolFlag{Name: flagStrict, Usage: "skip whatever changed since the plan, instead of judging it again", Category: catPace},
		unguardedFlag(),
	}
}

func maxDeletesFlag() cli.Flag {
	return &cli.Int64Flag{Name: flagMaxDeletes, Usage: "refuse to delete more than `N` objects in all, owners included", Category: catApproval}
}

func overrideFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: flagUnsafeNamespace, Usage: "also delete in the protected namespace `NAME`, such as kube-system; may be repeated", Category: catPace},
		&cli.StringSliceFlag{Name: flagUnsafeKind, Usage: "also delete what is protected as `KIND`: " + strings.Join(filter.UnsafeKinds(), ", ") + "; may be repeated", Category: catPace},
	}
}

// overrides reads the flags that let a guard pass what it would block.
func (inv *invocation) overrides() (filter.Overrides, error) {
	kinds, err := inv.unsafeKinds()
	return filter.Overrides{Namespaces: inv.StringSlice(flagUnsafeNamespace), Kinds: kinds}, err
}

func (inv *invocation) unsafeKinds() ([]string, error) {
	kinds := inv.StringSlice(flagUnsafeKind)
	for _, kind := range kinds {
		if !slices.Contains(filter.UnsafeKinds(), kind) {
			return nil, usage("it takes one of: "+strings.Join(filter.UnsafeKinds(), ", "), "--%s %q is no kind that is protected", flagUnsafeKind, kind)
		}
	}
	return kinds, nil
}

func maxPlanAgeFlag() cli.Flag {
	return &cli.DurationFlag{Name: flagMaxPlanAge, Usage: "refuse a plan older than `DURATION`", Value: defaultMaxPlanAge, Category: catPace}
}

// settings reads the connection flags.
func (inv *invocation) settings() connect.Settings {
	list := func(name string) []string {
		var urls []string
		if !inv.has(name) {
			return nil
		}
		for _, u := range strings.Split(inv.String(name), ",") {
			if u = strings.TrimSpace(u); u != "" {
				urls = append(urls, u)
			}
		}
		return urls
	}
	return connect.Settings{
		Endpoints: list(flagEndpoints), EventsEndpoints: list(flagEventsEndpoints),
		CACert: inv.String(flagCACert), Cert: inv.String(flagCert), Key: inv.String(flagKeyFile),
		User: inv.String(flagUser), PasswordFile: inv.String(flagPasswordFile),
		InsecureSkipVerify: inv.Bool(flagInsecureSkip),
		DialTimeout:        inv.Duration(flagDialTimeout), CommandTimeout: inv.Duration(flagCommandTimeout),
		Prefix: inv.String(flagPrefix), Cluster: inv.Bool(flagAllMembers),
		DiscoverySRV: inv.String(flagDiscoverySRV), DiscoverySRVName: inv.String(flagDiscoveryName),
	}
}

// connectionWords repeats the connection flags as they were given, for the
// commands that a report tells the operator to run. The password is left out.
func (inv *invocation) connectionWords() string {
	var words []string
	for _, name := range []string{flagEndpoints, flagDiscoverySRV, flagDiscoveryName, flagEventsEndpoints, flagCACert, flagCert, flagKeyFile, flagPasswordFile, flagPrefix, flagEncryption} {
		if v := inv.String(name); v != "" {
			words = append(words, "--"+name, quoteWord(v))
		}
	}
	if user, _, _ := strings.Cut(inv.String(flagUser), ":"); user != "" {
		words = append(words, "--"+flagUser, quoteWord(user))
	}
	for _, name := range []string{flagInsecureSkip, flagAllMembers} {
		if inv.Bool(name) {
			words = append(words, "--"+name)
		}
	}
	if len(words) == 0 {
		return ""
	}
	return " " + strings.Join(words, " ")
}

// quoteWord quotes a word for a shell if it needs to be.
func quoteWord(s string) string {
	plain := func(r rune) bool {
		return r == '/' || r == '.' || r == ':' || r == ',' || r == '-' || r == '_' || r == '=' || r == '@' ||
			(r >= '0' && r <= '9') || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z')
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
