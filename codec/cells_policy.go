package codec

import (
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
)

// policyTables has who may do what: RBAC, admission and certificates.
func policyTables() map[string]table {
	const (
		admission    = ".admissionregistration.k8s.io"
		certificates = ".certificates.k8s.io"
		rbac         = ".rbac.authorization.k8s.io"
	)
	return map[string]table{
		"mutatingadmissionpolicies" + admission:         show("NAME,MUTATIONS,PARAMKIND,AGE", mutatingPolicyCells),
		"mutatingadmissionpolicybindings" + admission:   show("NAME,POLICYNAME,PARAMREF,AGE", mutatingBindingCells),
		"mutatingwebhookconfigurations" + admission:     show("NAME,WEBHOOKS,AGE", mutatingWebhookCells),
		"validatingadmissionpolicies" + admission:       show("NAME,VALIDATIONS,PARAMKIND,AGE", validatingPolicyCells),
		"validatingadmissionpolicybindings" + admission: show("NAME,POLICYNAME,PARAMREF,AGE", validatingBindingCells),
		"validatingwebhookconfigurations" + admission:   show("NAME,WEBHOOKS,AGE", validatingWebhookCells),
		"certificatesigningrequests" + certificates:     show("NAME,AGE,SIGNERNAME,REQUESTOR,REQUESTEDDURATION,CONDITION", signingRequestCells),
		"clustertrustbundles" + certificates:            show("NAME,SIGNERNAME", clusterTrustBundleCells),
		"podcertificaterequests" + certificates:         show("NAME,PODNAME,SERVICEACCOUNTNAME,NODENAME,SIGNERNAME,STATE,UNVERIFIEDUSERANNOTATIONS", podCertificateRequestCells),
		"clusterrolebindings" + rbac:                    show("NAME,ROLE,AGE,+USERS,+GROUPS,+SERVICEACCOUNTS", clusterRoleBindingCells),
		"clusterroles" + rbac:                           plain("NAME,CREATED AT"),
		"rolebindings" + rbac:                           show("NAME,ROLE,AGE,+USERS,+GROUPS,+SERVICEACCOUNTS", roleBindingCells),
		"roles" + rbac:                                  plain("NAME,CREATED AT"),
	}
}

func mutatingPolicyCells(o *admissionv1.MutatingAdmissionPolicy, now time.Time) []string {
	return []string{o.Name, count(len(o.Spec.Mutations)), paramKind(o.Spec.ParamKind), age(o.CreationTimestamp, now)}
}

func mutatingBindingCells(o *admissionv1.MutatingAdmissionPolicyBinding, now time.Time) []string {
	return []string{o.Name, o.Spec.PolicyName, paramRef(o.Spec.ParamRef), age(o.CreationTimestamp, now)}
}

func mutatingWebhookCells(o *admissionv1.MutatingWebhookConfiguration, now time.Time) []string {
	return []string{o.Name, count(len(o.Webhooks)), age(o.CreationTimestamp, now)}
}

func validatingPolicyCells(o *admissionv1.ValidatingAdmissionPolicy, now time.Time) []string {
	return []string{o.Name, count(len(o.Spec.Validations)), paramKind(o.Spec.ParamKind), age(o.CreationTimestamp, now)}
}

func validatingBindingCells(o *admissionv1.ValidatingAdmissionPolicyBinding, now time.Time) []string {
	return []string{o.Name, o.Spec.PolicyName, paramRef(o.Spec.ParamRef), age(o.CreationTimestamp, now)}
}

func validatingWebhookCells(o *admissionv1.ValidatingWebhookConfiguration, now time.Time) []string {
	return []string{o.Name, count(len(o.Webhooks)), age(o.CreationTimestamp, now)}
}

func paramKind(kind *admissionv1.ParamKind) string {
	if kind == nil {
		return unsetValue
	}
	return kind.APIVersion + "/" + kind.Kind
}

// paramRef shows a star for the namespace of the object that is admitted.
func paramRef(ref *admissionv1.ParamRef) string {
	switch {
	case ref == nil:
		return unsetValue
	case ref.Name != "":
		return or(ref.Namespace, "*") + "/" + ref.Name
	case ref.Selector != nil:
		return ref.Selector.String()
	}
	return unsetValue
}

func clusterRoleBindingCells(o *rbacv1.ClusterRoleBinding, now time.Time) []string {
	return bindingCells(o, o.RoleRef, o.Subjects, now)
}

func roleBindingCells(o *rbacv1.RoleBinding, now time.Time) []string {
	return bindingCells(o, o.RoleRef, o.Subjects, now)
}

func bindingCells(o metav1.Object, role rbacv1.RoleRef, subjects []rbacv1.Subject, now time.Time) []string {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []string{o.GetName(), role.Kind + "/" + role.Name, age(o.GetCreationTimestamp(), now),
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", ")}
}

func signingRequestCells(o *certificatesv1.CertificateSigningRequest, now time.Time) []string {
	requested := noValue
	if o.Spec.ExpirationSeconds != nil {
		requested = duration.HumanDuration(time.Duration(*o.Spec.ExpirationSeconds) * time.Second)
	}
	return []string{o.Name, age(o.CreationTimestamp, now), orNone(o.Spec.SignerName), o.Spec.Username, requested, signingStatus(&o.Status)}
}

func signingStatus(s *certificatesv1.CertificateSigningRequestStatus) string {
	has := map[certificatesv1.RequestConditionType]bool{}
	for i := range s.Conditions {
		has[s.Conditions[i].Type] = true
	}
	status := "Pending"
	switch {
	case has[certificatesv1.CertificateDenied]:
		status = "Denied"
	case has[certificatesv1.CertificateApproved]:
		status = "Approved"
	}
	if has[certificatesv1.CertificateFailed] {
		status += ",Failed"
	}
	if len(s.Certificate) > 0 {
		status += ",Issued"
	}
	return status
}

func clusterTrustBundleCells(o *certificatesv1.ClusterTrustBundle, _ time.Time) []string {
	return []string{o.Name, orNone(o.Spec.SignerName)}
}

func podCertificateRequestCells(o *certificatesv1.PodCertificateRequest, _ time.Time) []string {
	state := "Pending"
	for i := range o.Status.Conditions {
		switch t := o.Status.Conditions[i].Type; t {
		case certificatesv1.PodCertificateRequestConditionTypeIssued,
			certificatesv1.PodCertificateRequestConditionTypeDenied,
			certificatesv1.PodCertificateRequestConditionTypeFailed:
			state = t
		}
	}
	return []string{o.Name, o.Spec.PodName, o.Spec.ServiceAccountName, string(o.Spec.NodeName), o.Spec.SignerName, state,
		labels.FormatLabels(o.Spec.UnverifiedUserAnnotations)}
}
