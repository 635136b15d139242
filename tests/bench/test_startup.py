from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.bench import startup, synthetic
from orchestrator.errors import ModelLoadError

pytestmark = pytest.mark.integration
torch.set_num_threads(1)


def test_the_stages_of_a_fresh_process_add_up_to_its_first_transcript(tmp_path: Path) -> None:
    synthetic.write(tmp_path, shape="tiny", precision="float32")
    report = startup.run(tmp_path, repeats=1, seconds=2.0)
    stages = {str(row["stage"]): float(row["median_s"] or 0) for row in report.rows}
    assert list(stages) == [
        "interpreter",
        "import orchestrator",
        "import torch",
        "import engine",
        "weights to device",
        "first recognition",
        "start to first transcript",
        "second recognition",
    ]
    assert all(value > 0 for value in stages.values())
    total = stages.pop("start to first transcript")
    stages.pop("second recognition")
    assert sum(stages.values()) == pytest.approx(total, abs=1e-3)


def test_an_engine_that_does_not_start_is_told_as_it_tells_itself(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="There is no checkpoint") as caught:
        startup.run(tmp_path, repeats=1)
    assert caught.value.fix is not None
