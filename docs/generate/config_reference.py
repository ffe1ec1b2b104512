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
"""Anchor of the keys that all trainings share."""


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
    shared = reference.section(TrainingConfig.__name__, "Any training section", TRAINING)
    intro = RUN_INTRO.format(version=__version__)
    return "\n".join([intro, *reference.sections(RunConfig), shared])


def study_page() -> str:
    """The reference of the studies' configs as Markdown."""
    parts = [STUDY_INTRO]
    for kind, section in STUDIES.items():
        parts += Reference(section, prefix=f"{kind}: ").sections(section)
    return "\n".join(parts)


def undescribed(section: type[BaseModel]) -> list[str]:
    """Every key below a section that has no description."""
    reference = Reference(section)
    return [
        f"{name}.{key.name}"
        for name in [section.__name__, *reference.definitions]
        for key in reference.keys(name)
        if not key.text
    ]


class Reference:
    """The sections that one config is made of."""

    def __init__(self, root: type[BaseModel], prefix: str = "") -> None:
        self.prefix = prefix
        self.schema = root.model_json_schema()
        self.definitions: dict[str, Any] = self.schema.get("$defs", {})
        training = TrainingConfig.model_json_schema()
        self.training = training["properties"]
        self.definitions = {
            **self.definitions,
            **(training.get("$defs", {}) if root is RunConfig else {}),
            root.__name__: self.schema,
        }
        if root is RunConfig:
            self.definitions[TrainingConfig.__name__] = training
        self.places = dict(self._places(root.__name__, ""))

    def _places(self, name: str, place: str) -> Iterator[tuple[str, str]]:
        """Each section, with the first place in the file where it stands; parents first."""
        queue, known = [(name, place)], {name}
        while queue:
            name, place = queue.pop(0)
            yield name, place
            for key, schema in self.definitions[name]["properties"].items():
                suffix = "" if schema.get("type") not in ("array", "object") else ".*"
                for child in dict.fromkeys(references(schema)):
                    if child not in known:
                        known.add(child)
                        queue.append((child, f"{place}.{key}{suffix}".lstrip(".")))

    def sections(self, root: type[BaseModel]) -> list[str]:
        """A section of the page for each section of the config, in the order of the file."""
        order = list(self.definitions[root.__name__]["properties"])

        def position(item: tuple[str, str]) -> int:
            head = item[1].split(".")[0]
            return order.index(head) if head else -1

        placed = sorted(self.places.items(), key=position)
        return [
            self.section(name, self._title(name, place), self._anchor(name))
            for name, place in placed
        ]

    def _title(self, name: str, place: str) -> str:
        kind = self.definitions[name]["properties"].get("kind", {}).get("const")
        title = f"{place or 'Top level'}" + (f": {kind}" if kind else "")
        return f"{self.prefix}{title}"

    def _anchor(self, name: str) -> str:
        place = self.places.get(name, TRAINING).replace(".*", "") or "top-level"
        kind = self.definitions[name].get("properties", {}).get("kind", {}).get("const", "")
        return "-".join(part for part in (self.prefix.strip(": "), place, kind) if part).replace(
            ".", "-"
        )

    def section(self, name: str, title: str, anchor: str) -> str:
        """A heading, what the section is, and a table of its keys."""
        definition = self.definitions[name]
        level = "##" if "." not in title else "###"
        text = str(definition.get("description", "")).strip()
        lines = [f"{level} {title.replace('*', chr(92) + '*')} {{#{anchor}}}", "", text, ""]
        if self._is_training(name):
            lines += [f"Also takes the keys of [any training section](#{TRAINING}).", ""]
        lines += ["| key | type | default | |", "|---|---|---|---|"]
        lines += [f"| `{k.name}` | {k.type} | {k.default} | {k.text} |" for k in self.keys(name)]
        return "\n".join(lines) + "\n"

    def _is_training(self, name: str) -> bool:
        properties = self.definitions[name].get("properties", {})
        return name != TrainingConfig.__name__ and self.training.keys() <= properties.keys()

    def keys(self, name: str) -> list[Key]:
        """The keys of a section; a training's shared ones only where they differ."""
        definition = self.definitions[name]
        required = definition.get("required", ())
        shared = self.training if self._is_training(name) else {}
        return [
            Key(key, self._type(schema), self._default(schema, key in required), self._text(schema))
            for key, schema in definition.get("properties", {}).items()
            if schema != shared.get(key)
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
            definition = self.definitions[name]
            kind = definition.get("properties", {}).get("kind", {}).get("const")
            if "properties" not in definition:
                return self._type(definition)
            return f"[{kind or _place_of(self.places.get(name, name))}](#{self._anchor(name)})"
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


def _place_of(place: str) -> str:
    return place.replace(".*", "").rpartition(".")[2] or "section"


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
