"""What a running service shows of itself: its page and its figures count what its callers were given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browsers import chromium_of_the_machine
from services import service

from imagen_async.sandbox import Sandbox
from imagen_async.service import new_caller


async def test_figures_count_what_was_made(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Tasks by how they ended, pictures and credits, by caller and account; a repeat counts nothing."""
    async with service(imagen_sandbox, tmp_path) as asker:
        await asker.generate(n=2, headers={"Idempotency-Key": "a"})
        await asker.generate(n=2, headers={"Idempotency-Key": "a"})
        imagen_sandbox.order("task", "fail_digits")
        await asker.generate("another")
        told = (await asker.ask("GET", "/metrics")).text
    figures = dict(re.findall(r"^(imagen_async_\w+(?:\{.*?\})?) (\S+)$", told, re.M))
    assert figures['imagen_async_account_tasks_total{account="sandbox",outcome="done"}'] == "2"
    assert figures['imagen_async_account_tasks_total{account="sandbox",outcome="failed"}'] == "1"
    left = [float(value) for name, value in figures.items() if re.search("(waiting|running)[{]", name)]
    assert left == [0.0] * len(left) != []


@pytest.mark.slow
async def test_the_page_shows_what_is_made(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """In a real browser, behind the admin's key: a picture that is made appears on the open page, with its figures."""
    found = chromium_of_the_machine()
    from playwright.async_api import async_playwright  # only here: every worker would wait for it

    callers = tmp_path / "callers.toml"
    admin, shop = new_caller(callers, "admin"), new_caller(callers, "shop")
    async with service(imagen_sandbox, tmp_path / "out", callers=callers) as asker, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, timeout=120_000)
        login = {"username": "me", "password": admin.key}
        page = await browser.new_page(http_credentials=login)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        assert (await asker.ask("GET", "/")).status == 401
        await page.goto(asker.url)
        answer = await asker.generate("a red fox in the snow", headers={"Authorization": f"Bearer {shop.key}"})
        assert answer.status == 200
        await page.get_by_text("a red fox in the snow").first.wait_for()
        await page.get_by_text("shop").first.wait_for()
        assert await page.locator(f'img[src$="{answer.urls[0].rpartition("/")[2]}"]').count() >= 1
        assert errors == []
        await browser.close()
