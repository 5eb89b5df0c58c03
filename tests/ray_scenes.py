"""Jobs on a real cluster of Ray, in a network of their own: `python tests/ray_scenes.py SCENE FOLDER` prints a JSON.

Ray binds the addresses of the machine and writes a token into the home folder: a scene has neither. The provider is the
sandbox, over real HTTP, through a proxy that can keep answers back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from aiohttp import web
from fronts import Front, front
from ray.cluster_utils import Cluster
from readme import blocks
from services import service

from imagen_async import Account, Limits, Rate
from imagen_async.errors import ImagenError
from imagen_async.ray import generate_images
from imagen_async.sandbox import Lives, Sandbox

KEY = "a-key-that-nobody-else-may-have-4711"
PATIENCE = 100.0

COORDINATOR = "ImagenCoordinator"
FETCHING = "MapBatches(Fetching)"
ASKING = "MapBatches(Asking)"


class Holding(Front):
    """A proxy that can keep the answers of creates back, as long lines do."""

    gate: asyncio.Event
    kept = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Lead one request on; the answer to a create comes once the gate is open."""
        answer = await super().answer(request)
        if request.path.endswith("createTask") and not self.gate.is_set():
            self.kept += 1
            try:
                await self.gate.wait()
            finally:
                self.kept -= 1
        return answer


class Provider:
    """The sandbox and the proxy before it, in a thread of their own."""

    def __init__(self, limits: Limits, **terms: Any) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._kept: list[Any] = []
        self.sandbox = Sandbox(limits=limits, key=KEY, **terms)
        self.front: Holding = self.do(self._open())

    @property
    def account(self) -> Account:
        """An account there."""
        return Account("sandbox", api_key=KEY, base_url=self.front.url, limits=self.sandbox.limits)

    @property
    def tasks(self) -> int:
        """How many there are."""
        return len(self.sandbox.ledger.tasks)

    def do(self, work: Any) -> Any:
        """Do something in its loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def enter(self, manager: Any) -> Any:
        """Enter what serves for as long as the scene is played."""
        self._kept.append(manager)
        return await manager.__aenter__()

    def hold(self, *, held: bool) -> None:
        """Keep the answers of creates back from now on, or no more."""
        self._loop.call_soon_threadsafe(self.front.gate.clear if held else self.front.gate.set)

    def figures(self) -> dict[str, Any]:
        """What its ledger says."""
        times, limit = self.sandbox.ledger.create_times, self.sandbox.limits.submit
        worst = max((sum(at <= each < at + limit.per for each in times) for at in times), default=0)
        doubled = [prompt for prompt, count in self.sandbox.ledger.tasks_by_prompt().items() if count > 1]
        refused = dict(self.sandbox.ledger.refused)
        return {"tasks": self.tasks, "doubled": doubled, "worst": worst, "limit": limit.count, "refused": refused}

    async def _open(self) -> Holding:
        await self.sandbox.__aenter__()
        made: Holding = await self.enter(front(self.sandbox.url, keeps=True, kind=Holding))
        made.gate = asyncio.Event()
        made.gate.set()
        return made


def processes(title: str) -> list[int]:
    """The processes of this network that Ray calls so."""
    found = []
    own = os.readlink("/proc/self/ns/net")
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_here = os.readlink(place / "ns" / "net") == own
            if is_here and title in (place / "cmdline").read_bytes().decode(errors="replace").split("\0")[0]:
                found.append(int(place.name))
    return found


def wait_for(what: str, is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    by = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < by, f"waited for {what} in vain"
        time.sleep(0.02)


def kill(title: str) -> int:
    """SIGKILL to one process that Ray calls so, once there is one."""
    wait_for(title, lambda: bool(processes(title)))
    os.kill(found := processes(title)[0], signal.SIGKILL)
    return found


@contextlib.contextmanager
def in_background(work: Callable[[], object]) -> Iterator[None]:
    """Do something meanwhile; its error comes out at the end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    if errors:
        raise errors[0]


def prompts(count: int) -> list[dict[str, Any]]:
    """Rows with a column of their own."""
    return [{"prompt": f"a fox, number {number}", "sku": number} for number in range(count)]


def killed(folder: Path, count: int = 300, shared: str = "") -> dict[str, Any]:
    """Three nodes; coordinator, worker and a node are killed, once with creates on the way; then all of it again."""
    provider = Provider(Limits(Rate(20, per=2), Rate(50, per=1), running=100))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2)
    victim = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address)
    rows = ray.data.from_items(prompts(count))
    terms = {
        "journal": folder / "run.db",
        "model": "imagen4-fast",
        "rows_per_block": 5,
        "client": {"shared": bool(shared)},
    }
    on_the_way: list[int] = []

    def kill_coordinator() -> None:
        kill(COORDINATOR)
        # What its journal says of the moment in which it died.
        with contextlib.closing(sqlite3.connect(folder / "run.db")) as journal:
            on_the_way.extend(journal.execute("SELECT count(*) FROM jobs WHERE state = 'submitting'").fetchone())

    def accidents() -> None:
        until = partial(wait_until_made, provider, count)
        until(0.1)
        kill_coordinator()
        until(0.25)
        provider.hold(held=True)
        wait_for("creates on the way", lambda: provider.front.kept >= 3)
        kill_coordinator()
        provider.hold(held=False)
        until(0.45)
        kill(FETCHING)
        kill(ASKING)
        until(0.55)
        cluster.remove_node(victim, allow_graceful=False)
        until(0.8)
        kill_coordinator()

    with in_background(accidents):
        generate_images(rows, provider.account, **terms).write_parquet(str(folder / "out"))
    first = table_figures(pq.read_table(folder / "out"))
    leaks = key_leaks()
    began = time.monotonic()
    generate_images(rows, provider.account, **terms).write_parquet(str(folder / "again"))
    again = table_figures(pq.read_table(folder / "again"))
    seconds = time.monotonic() - began
    ray.shutdown()
    cluster.shutdown()
    return {
        **provider.figures(),
        "first": first,
        "again": again,
        "seconds again": seconds,
        "on the way": on_the_way,
        "leaks": leaks,
    }


def wait_until_made(provider: Provider, count: int, share: float) -> None:
    """Wait until a share of the rows have tasks."""
    wait_for(f"{share} of the tasks", lambda: provider.tasks > count * share)
    print(f"{time.monotonic():.1f} {provider.tasks} tasks", file=sys.stderr)


def table_figures(table: pa.Table) -> dict[str, Any]:
    """What a job has come to."""
    errors = Counter(str(error).split(":")[0] for error in table["error"].to_pylist() if error)
    whole = sum(1 for image in table["image"].to_pylist() if image) if "image" in table.column_names else 0
    skus = sorted(table["sku"].to_pylist())
    return {"rows": table.num_rows, "different": len(set(skus)), "errors": dict(errors), "pictures": whole}


def key_leaks() -> list[str]:
    """Where the key stands that is the coordinator's alone: processes' environments and words, and Ray's files."""
    found = []
    for process in processes("ray::"):
        for name in ("environ", "cmdline"):
            if KEY.encode() in Path(f"/proc/{process}/{name}").read_bytes():
                found.append(f"{process} {name}")
    for path in Path(ray._private.worker._global_node.get_session_dir_path()).rglob("*"):
        if path.is_file() and KEY.encode() in path.read_bytes():
            found.append(str(path))
    return found


def rows_and_keys(folder: Path) -> dict[str, Any]:
    """One node: what rows come to, with keys and without, with errors, a budget, several pictures, and a folder."""
    provider = Provider(Limits(Rate(50, per=1), Rate(200, per=1), running=100))
    ray.init(num_cpus=4, include_dashboard=False)

    def made(items: Sequence[dict[str, Any]], **terms: Any) -> list[dict[str, Any]]:
        known = {"journal": folder / "run.db", "model": "imagen4-fast", **terms}
        found = generate_images(ray.data.from_items(list(items)), provider.account, **known).take_all()
        return [{name: value for name, value in row.items() if name != "image"} for row in found]

    told: dict[str, Any] = {}
    told["equal"] = made([{"prompt": "equal", "sku": number} for number in range(6)])
    told["tasks of equal"] = provider.tasks
    keyed = [{"prompt": "keyed", "id": number} for number in range(3)]
    told["keyed"] = made([*keyed, {"prompt": "another", "id": 1}], key_column="id")
    told["tasks of keyed"] = provider.tasks - told["tasks of equal"]
    before = provider.tasks
    provider.sandbox.order("task", "fail_word")
    told["failed"] = made([{"prompt": "bad"}, {"prompt": ""}, {"prompt": "wide", "Aspect_Ratio": "17:3"}])
    told["tasks of failed"] = provider.tasks - before
    told["retried"] = made([{"prompt": "bad"}], retry_failed=True)
    before = provider.tasks
    two = [{"prompt": "two of them", "num_images": 2.0}, {"prompt": "one", "num_images": None}]
    told["several"] = made(two, model="seedream-4")
    told["saved"] = made([{"prompt": "equal"}], save_to=folder / "pictures")
    told["files"] = sorted(path.name for path in (folder / "pictures").iterdir())
    spent = provider.sandbox.ledger.credits
    dear = [{"prompt": f"dear {number}"} for number in range(10)]
    told["budget"] = made(dear, max_credits=9, journal=folder / "budget.db")
    told["spent"] = provider.sandbox.ledger.credits - spent
    second = Account("sandbox", name="sandbox-2", api_key=KEY, base_url=f"{provider.front.url}/kie")
    terms = {"journal": folder / "run.db", "model": "imagen4-fast"}
    for name, more in {"column": {"key_column": "nothing"}, "model": {"model": "imagen9"}, "groups": {}}.items():
        try:
            count = {"coordinators": 2} if name == "groups" else {}
            rows = ray.data.from_items([{"prompt": "x"}])
            generate_images(rows, provider.account, second, **{**terms, **more, **count})
        except ImagenError as error:
            told[f"refused {name}"] = error.message
    # One that is written down, and not begun, while another is; on the same journal, with another model.
    first = generate_images(ray.data.from_items([{"prompt": "by two"}]), provider.account, **terms)
    told["two"] = [made([{"prompt": "by two"}], model="imagen4"), [{"model": row["model"]} for row in first.take_all()]]
    before = provider.tasks
    rows = ray.data.from_items(prompts(20))
    own = {"journal": folder / "groups.db", "model": "imagen4-fast", "coordinators": 2}
    generate_images(rows, provider.account, second, **own).write_parquet(str(folder / "out"))
    journals = len(list(folder.glob("groups.*of2.db")))
    told["groups"] = {
        **table_figures(pq.read_table(folder / "out")),
        "tasks": provider.tasks - before,
        "journals": journals,
    }
    wrong = Account("sandbox", api_key="wrong", base_url=provider.front.url)
    try:
        generate_images(rows, wrong, journal=folder / "key.db").take_all()
    except ray.exceptions.RayTaskError as error:
        told["refused key"] = str(error)
    told["right key"] = made([{"prompt": "equal"}], journal=folder / "key.db")
    return told


def interrupted(folder: Path) -> dict[str, Any]:
    """A program's job is interrupted by Ctrl-C, and begun anew."""
    provider = Provider(Limits(Rate(10, per=2), Rate(50, per=1), running=100))
    words = [sys.executable, __file__, "job", str(folder), provider.front.url]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as job:
        wait_for("tasks", lambda: provider.tasks > 15)
        job.send_signal(signal.SIGINT)
        pressed = provider.do(_now())
        code = job.wait(PATIENCE)
    last = max(provider.sandbox.ledger.create_times)
    left = provider.tasks
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    found = table_figures(pq.read_table(folder / "out"))
    return {**provider.figures(), "code": code, "created for": last - pressed, "left at": left, "second": found}


def served(folder: Path) -> dict[str, Any]:
    """A service owns keys and journal; the coordinator, which has none, is killed with tasks on the way."""
    provider = Provider(Limits(Rate(10, per=1), Rate(50, per=1), running=100))
    asker = provider.do(provider.enter(service(provider.sandbox, folder / "service", accounts=[provider.account])))
    ray.init(num_cpus=4, include_dashboard=False)
    rows = ray.data.from_items([*prompts(40), {"prompt": "a fox, number 0", "sku": 40}])

    def accident() -> None:
        wait_for("the first tasks", lambda: provider.tasks > 12)
        kill(COORDINATOR)

    with in_background(accident):
        made = generate_images(rows, Account("served", base_url=asker.url), model="imagen4-fast", rows_per_block=4)
        made.write_parquet(str(folder / "out"))
    return {**provider.figures(), "first": table_figures(pq.read_table(folder / "out")), "leaks": key_leaks()}


def readme(folder: Path) -> dict[str, Any]:
    """README's program, with the sandbox in the place of its two providers."""
    provider = Provider(Limits(Rate(50, per=1), Rate(200, per=1), running=100))
    for name in ("KIE", "APIIN"):
        os.environ[f"{name}_API_KEY"] = KEY
        os.environ[f"{name}_BASE_URL"] = f"{provider.front.url}/{name.lower()}"
    os.chdir(folder)
    Path("prompts").mkdir()
    pq.write_table(pa.Table.from_pylist(prompts(8)), "prompts/some.parquet")
    program = next(block for block in blocks("python") if "generate_images" in block)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, _metrics_export_port=port)
    exec(program.replace("/data/run.db", str(folder / "run.db")), {})
    table = pq.read_table(folder / "out")
    told = {**provider.figures(), "columns": table.column_names, "first": table_figures(table)}
    # Of the coordinator, which is there until the program ends.
    wait_for("metrics", lambda: metrics_of_ray(port).get("ended") == 8)
    return {**told, "metrics": metrics_of_ray(port)}


def metrics_of_ray(port: int) -> dict[str, float]:
    """The sums of our own metrics, as Prometheus has them from the node, by their names."""
    found: Counter[str] = Counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        for line in answer.read().decode().splitlines():
            if named := re.match(r"ray_imagen_async_(\w+?)(?:_total)?\{.*\} (\S+)$", line):
                found[named[1]] += float(named[2])
    return found


def left(folder: Path) -> dict[str, Any]:
    """Whoever wants no more rows leaves the loop, in a program that goes on; then all rows are wanted after all."""
    provider = Provider(Limits(Rate(10, per=1), Rate(50, per=1), running=20), lives=Lives(link=3.0))
    ray.init(num_cpus=4, include_dashboard=False)
    terms = {"journal": folder / "run.db", "model": "imagen4-fast", "rows_per_block": 4}
    rows = generate_images(ray.data.from_items(prompts(60)), provider.account, **terms)
    for _ in rows.iter_batches(batch_size=None, prefetch_batches=0):
        break
    at = provider.do(_now())
    time.sleep(4)
    created_for, left_at = max(provider.sandbox.ledger.create_times) - at, provider.tasks
    rows.write_parquet(str(folder / "out"))
    second = table_figures(pq.read_table(folder / "out"))
    return {**provider.figures(), "created for": created_for, "left at": left_at, "second": second}


async def _now() -> float:
    return asyncio.get_running_loop().time()


def job(folder: Path, url: str) -> dict[str, Any]:
    """The program of `interrupted`."""
    account = Account("sandbox", api_key=KEY, base_url=url, limits=Limits(Rate(10, per=2), running=100))
    rows = ray.data.from_items(prompts(40))
    made = generate_images(rows, account, journal=folder / "run.db", model="imagen4-fast")
    made.write_parquet(str(folder / "out"), mode=ray.data.SaveMode.OVERWRITE)
    return {}


SCENES: dict[str, Callable[..., dict[str, Any]]] = {
    "killed": killed,
    "rows": rows_and_keys,
    "interrupted": interrupted,
    "served": served,
    "left": left,
    "readme": readme,
    "job": job,
}


def main() -> None:
    """Play one."""
    scene, folder, *others = sys.argv[1:]
    told = SCENES[scene](Path(folder), *(int(each) if each.isdecimal() else each for each in others))
    ray.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
