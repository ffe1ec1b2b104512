"""What the site generates while it builds: references, pages from the root, formulas."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

import api_reference
import cli_reference
import config_reference
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
FROM_ROOT = {
    "contributing/index.md": "CONTRIBUTING.md",
    "contributing/architecture.md": "ARCHITECTURE.md",
    "contributing/changelog.md": "CHANGELOG.md",
    "how-to/cluster-files.md": "cluster/README.md",
}
"""Page of the site → the file of the repository that it shows."""
API = "reference/api"
LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)")
FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each package of the Python API where the navigation names the API."""

    def expand(item: Any) -> Any:
        if isinstance(item, list):
            return [expand(part) for part in item]
        if isinstance(item, dict):
            return {
                title: sorted(api_reference.pages(API)) if part == API else expand(part)
                for title, part in item.items()
            }
        return item

    config.nav = expand(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/config.md": config_reference.run_page(),
        "reference/study-config.md": config_reference.study_page(),
        "reference/cli.md": cli_reference.page(),
        **api_reference.pages(API),
        **{page: from_root(page, source) for page, source in FROM_ROOT.items()},
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def from_root(page: str, source: str) -> str:
    """A file of the repository as a page: links into docs/ hold, others become plain text."""
    on_site = {shown: place for place, shown in FROM_ROOT.items()}

    def link(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            return match[0]
        path, hash_sign, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if path.startswith("docs/"):
            path = path.removeprefix("docs/")
        elif path in on_site:
            path = on_site[path]
        else:
            return text
        relative = posixpath.relpath(path, posixpath.dirname(page))
        return f"{image}[{text}]({relative}{hash_sign}{anchor})"

    return LINK.sub(link, (ROOT / source).read_text(encoding="utf-8"))


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw without a script."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match["tag"] == "div" else "inline"
        return convert(html.unescape(match["tex"]).strip(), display=display)

    return FORMULA.sub(formula, content)
