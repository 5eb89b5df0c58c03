"""What a body asks for: OpenAI's fields and ours, as a request of this library. Pure: no network, no file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from .._addresses import http_host, is_loopback, is_public, literal
from .._core.model import aspect_ratios
from .._core.parameters import Parameter, is_address
from .._core.plain_values import plain_item
from .._core.routing import Route, Router
from .._core.suggestion import did_you_mean
from .._core.values import DEFAULT_MODEL, ImageRequest, InputFile, models_of
from .._text import told
from ..errors import InvalidRequest
from ._fields import addresses_in, count_in, flag_in, table_in, text_in, typed
from ._refusals import wrong
from ._sizes import is_size, nearest_ratio

Way = Literal["generations", "edits", "tasks"]
"""By which path a request has come: those that OpenAI has, or that of our own client."""

Show = Literal["url", "b64_json"]
"""How a picture is handed out."""

_OPTIONAL = (
    *("quality", "style", "background", "moderation", "output_format", "output_compression", "input_fidelity"),
    *("complexity", "frame_count", "frame_duration_ms", "svg"),
)
"""OpenAI's own fields that its clients send whatever the model: dropped, and told, where a model has none such."""

_WITHOUT_EFFECT = ("user", "safety_identifier", "partial_images")
"""OpenAI's own fields that change no picture: who asked, and unfinished pictures, of which there are none."""

_OURS = ("aspect_ratio", "negative_prompt", "seed", "extra", "images")
"""Fields of ImageRequest that a body may have."""

_OF_THE_DOOR = ("model", "prompt", "n", "size", "response_format", "stream", "async", "callback_url")

_BESIDES = frozenset((*_OPTIONAL, *_WITHOUT_EFFECT, *_OURS, *_OF_THE_DOOR))


class InputPicture(msgspec.Struct, frozen=True):
    """A picture that has come in with a form: as what, where it lies, and what it is."""

    field: str
    path: str
    file: InputFile


class Body(msgspec.Struct, frozen=True):
    """A body as it was parsed.

    Attributes:
        way: By which path it came.
        fields: Its own. Those that are null are as those that are not there.
        pictures: That have come with a form.
        is_form: True where its values are texts, of whatever they are.
        model: What its model was when it was read first: an alias may stand for another one by now. Empty: it was not.
    """

    way: Way
    fields: dict[str, Any]
    pictures: tuple[InputPicture, ...] = ()
    is_form: bool = False
    model: str = ""


class Asked(msgspec.Struct, frozen=True):
    """What one request asks for.

    Attributes:
        way: By which path it came.
        parts: A request for each task that it takes: more than one where a task makes fewer pictures than are wanted.
        routes: Who may be sent each of them.
        shows: How the pictures are to be handed out.
        stream: True where the answer is to be a stream of events.
        is_async: True where it is answered at once, and asked for later.
        callback_url: Where its end is announced, or None.
        ignored: Fields of its body that its model lacks, and that were dropped.
        digest: Stands for the body: the same for two that say the same.
        deadline: Seconds that it may take; None: as the service has it.
        waits: True where these count from when it is sent.
        on_refused: What follows where its prompt is refused, as in `Client.generate`.
    """

    way: Way
    parts: tuple[ImageRequest, ...]
    routes: tuple[Route, ...]
    shows: tuple[Show, ...]
    stream: bool
    is_async: bool
    callback_url: str | None
    ignored: tuple[str, ...]
    digest: str
    deadline: float | None = None
    waits: bool = False
    on_refused: Literal["fail", "next"] = "fail"

    @property
    def price(self) -> float | None:
        """Credits that it may cost; None where nobody knows."""
        prices = [
            route.dearest(offer, part)
            for part, route in zip(self.parts, self.routes, strict=True)
            for offer in [max(route.offers, key=lambda each: each.model.price(part) or 0.0)]
        ]
        known = [price for price in prices if price is not None]
        return sum(known) if len(known) == len(prices) else None


class Reader:
    """Reads bodies.

    Args:
        router: Knows the accounts' models.
        aliases: Names that stand for models, such as `gpt-image-1`.
        takes_private: True where pictures that go in may be at addresses of this machine and its networks.
    """

    def __init__(self, router: Router, aliases: Mapping[str, str], *, takes_private: bool = False) -> None:
        self._router = router
        self._takes_private = takes_private
        self._aliases = dict(aliases)

    def read(self, body: Body) -> Asked:
        """What a body asks for.

        Raises:
            Refused: It is wrong: 400, or 404 for a model that there is not; the message names the field.
        """
        fields = {name: value for name, value in body.fields.items() if value is not None}
        if body.is_form:
            fields = {name: typed(name, value) for name, value in fields.items()}
        named = text_in(fields, "model") or DEFAULT_MODEL
        model = body.model or self.model(named)
        own = self._router.own_fields(model)
        self._check_names(fields, own)
        ignored: list[str] = []
        request = self._request(body.way, model, fields, body.pictures, ignored)
        parts, routes = self._parts(request, count_in(fields))
        is_async, stream = flag_in(fields, "async"), flag_in(fields, "stream")
        if is_async and stream:
            raise wrong("stream and async say two ways to be answered: choose one.", "stream")
        callback_url = text_in(fields, "callback_url")
        if callback_url is not None and not is_async:
            raise wrong('callback_url is for what is answered later: send "async": true with it.', "callback_url")
        shows = _shows(fields, named)
        return Asked(
            body.way, parts, routes, shows, stream, is_async, callback_url, tuple(ignored), digest_of(body, model)
        )

    @property
    def router(self) -> Router:
        """Knows the accounts' models."""
        return self._router

    def model(self, named: str) -> str:
        """The model that a name stands for; raises Refused."""
        model = self._aliases.get(named, named)
        if not self.has(model):
            known = [*self._aliases, *self.models]
            message = f"There is no model {told(named)} here.{did_you_mean(named, known)} GET /v1/models lists them."
            raise wrong(message, "model", "model_not_found", 404)
        return model

    def has(self, model: str) -> bool:
        """True where an account has a model, or one of several."""
        names = models_of(model)
        return any(each.find(name) is not None for name in names for each in self._router.providers.values())

    @property
    def models(self) -> dict[str, list[str]]:
        """Our names of the models, and the accounts that have each."""
        found: dict[str, list[str]] = {}
        for account, provider in self._router.providers.items():
            for model in provider.models:
                accounts = found.setdefault(model.name, [])
                if account not in accounts:
                    accounts.append(account)
        return found

    @property
    def aliases(self) -> Mapping[str, str]:
        """Names that stand for models."""
        return self._aliases

    def takes_address(self, url: str) -> bool:
        """True for an address that may be named from outside: none of this machine or its networks, by what it says."""
        return is_address(url) and (self._takes_private or _is_of_internet(url))

    def _check_names(self, fields: Mapping[str, Any], own: Iterable[str]) -> None:
        known = {*_BESIDES, *own}
        for name in fields:
            if name not in known:
                hint = " Send it as the header Idempotency-Key." if name == "key" else did_you_mean(name, known)
                raise wrong(f"{told(name)}: there is no such field.{hint}", name, "unknown_field")

    def _request(
        self, way: Way, model: str, fields: Mapping[str, Any], files: Sequence[InputPicture], ignored: list[str]
    ) -> ImageRequest:
        """The request, but for the number of pictures; what was dropped is added to `ignored`."""
        extra = {**table_in(fields, "extra"), **_own(fields, self._router.own_fields(model))}
        ignored += [name for name in _OPTIONAL if name in fields and name not in extra]
        images = tuple(addresses_in(fields, "images"))
        self.check_addresses(model, images, extra)
        if way == "edits":
            addressed = [extra[name] for name in self._router.file_fields(model) if extra.get(name)]
            self._check_edit(model, [*images, *files, *addressed])
        images = (*(each.path for each in files if each.field == "image"), *images)
        extra |= self._other_pictures(model, files)
        return ImageRequest(
            prompt=text_in(fields, "prompt") or "",
            model=model,
            aspect_ratio=self._ratio(model, fields, extra, ignored),
            negative_prompt=text_in(fields, "negative_prompt"),
            seed=fields.get("seed"),
            extra=extra,
            images=images,
            local_files={each.path: each.file for each in files},
        )

    def _check_edit(self, model: str, pictures: Sequence[object]) -> None:
        """Refuse an edit of nothing, and a model that edits nothing; raises Refused."""
        if not pictures:
            raise wrong("image: an edit needs a picture, as a file of the form or an address in images.", "image")
        if not any(self._edits(name) for name in models_of(model)):
            others = [name for name in self.models if self._edits(name)]
            hint = f" These do: {', '.join(others[:5])}." if others else ""
            raise wrong(f"image: {told(model)} takes no picture.{hint}", "model")

    def _edits(self, model: str) -> bool:
        known = [each for provider in self._router.providers.values() for each in provider.named(model)]
        # Of one that is sent unchecked nobody knows.
        return any(each.parameters is None or each.files for each in known) or not known

    def _ratio(self, model: str, fields: Mapping[str, Any], extra: Mapping[str, Any], ignored: list[str]) -> str | None:
        """The aspect ratio that is wanted: as it is said, or the nearest to a size; None: the model's default."""
        said, size = text_in(fields, "aspect_ratio"), text_in(fields, "size")
        if size is None or "size" in extra:
            return said
        if size.strip().lower() == "auto":
            return said
        if not is_size(size):
            raise wrong(f"size={told(size)}: allowed is auto, or such as 1024x1024 or 16:9.", "size")
        ratio = nearest_ratio(size, self._ratios(model)) if said is None else None
        if ratio is None:
            ignored.append("size")
        return said if said is not None else ratio

    def _ratios(self, model: str) -> list[str]:
        """The aspect ratios of a model, at any account, the first account's first."""
        names = models_of(model)[:1]
        models = [
            each for provider in self._router.providers.values() for name in names for each in provider.named(name)
        ]
        return list(dict.fromkeys(ratio for each in models for ratio in aspect_ratios(each)))

    def _other_pictures(self, model: str, files: Iterable[InputPicture]) -> dict[str, str]:
        """The pictures of a form that go into fields of their own, such as the mask; raises Refused."""
        found: dict[str, str] = {}
        own = self._router.file_fields(model)
        for each in files:
            if each.field != "image":
                name = next((name for name in own if name == each.field or name.startswith(f"{each.field}_")), None)
                if name is None:
                    raise wrong(f"{each.field}: {told(model)} takes no such picture.", each.field, "unknown_field")
                found[name] = each.path
        return found

    def check_addresses(self, model: str, images: Iterable[str], extra: Mapping[str, Any]) -> None:
        """Refuse paths, and addresses inside of networks: whoever asks has nothing of this machine sent anywhere."""
        given = [("images", each) for each in images]
        for name in self._router.file_fields(model):
            value = extra.get(name)
            given += [(name, each) for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
        for name, each in given:
            if each.strip() and not self.takes_address(each):
                hint = "allowed is an https:// address of the Internet; bytes go in as a form at /v1/images/edits"
                raise wrong(f"{name}={told(each)}: {hint}.", name)

    def _parts(self, request: ImageRequest, count: int) -> tuple[tuple[ImageRequest, ...], tuple[Route, ...]]:
        """As many requests as it takes tasks to make so many pictures, and who may be sent each; raises Refused."""
        size = next((size for size in range(count, 1, -1) if self._takes(request, size)), 1)
        sizes = [size] * (count // size) + [count % size] * (count % size > 0)
        parts: list[ImageRequest] = []
        for at, each in enumerate(sizes):
            # With one seed all of them would be one picture.
            seed = request.seed if type(request.seed) is not int else request.seed + at
            number = None if each == 1 else each
            parts.append(msgspec.structs.replace(request, num_images=number, seed=seed))
        try:
            plain = [plain_item(part) for part in parts]
            routes = tuple(self._router.route(part)[1] for part in plain if isinstance(part, ImageRequest))
        except InvalidRequest as error:
            raise wrong(error.message, _named(error.message)) from None
        return tuple(parts), routes

    def _takes(self, request: ImageRequest, size: int) -> bool:
        try:
            self._router.route(msgspec.structs.replace(request, num_images=size, local_files={}))
        except InvalidRequest:
            return False
        return True


def digest_of(body: Body, model: str) -> str:
    """What stands for a body, as it was parsed: in whatever order it says its fields, and whatever blanks are in it."""
    pictures = [[each.field, each.file.sha256] for each in body.pictures]
    content = msgspec.json.encode([body.way, body.fields, pictures, model], order="sorted")
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _named(message: str) -> str | None:
    """The field that a message of the library begins with."""
    name = message.partition("=")[0]
    return name if name.isidentifier() else None


def _is_of_internet(url: str) -> bool:
    """True for an https:// address that is not written as one of this machine or its networks."""
    host = http_host(url)
    if host is None or not url.startswith("https:") or is_loopback(host):
        return False
    address = literal(host)
    return address is None or is_public(address)


def _own(fields: Mapping[str, Any], own: Mapping[str, Parameter]) -> dict[str, Any]:
    """What is said of a model's own fields; of those that OpenAI has, too, what the model takes."""
    found = {name: value for name, value in fields.items() if name in own and name not in _BESIDES}
    for name in (*_OPTIONAL, "size"):
        both = (fields.get(name), _synonym(fields.get(name))) if name in own else ()
        taken = [value for value in both if value is not None and own[name].takes(value)]
        found |= {name: taken[0]} if taken else {}
    return found


def _shows(fields: Mapping[str, Any], named: str) -> tuple[Show, ...]:
    """How the pictures are handed out: as it is asked for, or as the clients of such a model read them."""
    match text_in(fields, "response_format"):
        case None:
            # Who asks for OpenAI's own reads b64_json alone; of the others some read this, and some that.
            return ("b64_json",) if named.startswith("gpt-image") else ("url", "b64_json")
        case "url":
            return ("url",)
        case "b64_json":
            return ("b64_json",)
        case other:
            raise wrong(f"response_format={told(other)}: allowed is url or b64_json.", "response_format")


def _synonym(value: Any) -> Any:
    """What some models call a format that others call otherwise."""
    return {"jpg": "jpeg", "jpeg": "jpg"}.get(value, value) if isinstance(value, str) else value
