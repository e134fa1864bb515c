"""``python -m tests.site``: rewrite the generated pages."""

from __future__ import annotations

from tests.pages import ROOT
from tests.site.generated import GENERATED

for name, make in GENERATED.items():
    (ROOT / name).write_text(make(), encoding="utf-8")
