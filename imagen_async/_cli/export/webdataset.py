"""WebDataset: tar files with a picture, its prompt and all that is known of it, side by side."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from .columns import Column
from .format import Format
from .samples import Sample


def _write(path: Path, shard: Iterable[Sample], columns: Sequence[Column]) -> list[str]:
    """A WebDataset shard: a picture, its prompt as `.txt`, and all that is known of it as `.json`."""
    spoilt = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in shard:
            data = sample.read()
            if data is None:
                spoilt.append(sample.file.path)
                continue
            line = json.dumps(sample.line, ensure_ascii=False)
            ending = Path(sample.file.path).suffix
            parts = ((ending, data), (".txt", sample.line["prompt"].encode()), (".json", line.encode()))
            for kind, content in parts:
                # No time and no owner: the same pictures make the same shard.
                member = tarfile.TarInfo(sample.name + kind)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            # It remembers all that it has written: a shard of small pictures has very many.
            tar.getmembers().clear()
    return spoilt


WEBDATASET = Format("webdataset", "shard-{number:06d}.tar", _write)
