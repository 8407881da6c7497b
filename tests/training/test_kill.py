import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KILLS = 24


@pytest.mark.slow
def test_killed_at_any_file_operation_a_run_resumes_to_the_same_bits(
    tiny_model_folder: Path, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Reference, checkpoints, best weights, final save: weights, tables and record are equal."""
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(pairs))
    script = Path(__file__).with_name("kill_at_files.py")
    done = subprocess.run(
        [sys.executable, script, tiny_model_folder, rows, tmp_path / "out", str(KILLS)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    word, operations, kills = done.stdout.split("\n")[-2].split()
    assert (word, int(kills)) == ("done", KILLS), done.stderr[-2000:]
    assert int(operations) > 3 * KILLS
    assert "differs" not in done.stdout
