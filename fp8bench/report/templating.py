"""The template engine: the only place that imports jinja2. Everything is escaped, and unknown names are errors."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from .. import paths
from . import markdown


@lru_cache
def _engine() -> Environment:
    return Environment(
        loader=FileSystemLoader(paths.TEMPLATES),
        autoescape=select_autoescape(enabled_extensions=("html.j2", "html"), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@lru_cache
def _markdown_engine() -> Environment:
    """Every value is escaped on its way out, unless a filter made it Markdown."""
    engine = _engine().overlay(autoescape=False, finalize=markdown.escape)
    engine.filters = engine.filters | {"code": markdown.code, "block": markdown.block}
    engine.globals = engine.globals | {"link": markdown.link}
    return engine


def template(name: str) -> Template:
    """A template below `templates/`; `*.html.j2` and `*.md.j2` escape what they are given, `*.txt.j2` is plain text."""
    return (_markdown_engine() if name.endswith(".md.j2") else _engine()).get_template(name)
