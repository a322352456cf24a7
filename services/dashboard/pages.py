"""Renders the templates. All text is escaped, and characters that steer a terminal or turn text around are shown."""

from __future__ import annotations

import re
import time
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from researcher.decision.goal import moment_text
from researcher.report.results_table import NO_NUMBER
from researcher.report.view import percent
from services.views.render import clock_text, span_text

# Control characters besides tab and line ends, and those that turn the direction of text around or are invisible.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def visible(value: Any) -> Any:
    """Return text with each steering character as its code point; other values are unchanged."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _STEERING.sub(lambda found: f"⟨{ord(found.group()):04X}⟩", value)


def sentence(text: str) -> Markup:
    """Return a message as HTML: with a capital, and commands between backticks as code."""
    parts = visible(text[:1].upper() + text[1:]).split("`")
    if len(parts) % 2 == 0:  # a backtick without a second one
        return escape("`".join(parts))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )


def number_text(value: float | None, form: str = ".6f") -> str:
    """Return a number in a format, or a dash without one."""
    return NO_NUMBER if value is None else format(value, form)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("services.dashboard"),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number_text,
        "percent": percent,
        "sentence": sentence,
        "moment": moment_text,
        "date": lambda at: time.strftime("%Y-%m-%d %H:%M", time.localtime(at)),
        "clock": lambda at: time.strftime("%H:%M:%S", time.localtime(at)),
        "span": span_text,
        "duration": clock_text,
    }
    return environment


_ENVIRONMENT = _environment()


def render(template: str, **values: Any) -> str:
    """Return a page or a part of one as HTML."""
    return _ENVIRONMENT.get_template(template).render(**values)
