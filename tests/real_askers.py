"""Has real clients ask a service: programs of their own, in the environments that IMAGEN_CLIENTS names."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent / "real_clients"
PATIENCE = 300.0
"""Seconds after which a program that has not ended is a failure."""

Told = dict[str, Any]


class RealClient(NamedTuple):
    """One of them.

    Attributes:
        name: By which a test is called.
        way: What its program calls it.
        place: The folder of its packages.
        impatient: Its setting for two seconds of patience; none where it has no such setting.
        persistent: Its setting for more tries than anybody has.
    """

    name: str
    way: str
    place: str
    impatient: dict[str, Any]
    persistent: dict[str, Any]

    @property
    def is_ai_sdk(self) -> bool:
        """True for Vercel's."""
        return self.way.startswith("ai-")

    @property
    def is_litellm(self) -> bool:
        """True for litellm in any of its ways."""
        return self.way.startswith("litellm")

    @property
    def says_when_it_repeats(self) -> bool:
        """True for those who send `x-stainless-retry-count`: openai's own, and who asks by them."""
        return not self.is_ai_sdk and self.way != "litellm-router"

    def __str__(self) -> str:
        return self.name


_PYTHON = ({"timeout": 2}, {"max_retries": 8})
_NODE = ({"timeout": 2000}, {"maxRetries": 8})
_AI = ({}, {"maxRetries": 8})

CLIENTS = (
    RealClient("openai", "openai", "python", *_PYTHON),
    RealClient("openai-async", "openai-async", "python", *_PYTHON),
    RealClient("litellm", "litellm", "python", *_PYTHON),
    RealClient("litellm-async", "litellm-async", "python", *_PYTHON),
    RealClient("litellm-router", "litellm-router", "python", {"timeout": 2}, {"num_retries": 8}),
    RealClient("langchain", "langchain", "python", *_PYTHON),
    RealClient("openai-node", "openai", "npm", *_NODE),
    RealClient("openai-node-earlier", "openai", "npm_earlier", *_NODE),
    RealClient("ai-sdk", "ai-openai", "npm", *_AI),
    RealClient("ai-sdk-earlier", "ai-openai", "npm_earlier", *_AI),
    RealClient("ai-sdk-compatible", "ai-compatible", "npm", *_AI),
    RealClient("ai-sdk-compatible-earlier", "ai-compatible", "npm_earlier", *_AI),
)


def environments() -> Path | None:
    """The folder of the environments, or None where there is none."""
    folder = os.environ.get("IMAGEN_CLIENTS")
    return Path(folder).absolute() if folder else None


async def ask(
    client: RealClient, url: str, *calls: dict[str, Any], key: str = "sk-none", **settings: Any
) -> list[Told]:
    """Have a real client make calls, all at once; what each came to."""
    folder = environments()
    assert folder is not None
    terms = {"client": client.way, "url": f"{url}/v1", "key": key, "settings": settings, "calls": calls}
    demand = json.dumps(terms)
    # Nothing of this Python's is for that one; and litellm asks the Internet for prices where it is not told not to.
    known = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE", "OPENAI"))}
    environment = {**known, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"}
    is_python = client.place == "python"
    program = HERE / ("ask.py" if is_python else "ask.mjs")
    node = folder / "npm" / "node_modules" / ".bin" / "node"
    command = [folder / "python" / "bin" / "python", program] if is_python else [node, "--input-type=module", "-"]
    with program.open("rb") as source:
        terms = {"stdin": source, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
        process = await asyncio.create_subprocess_exec(
            *map(str, command), demand, **terms, env=environment, cwd=folder / client.place
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    # Some tell of themselves before that.
    lines = out.decode().splitlines()
    assert process.returncode == 0, err.decode()
    told: list[Told] = json.loads(lines[-1])
    return told


def pictures(told: list[Told]) -> list[Told]:
    """All pictures that somebody came to have; an error is a failure."""
    assert [each["error"] for each in told if "error" in each] == []
    return [picture for each in told for picture in each["pictures"]]


def distinct(found: list[Told]) -> int:
    """How many different ones there are."""
    return len({picture.get("sha256") or picture["url"] for picture in found})
