"""The examples run, and show what they say they show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.needs("caffe")
@pytest.mark.needs("sklearn")
def test_composed_and_fused_nets_learn_digits_alike() -> None:
    command = [sys.executable, EXAMPLES / "digits.py", "--seeds", "1", "--steps", "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    header, _, row, mean = done.stdout.splitlines()
    assert header.startswith("| seed | loss")
    _, losses, differ, pixels, composed, fused = (cell.strip() for cell in row.strip("|").split("|"))
    begun, ended = map(float, losses.split(", "))
    assert ended < 0.8 * begun
    assert float(differ) < 1e-3
    assert composed == fused
    all_known, ten_known = (float(accuracy.rstrip("%")) for accuracy in composed.split(", "))
    assert all_known > ten_known > 70  # in forty steps
    assert float(pixels.split(",")[0].rstrip("%")) > 95
    assert mean.split("|")[4:] == row.split("|")[4:]
