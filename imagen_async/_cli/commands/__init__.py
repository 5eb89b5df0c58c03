"""The commands: each one's name and what `--help` says of it. What it does is a file of its own, by its name."""

from __future__ import annotations

from ..grammar import Command

COMMANDS: tuple[Command, ...] = (
    Command("generate", "make one picture, or a few of one prompt"),
    Command("batch", "make a picture for every line of a file; the same command again goes on"),
    Command("plan", "check every line of a file, and tell credits and time, before a cent is spent"),
    Command("status", "tell how the batch of a folder stands, and what to run next; sends nothing"),
    Command("collect", "wait for a task that exists, and fetch its pictures; creates nothing"),
    Command("gallery", "write one page, index.html, that shows every picture of a batch's folder"),
    Command("export", "write the pictures of a batch's folder in a form that training tools load"),
    Command("credits", "ask for the balance of the named accounts, or of all whose key is set"),
    Command("limits", "tell who uses a key's limits on this machine, and what was learned of them"),
    Command("providers", "list what this version knows: addresses, keys, models, prices, limits"),
    Command("models", "list models, show one's fields, make records of pages, fetch a provider's own"),
    Command("serve", "serve OpenAI's image API over these accounts, for every program and machine, until Ctrl-C"),
    Command("sandbox", "serve the sandbox, a local provider that bills nobody, until Ctrl-C"),
    Command("help", "show a page of the manual, such as `help journal`; without a topic, list the pages"),
    Command("completion", "print what completes this command's words in a shell"),
)
"""In the order of `--help`."""
