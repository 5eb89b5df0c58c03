"""What our own client asks for: one task, as `ImageRequest` has it, with its name. Pure: no network, no file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from .._core.dialects.served import LONGEST_NAME
from .._core.plain_values import plain_item
from .._core.values import DEFAULT_MODEL, RAW_PREFIX, ImageRequest, renamed_files
from .._text import told, well_formed
from ..errors import InvalidRequest
from ._reading import Asked, Body, InputPicture, Reader
from ._refusals import wrong

LONGEST_DEADLINE = 30 * 86400.0
"""Seconds that a task may take."""

_ANYWHERE = "https://picture.example/x"
"""Stands for a picture that has come in, where it is looked at whether addresses are allowed."""


class TaskRequest(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is to be made: the fields of ImageRequest, pictures that go in by their addresses."""

    prompt: str = ""
    model: str | None = None
    aspect_ratio: str | None = None
    negative_prompt: str | None = None
    num_images: int | None = None
    seed: int | None = None
    extra: dict[str, Any] = {}
    images: tuple[str, ...] = ()


class TaskTerms(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A task as it is kept.

    Attributes:
        request: What is to be made.
        deadline: Seconds that it may take; None: as the service has it.
        waits: True where these count from when it is sent.
        instead: Models that may be made in the place of the request's.
        on_refused: Where its prompt is refused, unbilled, the next of these may be asked.
    """

    request: TaskRequest
    deadline: float | None = None
    waits: bool = False
    instead: tuple[str, ...] = ()
    on_refused: Literal["next", "fail"] = "fail"


class Task(TaskTerms, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A task as it comes.

    Attributes:
        key: Its name: the same once more is the same task.
        after: The task of that name behind which another one is wanted; None: the last one is meant.
        retry_failed: True where another one is wanted should that have failed.
    """

    key: str
    after: str | None = None
    retry_failed: bool = False

    @property
    def terms(self) -> TaskTerms:
        """It without its name."""
        return TaskTerms(self.request, self.deadline, self.waits, self.instead, self.on_refused)


_decode = msgspec.json.Decoder(Task).decode


def task_in(content: bytes) -> Task:
    """A task as it has come; raises Refused for what is none."""
    try:
        task = _decode(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise wrong(f"This is no task: {error}.", code="invalid_task") from None
    if not 0 < len(task.key) <= LONGEST_NAME or "\0" in task.key or well_formed(task.key) != task.key:
        raise wrong(f"key={told(task.key)}: allowed are 1 to {LONGEST_NAME} characters of text.", "key", "invalid_key")
    deadline = task.deadline
    if deadline is not None and not 0 < deadline <= LONGEST_DEADLINE:
        allowed = f"a number of seconds above 0, at most {LONGEST_DEADLINE:,.0f}"
        raise wrong(f"deadline={told(deadline)}: allowed is {allowed}.", "deadline")
    return task


def kept(terms: TaskTerms, pictures: Mapping[str, InputPicture]) -> Body:
    """A task as the book keeps it.

    Args:
        terms: It.
        pictures: Those that have come in before, by the addresses that it has for them.
    """
    # By their content: where they were asked for is nobody's business later on.
    names = {address: each.field for address, each in pictures.items()}
    request = terms.request
    renamed = renamed_files(ImageRequest(images=request.images, extra=request.extra), names)
    request = msgspec.structs.replace(request, images=renamed.images, extra=renamed.extra)
    fields = msgspec.to_builtins(msgspec.structs.replace(terms, request=request))
    return Body("tasks", fields, tuple({each.field: each for each in pictures.values()}.values()))


def read_task(reader: Reader, body: Body) -> Asked:
    """What a task that is kept asks for.

    Args:
        reader: Knows the models.
        body: It.

    Raises:
        Refused: It is wrong: 400, or 404 for a model that there is not.
    """
    terms = msgspec.convert(body.fields, TaskTerms)
    # What none of the accounts has is in nobody's place.
    named = _named(terms.request.model or DEFAULT_MODEL, tuple(filter(reader.has, terms.instead)))
    model = body.model or reader.model(named)
    request = _request_of(reader, terms.request, model, body.pictures)
    try:
        plain = plain_item(request)
        assert isinstance(plain, ImageRequest)
        route = reader.router.route(plain)[1]
    except InvalidRequest as error:
        raise wrong(error.message) from None
    return Asked(
        way="tasks",
        parts=(request,),
        routes=(route,),
        shows=("url",),
        stream=False,
        is_async=True,
        callback_url=None,
        ignored=(),
        digest=_digest_of(terms.request),
        deadline=terms.deadline,
        waits=terms.waits,
        on_refused=terms.on_refused,
    )


def _request_of(reader: Reader, said: TaskRequest, model: str, pictures: tuple[InputPicture, ...]) -> ImageRequest:
    """The request itself; raises Refused where addresses in it are not allowed."""
    fields = {name: getattr(said, name) for name in TaskRequest.__struct_fields__}
    request = ImageRequest(**{**fields, "model": model})
    checked = renamed_files(request, {each.field: _ANYWHERE for each in pictures})
    reader.check_addresses(model, (str(each) for each in checked.images), checked.extra)
    request = renamed_files(request, {each.field: each.path for each in pictures})
    return msgspec.structs.replace(request, local_files={each.path: each.file for each in pictures})


def _named(model: str, instead: tuple[str, ...]) -> str:
    """The models of a task as a request names them; raises Refused for a raw one among others."""
    if instead and any(name.startswith(RAW_PREFIX) for name in (model, *instead)):
        raise wrong(f"instead={told(instead)}: a raw model stands alone.", "instead")
    return ",".join((model, *instead))


def _digest_of(request: TaskRequest) -> str:
    """What stands for a request: what may be made in its model's place, or how long it may take, is no part of it."""
    content = msgspec.json.encode(["tasks", request], order="sorted")
    return hashlib.blake2b(content, digest_size=16).hexdigest()
