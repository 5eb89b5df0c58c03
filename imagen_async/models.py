"""Records of models out of their providers' own pages, and files of them.

A record says what a model takes, so that a request is checked before it costs anything. Those of the providers that
this version knows come with the package; of any other model of a createTask API, `from_openapi` makes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._core.model import Model
from ._openapi.creates import Document
from ._openapi.meaning import task_of, translations_of
from ._openapi.pages import document_of
from ._openapi.ways import InputReader

__all__ = ["Model", "from_openapi"]


def from_openapi(document: str | bytes | Mapping[str, Any]) -> Model:
    """Make the record of the model that a page is about. Sends nothing.

    Its `parameters` are named as the page names them. Fields of ImageRequest are written in them where one means the
    same: `aspect_ratio` as `image_size`, `num_images` as `n`. What the page says and a record cannot is in its `notes`.
    Its price is unknown, for no such page tells it: say it as `Account(credits=…)`.

    Args:
        document: The page as it is published, in Markdown, YAML or JSON, or decoded JSON: of kie.ai the page itself,
            with `.md` behind its address, or the answer to `GET /api/v1/models/{model}/schema`. At most 1 MB. YAML
            needs the extra `yaml`.

    Raises:
        ConfigurationError: It is no page of one model, or cannot be read; the message says which.
    """
    content = Document(*document_of(document))
    create = content.create()
    reader = InputReader(content)
    fields, branches = reader.read(create.schema)
    notes = [*content.notes, *reader.notes]
    if not fields:
        notes.append("no field of its input is described, so that nothing is checked")
    if create.is_other_example:
        notes.append("its example is one of another model")
    return Model(
        name=create.model,
        wire_name=create.model,
        parameters=fields or None,
        translations=translations_of(fields),
        branches=branches,
        task=task_of(f"{create.model} {create.title}", fields),
        notes=tuple(notes),
    )
