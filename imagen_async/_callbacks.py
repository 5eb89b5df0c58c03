"""Where callbacks come in: which create each token belongs to, and who is to hear of it."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from ._addresses import is_address, is_unencrypted
from ._core.callbacks import Address, Seal, is_signed
from ._core.change import Change
from ._core.job import Job
from ._core.job_events import Taken
from ._core.plain_values import plain_or_same
from ._core.provider import Provider
from ._core.states import AwaitingCallback, Confirming, Ended, Running, Unknown
from ._core.upstream import Upstreams
from ._core.wire import clean
from ._text import told
from ._watch.log import log
from .errors import ConfigurationError

SINGLES = -1
"""The owner of all single requests that a journal keeps."""

_REMEMBERED = 1000
"""Jobs that have ended of which a callback is still told apart from one that nobody knows."""


class Callback(msgspec.Struct, frozen=True):
    """Where providers are to announce the end of each task, and how their word is checked. Its key is in no repr.

    Attributes:
        public_url: The address under which they reach the `Receiver`, such as https://example.com/imagen; each create
            adds a token of its own to it. http:// is for this machine only.
        signing_key: kie.ai's webhook key, as its settings show it; or the keys of several accounts, by their names. A
            callback for an account with a key must be signed with it. One key is that of every account whose provider
            signs, or of the only account. None: the token alone is asked for.
    """

    public_url: str
    signing_key: str | Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        url = plain_or_same(self.public_url)
        msgspec.structs.force_setattr(self, "public_url", url)
        if type(url) is not str or not is_address(url):
            message = (
                f"public_url={told(url)} is no address such as https://example.com/imagen, to which a path is added"
            )
            raise ConfigurationError(f"{message}.")
        # Whoever reads the token on the way could announce the task's end.
        if is_unencrypted(url):
            raise ConfigurationError(f"public_url={url!r}: use https:// (http:// is for this machine only).")
        keys = [] if self.signing_key is None else [self.signing_key]
        for key in self.signing_key.values() if isinstance(self.signing_key, Mapping) else keys:
            if not isinstance(key, str) or not key.strip():
                raise ConfigurationError(
                    "signing_key: a key is a text that is not empty, as kie.ai's settings show it."
                )

    def __repr__(self) -> str:
        key = "None" if self.signing_key is None else "'***'"
        return f"Callback({self.public_url!r}, signing_key={key})"

    def keys(self, providers: Mapping[str, Provider]) -> dict[str, str]:
        """The accounts' keys, by their names; raises ConfigurationError for one that belongs to none of them."""
        if self.signing_key is None:
            return {}
        if isinstance(self.signing_key, Mapping):
            unknown = [name for name in self.signing_key if name not in providers]
            if unknown:
                message = f"signing_key: there is no account {unknown[0]!r}, only {', '.join(providers)}"
                raise ConfigurationError(f"{message}.")
            return {name: key.strip() for name, key in self.signing_key.items()}
        # With one account it is plain whose key it is, whatever its provider is known to do.
        signing = [name for name, provider in providers.items() if provider.signs_callbacks or len(providers) == 1]
        if not signing:
            message = f"signing_key: none of {', '.join(providers)} is known to sign callbacks; say whose key it is"
            raise ConfigurationError(f'{message}, as in {{"{next(iter(providers))}": "…"}}.')
        return dict.fromkeys(signing, self.signing_key.strip())


def log_stray(account: str | None, task_id: str) -> None:
    """Tell of a task that a lost create has made after all, and that nobody waits for."""
    message = "%s: task %s was made by a create whose answer was lost; it is paid for: collect it"
    log(logging.WARNING, message, account, clean(task_id))


class EndedJob(msgspec.Struct, frozen=True):
    """How a job ended, as far as a callback may still have to do with it.

    Attributes:
        key: As in Job.
        is_unknown: True where its create's answer was lost, and no task of it is known.
        task_id: Its task, or None.
        lost_creates: As in Job.
    """

    key: str
    is_unknown: bool
    task_id: str | None
    lost_creates: tuple[int, ...]


class CallbackClaim(msgspec.Struct, frozen=True):
    """A callback whose token is good.

    Attributes:
        owner: Whose jobs the token's are; 0 for those that no journal remembers.
        address: Which create of which job it is about.
        job_id: That job, where this process has sent it or taken it up; else None.
        account: Whose task it is, where that is known.
        ending: How that job ended; None while it lives.
    """

    owner: int
    address: Address
    job_id: int | None
    account: str | None
    ending: EndedJob | None


class TokenOwner(Protocol):
    """Whose jobs have tokens of a secret of their own, so that a later process knows them: a journal.

    Attributes:
        seal: Makes the tokens of its jobs.
    """

    @property
    def seal(self) -> Seal: ...

    def account_of(self, name: bytes) -> str | None:
        """Whose tasks a request's lost creates have made, by what stands for it in tokens; None where none was lost."""

    async def account(self, name: bytes) -> str | None:
        """The same, where that takes a look at a disk."""

    async def noted(self, key: str) -> None:
        """Wait until what is known of a request is safe; raises JournalError."""

    async def called_back(self, address: Address, task_id: str) -> None:
        """Hear of the task of such a create where no job waits for it; raises JournalError."""


_MAY_BE_ANNOUNCED = Running | AwaitingCallback | Confirming


class CallbackRegistry:
    """Which job each token belongs to.

    Jobs of a journal have tokens of the journal's own secret, so that a later process knows them; the others have the
    client's. A token tells by itself whether it is good, so no more is kept than the jobs that live, and a few more.

    Args:
        public_url: What the tokens are added to.
        signing_keys: The accounts' keys, by their names; who has none need not sign.
        secret: That of the client's own jobs, where other processes know it, too; None: nobody else does.

    Attributes:
        public_url: As given, without a slash at its end.
    """

    def __init__(self, public_url: str, signing_keys: Mapping[str, str], secret: bytes | None = None) -> None:
        self.public_url: str = public_url.rstrip("/")
        self._keys = signing_keys
        self._own = Seal(secret or secrets.token_bytes(32))
        # Each client counts its jobs from 1: with one secret for several, a number alone would be several jobs'.
        self._mine = secrets.token_hex(8) if secret else ""
        self._journals: dict[int, TokenOwner] = {}
        self._live: dict[tuple[int, bytes], CallbackClaim] = {}
        self._ended: dict[tuple[int, bytes], CallbackClaim] = {}
        self._lost: dict[tuple[int, bytes], CallbackClaim] = {}
        self._refused: set[str] = set()

    def connect(self, owner: int, journal: TokenOwner) -> None:
        """Let an owner's jobs have tokens of its journal's secret."""
        self._journals[owner] = journal

    def disconnect(self, owner: int) -> None:
        """Forget an owner: its tokens are good no more, so that whoever calls back tries again, with luck later."""
        if self._journals.pop(owner, None) is not None:
            for claims in (self._live, self._ended, self._lost):
                for place in [place for place in claims if place[0] == owner]:
                    del claims[place]

    def journal_of(self, claim: CallbackClaim) -> TokenOwner | None:
        """The journal that a token belongs to, or None."""
        return self._journals.get(claim.owner)

    def on_change(self, change: Change, now: float) -> None:
        """Know a job whose task may be announced from now on, and one that has ended."""
        job = change.after
        # Sent by an earlier process: what was announced to that one's address may come here.
        comes_in = change.before is None and (job.lost_creates or isinstance(job.state, _MAY_BE_ANNOUNCED))
        if isinstance(job.state, Ended):
            self._end(job)
        elif isinstance(change.event, Taken) or comes_in:
            self._expect(job)

    def url_of(self, job: Job) -> str:
        """Where the end of a job's present create is to be announced."""
        owner, name = self._place(job)
        return f"{self.public_url}/{self._seal(owner).token(Address(name, job.attempts))}"

    def _expect(self, job: Job) -> None:
        owner, name = place = self._place(job)
        self._live[place] = CallbackClaim(owner, Address(name, job.attempts), job.id, job.account, None)

    def _end(self, job: Job) -> None:
        place = self._place(job)
        claim = self._live.pop(place, None)
        if claim is not None:
            ending = EndedJob(job.key, isinstance(job.state, Unknown), job.task_id, job.lost_creates)
            # Those with a lost create are never forgotten: its callback may name a task that is paid for.
            ended = self._lost if job.lost_creates else self._ended
            ended[place] = msgspec.structs.replace(claim, account=job.account, ending=ending)
            if len(self._ended) > _REMEMBERED:
                del self._ended[next(iter(self._ended))]

    def find(self, token: str) -> CallbackClaim | None:
        """What a token is about; None for one that is not ours."""
        found = None
        # A token does not say whose it is, so that each secret is tried; a batch and single requests may have one.
        for owner in (0, *self._journals):
            address = self._seal(owner).opened(token)
            if address is not None:
                place = (owner, address.name)
                claim = self._live.get(place) or self._lost.get(place) or self._ended.get(place)
                if claim is not None:
                    # The create is the token's own, which may be an earlier one than the job's last.
                    return msgspec.structs.replace(claim, address=address)
                account = self._journals[owner].account_of(address.name) if owner else None
                if found is None or account is not None:
                    found = CallbackClaim(owner, address, None, account, None)
        return found

    def is_token(self, text: str) -> bool:
        """True for a token that was made here, or for a journal that is open here."""
        return any(self._seal(owner).opened(text) is not None for owner in (0, *self._journals))

    def is_genuine(self, claim: CallbackClaim, headers: Mapping[str, str], document: Mapping[str, Any]) -> bool:
        """Say whether a callback is signed where it must be; one about a job that nobody knows has no effect anyway."""
        account = claim.account or ""
        key = self.key_of(account)
        is_good = key is None or is_signed(headers, document, key, now=time.time())
        if not is_good and account not in self._refused:
            # Said once: a wrong key concerns every callback of the account.
            self._refused.add(account)
            message = (
                "%s: a callback came that is not signed with its signing key, or too late: check the key, the clock"
            )
            log(logging.WARNING, message, account)
        return is_good

    def key_of(self, account: str) -> str | None:
        """What an account's callbacks must be signed with; None: they need not be."""
        return self._keys.get(account)

    def _place(self, job: Job) -> tuple[int, bytes]:
        """Whose tokens a job has, and what stands for it in them."""
        owner = job.owner if job.owner in self._journals else 0
        if not owner and SINGLES in self._journals and job.owner == job.id:
            owner = SINGLES
        # A key outlives the process that made the token; a job's number does not.
        return owner, self._seal(owner).name(job.key if owner else f"{self._mine}{job.id}")

    def _seal(self, owner: int) -> Seal:
        return self._journals[owner].seal if owner else self._own


class SilenceWatch:
    """Says so, once an account, where tasks end and no callback ever comes.

    Args:
        upstreams: The accounts.
        public_url: Where callbacks are to come.
    """

    def __init__(self, upstreams: Upstreams, public_url: str) -> None:
        self._upstreams = upstreams
        self._public_url = public_url
        self._told: set[str] = set()

    def on_change(self, change: Change, now: float) -> None:
        """Look at the account of a job that something happened to."""
        account = change.after.account
        if account not in self._told and self._upstreams[account].poll_queue.reliability.are_silent:
            self._told.add(account)
            message = "%s: tasks end and no callback comes: can it reach %s from where it is? Polling goes on."
            log(logging.WARNING, message, account, self._public_url)
