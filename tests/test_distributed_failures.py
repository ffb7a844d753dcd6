"""One process of several fails: all end, with a message, within the timeout."""

from pathlib import Path

import pytest
from distributed_training import Run, run_ranks

KILLED = -9
MESSAGE = "ProcessGroupError: another process of this training failed, was killed, or did not answer"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_an_error_in_one_process_ends_the_other_one(tmp_path: Path, strategy: str):
    (status, output), (other_status, other_output) = run_ranks(Run("run", strategy, 2, steps=4, fault="raise"), tmp_path)
    assert status == other_status == 1
    assert "RuntimeError: rank 1 has failed" in other_output and MESSAGE not in other_output
    assert MESSAGE in output


@pytest.mark.slow
def test_a_killed_process_ends_the_other_one(tmp_path: Path):
    (status, output), (other_status, _) = run_ranks(Run("run", "ddp", 2, steps=4, fault="kill"), tmp_path)
    assert (status, other_status) == (1, KILLED) and MESSAGE in output


@pytest.mark.slow
def test_a_process_that_does_not_answer_is_given_up_after_the_timeout(tmp_path: Path):
    run = Run("run", "ddp", 2, steps=4, fault="stall", timeout=12)
    (status, output), (other_status, _) = run_ranks(run, tmp_path)
    assert status == other_status == 1 and MESSAGE in output


@pytest.mark.slow
def test_a_teacher_s_files_that_one_process_lacks(tmp_path: Path):
    """The other one waits for it when the group is formed, and gives up after the timeout."""
    run = Run("run", "ddp", 2, steps=4, fault="missing", timeout=15)
    (status, output), (other_status, other_output) = run_ranks(run, tmp_path)
    assert status == other_status == 1
    assert "MissingWeightsError" in other_output and str(tmp_path / "absent") in other_output
    assert MESSAGE in output
