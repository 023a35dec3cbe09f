package connect

import (
	"encoding/json"
	"errors"
	"path"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

const encryptionFlag = "encryption-provider-config"

// flagValues are the values of flags, by their names without dashes.
type flagValues map[string][]string

// last is the value that counts of a flag that takes one.
func (f flagValues) last(name string) string {
	v := f[name]
	if len(v) == 0 {
		return ""
	}
	return v[len(v)-1]
}

func (f flagValues) has(name string) bool { return len(f[name]) > 0 }

// words splits arguments that hold a shell command line.
func words(args []string) []string {
	var out []string
	for _, a := range args {
		if strings.Contains(a, " -") || strings.Contains(a, "\n") {
			out = append(out, strings.Fields(a)...)
			continue
		}
		out = append(out, a)
	}
	return out
}

// parseFlags reads an argument list, "--flag=v" or "--flag", "v".
func parseFlags(args []string) flagValues {
	all := words(args)
	flags := flagValues{}
	for i, w := range all {
		name, value, inline := strings.Cut(w, "=")
		short := strings.TrimLeft(name, "-")
		if short == name || short == "" {
			continue
		}
		if !inline && i+1 < len(all) && !strings.HasPrefix(all[i+1], "-") {
			value = all[i+1]
		}
		flags[short] = append(flags[short], strings.Trim(value, `"'`))
	}
	return flags
}

// hasProgram says that a command line, perhaps of a shell, runs a program.
func hasProgram(args []string, name string) bool {
	for _, w := range words(args) {
		if path.Base(strings.Trim(w, `"'`)) == name && !strings.HasPrefix(w, "-") {
			return true
		}
	}
	return false
}

// etcdEnv turns etcd's environment, "ETCD_DATA_DIR=…", into flags. Nothing else
// of an environment is kept: it may hold secrets.
func etcdEnv(lines []string) flagValues {
	flags := flagValues{}
	for _, l := range lines {
		name, value, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(l), "export ")), "=")
		rest, etcd := strings.CutPrefix(name, "ETCD_")
		value = strings.Trim(value, `"'`)
		if !ok || !etcd || value == "" {
			continue
		}
		flags[strings.ReplaceAll(strings.ToLower(rest), "_", "-")] = []string{value}
	}
	return flags
}

var errNotConfig = errors.New("it is not a readable configuration of etcd")

// configFlags reads etcd's configuration file. See
// https://github.com/etcd-io/etcd/blob/main/etcd.conf.yml.sample
func configFlags(b []byte) (flagValues, error) {
	type security struct {
		Cert    string `json:"cert-file"`
		Key     string `json:"key-file"`
		Trusted string `json:"trusted-ca-file"`
	}
	var c struct {
		Name      string      `json:"name"`
		DataDir   string      `json:"data-dir"`
		Listen    string      `json:"listen-client-urls"`
		Advertise string      `json:"advertise-client-urls"`
		Metrics   string      `json:"listen-metrics-urls"`
		Quota     json.Number `json:"quota-backend-bytes"`
		Client    security    `json:"client-transport-security"`
		Peer      security    `json:"peer-transport-security"`
	}
	if err := yaml.Unmarshal(b, &c); err != nil {
		return nil, errNotConfig // the parser may quote the file
	}
	flags := flagValues{}
	for name, value := range map[string]string{
		"name": c.Name, "data-dir": c.DataDir, "listen-client-urls": c.Listen, "advertise-client-urls": c.Advertise,
		"listen-metrics-urls": c.Metrics, "cert-file": c.Client.Cert, "key-file": c.Client.Key, "trusted-ca-file": c.Client.Trusted,
		"peer-cert-file": c.Peer.Cert, "peer-trusted-ca-file": c.Peer.Trusted,
		"quota-backend-bytes": c.Quota.String(),
	} {
		if value != "" {
			flags[name] = []string{value}
		}
	}
	return flags, nil
}

// bytesOf reads a quota. etcd takes 0 and less as its own default or as no
// quota at all, which is not known from here.
func bytesOf(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
