"""The failure matrix page matches the tests; `WRITE_PAGES=1` writes it."""

import os

from docs.blocks import ROOT
from scenarios.remedy_cells import table

PAGE = ROOT / "docs" / "failures.md"

MARK = "<!-- matrix -->\n\n"


def test_documented_matrix_matches_the_tested_one() -> None:
    text = PAGE.read_text("utf-8")
    head, mark, _ = text.partition(MARK)
    assert mark
    written = head + mark + table()
    if os.environ.get("WRITE_PAGES"):
        PAGE.write_text(written, "utf-8")
        return
    assert text == written, "WRITE_PAGES=1 pytest tests/scenarios/test_remedies_page.py writes it"
