"""The public face as its users type it; checked by mypy in strict mode, and run by a test."""

from __future__ import annotations

from collections.abc import AsyncIterator

from imagen_async import (
    Account,
    Batch,
    Client,
    ImageFile,
    ImagenError,
    ImageRequest,
    Job,
    Limits,
    Progress,
    Rate,
    Result,
    raw_model,
)


async def prompts() -> AsyncIterator[str | ImageRequest]:
    yield "a red fox"
    yield ImageRequest("a bowl of ramen", model="seedream-4", num_images=2, key="ramen", extra={})


async def main(base_url: str, api_key: str, folder: str) -> list[str]:
    limits = Limits(submit=Rate(20, per=1), status=Rate(50, per=1), running=100)
    account = Account("sandbox", api_key=api_key, base_url=base_url, limits=limits)
    lines: list[str] = []
    async with Client(account) as client:
        result: Result = await client.generate("a fox", model="imagen4-ultra", aspect_ratio="16:9", deadline=60)
        files: tuple[ImageFile, ...] = await result.save(folder)
        job: Job = await client.submit("another fox", seed=7)
        task_id: str = job.task_id
        same: Result = await client.collect(task_id, provider="sandbox")
        awaited: Result = await job
        balances: dict[str, float | None] = await client.credits()
        lines += [str(files[0]), same.urls[0], awaited.urls[0], raw_model("x/y"), repr(balances)]
        batch: Batch = client.batch(prompts(), model="imagen4-fast", save_to=folder, ordered=True, retries=1)
        async with batch as results:
            async for each in results:
                error: ImagenError | None = each.error
                lines.append(each.key if error is None else error.message)
            progress: Progress = results.progress
            lines.append(f"{progress.done}")
    return lines
