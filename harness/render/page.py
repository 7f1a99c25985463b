"""What all pages share. In: a template and what it shows. Out: one HTML file that needs no network.

Whatever is put into a page is escaped and has no control characters. Its policy forbids everything from outside, and
of scripts and styles everything but the very bytes that stand in the page.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.plain import clean, tail
from harness.render.numbers import (
    compared,
    is_nothing,
    number,
    percent,
    ratio_text,
    share_words,
    tap_figure,
    worst_excess,
    worst_of,
)
from harness.render.recipes import bar, brief_words, kernel_name, recipe_groups, short_name
from harness.render.sensitivity import table_rows
from harness.render.sentences import breach_words, defect_words, sequence_words, snr_figure, snr_words
from harness.render.text import perplexity_of
from harness.render.words import tap_words

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

HERE = Path(__file__).parent
TEMPLATES, VENDORED = HERE / "templates", HERE / "vendor"
CHART_SCRIPT, CHART_STYLE = "uPlot.iife.min.js", "uPlot.min.css"


def render_page(template: str, scripts: Sequence[str] = (), data: object = None, **shown: Any) -> str:
    """A page of `template`. scripts: names of our own files, joined into one script after the chart library.

    data: what the scripts read, as JSON, compressed: a row per tap and input is most of a page.
    """
    script = _script(tuple(scripts)) if scripts else ""
    style = _style(charts=bool(scripts))
    policy = {
        "default-src": "'none'",
        "style-src": _digest(style),
        "script-src": _digest(script) if script else "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    page = page_environment().get_template(template)
    return page.render(
        style=_markup(style),
        script=_markup(script),
        data="" if data is None else packed(data),
        policy=_markup("; ".join(f"{name} {value}" for name, value in policy.items())),
        **shown,
    )


def packed(data: object) -> str:
    """JSON, compressed, in base64: letters that no element can be closed with."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # The highest level takes six times as long for 3 % less: a second of a run of 50,000 rows.
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def unpacked(text: str) -> Any:
    """The other way round."""
    return json.loads(gzip.decompress(base64.b64decode(text)))


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@functools.cache
def _script(names: tuple[str, ...]) -> str:
    own = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)
    return f'{(VENDORED / CHART_SCRIPT).read_text(encoding="utf-8")}\n(() => {{\n"use strict";\n{own}}})();\n'


@functools.cache
def _style(charts: bool) -> str:
    chart_style = (VENDORED / CHART_STYLE).read_text(encoding="utf-8") if charts else ""
    return chart_style + (TEMPLATES / "report.css").read_text(encoding="utf-8")


def _markup(text: str) -> Markup:
    """Style, script and policy of our own: they go into the page as they are."""
    from markupsafe import Markup

    return Markup(text)


def _words(value: object) -> str:
    """An option as a person writes it."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return ", ".join(_words(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


@functools.cache
def page_environment() -> Environment:
    """Templates and filters of all pages."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["nothing"] = is_nothing
    environment.filters |= {
        "number": number,
        "words": _words,
        "compared": compared,
        "percent": percent,
        "snr_words": snr_words,
        "snr_figure": snr_figure,
        "share_words": share_words,
        "bar": bar,
        "brief_words": brief_words,
        "recipe_groups": recipe_groups,
        "sensitivity_rows": table_rows,
        "kernel_name": kernel_name,
        "perplexity_of": perplexity_of,
        "ratio_text": ratio_text,
        "short_name": short_name,
        "breach_words": breach_words,
        "worst_excess": worst_excess,
        "tap_figure": tap_figure,
        "tap_words": tap_words,
        "tail": tail,
        "defect_words": defect_words,
        "sequence_words": sequence_words,
        "worst_of": worst_of,
    }
    return environment
