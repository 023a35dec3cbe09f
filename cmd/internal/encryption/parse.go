package encryption

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/apiserver"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxFile bounds a file, in bytes. A real one has a few hundred.
const maxFile = 1 << 20

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read encryption configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read encryption configuration: %w", err)
	case len(data) > maxFile:
		return nil, fmt.Errorf("encryption configuration %s: it is larger than 1 MiB", path)
	case len(strings.TrimSpace(string(data))) == 0:
		return nil, fmt.Errorf("encryption configuration %s: it is empty", path)
	}
	return data, nil
}

// parse decodes, defaults and checks a file as kube-apiserver does.
func parse(data []byte) (*apiserver.EncryptionConfiguration, error) {
	versioned, err := decode(data)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(apiserver.AddToScheme(scheme), apiserverv1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	scheme.Default(versioned)
	var file apiserver.EncryptionConfiguration
	if err := scheme.Convert(versioned, &file, nil); err != nil {
		return nil, errors.New("it cannot be converted to the form that kube-apiserver works with")
	}
	return &file, check(&file)
}

// decode is strict, as kube-apiserver is: it refuses what is misspelt or given
// twice. The texts of the decoders may quote keys, so none is passed on.
func decode(data []byte) (*apiserverv1.EncryptionConfiguration, error) {
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, yamlError(err)
	}
	var kind struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	err = kjson.UnmarshalCaseSensitivePreserveInts(asJSON, &kind)
	switch {
	case err != nil:
	case kind.APIVersion == apiserverv1.SchemeGroupVersion.String() && kind.Kind == "EncryptionConfiguration":
	case kind.APIVersion == "v1" && kind.Kind == "EncryptionConfig":
	default:
		err = errors.New("other kind")
	}
	if err != nil {
		return nil, fmt.Errorf("it is not of kind EncryptionConfiguration, apiVersion %s", apiserverv1.SchemeGroupVersion)
	}
	var file apiserverv1.EncryptionConfiguration
	strict, err := kjson.UnmarshalStrict(asJSON, &file)
	if err != nil {
		return nil, typeError(err)
	}
	var wrong []string
	for _, err := range strict {
		wrong = append(wrong, strictError(err))
	}
	if len(wrong) > 0 {
		return nil, errors.New(some(wrong, "; "))
	}
	return &file, nil
}

func yamlError(err error) error {
	text := err.Error()
	what := "it is neither YAML nor JSON"
	if strings.Contains(text, "already set in map") {
		what = "a field is given twice"
	}
	if line := regexp.MustCompile(`\bline (\d+)`).FindString(text); line != "" {
		what += " at " + line
	}
	return errors.New(what)
}

func typeError(err error) error {
	if mistyped := (*json.UnmarshalTypeError)(nil); errors.As(err, &mistyped) && mistyped.Field != "" {
		return fmt.Errorf("%s has a value of the wrong type", mistyped.Field)
	}
	return errors.New("a value is of the wrong type, or a timeout lacks its unit, as in 3s")
}

// strictError names an unknown field. A key may stand in its place, if a space
// is missing after "secret:", so only what looks like a field is quoted.
func strictError(err error) string {
	var named kjson.FieldError
	if !errors.As(err, &named) {
		return "unknown field"
	}
	path := regexp.MustCompile(`^((?:(?:resources|providers|keys)\[\d+\]|aesgcm|aescbc|secretbox|identity|kms)\.)*([a-zA-Z]{1,16})$`)
	if path.MatchString(named.FieldPath()) {
		return fmt.Sprintf("unknown field %q", named.FieldPath())
	}
	known := regexp.MustCompile(`^(?:(?:resources|providers|keys)\[\d+\]|aesgcm|aescbc|secretbox|identity|kms|\.)*`)
	if at := strings.Trim(known.FindString(named.FieldPath()), "."); at != "" {
		return "unknown field in " + at
	}
	return "unknown field at the top"
}

// check applies the rules of kube-apiserver. Of its errors the bad values are
// left out, because one is a whole provider.
func check(file *apiserver.EncryptionConfiguration) error {
	var wrong []string
	for _, err := range validation.ValidateEncryptionConfiguration(file, false) {
		if !onceValid(err) {
			wrong = append(wrong, fmt.Sprintf("%s: %s", err.Field, err.Detail))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return errors.New(some(wrong, "; "))
}

// onceValid tells an entry such as ingresses.extensions, which kube-apiserver
// refuses since 1.27. A file of an older cluster may hold one, and values
// written by it may still be there.
func onceValid(err *field.Error) bool {
	name, _ := err.BadValue.(string)
	if err.Type != field.ErrorTypeInvalid || name != strings.ToLower(name) || !strings.Contains(err.Field, "].resources[") {
		return false
	}
	group := schema.ParseGroupResource(name).Group
	return group == "extensions" || group == "events.k8s.io"
}
