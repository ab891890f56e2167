// Judges with Kubernetes' own code: `judge quantity` reads a JSON array of texts and tells how each is
// read and printed; `judge crd FILE` validates a CRD and then objects ({"obj", "old"}) against it.
package main

import (
	"context"
	"encoding/json"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	servervalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

type question struct {
	Obj map[string]interface{} `json:"obj"`
	Old map[string]interface{} `json:"old"`
}

type verdict struct {
	Crd     []string   `json:"crd"`
	Objects [][]string `json:"objects"`
}

func main() {
	if os.Args[1] == "quantity" {
		quantities()
		return
	}
	crd(os.Args[2])
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func quantities() {
	var texts []string
	must(json.NewDecoder(os.Stdin).Decode(&texts))
	out := [][]string{}
	for _, text := range texts {
		quantity, err := resource.ParseQuantity(text)
		if err != nil {
			out = append(out, nil)
			continue
		}
		format := quantity.Format
		quantity.Add(resource.Quantity{Format: format}) // drops the text that it remembers
		number, suffix := quantity.CanonicalizeBytes(nil)
		out = append(out, []string{string(number) + string(suffix), string(format)})
	}
	must(json.NewEncoder(os.Stdout).Encode(out))
}

func crd(path string) {
	raw, err := os.ReadFile(path)
	must(err)
	var versioned v1.CustomResourceDefinition
	must(yaml.UnmarshalStrict(raw, &versioned))
	scheme := runtime.NewScheme()
	install.Install(scheme)
	scheme.Default(&versioned)
	var internal apiextensions.CustomResourceDefinition
	must(scheme.Convert(&versioned, &internal, nil))
	internal.Status.StoredVersions = []string{versioned.Spec.Versions[0].Name}
	ctx := context.Background()
	found := verdict{Crd: []string{}, Objects: [][]string{}}
	for _, fault := range validation.ValidateCustomResourceDefinition(ctx, &internal) {
		found.Crd = append(found.Crd, fault.Error())
	}
	schema := internal.Spec.Versions[0].Schema
	if schema == nil {
		schema = internal.Spec.Validation
	}
	validator, _, err := servervalidation.NewSchemaValidator(schema.OpenAPIV3Schema)
	must(err)
	structural, err := structuralschema.NewStructural(schema.OpenAPIV3Schema)
	must(err)
	rules := cel.NewValidator(structural, true, celconfig.PerCallLimit)
	var questions []question
	must(json.NewDecoder(os.Stdin).Decode(&questions))
	for _, asked := range questions {
		faults := []string{}
		whole(asked.Obj)
		for _, fault := range servervalidation.ValidateCustomResource(nil, asked.Obj, validator) {
			faults = append(faults, fault.Error())
		}
		if len(faults) == 0 {
			var old interface{}
			if asked.Old != nil {
				old = whole(asked.Old)
			}
			budget := int64(celconfig.RuntimeCELCostBudget)
			refused, _ := rules.Validate(ctx, field.NewPath(""), structural, asked.Obj, old, budget)
			for _, fault := range refused {
				faults = append(faults, fault.Error())
			}
		}
		found.Objects = append(found.Objects, faults)
	}
	must(json.NewEncoder(os.Stdout).Encode(found))
}

// whole makes whole numbers integers, as the API server's own decoder does.
func whole(value interface{}) interface{} {
	switch typed := value.(type) {
	case map[string]interface{}:
		for key, inner := range typed {
			typed[key] = whole(inner)
		}
	case []interface{}:
		for index, inner := range typed {
			typed[index] = whole(inner)
		}
	case float64:
		if typed == float64(int64(typed)) && typed < 9e18 && typed > -9e18 {
			return int64(typed)
		}
	}
	return value
}
