"""Answers as the field has them, of a small server: what is told of a task and of money is heard, whatever its form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from clients import FAST, until_error
from servers import served

from imagen_async import Account, Client, Limits, Rate, errors, raw_model

URL = "https://files.example/1.png"


class Api:
    """A createTask API that says what a test has it say, and counts the calls to each path."""

    def __init__(self, created: Any = None, record: Any = None, balance: Any = None, status: int = 200) -> None:
        record = {"state": "success", "resultJson": f'{{"resultUrls":["{URL}"]}}', **(record or {})}
        self.said = {"createTask": created or {"taskId": "t1"}, "recordInfo": record, "credit": balance}
        self.status, self.spoil, self.calls = status, bytes, Counter[str]()

    def __call__(self, request: web.Request) -> web.Response:
        place = request.path.rpartition("/")[2]
        self.calls[place] += 1
        if place == "createTask" and self.status != 200:
            return web.json_response({"code": 500, "msg": "refused", "data": None}, status=self.status)
        body = msgspec.json.encode({"code": 200, "msg": "success", "data": self.said[place]})
        return web.Response(body=self.spoil(body), content_type="application/json")


def client_at(url: str) -> Client:
    """A client of such an API."""
    return Client(Account("kie", "k", url, limits=FAST))


@pytest.mark.parametrize("status", [303, 502, 503, 504])
async def test_a_gateway_s_word_is_no_leave_to_send_again(status: int) -> None:
    """The create behind it may have made a task, whatever its body says: it is unknown, and was sent once."""
    async with served(api := Api(status=status)) as url, client_at(url) as client:
        with pytest.raises(errors.UnknownOutcome):
            await client.generate("a fox")
    assert api.calls == {"createTask": 1}


SPOILT: list[Callable[[bytes], bytes]] = [
    lambda body: b"\xef\xbb\xbf" + body.replace(b'"success"', rb'"\ud83d"', 1),
    lambda body: b"Notice: {x}\n" + body.replace(b"success", "成功".encode("big5"), 1),
]


@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize("created", [{"id": "t1"}, "t1", {"task": {"task_id": "t1"}}])
async def test_a_picture_is_had_of_answers_that_are_nearly_right(created: Any, spoil: Callable[[bytes], bytes]) -> None:
    """Its task is named elsewhere, in what is nearly JSON, and so is its end."""
    async with served(api := Api(created)) as url, client_at(url) as client:
        api.spoil = spoil
        result = await client.generate("a fox")
    assert (result.task_id, result.urls, result.credits) == ("t1", (URL,), 8.0)


WORDS = {"resultJson": '{"taskId": "t9", "description": "a red fox"}'}


async def test_a_result_of_words_is_kept(tmp_path: Path) -> None:
    """It is paid for: on the result, in the journal and on disk; the next run has it, and saves what was not saved."""
    options: dict[str, Any] = {"model": raw_model("maker/describe"), "journal": tmp_path / "run.db"}
    results = []
    async with served(api := Api(record=WORDS)) as url:
        for save_to in (None, tmp_path, tmp_path):
            async with client_at(url) as client, client.batch(["a fox"], save_to=save_to, **options) as batch:
                results += [result async for result in batch]
        async with client_at(url) as client:
            single = await client.generate("a fox", model=raw_model("maker/describe"))
            (alone,) = await single.save(tmp_path / "alone")
    assert [(json.loads(each.text)["description"], each.ok, each.urls) for each in results] == [
        ("a red fox", True, ())
    ] * 3
    assert (results[0].files, results[1].files, api.calls["createTask"]) == ((), results[2].files, 2)
    for file in (*results[1].files, alone):
        assert (Path(file).suffix, file.media_type, Path(file).read_text()) == (
            ".json",
            "application/json",
            single.text,
        )


@pytest.mark.slow
async def test_a_failure_that_names_no_task_makes_no_second_one() -> None:
    """A gateway's word in the place of the first answer: it is asked for again, and the one task's picture is had."""
    words = [b'{"status":"error","message":"Bad gateway"}']
    async with served(api := Api()) as url, client_at(url) as client:
        api.spoil = lambda body: words.pop() if words and b"resultUrls" in body else body
        async with client.batch(["a fox"], retries=1) as batch:
            results = [result async for result in batch]
    assert ([result.urls for result in results], words, api.calls["createTask"]) == ([(URL,)], [], 1)


@pytest.mark.parametrize("bill", [-16, "16.0", {"credits": "-16"}, pytest.param("NaN", marks=pytest.mark.slow)])
async def test_a_budget_holds_whatever_form_a_bill_has(bill: Any) -> None:
    """A debit with its sign, a text, an object: what was billed counts, and the price where it is unknown."""
    one_by_one = Limits(Rate(200, per=0.5), Rate(500, per=0.5), running=1)
    async with served(api := Api(record={"creditsConsumed": bill}, balance={"balance": "-3.5"})) as url:
        async with Client(Account("kie", "k", url, limits=one_by_one)) as client:
            async with client.batch([f"fox {n}" for n in range(9)], max_credits=16) as batch:
                results = await until_error(batch, errors.BudgetReached)
            assert await client.credits() == {"kie": -3.5}
    price = 16.0 if str(bill) != "NaN" else 8.0
    count = {16.0: 1, 8.0: 2}[price]
    assert ([result.credits for result in results if result.ok], api.calls["createTask"]) == ([price] * count, count)
