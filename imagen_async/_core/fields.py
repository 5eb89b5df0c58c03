"""The fields of a request, described once: what each is on a command line, in a table, in a key, in an export."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["text", "whole", "object", "files"]
"""What is read from a word or a cell: a text, a whole number, a JSON object, names of files."""

ColumnType = Literal["string", "int64", "float64", "bool"]
"""The type of a column in an export, by its name in Arrow."""

_COLUMN_TYPES: dict[Kind, ColumnType] = {"text": "string", "whole": "int64"}


class Field(msgspec.Struct, frozen=True):
    """One field of a request.

    Attributes:
        name: That of ImageRequest's own field, and so of its option and of its column in a prompt file.
        kind: What its option and its cells are read as.
        content: Whether two requests that differ in it are two different ones. Those of the first version count in a
            key always, also where they are None; a later one only where it is `given`; None: it says nothing of the
            picture.
        least: The smallest number that is meant, of a whole one; None for any.
        is_parameter: True where a model's record says how it is written there; its own fields go into `extra`.
        is_made: True where the client fills it in, and nobody says it.
        has_default: True where a batch can say it for all requests that do not say it, and a command by an option.
        option: The name of its option, where that is another one.
        short: Its option's other form.
        metavar: What stands for the option's value in `--help`.
        help: What `--help` says of the option.
        label: Its name among the details in a gallery; None where a gallery shows it in another way, or not at all.
    """

    name: str
    kind: Kind = "text"
    # So that one line for a new field leaves every key in every journal as it was: a changed key is paid for anew.
    content: Literal["always", "given"] | None = "given"
    least: int | None = None
    is_parameter: bool = False
    is_made: bool = False
    has_default: bool = False
    option: str | None = None
    short: str | None = None
    metavar: str | None = None
    help: str | None = None
    label: str | None = None

    @property
    def column_type(self) -> ColumnType | None:
        """The type of its column in an export; None where that hangs on the values, and without any there is none."""
        return _COLUMN_TYPES.get(self.kind)


FIELDS = (
    Field("prompt", content="always"),
    Field(
        "model",
        content="always",
        has_default=True,
        short="-m",
        help="imagen4 (default), imagen4-fast, nano-banana-2 … (`imagen-async models`), or raw:NAME; A,B: B where "
        "nobody serves A any more",
    ),
    Field(
        "aspect_ratio",
        content="always",
        is_parameter=True,
        has_default=True,
        metavar="W:H",
        help="1:1, 16:9, 9:16, 3:4, 4:3, or what else the model has",
        label="aspect ratio",
    ),
    Field(
        "negative_prompt",
        content="always",
        is_parameter=True,
        has_default=True,
        metavar="TEXT",
        help="what to leave out",
        label="without",
    ),
    Field(
        "num_images",
        "whole",
        content="always",
        least=1,
        is_parameter=True,
        has_default=True,
        metavar="N",
        help="pictures a request, each billed",
    ),
    Field("seed", "whole", content="always", is_parameter=True, has_default=True, metavar="N", help="a whole number"),
    Field("key", content=None),
    Field("extra", "object", content="always", has_default=True, metavar="JSON", help="the provider's own fields"),
    Field(
        "images",
        "files",
        is_parameter=True,
        has_default=True,
        option="image",
        metavar="FILE",
        help="a picture that goes in, a path or a URL; several times for several",
        label="of",
    ),
    Field("local_files", "object", content=None, is_made=True),
)
"""In the order of ImageRequest, which is also that of the lists, of the exports and of `--help`."""

PARAMETERS = tuple(field.name for field in FIELDS if field.is_parameter)
"""The fields that a model's record translates."""

CONTENT = tuple(field.name for field in FIELDS if field.content)
"""The fields that say what is wanted."""
