"""Prompt files as people have them: from their bytes to requests, every bad line named by its number.

`reading` has the bytes, `encoding` makes UTF-8 of them, `plain`, `tables`, `json_text` and `parquet` know what stands
in them, `lines` what a line is, `mistakes` how several of one kind are told; `file` has it all together.
"""

from .file import PromptFile
from .lines import BadLine, PromptLine
from .mistakes import Mistakes

__all__ = ["BadLine", "Mistakes", "PromptFile", "PromptLine"]
