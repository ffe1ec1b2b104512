"""A valid config, changed by one thing at a time."""

from pathlib import Path

import pytest
import yaml

from distill_ray.config import InputError, RunConfig, load_config

MINIMAL = Path(__file__).parent / "minimal.yaml"


class Editor:
    """Loads the minimal config with values put in or taken out by dotted path."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.yaml"

    def load(self, changes=None, *, drop=(), overrides=()) -> RunConfig:
        data = yaml.safe_load(MINIMAL.read_text())
        for path, value in (changes or {}).items():
            node, last = _parent(data, path)
            node[last] = value
        for path in drop:
            node, last = _parent(data, path)
            del node[last]
        self.path.write_text(yaml.safe_dump(data))
        return load_config(self.path, overrides)

    def problems(self, changes=None, **how) -> list[str]:
        """What is wrong with the changed config, a line a problem."""
        with pytest.raises(InputError) as caught:
            self.load(changes, **how)
        return [str(problem) for problem in caught.value.problems]


def _parent(data, path):
    *parents, last = (int(p) if p.isdigit() else p for p in path.split("/"))
    for part in parents:
        data = data[part]
    return data, last


@pytest.fixture
def editor(tmp_path) -> Editor:
    return Editor(tmp_path)
