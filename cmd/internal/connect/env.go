package connect

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// maxPassword is far more than etcd takes in a request for authentication.
const maxPassword = 64 << 10

// environment is what the ETCDCTL_* variables say, parsed.
type environment struct {
	endpoints, cacert, cert, key string
	user, password               string
	skipVerify                   bool
	insecureTransport            string // "", "true" or "false"
	dialTimeout, commandTimeout  time.Duration
	// discovery is a domain, discoveryName the suffix of a service.
	discovery, discoveryName string
	// strictDiscovery demands certificates for the domain.
	strictDiscovery bool
}

func (r *resolver) readEnv() (err error) {
	r.env, err = readEnv(r.node.Getenv)
	return err
}

func readEnv(getenv func(string) string) (environment, error) {
	env := environment{
		endpoints: getenv("ETCDCTL_ENDPOINTS"),
		cacert:    getenv("ETCDCTL_CACERT"),
		cert:      getenv("ETCDCTL_CERT"),
		key:       getenv("ETCDCTL_KEY"),
		user:      getenv("ETCDCTL_USER"),
		password:  getenv("ETCDCTL_PASSWORD"),

		discovery: getenv("ETCDCTL_DISCOVERY_SRV"), discoveryName: getenv("ETCDCTL_DISCOVERY_SRV_NAME"),
	}
	skip, err := envBool(getenv, "ETCDCTL_INSECURE_SKIP_TLS_VERIFY")
	if err != nil {
		return env, err
	}
	env.skipVerify = skip == "true"
	if env.insecureTransport, err = envBool(getenv, "ETCDCTL_INSECURE_TRANSPORT"); err != nil {
		return env, err
	}
	insecure, err := envBool(getenv, "ETCDCTL_INSECURE_DISCOVERY")
	if err != nil {
		return env, err
	}
	env.strictDiscovery = insecure == "false"
	if env.dialTimeout, err = envDuration(getenv, "ETCDCTL_DIAL_TIMEOUT"); err != nil {
		return env, err
	}
	env.commandTimeout, err = envDuration(getenv, "ETCDCTL_COMMAND_TIMEOUT")
	return env, err
}

func envBool(getenv func(string) string, name string) (string, error) {
	v := getenv(name)
	if v == "" {
		return "", nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return "", &SettingError{Setting: name, Err: fmt.Errorf("%q is neither true nor false", v)}
	}
	return strconv.FormatBool(b), nil
}

func envDuration(getenv func(string) string, name string) (time.Duration, error) {
	v := getenv(name)
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return 0, &SettingError{Setting: name, Err: fmt.Errorf("%q is not a duration greater than 0", v), Hint: "write it with its unit, such as 5s"}
	}
	return d, nil
}

// user decides name and password. A password given twice by flags is refused,
// because only one of the two can be meant.
func (r *resolver) user() error {
	from := "--user"
	name, inline, hasInline := strings.Cut(r.out.User, ":")
	if name == "" {
		from = "ETCDCTL_USER"
		name, inline, hasInline = strings.Cut(r.env.user, ":")
	}
	if name == "" {
		if r.out.PasswordFile != "" {
			return &SettingError{Setting: "--password-file", Err: errors.New("a password needs a user"), Hint: "add --user NAME"}
		}
		r.out.User, r.out.Password = "", ""
		return nil
	}
	if r.out.PasswordFile != "" && hasInline && from == "--user" {
		return &SettingError{Setting: "--password-file", Err: errors.New("--user holds a password already"), Hint: "write --user NAME without a password"}
	}
	password, err := r.password(inline, hasInline, from)
	if err != nil {
		return err
	}
	if password == "" {
		return &SettingError{Setting: from, Err: fmt.Errorf("user %q has no password", name),
			Hint: "add --password-file FILE or set ETCDCTL_PASSWORD; a client certificate whose common name is the user needs no --user at all"}
	}
	r.out.User, r.out.Password, r.userFrom = name, password, from
	return nil
}

// readSecret reads a file that may be a pipe, as shells make of <(…).
func readSecret(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err == nil && len(b) > maxPassword {
		return nil, errors.New(file + " is too long for a password")
	}
	return b, err
}

func (r *resolver) password(inline string, hasInline bool, userFrom string) (string, error) {
	switch {
	case r.out.PasswordFile != "":
		b, err := readSecret(r.out.PasswordFile)
		if err != nil {
			return "", &SettingError{Setting: "--password-file", Err: err, Hint: fileHint(err)}
		}
		p := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
		if p == "" {
			return "", &SettingError{Setting: "--password-file", Err: fmt.Errorf("%s is empty", r.out.PasswordFile)}
		}
		return p, nil
	case hasInline && userFrom == "--user":
		return inline, nil
	case r.out.Password != "":
		return r.out.Password, nil
	case hasInline && r.env.password == "":
		return inline, nil
	}
	return r.env.password, nil
}
