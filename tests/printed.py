"""The web applications of README and the manual, run as they are printed, as processes whose kie.ai is the sandbox."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from readme import program_of

from imagen_async.sandbox import Sandbox

KEY = "a-webhook-key"


@asynccontextmanager
async def as_printed(
    name: str,
    folder: Path,
    sandbox: Sandbox,
    port: int,
    *,
    workers: int = 1,
    changed: Callable[[str], str] = str,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The printed program of that name, once it says that it is there; `changed` is what a user would change of it."""
    found = [program_of("web"), program_of("fastapi")]
    program = next(block for block in found if block.startswith(f"# {name}\n"))
    (folder / name).write_text(changed(program))
    here = {"PYTHONUNBUFFERED": "1", "PUBLIC_URL": f"http://127.0.0.1:{port}", "PORT": str(port)}
    keys = {"IMAGEN_WEBHOOK_KEY": KEY, "KIE_API_KEY": sandbox.key, "KIE_BASE_URL": sandbox.url_of("kie")}
    served = ["-m", "uvicorn", f"{name.removesuffix('.py')}:app", "--no-access-log", "--port", str(port)]
    command = [*served, "--workers", str(workers)] if "fastapi" in name else [name]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=folder, env={**os.environ, **here, **keys}, stdout=PIPE, stderr=STDOUT
    )
    assert process.stdout is not None
    try:
        said = b""
        # A supervisor says so before its workers are there.
        while b"unning on http" not in said or (workers > 1 and said.count(b"tartup complete") < workers):
            assert not process.stdout.at_eof(), said.decode()
            said += await process.stdout.readline()
        reading = asyncio.create_task(process.stdout.read())
        yield process
        reading.cancel()
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
