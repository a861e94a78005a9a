"""The template engine: the only place that imports jinja2. Everything is escaped, and unknown names are errors."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from .. import paths


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


def template(name: str) -> Template:
    """A template below `templates/`; `*.html.j2` escapes what it is given, `*.txt.j2` is plain text."""
    return _engine().get_template(name)
