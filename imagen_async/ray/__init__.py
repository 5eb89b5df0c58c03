"""A stage of Ray Data that makes pictures of a data set's rows, on a cluster: needs the extra `ray`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from .._accounts import Account, named
from .._checked import checked_flags
from .._job_factory import Parameters
from ._cluster import check_ray, coordinator_of
from ._driver import Driver
from ._parts import Part
from ._stages import with_stages

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["generate_images"]


def generate_images(
    dataset: Dataset,
    *accounts: str | Account,
    journal: str | PurePath | None = None,
    save_to: str | PurePath | None = None,
    key_column: str | None = None,
    max_credits: float | None = None,
    retry_failed: bool = False,
    deadline: float = 900,
    node: str | None = None,
    rows_per_block: int | None = None,
    concurrency: int | tuple[int, int] = (1, 8),
    coordinators: int = 1,
    client: Mapping[str, Any] | None = None,
    **parameters: Unpack[Parameters],
) -> Dataset:
    """Make a picture of each row: `rows = generate_images(dataset, "kie", journal="/data/run.db")`, lazily.

    Columns that are fields of a request (`prompt`, `model`, `seed` and so on, in any case) or of the row's model are
    what it asks for; all columns go along. Beside them come out `key`, `prompt`, `image` (bytes; or `path`),
    `media_type`, `sha256`, `picture` (1, and counted up where a row asks for several: each is a row), `provider`,
    `model`, `task_id`, `credits`, `latency` and `error`: a failed request is one row with that, and ends nothing. The
    order is that of Ray Data.

    One actor, the coordinator, creates and asks: it has the keys, the limits and the journal, begins with this call
    and ends with the program. Workers fetch, as many as there is work for. All of them may be killed: what was paid for
    is in the journal. The same call again, from any driver, gives the same pictures and pays for none twice. Rows that
    nobody asks for any more are not sent: within 2 seconds of a Ctrl-C no create leaves.

    Every row has a key, by which it is made once: its column `key`, or its content, so that equal rows are one request
    and share its picture. A key that comes again with other content is an error of that row.

    Args:
        dataset: Any data set of Ray Data. It is read only as fast as its rows are made.
        accounts: As in `Client`. Their keys are read here and are in no other process than the coordinator. With
            `Account("served", …)` a service, `imagen-async serve`, is the owner, and the cluster has no provider's key.
        journal: The SQLite file that remembers all requests, on a local disk of the coordinator's node, made if
            missing. Services of yours need none. `imagen-async status` looks at it, also meanwhile.
        save_to: A folder that all nodes have, for the pictures: rows have their `path` then, and not the bytes.
        key_column: The column that has the keys; None: `key`, where there is one.
        max_credits: What may be spent in all, by all jobs of the journal. What it does not reach is a row with an
            `error`, and is made by a job with more.
        retry_failed: Make new tasks, which are paid for, of requests that failed in an earlier job, or of which nobody
            knows.
        deadline: Seconds for each request, from when it first goes out.
        node: The node of the journal, by its id, address or host's name; None: the driver's. A coordinator that comes
            up where its journal is not sends nothing.
        rows_per_block: Rows that come out together; None: those of 2 seconds, 4 to 256. Ray writes a file for each
            block: `write_parquet(…, min_rows_per_file=…)` for larger ones.
        concurrency: Workers that fetch: how many, or the fewest and the most.
        coordinators: How many, each with accounts, keys and a journal of its own (`run.1of2.db`), and its part of
            `max_credits`. One is enough for some 100 accounts at 2 creates a second. A journal keeps the number that it
            began with.
        client: Other arguments of the coordinator's `Client`, by name, such as `{"policy": "cheapest"}`. Its
            `freshness` is 10 times that of other clients, for rows come out by blocks.
        parameters: As in `ImageRequest`, for what a row leaves out.

    Raises:
        ConfigurationError: An account, a column or a folder cannot be used, or Ray is not there; nothing was sent.
        InvalidRequest: The parameters fit no model; nothing was sent.
        JournalError: The journal cannot be used, or another job has it; nothing was sent.

    While rows are read Ray wraps what ends the job, such as an AccountError where no account takes anything more, into
    an error of its own, `ray.exceptions.RayTaskError`, whose text has ours.
    """
    check_ray()
    (retry_failed,) = checked_flags(retry_failed=retry_failed)
    driver = Driver(accounts, client or {}, parameters)
    known = dataset.schema(fetch_if_missing=False)
    reading = driver.reading(key_column, None if known is None else known.names)
    fetching = driver.fetching(save_to, deadline)
    order = driver.order(max_credits, deadline, retry_failed=retry_failed, has_journal=journal is not None)
    parts = []
    for path, group in zip(driver.journals(journal, coordinators), driver.groups(coordinators), strict=True):
        actor, mark, now = coordinator_of(path, group, driver.options, node)
        own = {"mark": mark, "began_at": now, "max_credits": order.max_credits / coordinators}
        parts.append(Part(actor, msgspec.structs.replace(order, **own), tuple(named(group))))
    return with_stages(dataset, parts, reading, fetching, driver.sizes(rows_per_block), concurrency)
