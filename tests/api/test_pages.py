"""What the README and the page about Python show works as it is."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.documents import follow

from modalkit.util.progress import bars

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(autouse=True)
def no_bars() -> Any:
    pytest.importorskip("pandas")
    with bars(False):
        yield


def test_the_page_about_python(tmp_path: Path) -> None:
    names = follow("python.md", tmp_path)
    frame, filled = names["frame"], names["filled"]
    assert frame.isna().any().any() and not filled.isna().any().any()
    assert not names["both"].isna().any(axis=None) and len(names["both"]) == 20
    assert filled.where(frame.notna()).equals(frame) and (tmp_path / "runs/animals/data/manifest.json").is_file()


def test_the_readme_fills_a_table_in_six_lines(tmp_path: Path) -> None:
    import pandas as pd

    rng = np.random.default_rng(0)
    made = pd.DataFrame(rng.normal(size=(20, 2)), columns=["age", "weight"]).mask(rng.random((20, 2)) < 0.2)
    made.to_csv(tmp_path / "patients.csv", index=False)
    text = next(
        t for t in re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.M | re.S) if "impute" in t
    )
    assert len([line for line in text.splitlines() if line]) <= 6
    names: dict[str, Any] = {}
    with contextlib.chdir(tmp_path):
        exec(text.replace("data=frame", "data=frame, epochs=1"), names)
    assert names["frame"].isna().any().any() and not names["filled"].isna().any().any()
