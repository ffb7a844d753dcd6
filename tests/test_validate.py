"""``make validate``: what it reports about files, and what it says without a validator or a file."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import validate


def test_sums_and_lines(capsys):
    paths = [Path("colors/a.glb"), Path("colors/b.glb"), Path("textures/a.glb")]
    clean = {"numErrors": 0, "numWarnings": 0, "messages": []}
    bad = {"numErrors": 1, "numWarnings": 2, "messages": [{"code": "VALUE", "message": "is wrong.", "pointer": "/asset"}]}
    sums = validate.report(paths, "2.0", [clean, bad, clean])
    assert (sums["files"], sums["errors"], sums["warnings"], sums["kinds"]) == (3, 1, 2, {"colors": 2, "textures": 1})
    assert capsys.readouterr().out == "colors/b.glb: VALUE is wrong. /asset\n3 files, gltf-validator 2.0: 1 errors, 2 warnings\n"


@pytest.mark.parametrize(("errors", "warnings", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1)])
def test_a_warning_is_a_failure(tmp_path, monkeypatch, errors, warnings, status):
    issues = {"numErrors": errors, "numWarnings": warnings, "messages": []}
    monkeypatch.setattr(validate, "find_validator", lambda: tmp_path)
    monkeypatch.setattr(validate, "validate", lambda paths: ("2.0", [issues]))
    output = tmp_path / "found.json"
    assert validate.main(["a.glb", "--output", str(output)]) == status
    assert json.loads(output.read_text())["errors"] == errors


def test_without_validator_or_node(tmp_path, monkeypatch, capsys):
    with pytest.raises(validate.BackendUnavailableError, match="node" if shutil.which("node") is None else "make validate"):
        validate.find_validator(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert validate.main(["a.glb"]) == 2
    error = capsys.readouterr().err
    assert "runs in node, which is not installed" in error and len(error.splitlines()) == 1


def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(validate, "find_validator", lambda: tmp_path)
    assert validate.main([str(tmp_path / "missing.glb")]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert validate.main(["--prompts", "0"]) == 2
    assert "--prompts must be at least 1" in capsys.readouterr().err
