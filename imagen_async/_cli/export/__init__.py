"""A folder's pictures in the forms that training tools load, and what forms there are. One file a format."""

from __future__ import annotations

from .format import Format
from .parquet import PARQUET
from .webdataset import WEBDATASET

FORMATS: dict[str, Format] = {each.name: each for each in (WEBDATASET, PARQUET)}
"""What `--to` takes."""
