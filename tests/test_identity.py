"""Which of a journal's requests each request of a later run is: by its content, whoever says it, and by its key."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import (
    DefaultsChanged,
    Identity,
    JournalEntry,
    Known,
    Router,
    leaves_open,
    note_of,
    stable_key,
    with_defaults,
)

from imagen_async import ImageRequest, InvalidRequest
from imagen_async.providers import PROVIDERS

KIE, LIANGXIN = ({name: PROVIDERS[name]} for name in ("kie", "liangxin"))
Item = str | ImageRequest


def default(**fields: Any) -> ImageRequest:
    """A batch's defaults."""
    return ImageRequest("-", **fields)


FAST, ULTRA, NONE = default(model="imagen4-fast"), default(model="imagen4-ultra"), default()


class Folder:
    """A journal, and the runs over it: what each makes new is paid for."""

    def __init__(self) -> None:
        self.jobs: dict[str, JournalEntry] = {}
        self.notes: dict[str, str] = {}

    def identity(self, defaults: ImageRequest, add: bool = False, providers: Any = KIE) -> Identity:
        """What tells which request is which, for one run."""
        seen: Counter[str] = Counter()

        def times_seen(word: str) -> int:
            seen[word] += 1
            return seen[word]

        known = Known("run.db", self.jobs.get, times_seen, dict(self.notes), is_new=not self.jobs)
        return Identity(known, Router(providers, others=PROVIDERS.values()), defaults, add=add)

    def run(
        self, defaults: ImageRequest, *items: Item, add: bool = False, lazily: bool = False, providers: Any = KIE
    ) -> list[str]:
        """Run a batch over a list, or over what is not looked at before; the keys of what is made by it."""
        identity, router = self.identity(defaults, add, providers), Router(providers, others=PROVIDERS.values())
        for item in () if lazily else items:
            identity.check(item)
        self.notes |= identity.news
        found = [(identity.of(item), router.route(with_defaults(item, defaults))[0]) for item in items]
        new = {key: request for (key, entry), request in found if entry is None}
        assert len({key for (key, _), _ in found}) == len(items), "no job is two requests"
        self._keep(new)
        self.notes |= identity.late_news
        return list(new)

    def run_before(self, defaults: ImageRequest, *items: Item) -> None:
        """A run of the version that made keys of what a request said by itself, and noted nothing."""
        seen: Counter[str] = Counter()
        router = Router(KIE)
        for item in items:
            request = item if isinstance(item, ImageRequest) else ImageRequest(item)
            key = request.key or stable_key(request)
            seen[key] += 1
            numbered = key if seen[key] == 1 else f"{key}-{seen[key]}"
            self._keep({numbered: router.route(with_defaults(item, defaults))[0]})

    def _keep(self, made: dict[str, ImageRequest]) -> None:
        assert not made.keys() & self.jobs.keys(), "what was paid for is written over"
        self.jobs |= {key: JournalEntry(key, 0, "done", "kie", request) for key, request in made.items()}


def fox(**fields: Any) -> ImageRequest:
    """A request that says something by itself."""
    return ImageRequest("a fox", **fields)


SAME: list[tuple[ImageRequest, Item, ImageRequest, Item]] = [
    (FAST, "a fox", NONE, fox(model="imagen4-fast")),
    (NONE, "a fox", default(model="imagen4"), fox(model="imagen4")),
    (
        default(seed=7, num_images=2, model="seedream-4"),
        "a fox",
        default(model="seedream-4"),
        fox(seed=7, num_images=2),
    ),
    (NONE, "a fox", default(aspect_ratio="1:1"), "a fox"),
    (FAST, "a fox", NONE, fox(model="imagen4-fast", aspect_ratio="16:9")),
    (default(negative_prompt="mud"), "a fox", NONE, fox(negative_prompt="mud")),
    (default(model="raw:x", extra={"a": 1}), "a fox", default(model="raw:x"), fox(extra={"a": 1})),
    (
        default(model="raw:x", extra={"a": 1, "b": 2}),
        "a fox",
        default(model="raw:x", extra={"b": 2}),
        fox(extra={"a": 1}),
    ),
    (FAST, fox(key="mine"), NONE, fox(key="mine", model="imagen4-fast")),
]


@pytest.mark.parametrize("is_of_before", [False, True], ids=["", "before"])
@pytest.mark.parametrize("is_turned", [False, True], ids=["there", "back"])
@pytest.mark.parametrize(("first", "item", "second", "again"), SAME)
def test_what_defaults_fill_in_is_content(
    first: Any, item: Any, second: Any, again: Any, is_turned: bool, is_of_before: bool
) -> None:
    """A request is the same whether it says something itself or its batch does; also to what is from before."""
    if is_turned:
        first, item, second, again = second, again, first, item
    folder = Folder()
    if is_of_before:
        folder.run_before(first, item, item) if isinstance(item, str) else folder.run_before(first, item)
    else:
        assert len(folder.run(first, item)) == 1
    assert folder.run(second, again) == folder.run(first, item) == []


def test_what_is_left_to_a_models_default_stays_when_the_accounts_change() -> None:
    """The default of whoever takes it now is not that of whoever made it, and it is that request still."""
    folder = Folder()
    folder.run(FAST, "a fox")
    assert folder.run(FAST, "a fox", providers=LIANGXIN) == []
    assert len(folder.run(FAST, "a fox", fox(aspect_ratio="1:1"))) == 1, "that is another picture"


CONTENT = st.tuples(st.sampled_from("ab"), st.sampled_from(["imagen4-fast", "imagen4-ultra"]), st.sampled_from([1, 2]))


@given(st.data(), st.lists(CONTENT, min_size=1, max_size=6), st.booleans())
@settings(max_examples=150)
def test_however_a_file_says_it_nothing_is_made_twice(data: Any, contents: list[Any], is_of_before: bool) -> None:
    """Lines in another order, columns for options, doubled lines, a folder from before: all is found again."""

    def spelled() -> tuple[ImageRequest, list[ImageRequest]]:
        model, seed = data.draw(st.sampled_from(["imagen4-fast", "imagen4-ultra"])), data.draw(st.sampled_from([1, 2]))
        items = []
        for prompt, own, number in data.draw(st.permutations(contents)):
            fields = {"model": own} if own != model or data.draw(st.booleans()) else {}
            fields |= {"seed": number} if number != seed or data.draw(st.booleans()) else {}
            items.append(ImageRequest(prompt, **fields))
        return default(model=model, seed=seed), items

    folder, (defaults, items) = Folder(), spelled()
    if is_of_before:
        folder.run_before(defaults, *items)
        assert folder.run(defaults, *items) == [], "the same command"
    else:
        folder.run(defaults, *items)
    defaults, items = spelled()
    assert folder.run(defaults, *items) == []


@pytest.mark.parametrize("lazily", [False, True], ids=["list", "lazy"])
@pytest.mark.parametrize("is_of_before", [False, True], ids=["", "before"])
@pytest.mark.parametrize("key", [None, "mine"])
def test_other_defaults_are_refused_once_or_added(key: str | None, is_of_before: bool, lazily: bool) -> None:
    """What was changed is told, for no request is anything made; with `add` both are there, and both go on."""
    folder, items = Folder(), (fox(key=key), ImageRequest("a heron"), fox(seed=3, model="imagen4-fast"))
    (folder.run_before if is_of_before else folder.run)(FAST, *items)
    told = "run.db has results under other defaults. What was changed: model: imagen4-fast → imagen4-ultra. Nothing"
    for _ in range(2):
        with pytest.raises(DefaultsChanged, match=told):
            folder.run(ULTRA, *items, lazily=lazily)
    added = folder.run(ULTRA, *items, add=True)
    assert (len(added), len(folder.jobs)) == (2, 5), "what says its model itself is what it was"
    assert added[0] == (
        f"mine-{stable_key(fox(model='imagen4-ultra'))}" if key else stable_key(fox(model="imagen4-ultra"))
    )
    assert [folder.run(*terms) for terms in ((FAST, *items), (ULTRA, *items))] == [[], []]
    assert folder.run(ULTRA, *items, add=True) == []
    for add in (False, True):
        said = default(model="imagen4-ultra", aspect_ratio="1:1")
        assert folder.run(said, *items[:2], add=add, lazily=lazily) == [], "what is its model's default"
    with pytest.raises(DefaultsChanged, match=r"aspect_ratio: (1:1|16:9|none) → 3:4"):
        folder.run(default(model="imagen4-fast", aspect_ratio="3:4"), *items, lazily=lazily)
    if not is_of_before:
        assert folder.notes == {"keys": "whole", **note_of([FAST, ULTRA, said])}


def test_a_list_is_looked_at_before_anything_is_sent() -> None:
    """Until it is sure: what is bad by itself is passed over, and nothing of it is counted yet."""
    folder, bad = Folder(), ImageRequest("a fox", "imagen5")
    folder.run(FAST, "a fox", fox(key="mine"))
    before = Folder()
    before.run_before(FAST, "a fox", fox(key="mine"))
    for each in (folder, before):
        for item in ("a fox", fox(key="mine")):
            fast, ultra, added = (each.identity(*terms) for terms in ((FAST,), (ULTRA,), (ULTRA, True)))
            assert (ultra.check(bad), ultra.is_sure, added.is_sure) == (None, False, True)
            with pytest.raises(DefaultsChanged):
                ultra.check(item)
            assert (fast.check(item), fast.is_sure) == (None, each is folder or item == "a fox")
            assert fast.of(item)[1] is not None


def test_what_a_folder_from_before_notes() -> None:
    """Its defaults, once a request that left its model to them is found again; its keys stay those of before."""
    folder = Folder()
    folder.run_before(FAST, "a fox", fox(model="imagen4-ultra"), ImageRequest("a heron", key="mine"))
    folder.run(FAST, fox(model="imagen4-ultra"), ImageRequest("a heron", key="mine"))
    assert folder.notes == {}
    folder.run(FAST, "a fox", "a wolf")
    assert (folder.notes, folder.run(FAST, "a fox", "a wolf"), len(folder.jobs)) == (note_of([FAST]), [], 4)


def test_doubled_requests_are_counted_however_they_are_said() -> None:
    """One thing said in two ways, and each of them twice, is as many jobs; none is two requests, none is made anew."""
    said = fox(aspect_ratio="1:1")
    for first, again in itertools.product(itertools.product(["a fox", said], repeat=3), repeat=2):
        folder = Folder()
        assert len(folder.run(NONE, *first)) == 3
        assert (folder.run(NONE, *again), len(folder.run(NONE, *again, said))) == ([], 1)


def test_doubled_requests_are_as_many_where_their_keys_are_taken() -> None:
    """By what an earlier version has made under other defaults: each that is added has a key of its own."""
    folder, items = Folder(), [fox(model="imagen4")] * 3
    folder.run_before(default(aspect_ratio="16:9"), *items)
    assert len(folder.run(NONE, *items, add=True)) == 3
    assert folder.run(NONE, *items, add=True) == folder.run(default(aspect_ratio="16:9"), *items) == []


def test_a_key_is_one_requests() -> None:
    """Given twice, or made for another one, it fails the later request."""
    for items in ((fox(key="k"), fox(key="k")), ("a fox", fox(key=f"{stable_key(fox(model='imagen4'))}-2"), "a fox")):
        for lazily in (False, True):
            with pytest.raises(InvalidRequest, match=r"came 2 times|was given to another"):
                Folder().run(NONE, *items, lazily=lazily)


def test_a_new_request_under_other_defaults_is_refused_too() -> None:
    """A folder has one set of defaults until another is added, whatever is asked for next."""
    folder = Folder()
    folder.run(FAST, "a fox")
    with pytest.raises(DefaultsChanged, match="imagen4-fast → imagen4"):
        folder.run(NONE, "a heron")
    assert len(folder.run(NONE, ImageRequest("a heron", "imagen4-ultra"))) == 1, "which no default touches"
    assert len(folder.run(FAST, "a heron")) == 1


def test_a_line_that_was_changed_is_no_other_default() -> None:
    """Another prompt is a new request; under a key of its own it is that line's mistake."""
    folder = Folder()
    folder.run(FAST, "a fox", ImageRequest("a heron", key="mine"))
    assert len(folder.run(FAST, "a wolf", ImageRequest("a heron", key="mine"))) == 1
    for changed in (ImageRequest("an owl", key="mine"), ImageRequest("a heron", "imagen4-ultra", key="mine")):
        with pytest.raises(InvalidRequest, match=r"'mine' stood for another request in run\.db: (prompt|model) was"):
            folder.run(FAST, changed)
        seeded = default(model="imagen4-fast", seed=1)
        with pytest.raises(InvalidRequest, match="; seed was null and is 1 now"):
            folder.run(seeded, changed, add=True)


def test_a_field_of_a_requests_own_is_no_default() -> None:
    """Of `extra`, what a request says itself was left to no default; the rest was."""
    given = ImageRequest("a fox", extra={"own": 1, "too": 1})
    was, other_default, other_own = ({"own": own, "too": 1, "default": left} for own, left in ((1, 1), (1, 2), (2, 1)))
    assert leaves_open(given, "extra", was, other_default)
    assert not leaves_open(given, "extra", was, other_own)


def test_a_note_that_nobody_can_read_is_none() -> None:
    """Then a journal is taken for one of before: its jobs are found by every key that they may have."""
    folder = Folder()
    folder.run(FAST, "a fox")
    folder.notes = {"defaults": "{"}
    assert folder.run(FAST, "a fox") == []
