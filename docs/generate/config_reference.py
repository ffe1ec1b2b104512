"""The reference of the config, from the JSON Schema of its sections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from distill_ray.config import RunConfig
from distill_ray.config.study import STUDIES
from distill_ray.config.training import TrainingConfig

Schema = Mapping[str, Any]
RUN_INTRO = """# Run config

One YAML file is one run. This page is generated from the schema of {version}; `distill-ray schema`
prints the schema itself, which editors use for completion. Unknown keys are errors. Numbers may be
written `2M`, `1e5`, `64k` (1,000) or `64Ki` (1,024). `--set section.key=value` overrides any key.
"""
STUDY_INTRO = """# Study config

One YAML file is one study, for `distill-ray study KIND FILE`. Generated from the schemas that
`distill-ray schema --study KIND` prints. `run` and `domains` hold the sections of a
[run config](config.md).
"""
TRAINING = "training"
"""The place of the keys that all trainings share."""


@dataclass(frozen=True)
class Key:
    """One key of a section, as a reader sees it."""

    name: str
    type: str
    default: str
    text: str


def run_page() -> str:
    """The reference of a run's config as Markdown."""
    from distill_ray import __version__

    reference = Reference(RunConfig)
    return "\n".join([RUN_INTRO.format(version=__version__), *reference.sections()])


def study_page() -> str:
    """The reference of the studies' configs as Markdown."""
    parts = [STUDY_INTRO]
    for kind, section in STUDIES.items():
        parts += Reference(section, prefix=f"{kind}: ").sections()
    return "\n".join(parts)


def undescribed(section: type[BaseModel]) -> list[str]:
    """Every key below a section that has no description."""
    reference = Reference(section)
    return [
        f"{name}.{key.name}"
        for name in reference.definitions
        for key in reference.keys(name)
        if not key.text
    ]


class Reference:
    """The sections that one config is made of."""

    def __init__(self, root: type[BaseModel], prefix: str = "") -> None:
        self.prefix = prefix
        schema, training = root.model_json_schema(), TrainingConfig.model_json_schema()
        self.shared = training["properties"]
        self.definitions: dict[str, Any] = {root.__name__: schema, **schema.get("$defs", {})}
        self.places: dict[str, str] = {}
        self._place(root.__name__, "")
        if any(self._is_training(name) for name in self.definitions):
            self.definitions |= {**training.get("$defs", {}), TrainingConfig.__name__: training}
            self._place(TrainingConfig.__name__, TRAINING)

    def _place(self, name: str, place: str) -> None:
        """Note where in the file a section stands, and those in it.

        Of several places the shallowest counts, and of equally deep ones the last parent's.
        """
        known, parent = self.places.get(name, place), place.rpartition(".")[0]
        deeper = place.count(".") - known.count(".")
        if deeper < 0 or (deeper == 0 and known.rpartition(".")[0] != parent) or place == known:
            self.places[name] = place
        for key, schema in self._own_properties(name).items():
            suffix = ".*" if schema.get("type") in ("array", "object") else ""
            for child in dict.fromkeys(references(schema)):
                self._place(child, f"{place}.{key}{suffix}".lstrip("."))

    def sections(self) -> list[str]:
        """A section of the page for each section of the config, in the order of the file."""
        root = next(iter(self.definitions))
        order = ["", *self.definitions[root]["properties"], TRAINING]

        def position(name: str) -> tuple[int, int]:
            place = self.places[name]
            return order.index(place.split(".")[0]), place.replace(".*", "").count(".")

        return [self.section(name) for name in sorted(self.places, key=position)]

    def _kind(self, name: str) -> str:
        """What the key `kind` must be in a section that is one of several."""
        kind = self.definitions[name].get("properties", {}).get("kind", {})
        return str(kind.get("const", ""))

    def _title(self, name: str) -> str:
        place, kind = self.places[name], self._kind(name)
        if place == TRAINING:
            return "Any training section"
        return f"{self.prefix}{place or 'Top level'}{f': {kind}' if kind else ''}"

    def _anchor(self, name: str) -> str:
        place = self.places[name].replace(".*", "") or "top-level"
        parts = self.prefix.strip(": "), place, self._kind(name)
        return "-".join(part for part in parts if part).replace(".", "-")

    def section(self, name: str) -> str:
        """A heading, what the section is, and a table of its keys."""
        title = self._title(name).replace("*", r"\*")
        level = "###" if "." in self.places[name].replace(".*", "") else "##"
        text = str(self.definitions[name].get("description", "")).strip()
        lines = [f"{level} {title} {{#{self._anchor(name)}}}", "", text, ""]
        if self._is_training(name):
            lines += [f"Also takes the keys of [any training section](#{TRAINING}).", ""]
        keys = self.keys(name)
        if keys:
            lines += ["| key | type | default | |", "|---|---|---|---|"]
            lines += [f"| `{k.name}` | {k.type} | {k.default} | {k.text} |" for k in keys]
        return "\n".join(lines) + "\n"

    def _is_training(self, name: str) -> bool:
        properties = self.definitions[name].get("properties", {})
        return name != TrainingConfig.__name__ and self.shared.keys() <= properties.keys()

    def _own_properties(self, name: str) -> dict[str, Schema]:
        """The keys of a section; a training's shared ones only where they differ."""
        shared = self.shared if self._is_training(name) else {}
        properties = self.definitions[name].get("properties", {})
        return {key: schema for key, schema in properties.items() if schema != shared.get(key)}

    def keys(self, name: str) -> list[Key]:
        """The keys of a section, as a reader sees them."""
        required = self.definitions[name].get("required", ())
        return [
            Key(key, self._type(schema), self._default(schema, key in required), self._text(schema))
            for key, schema in self._own_properties(name).items()
        ]

    def _text(self, schema: Schema) -> str:
        """A key's description, or the first line of the section that it holds."""
        text = schema.get("description", "")
        if "const" in schema and not text:
            return "Names the section."
        for child in references(schema) if not text else ():
            text = str(self.definitions[child].get("description", "")).split("\n\n")[0]
        return _cell(text)

    def _default(self, schema: Schema, required: bool) -> str:
        if required:
            return "**required**"
        default = schema.get("default")
        if default is None or (isinstance(default, dict) and default):
            return ""
        if default in ([], {}):
            return "none"
        return f"`{_yaml(default)}`"

    def _type(self, schema: Schema) -> str:
        """A type in words, with links to sections."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if "properties" not in self.definitions[name]:
                return self._type(self.definitions[name])
            last = self.places[name].replace(".*", "").rpartition(".")[2]
            return f"[{self._kind(name) or last}](#{self._anchor(name)})"
        for union in ("anyOf", "oneOf"):
            if union in schema:
                parts = [self._type(s) for s in schema[union] if s.get("type") != "null"]
                return " or ".join(dict.fromkeys(parts))
        if "const" in schema:
            return f"`{schema['const']}`"
        if "enum" in schema:
            return ", ".join(f"`{value}`" for value in schema["enum"])
        return self._plain_type(schema)

    def _plain_type(self, schema: Schema) -> str:
        kind = schema.get("type")
        if kind == "array":
            items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
            return f"list of {self._type(items)}"
        if kind == "object":
            values = schema.get("additionalProperties")
            return f"mapping to {self._type(values)}" if isinstance(values, dict) else "mapping"
        words = {
            "integer": "integer",
            "number": "number",
            "string": "text",
            "boolean": "true/false",
        }
        return words.get(str(kind), "any") + _bounds(schema)


def references(schema: Any) -> Iterator[str]:
    """Names of the sections that a schema points to, at any depth."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for key, value in schema.items():
            if key not in ("default", "discriminator"):
                yield from references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from references(item)


def _bounds(schema: Schema) -> str:
    signs = (
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("exclusiveMaximum", "<"),
    )
    found = [f"{sign} {schema[name]}" for name, sign in signs if name in schema]
    return f" {', '.join(found)}" if found else ""


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    if isinstance(value, str):
        return repr(value).strip("'") if value and "\\" not in repr(value) else repr(value)
    return str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
