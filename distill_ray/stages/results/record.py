"""The base of every result file's model: one pydantic class describes one JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from distill_ray.config.errors import Problem, did_you_mean
from distill_ray.runtime.artifacts import Artifact, Building
from distill_ray.runtime.checksums import REBUILD, DamagedError
from distill_ray.runtime.manifest import MANIFEST, read_file
from distill_ray.runtime.storage import Storage

if TYPE_CHECKING:
    from typing_extensions import Self

INVALID = "result file invalid:"


class Record(BaseModel):
    """A JSON file of an artifact, or a part of one.

    A record is frozen and refuses unknown fields. Fields have no defaults, so that a missing one
    fails where the file is read. Dataclasses may be field types: they are checked alike. Numbers
    may be NaN or infinite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def read(cls, artifact: Artifact, name: str) -> Self:
        """Read and check a file of an artifact.

        Raises:
            DamagedError: the file isn't what was written, or a field is missing, unknown or of
                another type.
        """
        return cls.read_from(artifact.folder, name)

    @classmethod
    def of_counts(cls, artifact: Artifact) -> Self:
        """Check the counts in an artifact's manifest, see `read`."""
        with _named_problems(f"{artifact.uri}/{MANIFEST}: counts", artifact.uri):
            return cls.model_validate(artifact.manifest().counts, strict=True)

    @classmethod
    def read_from(cls, folder: Storage, name: str) -> Self:
        """Read and check a file in an artifact's folder, see `read`."""
        return cls.parse(read_file(folder, name), folder.sub(name).uri, folder.uri)

    @classmethod
    def parse(cls, data: bytes, place: str, folder: str) -> Self:
        """Check JSON text.

        Args:
            data: the text.
            place: where it is, for the error.
            folder: what an operator removes to have it made again.

        Raises:
            DamagedError: a field is missing, unknown or of another type.
        """
        with _named_problems(place, folder):
            # Strict: `"3"` isn't a number. From the bytes, which is faster than json.loads.
            return cls.model_validate_json(data, strict=True)

    def write(self, building: Building, name: str) -> None:
        """Add this record to an artifact as a JSON file; NumPy numbers become plain ones."""
        building.write_json(name, self.model_dump(warnings=False))


@contextmanager
def _named_problems(place: str, folder: str) -> Iterator[None]:
    """Turn a failed validation into an error that names the place, and the folder to remove."""
    try:
        yield
    except ValidationError as error:
        problems = list(_problems(error, place))
        fix = f"{problems[-1].fix} {REBUILD.format(folder=folder)}".strip()
        problems[-1] = Problem(problems[-1].where, problems[-1].what, fix)
        raise DamagedError(INVALID, problems) from None


def _problems(error: ValidationError, place: str) -> Iterator[Problem]:
    """One problem for each field, in the words of a config's."""
    errors: list[Any] = error.errors(include_url=False)
    siblings: dict[tuple[int | str, ...], list[str]] = {}
    for each in errors:
        if each["type"] == "missing":
            siblings.setdefault(each["loc"][:-1], []).append(str(each["loc"][-1]))
    for each in errors:
        field = ".".join(map(str, each["loc"]))
        where = f"{place}: {field}" if field else place
        if each["type"] == "missing":
            yield Problem(where, "missing field.")
        elif each["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            missing = siblings.get(each["loc"][:-1], [])
            yield Problem(where, "unknown field.", did_you_mean(str(each["loc"][-1]), missing))
        else:
            yield Problem(where, f"{each['msg']}, got {str(each['input'])[:60]!r}.")
