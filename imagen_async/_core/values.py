"""What the user gives and gets: requests, results, saved files. Knows nothing of how they are moved."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from .._text import told
from ..errors import ConfigurationError, ImagenError, InvalidRequest
from .failure import Failure
from .fields import FIELDS

DEFAULT_MODEL = "imagen4"
"""The model of a request that names none, as in S4's table and kie.ai's own first page."""

RAW_PREFIX = "raw:"

_NEXT = ","
"""Between the names of models, the first of which is asked for; the others only where that cannot be had."""

_KEYED = tuple(field.name for field in FIELDS if field.content == "always")
_KEYED_WHERE_GIVEN = tuple(field.name for field in FIELDS if field.content == "given")
"""What later versions added: requests without it keep the keys that older journals know them by."""

_content_of = operator.attrgetter(*_KEYED)
# Sorted: the order in which `extra` was written makes no other picture.
_encode_content = msgspec.json.Encoder(order="sorted").encode


if TYPE_CHECKING:
    Images = Sequence[str | PurePath | bytes]
    ModelNames = str | Sequence[str] | None
else:
    # As it is written down, and read again.
    Images = tuple[Any, ...]


class InputFile(msgspec.Struct, frozen=True, gc=False):
    """A file of this machine that goes in, by its content.

    Attributes:
        sha256: Of its bytes, in hex.
        size: Bytes.
        media_type: By its content, such as `image/png`.
    """

    sha256: str
    size: int
    media_type: str

    @property
    def content(self) -> str:
        """What stands for its bytes, wherever they lie."""
        return f"sha256:{self.sha256}"


class ImageRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One picture, or a few of one prompt, that the user wants.

    What is None is left to the batch's defaults, then to the model's.

    Attributes:
        prompt: What to show, or what to do with the pictures that go in; for Imagen 4 up to 5,000 characters.
        model: A name such as `imagen4-fast` or `nano-banana-2` (`imagen-async models` lists them), the provider's own
            name of it, or what `raw_model` returns. None: the default, `imagen4`. Several, as `imagen4-ultra,qwen3` or
            in a tuple: each in the place of the one before, where no account serves that any more (and, with
            `on_refused="next"`, where its prompt was refused unbilled). The request is known by the first.
        aspect_ratio: `1:1`, `16:9`, `9:16`, `3:4`, `4:3`, or what else the model has. None: the model's documented
            default, sent explicitly (`16:9` for kie.ai's and Apikley's imagen4-fast, else mostly `1:1`).
        negative_prompt: What to leave out, where the provider has such a field.
        num_images: Pictures of this one task, each billed, where the model has such a field.
        seed: For repeatable pictures.
        key: A name of your own for this request, unique in its batch. None: made from the request's content.
        extra: The model's own fields, by its provider's names of them, checked against its record; fields for pictures
            take paths, too. All of the input but the prompt for a raw model.
        images: Pictures that go in: paths, URLs or bytes, where the model takes any. A picture of this machine is known
            by its content, and uploaded before the first create that needs it may go.
        local_files: By the name that it has above, each file of this machine that goes in. Filled in by the client.
    """

    prompt: str = ""
    model: str | None = None
    aspect_ratio: str | None = None
    negative_prompt: str | None = None
    num_images: int | None = None
    seed: int | None = None
    key: str | None = None
    extra: dict[str, Any] = {}
    images: Images = ()
    local_files: dict[str, InputFile] = {}

    @property
    def count(self) -> int:
        """Pictures that this request asks for."""
        return 1 if self.num_images is None else self.num_images


def stable_key(request: ImageRequest, occurrence: int = 1) -> str:
    """Make the key of a request that has none: 16 hex digits of its content, then `-2` for its second occurrence."""
    request = by_content(request)
    given = [[name, value] for name in _KEYED_WHERE_GIVEN if (value := getattr(request, name)) not in (None, {}, ())]
    digest = hashlib.blake2b(_encode_content([*_content_of(request), *given]), digest_size=8).hexdigest()
    return numbered(digest, occurrence)


def models_of(name: Any) -> tuple[Any, ...]:
    """The model that is asked for, and those that may be asked in its place, as a request names them."""
    # A raw name is the provider's own, whatever stands in it.
    if not isinstance(name, str) or _NEXT not in name or name.startswith(RAW_PREFIX):
        return (name or DEFAULT_MODEL,)
    return tuple(filter(None, map(str.strip, name.split(_NEXT)))) or (DEFAULT_MODEL,)


def several_models(names: Iterable[str]) -> str:
    """One name for several models, in their order; raises InvalidRequest for a raw one among others."""
    told_names = list(names)
    if len(told_names) > 1 and any(name.startswith(RAW_PREFIX) for name in told_names):
        raise InvalidRequest(f"model={told(told_names)}: a raw model stands alone.")
    return _NEXT.join(told_names)


def by_content(request: ImageRequest) -> ImageRequest:
    """The request with the content of each local file in the place of its name: where it lies is no matter.

    Nor is what may be made in its model's place.
    """
    if len(models_of(request.model)) > 1:
        request = msgspec.structs.replace(request, model=models_of(request.model)[0])
    if not request.local_files:
        return request
    renamed = renamed_files(request, {name: file.content for name, file in request.local_files.items()})
    return msgspec.structs.replace(renamed, local_files={})


def with_own_files(request: ImageRequest) -> ImageRequest:
    """The request without the files that nothing of it names, such as those of a default that it does not take."""
    named = set(_texts_in([list(request.images), request.extra]))
    files = {name: file for name, file in request.local_files.items() if name in named}
    return request if len(files) == len(request.local_files) else msgspec.structs.replace(request, local_files=files)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(each)


def renamed_files(
    request: ImageRequest, names: Mapping[str, str], fields: Collection[str] | None = None
) -> ImageRequest:
    """The request with other names for its files.

    Args:
        request: Its own.
        names: What each is called then.
        fields: The fields of `extra` that have files; None: any may.
    """
    extra = {
        field: _renamed(value, names) if fields is None or field in fields else value
        for field, value in request.extra.items()
    }
    return msgspec.structs.replace(request, images=_renamed(tuple(request.images or ()), names), extra=extra)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return names.get(value, value)
    return type(value)(_renamed(each, names) for each in value) if isinstance(value, list | tuple) else value


def numbered(key: str, occurrence: int) -> str:
    """Tell requests of one content apart: the first has its key as it is."""
    return key if occurrence == 1 else f"{key}-{occurrence}"


def raw_model(name: str) -> str:
    """Name any model of a createTask API, for models that this version has no record of.

    Its input is the prompt and whatever the request's `extra` holds, unchecked: a misspelt field is ignored
    by kie.ai without a word, and may cost a picture. Its price is unknown.
    """
    if not issubclass(type(name), str):
        raise InvalidRequest(f"raw_model({told(name)}): a model's name is a text.")
    return RAW_PREFIX + name


class ImageFile(msgspec.Struct, frozen=True, gc=False):
    """A picture, video or sound on disk, verified: whole, by its own format. Works wherever a path does.

    Attributes:
        path: Where it lies.
        sha256: Of its bytes, in hex.
        size: Bytes.
        media_type: `image/png`, `video/mp4` and so on, by its content.
        url: Where it came from.
    """

    path: str
    sha256: str
    size: int
    media_type: str
    url: str

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path


Saver = Callable[["Result", str | PurePath, float], Awaitable[tuple[ImageFile, ...]]]
"""Fetches a result's pictures into a folder, within so many seconds."""

Painter = Callable[[str], bytes | None]
"""Makes the picture that is at a URL; None for a URL that it does not know."""

Renderer = Callable[["Result"], str]
"""Makes a result HTML."""


class Result(msgspec.Struct, frozen=True, eq=False):
    """What became of one request: pictures, or the error that stands for them.

    Attributes:
        key: The request's key, or the one made for it.
        index: Its position in the input, from 0.
        request: The request as it was sent, with the batch's defaults filled in.
        provider: The account that took it.
        model: Our name of the model that made it, or was last to be asked: of several, any.
        urls: Where the pictures are, for a time that the provider chooses: minutes to days.
        files: The pictures on disk, where `save_to` asked for them; some of them where a later one failed.
        error: Why there is no picture (or no file), or None.
        task_id: The provider's task, or None when none is known to exist.
        credits: What the provider says it billed; where it says nothing, a finished picture's price; None: unknown.
        latency: Seconds that the provider took, by its own clock (completeTime − createTime); None: it does not tell.
        raw: The provider's last answer about the task, undecoded, for what this library does not read; empty where
            an earlier run got it, for the journal does not keep it.
        ignored: Fields of the input, by the provider's names, that it has dropped or made something else of, as far as
            it tells: they were sent, and the picture was made without them.
        text: What the task has made where that is no file but words, a number, a name, as JSON; else empty. It is saved
            as a `.json`.
        earlier: True when an earlier run of the same journal came to this end, and nothing was done for it now.
    """

    key: str
    index: int
    request: ImageRequest
    provider: str
    model: str
    urls: tuple[str, ...] = ()
    files: tuple[ImageFile, ...] = ()
    error: ImagenError | None = None
    task_id: str | None = None
    credits: float | None = None
    latency: float | None = None
    raw: bytes = b""
    earlier: bool = False
    ignored: tuple[str, ...] = ()
    text: str = ""
    _saver: Saver | None = None
    _renderer: Renderer | None = None
    _painter: Painter | None = None

    @property
    def ok(self) -> bool:
        """True when the picture is there, and on disk where that was asked for."""
        return self.error is None

    async def save(self, folder: str | PurePath, *, deadline: float = 900) -> tuple[ImageFile, ...]:
        """Fetch the pictures into `folder`, which is made if missing.

        Free to repeat; works after the client was closed, too, and in any event loop, for as long as the links live.
        Those of a sandbox that the client has started end with it.

        Names are made here (`000012-a-red-fox.png`, a second picture `-2`; letters of any script stay as they are),
        never taken from a URL, and never overwrite another picture.

        Args:
            folder: Where they are to lie.
            deadline: Seconds for all of it, however slowly the pictures come and however the disk hangs.

        Raises:
            DownloadFailed: A picture could not be had or written, or not in time; those that could be are its `files`.
            ImagenError: This result's own error, when it has no picture.
        """
        if not self.urls and not self.text:
            if self.error is None:
                raise ConfigurationError("This result has no picture to save.")
            # One of its own: whoever saves twice must not find the first one's traceback.
            raise Failure.of(self.error).exception()
        if self._saver is None:
            message = (
                "This result has no client to fetch its pictures by; a client's collect(task_id) brings one that has."
            )
            raise ConfigurationError(message)
        return await self._saver(self, folder, deadline)

    def __reduce__(self) -> tuple[type[Result], tuple[object, ...]]:
        """For pickle: what it tells, without its client, which has the key."""
        told = (name for name in self.__struct_fields__ if not name.startswith("_"))
        return Result, tuple(getattr(self, name) for name in told)

    def _repr_html_(self) -> str | None:
        """For notebooks: the pictures, the prompt, the figures; None where it did not come from a client."""
        return None if self._renderer is None else self._renderer(self)

    def __repr__(self) -> str:
        outcome = f"urls={list(self.urls)!r}" if self.ok else f"error={self.error!r}"
        return f"Result(key={self.key!r}, index={self.index}, ok={self.ok}, {outcome}, task_id={self.task_id!r})"
