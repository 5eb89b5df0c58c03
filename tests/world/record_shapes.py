"""The forms in which a task's record was met: what is around it, its words for a state, its fields, its links."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

from .answer_shapes import Record, success

AROUND: dict[str, Callable[[Record], Any]] = {
    "code as a text": lambda record: success(record, code="200"),
    "code with a fraction": lambda record: success(record, code=200.0),
    "code 0": lambda record: success(record, code=0),
    "code 201": lambda record: success(record, code=201),
    "a code that is a word": lambda record: success(record, code="ok"),
    "no code": lambda record: {"data": record},
    "a message of a wrong type": lambda record: success(record, msg=["ok"], message={"text": "ok"}),
    "no message": lambda record: success(record, msg=None, error=None),
    "more fields around": lambda record: success(record, success=True, requestId="r1", timestamp=1777600000000),
    "data with a capital": lambda record: {"Code": 200, "Msg": "success", "Data": record},
    "data in a text": lambda record: success(json.dumps(record)),
    "data in a list of one": lambda record: success([record]),
    "data in data": lambda record: success({"data": record}),
    "no envelope": lambda record: record,
    "all of it flat": lambda record: {"code": 200, "msg": "success", **record},
}
"""What may be around what a create is answered with, or around a record of a task."""

ENVELOPES: dict[str, Callable[[Record], Any]] = {
    **AROUND,
    "data in a task": lambda record: success({"task": record}),
    "data in a page of records": lambda record: success({"total": 1, "records": [record]}),
    # kie.ai's word for a task that has failed.
    "501 around what failed": lambda record: (
        {"code": 501, "msg": "failed", "data": record} if record.get("state") == "fail" else None
    ),
    "a record among others": lambda record: success([{**record, own_field(record): "0another"}, record]),
}
"""What may be around a record of a task."""

# How it stands.

MADE = (
    *("success", "SUCCESS", "succeed", " Success\n", "finish", "TASK_STATUS_SUCCEED", "success!", "已完成", "done"),
    *("JOB_STATE_SUCCEEDED", "generation_completed", "succeeded", "successful", "completed", "Completed", "finished"),
)
WAITING = (
    *("waiting", "In Progress", "in-progress", "SUBMITTED", "queuing", "generating", "IN_PROGRESS", "In_Progress"),
    *("queued", "pending", "processing", "running", "处理中", " Waiting "),
)
BROKEN = (
    *("fail", "failed", "Failed", "FAILED", "failure", "error", "task_failed", "失败", "TIMED_OUT", "rejected"),
    *("blocked", "canceled", "CREATE_TASK_FAILED", "content_filtered", "expired"),
)
"""Words on record."""


def own_field(record: Record) -> str:
    """The field in which a record names its task."""
    return "taskId" if "taskId" in record else "task_id"


def kind_of(record: Record) -> str:
    """How a task stands by its plain record: made, waiting or broken; empty where it says nothing of the kind."""
    word = record.get("state", record.get("status"))
    for kind, words in (("made", MADE), ("waiting", WAITING), ("broken", BROKEN)):
        if word in words:
            return kind
    return ""


def in_other_words(record: Record, chance: random.Random) -> Record | None:
    """The same state in another word."""
    words = {"made": MADE, "waiting": WAITING, "broken": BROKEN}.get(kind_of(record))
    return None if words is None else _stated(record, "state" if "state" in record else "status", chance.choice(words))


def in_another_field(record: Record, chance: random.Random) -> Record | None:
    """The same state under another name."""
    word = record.get("state", record.get("status"))
    names = ("state", "status", "taskStatus", "task_status", "State", "job_state", "jobStatus", "TASK_STATE")
    return _stated(record, chance.choice(names), word) if kind_of(record) else None


def as_a_flag(record: Record, chance: random.Random) -> Record | None:
    """The same state as the number that older routes have."""
    flag = {"waiting": 0, "made": 1, "broken": chance.choice((2, 3))}.get(kind_of(record))
    return None if flag is None else _stated(record, "successFlag", chance.choice((flag, str(flag), float(flag))))


def as_an_object(record: Record, chance: random.Random) -> Record | None:
    """The same state as an object."""
    word = record.get("state", record.get("status"))
    inside = {chance.choice(("name", "value", "code")): word, "since": 1777600000000}
    return _stated(record, "state" if "state" in record else "status", inside) if kind_of(record) else None


def _stated(record: Record, field: str, word: object) -> Record:
    return {**{name: value for name, value in record.items() if name not in ("state", "status")}, field: word}


def in_snake_case(record: Record, _: random.Random) -> Record | None:
    """Its fields in the style of the other APIs."""
    snake = {re.sub("(?<=[a-z])([A-Z])", r"_\1", name).lower(): value for name, value in record.items()}
    return snake if kind_of(record) else None


def with_capitals(record: Record, _: random.Random) -> Record | None:
    """Its fields with capitals, as another language writes them."""
    capital = {"".join(part[:1].upper() + part[1:] for part in name.split("_")): v for name, v in record.items()}
    return capital if kind_of(record) else None


def with_more_fields(record: Record, chance: random.Random) -> Record:
    """With what newer records have, and with null or no value where one is not needed."""
    newer = {"operationType": None, "paramJson": "{}", "updateTime": 1777600000000, "progress": chance.random()}
    flag = {"made": 1, "waiting": 0, "broken": 3}.get(kind_of(record))
    return {**newer, **record, "costTime": chance.choice((None, 0, "12", 12.5)), "successFlag": flag}


STATED: dict[str, Callable[[Record, random.Random], Record | None]] = {
    "its state in other words": in_other_words,
    "its state in another field": in_another_field,
    "its state as a flag": as_a_flag,
    "its state as an object": as_an_object,
    "its fields in snake_case": in_snake_case,
    "its fields with capitals": with_capitals,
    "more fields in it": with_more_fields,
}
"""Records that say the same of a task."""


def told_as(kind: str, record: Record, links: list[str]) -> Record:
    """What the same API would say of the same task were it made, waiting or broken."""
    if "taskId" not in record:
        told: dict[str, Record] = {
            "made": {"status": "completed", "output": [{"url": link} for link in links]},
            "broken": {"status": "failed", "error": {"code": "500", "message": "Internal Error"}},
            "waiting": {"status": "IN_PROGRESS"},
        }
        return {"task_id": record["task_id"], **told[kind]}
    told = {
        "made": {"state": "success", **_in_json({"resultUrls": links})},
        "broken": {"state": "fail", "failCode": "500", "failMsg": "Internal Error"},
        "waiting": {"state": "generating"},
    }
    empty = {"resultJson": "", "failCode": None, "failMsg": None, "costTime": None, "completeTime": None}
    flag = {"response": None, "successFlag": {"made": 1, "broken": 3}.get(kind, 0)}
    return {**record, **empty, **flag, **told[kind]}


def billed(bill: object, record: Record, _: random.Random) -> Record:
    """With another bill."""
    return {**record, "creditsConsumed" if "taskId" in record else "credits": bill}


# Where its pictures are.


def links_in(record: Record) -> list[str]:
    """The links of a plain record; none where it has none, or has them in a form of its own."""
    result = record.get("resultJson")
    if isinstance(result, str) and result.startswith('{"resultUrls"'):
        links = json.loads(result)["resultUrls"]
        return links if isinstance(links, list) and all(isinstance(link, str) for link in links) else []
    output = record.get("output")
    return [str(each["url"]) for each in output if "url" in each] if isinstance(output, list) else []


def with_result(record: Record, **result: Any) -> Record:
    """The record with its links in these fields alone."""
    places = ("resultJson", "output", "response")
    return {**{name: value for name, value in record.items() if name not in places}, **result}


def _in_json(result: object) -> Record:
    return {"resultJson": json.dumps(result)}


LINKED: dict[str, Callable[[list[str]], Record]] = {
    "an object": lambda links: {"resultJson": {"resultUrls": links}},
    "an object of a known name": lambda links: {"output": {"images": links}},
    "a list": lambda links: {"output": links},
    "a list in a text": lambda links: _in_json(links),
    "texts": lambda links: {"result": ",".join(links)},
    "joined by a comma": lambda links: _in_json({"resultUrls": " , ".join(links)}),
    "JSON in JSON": lambda links: _in_json(json.dumps({"resultUrls": links})),
    "nested": lambda links: _in_json({"data": {"result_urls": links}}),
    "objects": lambda links: _in_json({"resultUrls": [{"url": link} for link in links]}),
    "numbered": lambda links: {"resultUrls": {str(n): link for n, link in enumerate(links)}},
    "beside an empty text": lambda links: {"resultJson": "", "resultUrls": links},
    "a response": lambda links: {"resultJson": None, "response": {"resultUrls": links}},
    "an info": lambda links: {"info": {"result_urls": links}},
    "resultImageUrl": lambda links: _in_json({"resultImageUrl": links if len(links) > 1 else links[0]}),
    "imageUrl": lambda links: _in_json({"imageUrl": links if len(links) > 1 else links[0]}),
    "image_urls": lambda links: _in_json({"image_urls": links}),
    "outputs": lambda links: _in_json({"outputs": links}),
    "generated_image": lambda links: _in_json({"generated_image": links}),
    "resultObject": lambda links: _in_json({"resultObject": {"resultUrls": links}}),
    "mask_urls": lambda links: _in_json({"resultObject": {"mask_urls": links}}),
    "images of lists": lambda links: {"result": {"images": [{"url": [link]} for link in links]}},
    "twice the same": lambda links: _in_json({"resultUrls": [*links, *links]}),
    "a list of Python": lambda links: {"resultJson": str(links)},
    "an object of Python": lambda links: {"resultJson": str({"resultUrls": links, "n": None})},
    "beside NaN and half an emoji": lambda links: {
        "resultJson": f'{{"resultUrls":{json.dumps(links)},"cost":NaN,"prompt":"\\ud83d"}}'
    },
    "both, as newer records have": lambda links: {**_in_json({"resultUrls": links}), "response": {"resultUrls": links}},
    "beside lesser copies": lambda links: _in_json(
        {
            **{name: [f"{links[0]}?copy"] for name in ("previewUrl", "resultWaterMarkUrls", "thumbnailUrl")},
            "resultUrls": links,
        }
    ),
    "beside the picture that went in": lambda links: {
        "param": json.dumps({"input": json.dumps({"image_urls": [f"{links[0]}?in"]})}),
        "input": {"images": [f"{links[0]}?in"]},
        "statusUrl": f"{links[0]}?status",
        "urls": {"get": f"{links[0]}?get", "cancel": f"{links[0]}?cancel"},
        "resultUrls": links,
    },
}
"""Where the links of a finished task may be."""

SPELT: dict[str, Callable[[str], str]] = {
    "blanks around them": lambda link: f" \n\ufeff{link}\u200b\u3000\n",
    "a scheme in capitals": lambda link: re.sub("^https?", lambda found: found[0].upper(), link),
    "slashes of JSON": lambda link: link.replace("/", "\\/"),
    "angles around them": lambda link: f"<{link}>",
    "quotes around them": lambda link: f"'{link}'",
    "markdown": lambda link: f"![a fox]({link})",
    "words before them": lambda link: f"Image URL: {link}",
    "a signature": lambda link: f"{link}?X-Credential=AK%2F20260101%2Fr&X-Signature=ab%2Bcd%2Fef%3D",
    "a query with escapes": lambda link: f"{link}?name=%E7%8B%90%20x&to=http%3A%2F%2Fh%2Fp%3Fq%3D1&p=a%7Eb",
    "a query with a blank": lambda link: f"{link}?name=a b+c%20d",
    "a query in Chinese": lambda link: f"{link}?name=狐狸",
    "commas in a query": lambda link: f"{link}?sig=a,b%2C//c==&x[0]=1;y",
    "a question mark alone": lambda link: f"{link}?",
}
"""What is told of a link that leads to the same file."""

UNLINKED: dict[str, Record] = {
    "an empty text": {"resultJson": ""},
    "null": {"resultJson": None, "output": None},
    "no field": {},
    "an empty list": {"resultJson": '{"resultUrls":[]}', "output": []},
    "an empty object": {"resultJson": "{}", "output": {}},
    "null in a list": {"resultJson": '{"resultUrls":[null,""]}', "output": [{"url": None}]},
}
"""What a task says of its links that has succeeded a moment ago."""

BILLS: dict[str, Any] = {
    "negative": -8.0,
    "a text": "16.0",
    "a text with a comma": "1,016.0",
    "a text with a unit": "16 credits",
    "null": None,
    "an object": {"credits": 16},
    "a flag": True,
    "a word": "NaN",
    "huge": 1e300,
    "a text of a huge one": "9" * 60,
    "a list": [8.0],
}
"""What a record may say that it has cost."""
