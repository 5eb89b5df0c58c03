"""Who may ask the service: the file of callers, how one is added to it, what becomes of it while the service runs."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest
from handles import at_most
from hypothesis import given
from hypothesis import strategies as st
from inner import ANYBODY, Caller, WatchedCallers, callers_in, new_caller, new_callers, read_callers

from imagen_async.errors import ConfigurationError

SECRET = f"whsec_{'QUJD' * 10}"


def digest(key: str) -> str:
    """As the file has a key."""
    return hashlib.sha256(key.encode()).hexdigest()


WHOLE = f"""# Who may ask.
[admin]
key_sha256 = "{digest("root")}"

[callers.shop]  # by the till
key_sha256 = "{digest("shop-key").upper()}"
models = ["imagen4-fast", "nano-banana-2"]
budget_per_day = 500
budget = 10000.0
share = 2.0
callback_secret = "{SECRET}"

[callers."night.run"]
key_sha256 = "{digest("night-key")}"
"""


def test_a_file_tells_who_may_ask() -> None:
    """Every field is read, what is left out has no bound, and each is known by its key alone."""
    callers = callers_in("callers.toml", b"\xef\xbb\xbf" + WHOLE.encode())
    assert (callers.names, callers.has_admin) == (("shop", "night.run"), True)
    shop = Caller("shop", ("imagen4-fast", "nano-banana-2"), 500.0, 10000.0, 2.0, SECRET)
    assert [callers.by_key(key) for key in ("shop-key", "night-key", "root", "shop")] == [
        shop,
        Caller("night.run"),
        Caller("admin", is_admin=True),
        None,
    ]
    assert (callers.by_name("shop"), callers.by_name("nobody")) == (shop, None)
    assert (ANYBODY.name, ANYBODY.budget, ANYBODY.models, ANYBODY.is_admin) == ("", None, None, False)
    assert SECRET not in repr(shop) + repr(shop.__rich_repr__())


CALLERS = callers_in("callers.toml", WHOLE.encode())


@given(st.text() | st.sampled_from(["", "k" * 10_000_000, "shop-key\n", "\ud800", "\0", digest("shop-key")]))
def test_whatever_is_sent_as_a_key_is_nobodys(key: str) -> None:
    """Nothing, half characters, ten megabytes, or what the file has: none is a key, and none an exception."""
    assert CALLERS.by_key(key) is None


def of_shop(fields: str, key: str = digest("k")) -> str:
    """A file of one caller."""
    return f'[callers.shop]\nkey_sha256 = "{key}"\n{fields}'


BAD = {
    "[callers.shop]": ["[callers.shop] has no key_sha256", "64 hexadecimal digits"],
    of_shop("", "sk-real-key"): ["[callers.shop]: key_sha256", "64 hexadecimal digits"],
    of_shop("", digest("k") + "\\n"): ["key_sha256"],
    of_shop("", digest("")): ["empty key"],
    of_shop("bugdet = 3"): ["'bugdet'", "allowed are key_sha256, models", "Did you mean budget?"],
    of_shop("budget = -1"): ["budget is -1", "a number from 0 on"],
    of_shop("budget = nan"): ["budget is nan"],
    of_shop("budget_per_day = inf"): ["budget_per_day is inf"],
    of_shop("budget_per_day = true"): ["budget_per_day is True"],
    of_shop(f"budget = 1{'0' * 400}"): ["budget is 1"],
    of_shop("budget = '5'"): ["budget is '5'"],
    of_shop("share = 0"): ["share is 0"],
    of_shop("share = 5e-324"): ["share is 5e-324"],
    of_shop("share = 2000-01-01"): ["share is datetime"],
    of_shop("models = 'imagen4'"): ["models is 'imagen4'", '["imagen4-fast"]'],
    of_shop("models = []"): ["models is []"],
    of_shop("models = ['a', 3]"): ["models is"],
    of_shop("models = [' ']"): ["models is"],
    of_shop("callback_secret = 'sk-real-key'"): ["callback_secret", "24 to 64 random bytes"],
    of_shop("callback_secret = 'whsec_QUJD'"): ["callback_secret"],
    of_shop("callback_secret = 'whsec_sk-real-key\u00e9'"): ["callback_secret"],
    of_shop(f"callback_secret = 'whsec_{'QUJD' * 22}'"): ["callback_secret"],
    of_shop(f"[callers.b]\nkey_sha256 = '{digest('k').upper()}'"): ["[callers.shop] and [callers.b] have one key"],
    of_shop(f"[admin]\nkey_sha256 = '{digest('k')}'"): ["[admin] and [callers.shop] have one key"],
    of_shop("[callers.shop.one]\nshare = 1"): ["no field 'one'", 'quoted: [callers."a.b"]'],
    of_shop("[callers.shop]"): ["no file of callers"],
    f"[admin]\nkey_sha256 = '{digest('k')}'\nbudget = 3": ["[admin] has no field 'budget'"],
    "[admins]\nx = 1": ["no field 'admins'", "Did you mean admin?"],
    "admin = 3": ["[admin] is no table"],
    "callers = ['sk-real-key']": ["callers is no table"],
    "callers.shop = 'sk-real-key'": ["[callers.shop] is no table"],
    "[callers.admin]": ["'admin'", "a table of its own"],
    "[callers.'-x']": ["'-x'", "a letter or a digit is the first"],
    "[callers.'']": ["''"],
    f"[callers.{'x' * 65}]": ["up to 64"],
    '[callers."a\\u0000b"]': ["'a\\x00b'"],
    "x = ": ["no file of callers", "Invalid value"],
    "x = '\0'": ["no file of callers"],
    f"x = {'[' * 100_000}": ["no file of callers"],
    f"x = {'9' * 5000}": ["no file of callers"],
    "": ["names nobody", "--new-caller NAME"],
    "# nobody yet\n": ["names nobody"],
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: repr(text[:40]))
def test_what_is_wrong_is_told(text: str, tmp_path: Path) -> None:
    """The message names the file, the caller, the field and what is allowed; never what may be a key."""
    path = tmp_path / "callers.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as raised:
        read_callers(path)
    message = raised.value.message
    assert message.startswith(str(path))
    assert [word for word in BAD[text] if word not in message] == []
    assert "sk-real-key" not in message


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A file that is missing, a folder, or bytes that are no text."""
    (tmp_path / "latin").write_bytes(b"# \xe9")
    for path in (tmp_path / "none", tmp_path, tmp_path / "latin", f"{tmp_path}/\0"):
        with pytest.raises(ConfigurationError):
            read_callers(path)


def test_a_caller_is_added(tmp_path: Path) -> None:
    """What stood there stays to the byte, the keys are known by it and in no repr, and only the owner may read it."""
    path = tmp_path / "callers.toml"
    made = {name: new_caller(path, name) for name in ("admin", "shop", "night.run", "7")}
    callers = read_callers(path)
    assert path.stat().st_mode & 0o777 == 0o600
    for name, new in made.items():
        found = callers.by_key(new.key)
        assert found == Caller(name, callback_secret=new.callback_secret, is_admin=name == "admin")
        assert new.key.startswith("ia-")
        assert new.key not in path.read_text() + repr(new) + repr(new.__rich_repr__())
    assert (made["admin"].callback_secret, made["shop"].callback_secret) != (None, None)
    assert len({new.key for new in made.values()}) == 4


@pytest.mark.parametrize(
    "before", ["# mine", "# mine\r\n", "# mine\n\n", WHOLE, WHOLE.rstrip(), WHOLE.replace("\n", "\r\n")]
)
def test_what_stood_there_stays(before: str, tmp_path: Path) -> None:
    """Comments, order, ends of lines and the file's mode are the user's own; a link to it stays one."""
    path, link = tmp_path / "callers.toml", tmp_path / "link"
    path.write_bytes(before.encode())
    path.chmod(0o640)
    link.symlink_to(path)
    made = new_caller(link, "new")
    assert (path.read_bytes().startswith(before.encode()), link.is_symlink()) == (True, True)
    assert path.stat().st_mode & 0o777 == 0o640
    added = path.read_bytes()[len(before) :]
    assert added.count(b"\n") == added.count(b"\r\n") or "\r\n" not in before
    callers = read_callers(path)
    assert callers.by_key(made.key) == Caller("new", callback_secret=made.callback_secret)
    assert callers.names[:-1] == callers_in("", before.encode()).names
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".part")] == []


REFUSED = {
    WHOLE: ("shop", "has [callers.shop] already: choose another name"),
    WHOLE + " ": ("admin", "has [admin] already"),
    "callers = {}": ("new", "a table of its own, [callers.new]"),
    of_shop("bugdet = 3"): ("new", "Did you mean budget?"),
    "# any": ("a b", "'a b'"),
    "# one": ("", "''"),
    "# two": ("new\n", "'new\\n'"),
    "# three": ("n\u00e9w", "cannot be named"),
}


@pytest.mark.parametrize("before", REFUSED, ids=lambda text: repr(text[-30:]))
def test_a_file_to_which_nothing_can_be_added_stays(before: str, tmp_path: Path) -> None:
    """A name that is taken or can be none, a file that is wrong, or written in another way: told, and left alone."""
    path = tmp_path / "callers.toml"
    path.write_text(before)
    name, word = REFUSED[before]
    with pytest.raises(ConfigurationError) as raised:
        new_caller(path, name)
    assert word in raised.value.message
    assert path.read_text() == before


def test_a_file_that_was_saved_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    """Who saves it in an editor, or makes it, between our reading and our writing keeps what it wrote."""
    path = tmp_path / "callers.toml"
    path.write_text("# theirs")
    for before in (None, (1, 2, 3)):
        with pytest.raises(ConfigurationError, match="changed meanwhile"):
            new_callers._write(path, b"# ours", before)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"callers.toml": "# theirs"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the superuser gives files away")
def test_the_file_stays_its_owners(tmp_path: Path) -> None:
    """Who serves can read what the superuser has added."""
    path = tmp_path / "callers.toml"
    path.write_text("# theirs")
    os.chown(path, 1234, 1235)
    new_caller(path, "shop")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)


def test_a_place_that_takes_no_file_is_told(tmp_path: Path) -> None:
    """A folder that is missing, a path that is a folder, or can be no path."""
    for path in (tmp_path / "none" / "callers.toml", tmp_path, f"{tmp_path}/\0"):
        with pytest.raises(ConfigurationError):
            new_caller(path, "shop")


ADD = "import sys; from imagen_async.service._new_callers import new_caller\n"
ADD += "for name in sys.argv[2:]: print(new_caller(sys.argv[1], name).key, flush=True)"


def test_several_at_once_lose_no_caller(tmp_path: Path) -> None:
    """Processes and threads that add callers to one file, which none of them has made, have all of them in it."""
    path = tmp_path / "callers.toml"
    names = [[f"p{process}-{number}" for number in range(8)] for process in range(3)]
    children = [
        subprocess.Popen([sys.executable, "-c", ADD, str(path), *own], stdout=subprocess.PIPE, text=True)
        for own in names
    ]
    with ThreadPoolExecutor(3) as threads:
        keys = [new.key for new in threads.map(lambda name: new_caller(path, name), ["t1", "t2", "t3"])]
    for child in children:
        keys += child.communicate()[0].split()
    callers = read_callers(path)
    assert {caller.name for key in keys if (caller := callers.by_key(key))} == {"t1", "t2", "t3", *chain(*names)}


HOLD = "import sys, time; from imagen_async.service._new_callers import _turn\n"
HOLD += "with _turn(sys.argv[1]): print('held', flush=True); time.sleep(1000)"


@contextlib.contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process is in the midst of adding one."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
        child.send_signal(signal.SIGKILL)


def test_a_killed_process_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has the file and does not go on is told of; once it is killed, the next one has its turn."""
    path = tmp_path / "callers.toml"
    monkeypatch.setattr(new_callers, "PATIENCE", 0.1)
    with held(path):
        with pytest.raises(ConfigurationError, match="changed by another process"):
            new_caller(path, "shop")
        assert not path.exists()
    new_caller(path, "shop")
    assert read_callers(path).names == ("shop",)


def rewritten(path: Path, text: str) -> None:
    """Write a file as an editor does: another one in its place."""
    other = path.with_suffix(".new")
    other.write_text(text)
    os.replace(other, path)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """It is looked at once a second at most; what has not changed is not read; a clock that went back looks too."""
    path = tmp_path / "callers.toml"
    path.write_text(of_shop(""))
    watched = WatchedCallers(path, 100.0)
    first = watched.present(100.5)
    rewritten(path, of_shop("share = 3.0"))
    assert watched.present(100.99) is first
    second = watched.present(101.0)
    assert [each.share for each in (first.by_key("k"), second.by_key("k")) if each] == [1.0, 3.0]
    assert watched.present(200.0) is second
    rewritten(path, of_shop("share = 4.0"))
    assert watched.present(50.0) is not second


def test_a_file_that_became_bad_shuts_nobody_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The callers stay as they were, one warning a change says why, and once it is good again it counts."""
    path = tmp_path / "callers.toml"
    path.write_text(of_shop(""))
    watched = WatchedCallers(path, 0.0)
    good, clock = watched.present(0.0), iter(range(2, 100))

    def warnings(text: str | None) -> int:
        """How many there are when the file is that, or missing, for a while."""
        if text is None:
            path.unlink()
        else:
            rewritten(path, text)
        caplog.clear()
        for _ in range(3):
            assert watched.present(float(next(clock))) is good
        return len(caplog.records)

    with caplog.at_level(logging.WARNING, "imagen_async"):
        assert [warnings(text) for text in ("x =", "x = ", "", None, of_shop("share = 0"), None)] == [1] * 6
        assert "the callers stay as they were" in caplog.text
        rewritten(path, of_shop("share = 4.0"))
        changed = watched.present(float(next(clock))).by_key("k")
    assert changed is not None
    assert changed.share == 4.0


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    """What kept it from being read, as where no file can be opened any more, may end without a change of the file."""
    path = tmp_path / "callers.toml"
    path.write_text(of_shop(""))
    watched = WatchedCallers(path, 0.0)
    rewritten(path, of_shop("share = 3.0"))
    with at_most(0):
        before = watched.present(2.0)
    assert watched.present(4.0) is not before
