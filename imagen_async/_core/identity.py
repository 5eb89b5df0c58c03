"""What a request of an input is to a journal: one that it has, or a new one, and by which key it is known.

The key of a request that has none is made of its content, whoever says it: the request itself or the batch's defaults.
Versions before made it of what the request itself said, so that what they have left is looked for by that too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from ..errors import InvalidRequest
from .defaults import DefaultsChanged, as_request, content_key, leaves_open, made_whole, note_of, noted, with_defaults
from .fields import CONTENT
from .journal_entry import JournalEntry
from .plain_values import plain_item
from .resuming import Change, different
from .routing import Router
from .values import ImageRequest, by_content, numbered, stable_key

_WHOLE_KEYS = {"keys": "whole"}
"""What a journal notes whose every made key is of a whole request."""

_LOOKED_AROUND = 64
"""Doubled requests that are looked for under another number: the next of ten thousand costs no more than these."""

_SAID_IN_PARTS = 8
"""Parts of a request of which an older one may have said any: of more of them there are too many ways to look for."""


MET = " is met"
"""What stands behind a job's key in the word by which it is counted how many requests were to have it."""


class Known(msgspec.Struct, frozen=True):
    """What is to be asked of a journal: its jobs by their keys, and how often this run has met a word.

    `is_new` where it has none of an earlier run, so that only keys that were given can be known.
    """

    name: str
    find: Callable[[str], JournalEntry | None]
    times_seen: Callable[[str], int]
    notes: Mapping[str, str]
    is_new: bool = False

    def is_met_first(self, key: str) -> bool:
        """True for the first request of this run that is to have a job."""
        return self.times_seen(f"{key}{MET}") == 1


class Identity:
    """Tells for each request of a run which of a journal's it is.

    Args:
        known: The journal.
        router: Knows what a request leaves to a model's default.
        defaults: Of this run.
        add: True where requests under other defaults than before are new ones, beside those that there are.

    Attributes:
        defaults: As given, the first of several models alone.
        is_confirmed: True once a request was found that an earlier version has made under the same defaults.
    """

    def __init__(self, known: Known, router: Router, defaults: ImageRequest, *, add: bool = False) -> None:
        self.is_confirmed: bool = False
        self._known = known
        self._router = router
        # Which other model may make it is leave, and no default.
        self.defaults: ImageRequest = msgspec.structs.replace(defaults, model=by_content(defaults).model)
        self._add = add
        self._earlier: tuple[ImageRequest, ...] = () if known.is_new else noted(known.notes)
        self._has_older_keys = not known.is_new and not _WHOLE_KEYS.items() <= known.notes.items()

    @property
    def news(self) -> dict[str, str]:
        """What the journal is to note before the first request: nothing where it has that, or nobody knows yet."""
        if self._known.is_new:
            return {**_WHOLE_KEYS, **note_of([self.defaults])}
        if self._add and self._earlier and self.defaults not in self._earlier:
            return note_of([*self._earlier, self.defaults])
        return {}

    @property
    def late_news(self) -> dict[str, str]:
        """What it is to note at the end: that an earlier version's requests were made under these defaults."""
        return note_of([self.defaults]) if self.is_confirmed and not self._earlier else {}

    @property
    def is_sure(self) -> bool:
        """True where no request can show that its defaults are others than before."""
        return self._known.is_new or self._add or self.defaults in self._earlier or self.is_confirmed

    def check(self, item: object) -> None:
        """Look at a request before any is sent; raises DefaultsChanged, and nothing for one that is bad by itself."""
        try:
            item = plain_item(item)
            stated = with_defaults(item, self.defaults)
            self._router.route(stated)
        except InvalidRequest:
            return
        given = as_request(item)
        made = (content_key(stated), *map(stable_key, self._others(stated)))
        keys = (given.key, *(f"{given.key}-{each}" for each in made)) if given.key else made
        found = list(filter(None, map(self._known.find, keys)))
        own = self._known.find(stable_key(given)) if self._has_older_keys and not given.key else None
        if own is not None and self._is_same(own, stated):
            self._confirm(given)
        elif not any(self._is_same(entry, stated) for entry in found):
            self._refuse_other_defaults(given, stated, next(iter(found), own))

    def of(self, item: str | ImageRequest) -> tuple[str, JournalEntry | None]:
        """The key of a request that fits its model, and the journal's job of it, or None.

        Raises:
            DefaultsChanged: The journal has results under other defaults.
            InvalidRequest: Its key came twice, or stood for something else before.
        """
        stated, given = with_defaults(item, self.defaults), as_request(item)
        return self._named(given, stated) if given.key else self._made(given, stated)

    def _named(self, given: ImageRequest, stated: ImageRequest) -> tuple[str, JournalEntry | None]:
        """By the key that it was given."""
        key = str(given.key)
        times = self._known.times_seen(key)
        if times > 1:
            raise InvalidRequest(f"The key {key!r} came {times} times in this input; keys must differ.")
        # Also where no run was before: a single request may have the key.
        entry = self._known.find(key)
        if entry is not None and self._is_same(entry, stated):
            return key, entry
        if entry is not None:
            for each in (stated, *self._others(stated)):
                added = self._known.find(_beside(key, each))
                if added is not None and self._is_same(added, stated):
                    return added.key, added
        self._refuse_other_defaults(given, stated, entry)
        if entry is None:
            return key, None
        found = self._differences(entry, stated)
        if self._add and _left_open(given, found):
            return _beside(key, stated), None
        raise _stood_for_another(self._known.name, entry, found)

    def _made(self, given: ImageRequest, stated: ImageRequest) -> tuple[str, JournalEntry | None]:
        """By the key that is made for it, or was by an earlier version."""
        key = content_key(stated)
        times = self._known.times_seen(key)
        own = self._own_entry(given)
        if own is not None and self._takes(own, stated):
            self._confirm(given)
            return own.key, own
        mine = numbered(key, times)
        # A made key may be one that somebody has given.
        if times > 1 and self._known.times_seen(mine) > 1:
            message = f"The key {mine!r}, made for this request, was given to another one; keys must differ."
            raise InvalidRequest(message)
        if self._known.is_new:
            return mine, None
        found = self._found(key, times, given, stated)
        if found is not None:
            return found.key, found
        self._refuse_other_defaults(given, stated, own)
        return self._free(key, times, stated)

    def _confirm(self, given: ImageRequest) -> None:
        """What an earlier version has made of it is what it is now: where it does not say its model, by the default."""
        self.is_confirmed |= given.model is None and not self._earlier

    def _own_entry(self, given: ImageRequest) -> JournalEntry | None:
        """What an earlier version has made of the same line, the defaults being whatever they were."""
        if not self._has_older_keys:
            return None
        key = stable_key(given)
        # Numbered as it was then: among those that said the same by themselves.
        return self._known.find(numbered(key, self._known.times_seen(f"{key} as before")))

    def _found(self, key: str, times: int, given: ImageRequest, stated: ImageRequest) -> JournalEntry | None:
        """The job of that content: by its key, or by one that says the same in another way."""
        entry = self._known.find(numbered(key, times))
        found = [] if entry is None else self._differences(entry, stated)
        if entry is not None and found:
            self._refuse_other_defaults(given, stated, entry)
            if not (self._add and _left_open(given, found)):
                raise _stood_for_another(self._known.name, entry, found)
        elif entry is not None and self._known.is_met_first(entry.key):
            return entry
        for other in (key, *map(stable_key, self._others(stated))):
            for near in self._near(other, times):
                if self._takes(near, stated):
                    return near
        return None

    def _near(self, key: str, times: int) -> Iterator[JournalEntry]:
        """The jobs of a key by its number, and by those around it: what says one thing in two ways is counted apart."""
        for number in range(times, max(0, times - _LOOKED_AROUND), -1):
            entry = self._known.find(numbered(key, number))
            if entry is not None:
                yield entry
        for number in range(times + 1, times + _LOOKED_AROUND):
            entry = self._known.find(numbered(key, number))
            if entry is None:
                return
            yield entry

    def _free(self, key: str, times: int, stated: ImageRequest) -> tuple[str, JournalEntry | None]:
        """The first key from that number on that no other request has, or the job there, where it is this one."""
        # Where two ways to say the same have changed places, the number is mostly taken: a row is never written over.
        for number in itertools.count(times):
            name = numbered(key, number)
            entry = self._known.find(name)
            # Nor is one that this run has given out before.
            if (entry is None or self._is_same(entry, stated)) and self._known.is_met_first(name):
                return name, entry
        raise AssertionError("it counts on and on")

    def _others(self, stated: ImageRequest) -> Iterator[ImageRequest]:
        """Requests that stand for the same: a model's default said or left out; before, any part left to defaults."""
        whole = made_whole(stated)
        # By another name it is the same model.
        said = [whole, *(msgspec.structs.replace(whole, model=each) for each in self._router.other_names(whole))]
        ratios = self._router.ratios(whole)
        forms = [*said, *(msgspec.structs.replace(form, aspect_ratio=each) for form in said for each in ratios)]
        yield from forms[1:]
        yield from itertools.chain.from_iterable(map(_partly_said, forms) if self._has_older_keys else ())

    def _takes(self, entry: JournalEntry, stated: ImageRequest) -> bool:
        """True where the job is that request, and no other request of this run is it already."""
        return self._is_same(entry, stated) and self._known.is_met_first(entry.key)

    def _is_same(self, entry: JournalEntry, stated: ImageRequest) -> bool:
        return not self._differences(entry, stated)

    def _differences(self, entry: JournalEntry, stated: ImageRequest) -> list[Change]:
        return different(entry.request, self._router.as_before(entry.request, stated, entry.model))

    def _refuse_other_defaults(self, given: ImageRequest, stated: ImageRequest, entry: JournalEntry | None) -> None:
        """Refuse a request that is not there, where under the defaults of before it would be another one.

        Args:
            given: What it says by itself.
            stated: With this run's defaults.
            entry: What has its key, and is another one; None for nothing.
        """
        if self._known.is_new or self._add:
            return
        if self._earlier and self.defaults not in self._earlier:
            filled = [with_defaults(given, each) for each in self._earlier]
            # Each with what its model adds: to say that, or to leave it out, is no change.
            now, *before = [self._router.as_before(each, each) for each in (stated, *filled)]
            found = [different(each, now) for each in before]
            if all(found):
                raise self._changed(found[-1], stated)
        elif entry is not None and len(self._earlier) != 1:
            changed = self._differences(entry, stated)
            if _left_open(given, changed):
                raise self._changed(changed, stated)

    def _changed(self, found: Sequence[Change], stated: ImageRequest) -> DefaultsChanged:
        told = ", ".join(f"{each.name}: {each.plainly}" for each in found if not self._follows(each, found, stated))
        return DefaultsChanged(
            f"{self._known.name} has results under other defaults. What was changed: {told}. Nothing was sent. "
            "Change it back, choose another folder, or have both in this one with --add, batch(add=True)."
        )

    def _follows(self, change: Change, found: Sequence[Change], stated: ImageRequest) -> bool:
        """True for what nobody has said, before or now: a model's default that changed with its model."""
        model = next((each.was for each in found if each.name == "model"), None)
        if change.name != "aspect_ratio" or stated.aspect_ratio is not None or model is None:
            return False
        return None in self._router.ratios(msgspec.structs.replace(stated, model=model, aspect_ratio=change.was))


def _stood_for_another(name: str, entry: JournalEntry, found: Sequence[Change]) -> InvalidRequest:
    what = f"The key {entry.key!r} stood for another request in {name}: {'; '.join(map(str, found))}"
    return InvalidRequest(f"{what}. Change it back, give the request a new key, or choose another folder.")


def _beside(key: str, stated: ImageRequest) -> str:
    """The key of what was added under other defaults: that of what stood there before, and its own behind that."""
    return f"{key}-{content_key(stated)}"


def _left_open(given: ImageRequest, found: Sequence[Change]) -> bool:
    return all(leaves_open(given, each.name, each.was, each.now) for each in found)


def _partly_said(whole: ImageRequest) -> Iterator[ImageRequest]:
    """What a request may have said by itself, where any of it may have come from defaults."""
    fields = (name for name in CONTENT if name not in ("prompt", "extra"))
    said: list[tuple[str, str | None]] = [(name, None) for name in fields if getattr(whole, name) not in (None, ())]
    said += [("extra", each) for each in whole.extra]
    for count in range(1, len(said) + 1 if len(said) <= _SAID_IN_PARTS else 0):
        for left in itertools.combinations(said, count):
            names = {name for name, _ in left} - {"extra"}
            extra = {each: value for each, value in whole.extra.items() if ("extra", each) not in left}
            yield msgspec.structs.replace(whole, **dict.fromkeys(names), extra=extra)
