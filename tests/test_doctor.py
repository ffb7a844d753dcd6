"""``prd doctor``: every part of the report, with and without downloaded weights."""

import json

import torch

from prd_lightning import __version__, cli
from prd_lightning.cards import card_named
from prd_lightning.doctor import BACKENDS, _imports
from prd_lightning.tinyworld import weights_root


def report(capsys) -> dict:
    assert cli.main(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_versions_devices_and_backends(capsys):
    found = report(capsys)
    assert found["versions"]["prd_lightning"] == __version__ and found["versions"]["torch"] == torch.__version__
    assert found["devices"][0] == "cpu" and len(found["devices"]) >= 1 + torch.cuda.device_count()
    assert set(found["backends"]) == set(BACKENDS)
    assert all(backend["works"] or backend["reason"] for backend in found["backends"].values())
    assert found["machine"]["memory_gib"] > 0 and found["machine"]["free_disk_gib"] >= 0


def test_a_backend_that_is_not_there_or_breaks_is_told_with_the_way_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "broken_backend.py").write_text("raise OSError('no driver')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert _imports("broken_backend", "hint") == {"works": False, "reason": "OSError: no driver", "hint": "hint"}
    assert _imports("no_such_backend", "hint")["reason"].startswith("ModuleNotFoundError")
    assert _imports("json", "hint")["works"] is True


def test_missing_weights_are_named_with_the_way_to_get_them(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PRD_WEIGHTS", str(tmp_path))
    card_named("sd21_base").place(tmp_path).symlink_to(weights_root() / "stable_diffusion")
    weights = report(capsys)["weights"]
    assert weights["sd21_base"]["ready"] and not weights["mvdream"]["ready"]
    assert weights["mvdream"]["get"] == "prd weights mvdream" and "unet/config.json" in weights["mvdream"]["lacking"]
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path) in shown and "get it with: prd weights triplaneturbo" in shown and "lacks generator.safetensors" in shown
    waiting = tmp_path / "originals" / "sd-v2.1-base-4view.pt"
    waiting.parent.mkdir()
    waiting.touch()
    assert report(capsys)["weights"]["mvdream"]["original"] == str(waiting)
    assert cli.main(["doctor"]) == 0
    assert f"original  {waiting}\n" in capsys.readouterr().out
    assert all(heading in shown for heading in ("versions", "devices", "optional backends", "weights"))
