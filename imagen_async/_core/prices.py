"""What a request costs where that hangs on more than how many pictures it asks for."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .._text import told
from .record_values import check_count, check_price


class Price(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Credits by what is asked.

    Attributes:
        credits: Of a picture; where `field` decides, the dearest that it may come to.
        field: The model's own field on whose value it depends, or None.
        by_value: That field's values, as texts, and the credits of each.
        per_task: True where one price is for all pictures of a task.
        each_input: Credits for each picture that goes in, beside these.
        free_inputs: Pictures going in that cost nothing.
    """

    credits: float
    field: str | None = None
    by_value: Mapping[str, float] = {}
    per_task: bool = False
    each_input: float = 0.0
    free_inputs: int = 0

    def __post_init__(self) -> None:
        said = {f"by_value[{told(value)}]": credits for value, credits in self.by_value.items()}
        for name, credits in {"credits": self.credits, "each_input": self.each_input, **said}.items():
            check_price(name, credits)
        check_count("free_inputs", self.free_inputs, 0)

    def of(self, value: object, pictures: int, inputs: int) -> float:
        """Credits of one task.

        Args:
            value: Of `field`; None: nobody says, and the dearest is reckoned with.
            pictures: That are asked for.
            inputs: Pictures that go in.
        """
        word = str(value).lower() if isinstance(value, bool) else str(value)
        each = self.by_value.get(word, self.credits)
        return each * (1 if self.per_task else pictures) + self.each_input * max(0, inputs - self.free_inputs)
