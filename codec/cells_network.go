package codec

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func networkTables() map[string]table {
	return map[string]table{
		"endpoints":                         show("NAME,ENDPOINTS,AGE", endpointsCells),
		"endpointslices.discovery.k8s.io":   show("NAME,ADDRESSTYPE,PORTS,ENDPOINTS,AGE", endpointSliceCells),
		"ingressclasses.networking.k8s.io":  show("NAME,CONTROLLER,PARAMETERS,AGE", ingressClassCells),
		"ingresses.networking.k8s.io":       show("NAME,CLASS,HOSTS,ADDRESS,PORTS,AGE", ingressCells),
		"ipaddresses.networking.k8s.io":     show("NAME,PARENTREF", ipAddressCells),
		"networkpolicies.networking.k8s.io": show("NAME,POD-SELECTOR,AGE", networkPolicyCells),
		"servicecidrs.networking.k8s.io":    show("NAME,CIDRS,AGE", serviceCIDRCells),
		"services":                          show("NAME,TYPE,CLUSTER-IP,EXTERNAL-IP,PORT(S),AGE,+SELECTOR", serviceCells),
	}
}

//lint:ignore SA1019 deprecated, and still stored for every Service
func endpointsCells(o *corev1.Endpoints, now time.Time) []string {
	missing := ""
	if len(o.Subsets) == 0 {
		missing = noValue
	}
	var list []string
	for i := range o.Subsets {
		subset := &o.Subsets[i]
		for _, port := range subset.Ports {
			for j := range subset.Addresses {
				list = append(list, net.JoinHostPort(subset.Addresses[j].IP, count(port.Port)))
			}
		}
		// A headless service need not have ports.
		for j := range subset.Addresses {
			if len(subset.Ports) == 0 {
				list = append(list, subset.Addresses[j].IP)
			}
		}
	}
	return []string{o.Name, firstFew(list, 3, ",", missing), age(o.CreationTimestamp, now)}
}

func endpointSliceCells(o *discoveryv1.EndpointSlice, now time.Time) []string {
	var ports, addresses []string
	for _, port := range o.Ports {
		text := deref(port.Name, "*")
		if port.Port != nil {
			text = count(*port.Port)
		}
		ports = append(ports, text)
	}
	for i := range o.Endpoints {
		addresses = append(addresses, o.Endpoints[i].Addresses...)
	}
	return []string{o.Name, string(o.AddressType), or(firstFew(ports, 3, ",", ""), unsetValue),
		firstFew(addresses, 3, ",", unsetValue), age(o.CreationTimestamp, now)}
}

func ingressClassCells(o *networkingv1.IngressClass, now time.Time) []string {
	parameters := noValue
	if p := o.Spec.Parameters; p != nil {
		parameters = p.Kind
		if p.APIGroup != nil {
			parameters += "." + *p.APIGroup
		}
		parameters += "/" + p.Name
	}
	isDefault := o.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
	return []string{withDefault(o.Name, isDefault), o.Spec.Controller, parameters, age(o.CreationTimestamp, now)}
}

func withDefault(name string, isDefault bool) string {
	if isDefault {
		return name + " (default)"
	}
	return name
}

func ingressCells(o *networkingv1.Ingress, now time.Time) []string {
	ports := "80"
	if len(o.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	var addresses []string
	for _, ingress := range o.Status.LoadBalancer.Ingress {
		addresses = append(addresses, or(ingress.IP, ingress.Hostname))
	}
	return []string{o.Name, deref(o.Spec.IngressClassName, noValue), ingressHosts(o.Spec.Rules),
		sortedAddresses(addresses), ports, age(o.CreationTimestamp, now)}
}

// ingressHosts counts in "more" every rule beyond three, also those without a
// host, as kube-apiserver does.
func ingressHosts(rules []networkingv1.IngressRule) string {
	const few = 3
	var hosts []string
	for i := range rules {
		if len(hosts) == few {
			return strings.Join(hosts, ",") + " + " + strconv.Itoa(len(rules)-few) + " more..."
		}
		if rules[i].Host != "" {
			hosts = append(hosts, rules[i].Host)
		}
	}
	return or(strings.Join(hosts, ","), "*")
}

func sortedAddresses(list []string) string {
	list = slices.DeleteFunc(list, func(s string) bool { return s == "" })
	slices.Sort(list)
	return strings.Join(slices.Compact(list), ",")
}

// ipAddressCells leaves out the age that kube-apiserver sends without a column
// for it, and that kubectl therefore does not print.
func ipAddressCells(o *networkingv1.IPAddress, _ time.Time) []string {
	parent := noValue
	if ref := o.Spec.ParentRef; ref != nil {
		parent = strings.ToLower(schema.GroupResource{Group: ref.Group, Resource: ref.Resource}.String())
		if ref.Namespace != "" {
			parent += "/" + ref.Namespace
		}
		parent += "/" + ref.Name
	}
	return []string{o.Name, parent}
}

func networkPolicyCells(o *networkingv1.NetworkPolicy, now time.Time) []string {
	return []string{o.Name, metav1.FormatLabelSelector(&o.Spec.PodSelector), age(o.CreationTimestamp, now)}
}

func serviceCIDRCells(o *networkingv1.ServiceCIDR, now time.Time) []string {
	return []string{o.Name, strings.Join(o.Spec.CIDRs, ","), age(o.CreationTimestamp, now)}
}

func serviceCells(o *corev1.Service, now time.Time) []string {
	// clusterIPs is newer than clusterIP (1.20), from which kube-apiserver
	// fills it in on read.
	clusterIP := orNone(o.Spec.ClusterIP)
	if len(o.Spec.ClusterIPs) > 0 {
		clusterIP = o.Spec.ClusterIPs[0]
	}
	var ports []string
	for _, port := range o.Spec.Ports {
		text := count(port.Port)
		if port.NodePort > 0 {
			text += ":" + count(port.NodePort)
		}
		ports = append(ports, text+"/"+string(port.Protocol))
	}
	return []string{o.Name, string(o.Spec.Type), clusterIP, externalIP(o), orNone(strings.Join(ports, ",")),
		age(o.CreationTimestamp, now), labels.FormatLabels(o.Spec.Selector)}
}

func externalIP(o *corev1.Service) string {
	switch o.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orNone(strings.Join(o.Spec.ExternalIPs, ","))
	case corev1.ServiceTypeExternalName:
		return o.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var addresses []string
		for _, ingress := range o.Status.LoadBalancer.Ingress {
			addresses = append(addresses, or(ingress.IP, ingress.Hostname))
		}
		all := slices.Clone(o.Spec.ExternalIPs)
		if balanced := sortedAddresses(addresses); balanced != "" {
			all = append([]string{balanced}, all...)
		}
		return or(strings.Join(all, ","), "<pending>")
	}
	return unknownValue
}
