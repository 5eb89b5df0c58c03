"""Uploads files that go in: each once for an account, however many requests have it, and again once it has gone."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

import aiohttp
import anyio
import msgspec

from ._accounts import OpenAccount
from ._core.dialects.answers import open_answer
from ._core.dialects.links import find_links
from ._core.failure import Failure
from ._core.job import Job
from ._core.job_events import NothingLeft, Prepared, Unsendable, Upload
from ._core.provider import Uploads
from ._core.values import ImageRequest, InputFile, renamed_files
from ._core.wire import ConnectFailed, HttpRequest, HttpResponse, Rejected, Remedy, loose_json
from ._input_files import InputFiles, content_of
from ._off_loop import OffLoop
from ._transport.session_pool import Endpoint
from .errors import AccountError, AuthenticationError, ImagenError, InsufficientCredits, InvalidRequest, TransportError

AT_ONCE = 4
"""Files that are uploaded at once: each is in memory as a whole."""

MARGIN = 1800.0
"""Seconds that an address is to be good for yet when a create is sent with it: a task may wait for a while."""

_STOPPING: dict[int, tuple[type[AccountError], str]] = {
    **dict.fromkeys((401, 403), (AuthenticationError, "Check the key.")),
    402: (InsufficientCredits, "Top it up."),
    **dict.fromkeys((404, 405), (AccountError, "Say where files are taken: Account(upload_url=…).")),
}
"""Answers to an upload that say nothing of the file: no other one would be taken either."""

Send = Callable[[str, HttpRequest], Awaitable[HttpResponse]]


def upload_endpoints(accounts: Mapping[str, OpenAccount], endpoints: Mapping[str, Endpoint]) -> dict[str, Endpoint]:
    """Where each account's files go, and what opens that.

    The key goes to the record's own host for files only while the API is at the record's own address.
    """
    found: dict[str, Endpoint] = {}
    for name, account in accounts.items():
        uploads, endpoint = account.provider.uploads, endpoints[name]
        if uploads is None:
            continue
        is_home = endpoint.base_url == account.provider.base_url
        where = account.upload_url or (uploads.base_url if is_home else None) or endpoint.base_url
        found[name] = Endpoint(where, endpoint.api_key)
    return found


class Uploader:
    """What has been uploaded for the accounts of a client, and what does it.

    Args:
        records: How each account's provider takes files.
        marks: What tells where each account's files go, and with which key.
        send: Carries a request to where an account's files go.
        files: What is known of the files.
        off_loop: Where they are read.

    Attributes:
        files: As given.
    """

    def __init__(
        self,
        records: Mapping[str, Uploads],
        marks: Mapping[str, str],
        send: Send,
        files: InputFiles,
        off_loop: OffLoop,
    ) -> None:
        self._records = records
        self._marks = marks
        self._send = send
        self.files = files
        self._off_loop = off_loop
        self._known: dict[tuple[str, str], Upload] = {}
        self._going: dict[tuple[str, str], asyncio.Future[Upload]] = {}
        self._limiter = anyio.CapacityLimiter(AT_ONCE)

    def recall(self, uploads: Mapping[str, Iterable[Upload]]) -> None:
        """Know what earlier runs have uploaded, by account."""
        for account, own in uploads.items():
            for upload in own:
                # What another key, or another host, has been given is not there for this one.
                if upload.mark == self._marks.get(account):
                    self._known.setdefault((account, upload.sha256), upload)

    def sent(self, job: Job) -> set[str]:
        """The addresses that its files have had here, as far as they are known."""
        keys = ((job.account, file.sha256) for file in job.request.local_files.values())
        return {self._known[key].url for key in keys if key in self._known}

    async def prepare(self, job: Job) -> Prepared | Rejected | NothingLeft:
        """Have all files of a job where its account's provider reads them. Nothing of the create leaves by it."""
        try:
            files = job.request.local_files.items()
            return Prepared(tuple([await self._uploaded(job.account, name, file) for name, file in files]))
        except AccountError as error:
            # Nor would the create be taken: all that waits for this account is to go to others.
            return Rejected(Failure.of(error), Remedy.STOP)
        except TransportError as error:
            return ConnectFailed(Failure.of(error))
        except ImagenError as error:
            return Unsendable(Failure.of(error))

    def addressed(self, job: Job) -> ImageRequest:
        """The job's request with the addresses of its files in the place of their names."""
        request = job.request
        urls = {name: self._known[job.account, file.sha256].url for name, file in request.local_files.items()}
        return msgspec.structs.replace(renamed_files(request, urls, job.model.files), local_files={})

    async def _uploaded(self, account: str, name: str, file: InputFile) -> Upload:
        key = (account, file.sha256)
        known, record = self._known.get(key), self._records[account]
        if known is not None and known.until - time.time() > min(MARGIN, record.lifetime / 4):
            return known
        going = self._going.get(key)
        if going is not None:
            # Whoever waits for another's is not to end it.
            return await asyncio.shield(going)
        going = self._going[key] = asyncio.get_running_loop().create_future()
        try:
            async with self._limiter:
                upload = self._known[key] = await self._upload(account, name, file, record)
            going.set_result(upload)
            return upload
        except BaseException as error:
            failure = (
                error if isinstance(error, ImagenError) else TransportError("The upload was given up.", sent=False)
            )
            going.set_exception(failure)
            going.exception()  # nobody may wait for it
            raise
        finally:
            del self._going[key]

    async def _upload(self, account: str, name: str, file: InputFile, record: Uploads) -> Upload:
        data = await self._off_loop.run(content_of, self.files.path_of(name), name, file)
        request = await _form_of(record, file, data)
        response = await self._send(account, request)
        until = time.time() + record.lifetime
        answer = open_answer(response)
        urls = find_links(loose_json(answer.data)) if answer.is_success else ()
        if urls:
            return Upload(file.sha256, urls[0], until, self._marks[account])
        what = f"The upload of {name} was refused: {answer.text or f'HTTP {response.status}'}"
        stopping = _STOPPING.get(answer.code)
        if stopping is not None:
            kind, remedy = stopping
            raise kind(f"{what}. {remedy}", provider=account, code=answer.code)
        if 400 <= answer.code < 500 and answer.code not in (408, 429, 455):
            raise InvalidRequest(f"{what}.", provider=account, code=answer.code)
        raise TransportError(f"{what}.", provider=account, code=answer.code, sent=False)


async def _form_of(record: Uploads, file: InputFile, data: bytes) -> HttpRequest:
    """The form with one file, under a name of ours: what it is called here is nobody's business."""
    form = aiohttp.FormData()
    file_name = f"{file.sha256[:32]}.{file.media_type.partition('/')[2].partition('+')[0]}"
    for field, value in {**record.fields, record.name_field: file_name}.items():
        form.add_field(field, value)
    # As a file: of more than a megabyte of bytes aiohttp warns.
    form.add_field(record.file_field, io.BytesIO(data), filename=file_name, content_type=file.media_type)
    payload = form()
    return HttpRequest("POST", record.path, await payload.as_bytes(), "upload", payload.headers["Content-Type"])
