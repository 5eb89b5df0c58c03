"""Pages of models as a provider publishes them, for tests of what is made of them."""

from __future__ import annotations

import textwrap

_PAGE = """\
# A painter

```yaml
openapi: 3.0.1
paths:
  /api/v1/jobs/createTask:
    post:
      requestBody:
        content:
          application/json:
            schema:
              type: object
              properties:
                model: {{type: string, enum: ['{model}']}}
                input:
                  type: object
                  required: [prompt]
                  properties:
                    prompt: {{type: string}}
                    ink: {{type: string, enum: [a, b]}}
                    steps: {{type: integer}}
```
"""


def page_of(model: str) -> str:
    """The page of a model with three fields."""
    return textwrap.dedent(_PAGE).format(model=model)
