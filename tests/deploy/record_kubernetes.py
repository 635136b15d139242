"""Writes `kubernetes_fields.json`: which fields the Kubernetes types have that the manifests are made of.

The published schemas of all versions are 70 MB in the package kubernetes-validate; of what is used here,
names and types are enough. To write it again, for another version of Kubernetes::

    pip install kubernetes-validate
    python tests/deploy/record_kubernetes.py 1.29.0
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

KINDS = (
    "io.k8s.api.core.v1.Namespace",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.core.v1.PersistentVolumeClaim",
    "io.k8s.api.apps.v1.StatefulSet",
    "io.k8s.api.policy.v1.PodDisruptionBudget",
    "io.k8s.api.networking.v1.NetworkPolicy",
)


def kind_of(schema: dict[str, Any]) -> Any:
    """A field's type: a name of a type, ``[type]``, ``{"*": type}``, or one of JSON's."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    kind = schema.get("type", "any")
    kind = next(one for one in kind if one != "null") if isinstance(kind, list) else kind
    if kind == "array":
        return [kind_of(schema["items"])]
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return {"*": kind_of(schema["additionalProperties"])}
    return kind


def names_in(kind: Any) -> list[str]:
    """The types that a field's type mentions."""
    if isinstance(kind, str):
        return [kind]
    return names_in(kind[0] if isinstance(kind, list) else kind["*"])


def main(version: str) -> None:
    """Take the types of one version, and all that they mention."""
    spec = find_spec("kubernetes_validate")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install kubernetes-validate")
    folder = Path(spec.origin).parent / "kubernetes-json-schema" / f"v{version}-local"
    known = json.loads((folder / "_definitions.json").read_text())["$defs"]
    found: dict[str, Any] = {}
    waiting = list(KINDS)
    while waiting:
        name = waiting.pop()
        if name in found or name not in known:
            continue
        schema = known[name]
        fields = {key: kind_of(value) for key, value in schema.get("properties", {}).items()}
        one_of = schema.get("oneOf", [])
        plain = [choice["type"] for choice in one_of if "type" in choice] or schema.get("type")
        found[name] = (
            {"fields": fields, "required": schema.get("required", [])} if fields else {"plain": plain}
        )
        waiting += [mentioned for kind in fields.values() for mentioned in names_in(kind)]
    table = {"version": version, "types": dict(sorted(found.items()))}
    target = Path(__file__).with_name("kubernetes_fields.json")
    target.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
