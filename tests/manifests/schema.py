"""Accepts and refuses objects as an API server does that has the CRD: schema, then CEL rules.

Patterns run in RE2, as they do there, CEL in celpy; `quantity()` and its methods, Kubernetes' own
additions, come from agent.core.quantity.
"""

import re
from pathlib import Path

import celpy
import re2
import yaml
from celpy import celtypes

from agent.core.quantity import parse_quantity
from agent.core.validation import MEMORY_PATTERN

CRD = Path(__file__).parents[2] / "config/crd/bases/serving.kserve.io_trainedmodels.yaml"


def load_crd():
    return yaml.safe_load(CRD.read_text())


def _is_quantity(text):
    try:
        parse_quantity(str(text))
    except ValueError:
        return celtypes.BoolType(False)
    return celtypes.BoolType(re.fullmatch(MEMORY_PATTERN[1:-1], str(text)) is not None)


FUNCTIONS = {
    "isQuantity": _is_quantity,
    "quantity": lambda text: celtypes.IntType(0) if not _is_quantity(text) else _Quantity(text),
    "isGreaterThan": lambda one, two: celtypes.BoolType(one.value > two.value),
    "compareTo": lambda one, two: celtypes.IntType((one.value > two.value) - (one.value < two.value)),
}


class _Quantity(celtypes.StringType):
    @property
    def value(self):
        return parse_quantity(str(self))


class Schema:
    def __init__(self):
        crd = load_crd()
        self.root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        self._environment = celpy.Environment()
        self._programs = {}

    def errors(self, obj, old=None):
        """Return every reason to refuse, empty where the object would be stored."""
        found = list(self._structure(self.root, obj, ""))
        name = obj.get("metadata", {}).get("name", "")
        if not 0 < len(name) <= 253:
            found.append("metadata.name: length")  # the API server's own check
        if not found:
            found = list(self._rules(self.root, obj, old, ""))
        return found

    def _structure(self, schema, value, path):
        problem = self._type_problem(schema, value) or self._text_problem(schema, value)
        if problem:
            yield f"{path}: {problem}"
            return
        for key in schema.get("required", ()):
            if key not in value:
                yield f"{path}.{key}: required"
        for key, inner in schema.get("properties", {}).items():
            if isinstance(value, dict) and key in value:
                yield from self._structure(inner, value[key], f"{path}.{key}")

    @staticmethod
    def _type_problem(schema, value):
        if schema.get("x-kubernetes-int-or-string"):
            fits = type(value) is str or (type(value) is int and -(2**63) <= value < 2**63)
            return None if fits else "neither integer nor string"
        kinds = {"object": dict, "string": str, "integer": int, "array": list}
        return None if isinstance(value, kinds[schema["type"]]) else f"not {schema['type']}"

    @staticmethod
    def _text_problem(schema, value):
        if not isinstance(value, str):
            return None
        if len(value) > schema.get("maxLength", 1 << 60):
            return "too long"
        return None if re2.search(schema.get("pattern", ""), value) else "pattern"

    def _rules(self, schema, value, old, path):
        for rule in schema.get("x-kubernetes-validations", ()):
            if "oldSelf" in rule["rule"] and old is None:
                continue
            names = {"self": value} | ({"oldSelf": old} if old is not None else {})
            if not self._evaluate(rule["rule"], names):
                yield str(rule.get("message") or self._evaluate(rule["messageExpression"], names))
        for key, inner in schema.get("properties", {}).items():
            if isinstance(value, dict) and key in value:
                before = old.get(key) if isinstance(old, dict) else None
                yield from self._rules(inner, value[key], before, f"{path}.{key}")

    def _evaluate(self, text, names):
        if text not in self._programs:
            compiled = self._environment.compile(text)
            self._programs[text] = self._environment.program(compiled, functions=FUNCTIONS)
        return self._programs[text].evaluate({key: celpy.json_to_cel(value) for key, value in names.items()})
