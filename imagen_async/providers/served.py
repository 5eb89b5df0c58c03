"""A service of this library, `imagen-async serve`, at an address that only its users know."""

from __future__ import annotations

from .._core.dialects.served import FILES, ServedDialect
from .._core.provider import Limits, Provider, Uploads
from .._core.rate_limit import Rate
from .._records import Anybodys
from .apiin import APIIN
from .apikley import APIKLEY
from .kie import KIE, LATENCY
from .liangxin import LIANGXIN

UNBOUNDED = Rate(1_000_000, per=1)
"""More than anybody sends."""

SERVED = Provider(
    name="served",
    title="the service",
    # Wherever somebody runs it.
    base_url=None,
    dialect=ServedDialect(),
    # Who makes them is the service's matter, and so is their price.
    models=Anybodys(KIE.models, APIKLEY.models, LIANGXIN.models, APIIN.models),
    # It has the limits of its accounts; here nothing waits, but for room there: it takes 10,000 of one caller.
    limits=Limits(submit=UNBOUNDED, status=UNBOUNDED, running=2000),
    latency=LATENCY,
    # A day is the least for which it keeps what it is given.
    uploads=Uploads(FILES, file_field="image", lifetime=86400),
    is_service=True,
)
