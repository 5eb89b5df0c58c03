"""What to run next, as a line for the shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

_ONCE = ("--retry-failed", "--resubmit-unknown")
"""What is said for one run, and is no part of how to go on."""

_BUDGET = "--max-credits"


def going_on(command: str) -> str:
    """The command that goes on where another one ends: without what is paid for again."""
    return shlex.join(word for word in shlex.split(command) if word not in _ONCE)


def with_budget(command: str, credits: int) -> str:
    """A command with another budget in place of the one that is used up."""
    words = shlex.split(command)
    for at, word in enumerate(words):
        if word == _BUDGET:
            words[at + 1] = str(credits)
        elif word.startswith(f"{_BUDGET}="):
            words[at] = f"{_BUDGET}={credits}"
    return shlex.join(words)


def settling(folder: str, notes: Mapping[str, str], counts: Mapping[str, int], working_folder: str) -> list[str]:
    """What is left to do for a folder: go on, pay for failed ones again, settle the held ones.

    Args:
        folder: The batch's.
        notes: Of its journal: the `command` that goes on, the words of its `account`, the `working_folder` of both.
        counts: Requests by state.
        working_folder: Where the lines are to be run.
    """
    command = notes.get("command")
    if command is None:
        return []
    # The paths of its words are those of the folder in which it was given.
    if notes["working_folder"] != working_folder:
        command = f"cd {shlex.quote(notes['working_folder'])} && {command}"
    commands = [command] if any(counts[name] for name in ("running", "ready", "queued", "not sent")) else []
    if counts["failed"]:
        commands.append(f"{command} --retry-failed")
    if counts["unknown"]:
        account = notes["account"]
        collect = f"imagen-async collect TASK_ID --dir {shlex.quote(folder)} --key KEY {account}"
        commands += [f"{collect}  # found at the provider", f"{command} --resubmit-unknown  # not found there"]
    return commands
