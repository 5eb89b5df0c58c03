"""Which columns of a file, and which words of `--set`, are fields of the models that are asked; the others are not.

In a folder that has results a column stays what it was there: what went by before would make other requests now, and
new keys, which are paid for anew.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ..errors import ConfigurationError
from .folder import journal_in, notes_in
from .library import FIELDS, InputFiles, Router, files_sent, is_address, plain_item, read_cell
from .options import PictureOptions
from .prompt_files import PromptLine

COLUMNS = "columns"
"""What a journal notes of each column of its file: whether it was a field."""

_OURS = {field.name: field for field in FIELDS if field.has_default and field.kind in ("text", "whole")}


class OwnColumns:
    """Takes the columns of a file's lines that are fields of their models for what they are, and looks at their files.

    Args:
        router: Knows the models.
        model: That of lines that name none.
        file: The prompt file, from whose folder its names of files lead.
        out: The folder, whose journal knows what columns were before, and what was in files that are gone since.
    """

    def __init__(self, router: Router, model: str | None, file: str = "-", out: str | None = None) -> None:
        notes = notes_in(out)
        self._router = router
        self._model = model
        self._folder = "" if file == "-" else os.path.dirname(file)
        self._files = InputFiles()
        self._remembered = files_sent(journal_in(out))
        self._before = {} if notes is None else _noted(notes)
        # A journal from before there were such columns: whatever is in its file goes by.
        self._all_go_by = notes is not None and COLUMNS not in notes
        self._seen: dict[str, bool] = {}
        self._passed: dict[str, None] = {}
        self._fields: dict[str, Any] = {}

    def told(self, others: Sequence[str]) -> Iterator[str]:
        """What is to be said of the columns once all lines were taken; `others` are those that go by."""
        taken = [name for name, is_field in self._seen.items() if is_field]
        if taken:
            rest = f"; no fields, and for metadata.jsonl alone: {', '.join(others)}" if others else ""
            yield f"taken for fields of the model: {', '.join(taken)}{rest}"
        for name in others:
            meant = difflib.get_close_matches(name.lower(), self._fields, 1, 0.8)
            if meant and name not in self._passed and name.lower() not in self._fields:
                yield f"warning: the column {name!r} is no field of the model ({meant[0]}?)"
        if self._passed:
            yield f"as in the runs before, no fields of the model: {', '.join(self._passed)}"

    @property
    def note(self) -> dict[str, str]:
        """What the journal is to know."""
        return {COLUMNS: json.dumps({**self._seen, **self._before})}

    def take(self, line: PromptLine) -> PromptLine:
        """The line, its columns that are fields in `extra`, its files looked at; raises InvalidRequest."""
        if self._all_go_by and line.images:
            columns = {**line.columns, "images": line.images}
            line = msgspec.structs.replace(line, images=(), columns=columns)
        plain = plain_item(line)
        assert isinstance(plain, PromptLine)
        line = self._with_fields(plain) if plain.columns else plain
        fields = self._router.file_fields(line.model or self._model) if line.extra or line.images else ()
        if not line.images and not any(field in fields for field in line.extra):
            return line
        images = tuple(map(self._placed, line.images))
        extra = {name: self._placed(each) if name in fields else each for name, each in line.extra.items()}
        found = self._files.prepared(
            msgspec.structs.replace(line, images=images, extra=extra), fields, self._remembered
        )
        assert isinstance(found, PromptLine)
        return found

    def needs_prompt(self, line: PromptLine) -> bool:
        """True for a line of which its model makes nothing without a prompt."""
        return self._router.needs_prompt(line.model or self._model)

    def _placed(self, value: Any) -> Any:
        """A file's name as it leads from here."""
        if isinstance(value, list | tuple):
            return [self._placed(each) for each in value]
        is_path = isinstance(value, str) and value and not is_address(value)
        return os.path.join(self._folder, value) if is_path else value

    def _with_fields(self, line: PromptLine) -> PromptLine:
        own = self._router.own_fields(line.model or self._model)
        self._fields.update(own)
        extra: dict[str, Any] = {}
        columns: dict[str, Any] = {}
        for name, value in line.columns.items():
            field = next((each for each in (name, name.lower()) if each in own), None)
            is_field = field is not None and not self._all_go_by and self._before.get(name, True)
            self._seen[name] = self._seen.get(name, False) or is_field
            if field is None or not is_field:
                columns[name] = value
                self._passed.update({} if field is None else {name: None})
            elif value is not None:
                extra[field] = read_cell(own[field], value)
        if len(columns) == len(line.columns):
            return line
        return msgspec.structs.replace(line, columns=columns, extra={**extra, **line.extra})


def resolved(picture: PictureOptions, router: Router, out: str | None = None) -> PictureOptions:
    """The options with what `--set` says, a field of ours as such, one of the model's own in `extra`; files looked at.

    Args:
        picture: The options as given.
        router: Knows the models.
        out: The folder, whose journal knows what was in files that are gone since.

    Raises:
        ConfigurationError: A word says what another option says too.
        InvalidRequest: A file cannot go in.
    """
    ours: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    model = next((value for name, value in picture.set if name == "model"), picture.model)
    own = router.own_fields(model)
    for name, word in picture.set:
        if name in ours or name in extra or getattr(picture, name, None) not in (None, {}, ()) or name in picture.extra:
            raise ConfigurationError(f"--set {name}=…: {name} is said twice.")
        if name in _OURS:
            ours[name] = int(word) if _OURS[name].kind == "whole" and word.lstrip("-").isdecimal() else word
        elif name in ("prompt", "key", "extra", "images"):
            instead = ": use --image" if name == "images" else ""
            raise ConfigurationError(f"--set {name}=…: that is no field of a model{instead}.")
        else:
            extra[name] = own[name].read(word) if name in own else _json_or_text(word)
    picture = msgspec.structs.replace(picture, set=(), extra={**picture.extra, **extra}, **ours)
    remembered = files_sent(journal_in(out))
    looked_at = InputFiles().prepared(picture.request("-"), router.file_fields(model), remembered)
    return msgspec.structs.replace(picture, local_files=looked_at.local_files)


def _json_or_text(word: str) -> Any:
    """What a word means where no record tells: a number, a truth value, a list or an object, or else a text."""
    try:
        return json.loads(word)
    except ValueError:
        return word


def _noted(notes: Mapping[str, str]) -> dict[str, bool]:
    try:
        return msgspec.json.decode(notes.get(COLUMNS, "{}"), type=dict[str, bool])
    except msgspec.MsgspecError:
        return {}
