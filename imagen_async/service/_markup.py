"""The service's page as HTML, with what it shows written into it: so it can be read without its script. Pure.

Every text is escaped here, whoever it is from; `page.js` writes the same elements from the same `View`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from string import Template

from .._text import well_formed
from .._version import __version__
from ._figures import Recent
from ._plots import KEYS
from ._view import ACCOUNT_COLUMNS, CALLER_COLUMNS, NOTHING, Row, View


def page_of(template: str, view: View, at: float) -> str:
    """The page.

    Args:
        template: `page.html`.
        view: What it shows.
        at: Unix seconds.
    """
    return Template(template).substitute(
        headline=_text(view.headline),
        since=_time(view.since, "%Y-%m-%d %H:%M UTC"),
        made=_text(view.made),
        others=_text(view.others),
        quiet="" if view.quiet is None else _time(view.quiet, "%H:%M UTC"),
        no_quiet=_hidden(view.quiet is None),
        said=_text(view.said),
        troubles="".join(f"<li>{_named(row)}</li>" for row in view.troubles),
        plots="".join(f'<figure id="{key}-plot">{view.plots[key]}</figure>' for key in KEYS),
        account_columns=_columns(ACCOUNT_COLUMNS),
        accounts=_rows(view.accounts, ACCOUNT_COLUMNS),
        accounts_are_there=_hidden(bool(view.accounts)),
        caller_columns=_columns(CALLER_COLUMNS),
        callers=_rows(view.callers, CALLER_COLUMNS),
        callers_are_there=_hidden(bool(view.callers)),
        unseen=_text(view.unseen),
        pictures="".join(map(_picture, view.pictures)),
        pictures_are_there=_hidden(bool(view.pictures)),
        at=_time(at, "%H:%M:%S UTC"),
        version=_text(__version__),
    )


def _text(text: str) -> str:
    return escape(well_formed(text).replace("\0", "\ufffd"))


def _hidden(is_hidden: bool) -> str:
    return " hidden" if is_hidden else ""


def _time(at: float, form: str) -> str:
    """A time, which the script words as the reader's own clock has it; nothing for what no calendar has."""
    try:
        moment = datetime.fromtimestamp(math.floor(at), UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{moment:{form}}</time>'


def _columns(names: Iterable[str]) -> str:
    return "".join(f'<th scope="col" role="columnheader">{name}</th>' for name in names)


def _rows(rows: Iterable[Row], columns: tuple[str, ...]) -> str:
    return "".join(_row(row, columns) for row in rows)


def _row(row: Row, columns: tuple[str, ...]) -> str:
    """A row of a table; where there is no room for columns, each figure has its name beside it."""
    cells = "".join(
        f'<td role="cell" data-label="{label}" class="{"none" if figure in NOTHING else ""}">'
        f"<span>{_text(figure)}</span> <small>{_text(beside)}</small></td>"
        for label, (figure, beside) in zip(columns, row.cells, strict=True)
    )
    return f'<tr role="row"><th scope="row" role="rowheader">{_named(row)}</th>{cells}</tr>'


def _named(row: Row) -> str:
    """Whom it is of, and how that one fares."""
    until = "" if row.until is None else _time(row.until, "%H:%M:%S UTC")
    return (
        f'<span class="name" dir="auto">{_text(row.name)}</span> '
        f'<span class="state {row.state}">{_text(row.note)} {until}</span> '
        f'<span class="why" dir="auto">{_text(row.why)}</span>'
    )


def _picture(picture: Recent) -> str:
    """A picture with its prompt, which is the link to it where it has an address."""
    prompt = f'<span class="prompt" dir="auto">{_text(picture.prompt)}</span>'
    image = '<span class="gone">not here</span>'
    if picture.url:
        url = _text(picture.url)
        image = f'<img src="{url}" alt="" loading="lazy" decoding="async">'
        shown = f'<a href="{url}" title="{_text(picture.model)}">{image}{prompt}</a>'
    else:
        shown = image + prompt
    by = f'<span dir="auto">{_text(picture.caller)}</span> · {_time(picture.at, "%H:%M UTC")}'
    return f'<li>{shown}<span class="by">{by}</span></li>'
