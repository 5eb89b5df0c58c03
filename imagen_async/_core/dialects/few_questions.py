"""What an API is not asked that takes tasks and tells how they stand, and no more."""

from __future__ import annotations

import msgspec

from ..failure import Failure
from ..wire import HttpRequest, HttpResponse
from . import answers


class FewQuestions(msgspec.Struct, frozen=True):
    """The part of a dialect that asks for links, models and balances, for an API that has no such questions."""

    def build_renewal(self, url: str) -> HttpRequest | None:
        """None: the API gives no new links."""
        return None

    def read_renewal(self, response: HttpResponse) -> str | Failure:
        """Read the new link; never needed, since no such question is written."""
        return answers.read_renewal(answers.open_answer(response))

    def build_models(self) -> HttpRequest | None:
        """None: the API has no list of models for programs."""
        return None

    def build_schema(self, model: str) -> HttpRequest | None:
        """None: the API tells no schema."""
        return None

    def build_credits(self) -> HttpRequest | None:
        """None: the API tells no balance."""
        return None

    def read_credits(self, response: HttpResponse) -> float | Failure:
        """Read the balance; never needed, since no such question is written."""
        return answers.read_balance(answers.open_answer(response))
