"""The documentation builds strictly, its links hold, and it shows nothing that isn't true."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs", reason="the extra `docs` isn't installed")
pytestmark = pytest.mark.heavy

ROOT = Path(__file__).resolve().parents[2]
RESOURCES = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src")}
"""What a browser loads with a page."""


class Links(HTMLParser):
    """What a page points to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name in ("id", "name"):
                self.anchors.add(value)
            if name in ("href", "src"):
                self.targets.add(value)
            if (tag, name) in RESOURCES and ("rel", "canonical") not in attrs:
                self.loaded.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    built = subprocess.run([*command, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    """Every page, with its links."""
    return {
        page: Links(page.read_text(encoding="utf-8"))
        for page in sorted(site.rglob("*.html"))
        if page.name != "404.html"
    }


def test_every_link_of_the_site_leads_to_a_page_and_an_anchor_that_exist(pages):
    broken = []
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not file.is_file() or (
                file.suffix == ".html"
                and unquote(parts.fragment)
                not in {
                    "",
                    *pages[file].anchors,
                }
            ):
                broken.append(f"{page.name}: {target}")
    assert not broken


def test_no_page_loads_anything_from_a_network(pages):
    remote = {
        f"{page.name}: {target}"
        for page, links in pages.items()
        for target in links.loaded
        if urlsplit(target).scheme or urlsplit(target).netloc
    }
    assert not remote


def test_every_command_and_every_section_of_the_config_has_its_place_in_the_reference(site):
    import typer

    from distill_ray.cli.main import app
    from distill_ray.config import RunConfig

    def commands(command, name: str) -> set[str]:
        children = getattr(command, "commands", {})
        names = {name} if name else set()
        return names.union(*(commands(c, f"{name} {n}".strip()) for n, c in children.items()))

    reference = Links((site / "reference" / "cli.html").read_text(encoding="utf-8"))
    expected = {
        f"distill-ray-{c}".replace(" ", "-") for c in commands(typer.main.get_command(app), "")
    }
    assert expected <= reference.anchors
    config = Links((site / "reference" / "config.html").read_text(encoding="utf-8"))
    assert set(RunConfig.model_fields) - {"name", "storage", "seed"} <= config.anchors


def test_formulas_are_drawn_without_a_script(site):
    formulas = []
    for page in site.glob("concepts/*.html"):
        text = page.read_text(encoding="utf-8")
        assert "arithmatex" not in text
        formulas += re.findall(r"<math.*?</math>", text, re.DOTALL)
    assert len(formulas) > 20
    assert not [formula for formula in formulas if "\\" in formula]  # A command it doesn't know.


def test_every_test_that_a_page_names_exists():
    missing = []
    for page in (ROOT / "docs").rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        heading = ""
        for line in text.splitlines():
            if match := re.search(r"shown by `(tests/\S+?\.py)::`", line):
                heading = match[1]
            for path, name in re.findall(r"(tests/[\w/]+\.py)(?:::(test_\w+))?", line):
                file = ROOT / path
                if not file.is_file() or (name and f"def {name}(" not in file.read_text()):
                    missing.append(f"{page.name}: {path}::{name}")
            if line.startswith("|") and heading:
                for name in re.findall(r"`(test_\w+)`", line):
                    if f"def {name}(" not in (ROOT / heading).read_text():
                        missing.append(f"{page.name}: {heading}::{name}")
            if not line.startswith("|"):
                heading = ""
    assert not missing
