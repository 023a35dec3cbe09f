package codec

import "k8s.io/apimachinery/pkg/runtime"

func omittedFields(obj runtime.Object, raw []byte) []string { return nil }
