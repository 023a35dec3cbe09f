package connect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// srvService is what etcd's clients ask DNS for (RFC 2782): "_etcd-client-ssl"
// and "_etcd-client", in etcdctl's spelling of a name for one of many clusters.
const srvService = "etcd-client"

// discover turns a domain into endpoints. Endpoints given beside it by flag are
// a contradiction; in the environment the domain wins, as in etcdctl.
func (r *resolver) discover() error {
	from, domain := "--discovery-srv", r.out.DiscoverySRV
	switch {
	case domain != "" && r.endpointsFrom == "--endpoints":
		return &SettingError{Setting: from, Err: errors.New("--endpoints names them already"), Hint: "give one of the two"}
	case domain == "" && r.endpointsFrom == "--endpoints":
		return nil
	case domain == "":
		from, domain = "ETCDCTL_DISCOVERY_SRV", r.env.discovery
	}
	if domain == "" {
		return nil
	}
	name := r.out.DiscoverySRVName
	if name == "" {
		name = r.env.discoveryName
	}
	eps, err := r.lookupSRV(domain, name)
	if err != nil {
		return &SettingError{Setting: from, Err: err, Hint: "give --endpoints https://HOST:2379"}
	}
	if r.out.Endpoints, err = parseEndpoints(from, eps); err != nil {
		return err
	}
	r.endpointsFrom = fmt.Sprintf("%s, records of %s", from, domain)
	if r.env.strictDiscovery {
		r.out.ServerName = domain
	}
	return nil
}

// lookupSRV asks for endpoints with TLS, and only if there are none for those
// without: one answer of DNS must not be enough to leave TLS out.
func (r *resolver) lookupSRV(domain, name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.out.DialTimeout)
	defer cancel()
	var failed []error
	for _, try := range []struct{ service, scheme string }{{srvService + "-ssl", "https"}, {srvService, "http"}} {
		if name != "" {
			try.service += "-" + name
		}
		if try.scheme == "http" && r.env.strictDiscovery {
			break
		}
		_, records, err := r.node.LookupSRV(ctx, try.service, "tcp", domain)
		if err != nil {
			failed = append(failed, dnsError(try.service, domain, err))
			if !hasNone(err) {
				break // DNS that does not answer has not said that there is no TLS
			}
			continue
		}
		var eps []string
		for _, rec := range records {
			host := strings.TrimSuffix(rec.Target, ".")
			if host != "" { // a lone dot says that there is no such service
				eps = append(eps, try.scheme+"://"+net.JoinHostPort(host, strconv.Itoa(int(rec.Port))))
			}
		}
		if len(eps) > 0 {
			slices.Sort(eps) // the order is random
			return slices.Compact(eps), nil
		}
		failed = append(failed, fmt.Errorf("_%s._tcp.%s has no records", try.service, domain))
	}
	return nil, errors.Join(failed...)
}

// hasNone says that DNS knows of no such records.
func hasNone(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

func dnsError(service, domain string, err error) error {
	if hasNone(err) {
		return fmt.Errorf("_%s._tcp.%s has no records", service, domain)
	}
	return fmt.Errorf("_%s._tcp.%s: %w", service, domain, err)
}
