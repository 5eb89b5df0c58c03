"""Programs that speak OpenAI's image API and cannot be installed here: what they send, and how they read the answer.

Each is as its source was in autumn 2026: Open WebUI's `routers/images.py`, LibreChat's `OpenAIImageTools.js` and the
OpenAI node of n8n. None says that it asks again, but for LibreChat, whose client is openai's.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from typing import Any

import aiohttp

OPENAI_NODE = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": "OpenAI/JS 5.8.2",
    "X-Stainless-Arch": "x64",
    "X-Stainless-Lang": "js",
    "X-Stainless-OS": "Linux",
    "X-Stainless-Package-Version": "5.8.2",
    "X-Stainless-Retry-Count": "0",
    "X-Stainless-Runtime": "node",
    "X-Stainless-Runtime-Version": "v20.19.4",
    "X-Stainless-Timeout": "600",
}

AXIOS = {"Accept": "application/json, text/plain, */*", "User-Agent": "axios/1.8.2"}

OPEN_WEBUI = {
    "X-OpenWebUI-User-Name": "J%C3%BCrgen",
    "X-OpenWebUI-User-Id": "8a7c",
    "X-OpenWebUI-User-Email": "j@example.org",
    "X-OpenWebUI-User-Role": "admin",
}

N8N = {
    "Accept": "application/json,text/html,application/xhtml+xml,application/xml,text/*;q=0.9, image/*;q=0.8, */*;q=0.7",
    "Content-Type": "application/json",
    "User-Agent": "axios/1.8.3",
}


class Program:
    """Somebody's program.

    Args:
        session: By which it asks.
        url: The address that it was told, with `/v1`.
        key: The key that it was told.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self.session = session
        self.url = url
        self.key = {"Authorization": f"Bearer {key}"}

    async def post(self, path: str, headers: Mapping[str, str], data: bytes | aiohttp.FormData) -> Any:
        """Send a body as it is; the answer's JSON, or an error for any other status than 2xx."""
        async with self.session.post(f"{self.url}{path}", data=data, headers={**headers, **self.key}) as response:
            response.raise_for_status()
            return await response.json(content_type=None)


class OpenWebUI(Program):
    """Open WebUI. It prefers an address, and asks there with the headers that it had asked the API with."""

    async def generate(self, model: str, **params: Any) -> list[bytes]:
        """Make a picture; `params` are the admin's."""
        form: dict[str, Any] = {"model": model, "prompt": "a fox", "n": 1, "size": "512x512"}
        form |= {} if model.startswith("gpt-image") else {"response_format": "b64_json"}
        headers = {"Content-Type": "application/json", **OPEN_WEBUI}
        found = await self.post("/images/generations?api-version=1", headers, json.dumps({**form, **params}).encode())
        return [await self._read(image) for image in found["data"]]

    async def edit(self, model: str, pictures: list[bytes]) -> list[bytes]:
        """Make a picture out of one, or of several, whose field is then called otherwise."""
        form = aiohttp.FormData()
        for name, value in {"model": model, "prompt": "at night", "n": "1", "response_format": "b64_json"}.items():
            form.add_field(name, value)
        for picture in pictures:
            name = "image" if len(pictures) == 1 else "image[]"
            form.add_field(name, picture, filename=f"{uuid.uuid4()}.png", content_type="image/png")
        found = await self.post("/images/edits", OPEN_WEBUI, form)
        return [await self._read(image) for image in found["data"]]

    async def _read(self, image: Mapping[str, Any]) -> bytes:
        if url := image.get("url", None):
            async with self.session.get(url, headers={**OPEN_WEBUI, **self.key}) as response:
                response.raise_for_status()
                assert response.headers["Content-Type"].split("/")[0] == "image"
                return await response.read()
        return base64.b64decode(image["b64_json"])


class LibreChat(Program):
    """LibreChat's image tools. It asks for one model, and reads base64 alone."""

    async def generate(self) -> list[bytes]:
        """Make a picture."""
        form = {"model": "gpt-image-1", "prompt": "a fox", "n": 1, "background": "auto", "output_format": "png"}
        body = json.dumps({**form, "quality": "auto", "size": "auto"}, separators=(",", ":")).encode()
        found = await self.post("/images/generations", OPENAI_NODE, body)
        return [base64.b64decode(found["data"][0]["b64_json"])]

    async def edit(self, picture: bytes) -> list[bytes]:
        """Make a picture out of one."""
        form = aiohttp.FormData()
        for name, value in {"model": "gpt-image-1", "prompt": "at night", "quality": "auto", "size": "auto"}.items():
            form.add_field(name, value)
        form.add_field("image[]", picture, filename="fox.png", content_type="image/png")
        found = await self.post("/images/edits", AXIOS, form)
        return [base64.b64decode(found["data"][0]["b64_json"])]


class N8n(Program):
    """The OpenAI node of n8n."""

    async def generate(self, model: str, **options: Any) -> list[bytes]:
        """Make a picture; `options` are the node's."""
        is_url = options.pop("returnImageUrls", False)
        form = {"prompt": "a fox", "model": model}
        form |= {} if model.startswith("gpt-image") else {"response_format": "url" if is_url else "b64_json"}
        body = json.dumps({**form, **options}, separators=(",", ":")).encode()
        found = await self.post("/images/generations", N8N, body)
        if is_url:
            return [await self._fetched(entry["url"]) for entry in found["data"]]
        return [base64.b64decode(entry["b64_json"]) for entry in found["data"]]

    async def _fetched(self, url: str) -> bytes:
        # By another node, which knows no key.
        async with self.session.get(url) as response:
            response.raise_for_status()
            return await response.read()
