"""A real Python client, unchanged but for the address: does what it is told, and prints what its objects came to.

The argument is JSON: `client`, one of `WAYS`; `url` and `key`; the client's own `settings`; and `calls`, all made at
once, each with the method in `do`, generate where it is not said, and its arguments. It prints JSON: for each call its
`pictures`, its `events` where it was a stream, its `names` where it was a list of models or of the client's own fields,
or the `error`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_type_hints

Call = dict[str, Any]
Told = dict[str, Any]


def main(demand: dict[str, Any]) -> list[Told]:
    """Do what is demanded."""
    return WAYS[demand["client"]](demand)


def picture(item: Any) -> Told:
    """What a picture's object has."""
    data = base64.b64decode(item.b64_json) if item.b64_json else b""
    seen = {"sha256": hashlib.sha256(data).hexdigest(), "is_png": data.startswith(b"\x89PNG")} if data else {}
    return {"url": getattr(item, "url", None), **seen}


def answer(response: Any) -> Told:
    """What an answer's object has."""
    extra = getattr(response, "model_extra", None) or {}
    return {"pictures": [picture(item) for item in response.data], "ignored": extra.get("ignored")}


def failure(error: Exception) -> Told:
    """What an error tells."""
    known = {name: getattr(error, name, None) for name in ("status_code", "code", "param", "type")}
    body = getattr(error, "body", None)
    return {"error": {"class": type(error).__name__, "message": str(error), "body": body, **known}}


def at_once(calls: Iterable[Call], ask: Callable[[Call], Told]) -> list[Told]:
    """Make all calls, each in a thread of its own."""

    def tried(call: Call) -> Told:
        try:
            return ask(call)
        except Exception as error:
            return failure(error)

    found = list(calls)
    with ThreadPoolExecutor(len(found)) as threads:
        return list(threads.map(tried, found))


def all_of(calls: Iterable[Call], ask: Callable[[Call], Awaitable[Told]]) -> list[Told]:
    """Make all calls, each in a task of its own."""

    async def tried(call: Call) -> Told:
        try:
            return await ask(call)
        except Exception as error:
            return failure(error)

    async def gathered() -> list[Told]:
        return await asyncio.gather(*map(tried, calls))

    return asyncio.run(gathered())


@contextlib.contextmanager
def opened(call: Call) -> Iterator[tuple[str, Call]]:
    """The method, and the arguments with their pictures open."""
    terms = dict(call)
    do = terms.pop("do", "generate")
    with contextlib.ExitStack() as stack:
        for name in ("image", "mask"):
            if isinstance(terms.get(name), list):
                terms[name] = [stack.enter_context(Path(each).open("rb")) for each in terms[name]]
            elif name in terms:
                terms[name] = stack.enter_context(Path(terms[name]).open("rb"))
        yield do, terms


def with_openai(demand: dict[str, Any]) -> list[Told]:
    """openai, in threads."""
    import openai
    from openai.types import image_generate_params

    client = openai.OpenAI(base_url=demand["url"], api_key=demand["key"], **demand["settings"])

    def ask(call: Call) -> Told:
        with opened(call) as (do, terms):
            if do == "models":
                return {"names": [each.id for each in client.models.list()]}
            if do == "fields":
                return {"names": list(get_type_hints(image_generate_params.ImageGenerateParamsStreaming))}
            response = getattr(client.images, do)(**terms)
            if terms.get("stream"):
                events = list(response)
                return {"events": [each.type for each in events], "pictures": [picture(each) for each in events]}
            return answer(response)

    return at_once(demand["calls"], ask)


def with_openai_async(demand: dict[str, Any]) -> list[Told]:
    """openai, in tasks."""
    import openai

    async def ask(call: Call) -> Told:
        async with openai.AsyncOpenAI(base_url=demand["url"], api_key=demand["key"], **demand["settings"]) as client:
            with opened(call) as (do, terms):
                if do == "models":
                    return {"names": [each.id async for each in client.models.list()]}
                response = await getattr(client.images, do)(**terms)
                if terms.get("stream"):
                    events = [each async for each in response]
                    return {"events": [each.type for each in events], "pictures": [picture(each) for each in events]}
                return answer(response)

    return all_of(demand["calls"], ask)


def with_litellm(demand: dict[str, Any]) -> list[Told]:
    """litellm, in threads."""
    import litellm

    def ask(call: Call) -> Told:
        with opened(call) as (do, terms):
            work = {"generate": litellm.image_generation, "edit": litellm.image_edit}[do]
            return answer(work(**_of_litellm(demand, terms)))

    return at_once(demand["calls"], ask)


def with_litellm_async(demand: dict[str, Any]) -> list[Told]:
    """litellm, in tasks."""
    import litellm

    async def ask(call: Call) -> Told:
        with opened(call) as (do, terms):
            work = {"generate": litellm.aimage_generation, "edit": litellm.aimage_edit}[do]
            return answer(await work(**_of_litellm(demand, terms)))

    return all_of(demand["calls"], ask)


def _of_litellm(demand: dict[str, Any], terms: Call) -> Call:
    place = {"api_base": demand["url"], "api_key": demand["key"]}
    return {**place, **demand["settings"], **terms, "model": f"openai/{terms['model']}"}


def with_litellm_router(demand: dict[str, Any]) -> list[Told]:
    """litellm's router, as its proxy has it: it asks again by itself, and its openai client does not."""
    import litellm

    names = {call["model"] for call in demand["calls"]}
    place = {"api_base": demand["url"], "api_key": demand["key"]}
    models = [{"model_name": name, "litellm_params": {"model": f"openai/{name}", **place}} for name in names]
    router = litellm.Router(model_list=models, **{"num_retries": 2, **demand["settings"]})

    async def ask(call: Call) -> Told:
        with opened(call) as (do, terms):
            work = {"generate": router.aimage_generation, "edit": router.aimage_edit}[do]
            return answer(await work(**terms))

    return all_of(demand["calls"], ask)


def with_langchain(demand: dict[str, Any]) -> list[Told]:
    """langchain-community's wrapper, which reads addresses alone."""
    from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

    def ask(call: Call) -> Told:
        terms = {name: value for name, value in call.items() if name not in ("do", "prompt")}
        wrapper = DallEAPIWrapper(base_url=demand["url"], api_key=demand["key"], **demand["settings"], **terms)
        return {"pictures": [{"url": url} for url in wrapper.run(call["prompt"]).split("\n")]}

    return at_once(demand["calls"], ask)


WAYS: dict[str, Callable[[dict[str, Any]], list[Told]]] = {
    "openai": with_openai,
    "openai-async": with_openai_async,
    "litellm": with_litellm,
    "litellm-async": with_litellm_async,
    "litellm-router": with_litellm_router,
    "langchain": with_langchain,
}

if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1])), default=str))
