"""What is logged for a diagnosis, and the picture of a log: healthy, diverged, resumed, and none."""

import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from prd_lightning import cli
from prd_lightning.diagnose import findings, read_log
from prd_lightning.diagnosis import DiagnosisCallback, gradient_norms, time_histogram
from prd_lightning.teachers import TeacherResult


def test_noise_levels_are_counted_by_tenths():
    times = torch.tensor([0, 99, 100, 299, 300, 999]) / 1000
    assert time_histogram(times).tolist() == [2, 1, 1, 1, 0, 0, 0, 0, 0, 1]


def fake_module() -> SimpleNamespace:
    """Two teachers, one of them with two maps and half the weight."""
    first = TeacherResult(torch.tensor(1.0), {"volume": {"rgb": torch.full((2, 2), 3.0)}, "mesh": {"rgb": torch.zeros(2, 2)}})
    maps = {"normal_camera": torch.full((4,), 2.0), "disparity": torch.full((4,), 4.0)}
    second = TeacherResult(torch.tensor(2.0), {"volume": maps})
    logged = {}
    teachers = {
        "mvdream": SimpleNamespace(weight=1.0, times=torch.tensor([0.05, 0.95])),
        "richdreamer_nd": SimpleNamespace(weight=0.5, times=torch.tensor([0.55])),
    }
    return SimpleNamespace(
        teachers=teachers,
        teacher_results={"mvdream": first, "richdreamer_nd": second},
        renderers={"volume": SimpleNamespace(inverse_standard_deviation=40.0)},
        now=0,
        logged=logged,
        log=lambda name, value, **_: logged.__setitem__(name, value),
    )


def test_gradient_norms_are_weighted():
    norms = gradient_norms(fake_module())
    assert float(norms["mvdream", "volume"]) == pytest.approx(6)
    assert float(norms["richdreamer_nd", "volume"]) == pytest.approx(0.5 * math.sqrt(4 * 4 + 4 * 16))


def test_means_over_the_micro_batches_of_a_step_are_logged():
    module, callback = fake_module(), DiagnosisCallback()
    trainer = SimpleNamespace(
        accumulate_grad_batches=2, global_step=1, log_every_n_steps=2, callback_metrics={"train/empty_meshes": torch.tensor(1.0)}
    )
    batch = SimpleNamespace(prompts=["a", "b", "c", "d"])
    callback.on_train_batch_end(trainer, module, None, batch, 0)
    assert not module.logged
    trainer.callback_metrics["train/empty_meshes"] = torch.tensor(3.0)
    callback.on_train_batch_end(trainer, module, None, batch, 1)
    logged = module.logged
    assert logged["train/empty_mesh_share"] == pytest.approx(0.5) and logged["train/inverse_standard_deviation"] == 40
    share = 6 / (6 + 0.5 * math.sqrt(80))
    assert logged["train/mvdream/volume_gradient_share"] == pytest.approx(share)
    assert logged["train/richdreamer_nd/volume_gradient_share"] == pytest.approx(1 - share)
    assert logged["train/mvdream/mesh_gradient_share"] == 0
    assert [logged[f"train/mvdream/t_{index:02d}"] for index in range(10)] == [0.5, *[0.0] * 8, 0.5]


HEADER = "epoch,step,train/loss,train/gradient_norm,train/skipped_steps,train/empty_mesh_share,train/eikonal,train/mvdream,"
HEADER += "train/mvdream/gradient_rms,train/mvdream/volume_gradient_norm,train/mvdream/volume_gradient_share"
HEADER += "".join(f",train/mvdream/t_{index:02d}" for index in range(10)) + "\n"


def rows(steps: range, level: float, skipped: int = 0, empty: float = 0.0, loss: float | None = None) -> str:
    line = "0,{},{},{},{},{},{},1,0.1,2,1," + ",".join(["0.1"] * 10) + "\n"
    return "".join(line.format(step, loss or level, level, skipped, empty, 0.1 * level) for step in steps)


def test_a_healthy_run_has_no_findings_and_a_picture(tmp_path, capsys):
    (tmp_path / "metrics.csv").write_text(HEADER + rows(range(8), 1.0))
    assert cli.main(["diagnose", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "diagnosis.png")]
    assert Image.open(tmp_path / "diagnosis.png").width > 1000


def test_a_divergence_is_told(tmp_path):
    (tmp_path / "metrics.csv").write_text(HEADER + rows(range(4), 1.0) + rows(range(4, 8), 50.0, 3, 0.9, math.nan))
    found = " ".join(findings(read_log(tmp_path)))
    assert "3 optimizer steps were left out" in found and "train/loss is not finite from step 4 on (4 of 8 rows)" in found
    assert "train/gradient_norm grew to 50 times" in found and "no surface" in found and "eikonal loss is above 1" in found


def test_the_parts_of_a_resumed_run_come_one_after_the_other(tmp_path):
    (tmp_path / "metrics_part1.csv").write_text(HEADER + rows(range(0, 6), 1.0))
    (tmp_path / "metrics.csv").write_text(HEADER + rows(range(4, 8), 2.0))
    steps, values = read_log(tmp_path)["train/loss"]
    assert steps == list(range(8)) and values == [1.0] * 4 + [2.0] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "there is no log"), ("epoch,step\n", "holds no numbers"), ("a,b\n1,2\n", "no log of a training|holds no numbers")],
)
def test_what_is_no_log_is_told(tmp_path, text, message, capsys):
    if text is not None:
        (tmp_path / "metrics.csv").write_text(text)
    assert cli.main(["diagnose", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert any(part in shown for part in message.split("|")) and not (tmp_path / "diagnosis.png").exists()
