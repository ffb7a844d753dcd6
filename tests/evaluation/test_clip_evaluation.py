"""``prd evaluate`` of meshes with the tiny world's CLIP: scores by prompt, failures, resuming, both protocols, bad input."""

import csv
import json

import numpy
import pytest
import trimesh
from PIL import Image

from prd_lightning import cli
from prd_lightning.errors import ConfigurationError
from prd_lightning.evaluation import clip_evaluation
from prd_lightning.evaluation.protocol import Protocol
from prd_lightning.metrics import ClipJudge, clip_score
from prd_lightning.tinyworld.shapes import COLORS

PROMPTS = ["a red sphere", "a blue cube", "a green cylinder", "a yellow sphere"]
SHAPES = {
    "sphere": lambda: trimesh.creation.icosphere(3, 0.55),
    "cube": lambda: trimesh.creation.box((0.84, 0.84, 0.84)),
    "cylinder": lambda: trimesh.creation.cylinder(0.38, 0.96),
}
FAST = ["--clip", "tinyworld:clip", "--prefix", "", "--recall-at", "1", "2", "--size", "64", "--device", "cpu"]


@pytest.fixture
def meshes(tmp_path):
    """Three good files and a broken one; of the last prompt there is none unless a test makes it."""
    folder = tmp_path / "meshes"
    folder.mkdir()
    for prompt in PROMPTS[:3]:
        _, color, shape = prompt.split()
        mesh = SHAPES[shape]()
        mesh.visual.vertex_colors = numpy.append(numpy.array(COLORS[color]) * 0.85 * 255, 255).astype(numpy.uint8)
        mesh.export(folder / f"{prompt.replace(' ', '_')}.ply")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return folder


def evaluate(meshes, *more: str) -> tuple[int, dict]:
    out = meshes.parent / "out"
    given = ["evaluate", "--meshes", str(meshes), "--prompts", str(meshes.parent / "prompts.txt"), *FAST, "--output", str(out)]
    status = cli.main([*given, *more])
    return status, json.loads((out / "scores.json").read_text()) if (out / "scores.json").is_file() else {}


def test_scores_are_kept_by_prompt_and_failures_count(meshes):
    (meshes / "a_yellow_sphere.ply").write_bytes(b"ply\nnonsense")
    status, scores = evaluate(meshes)
    assert status == 0 and list(scores["scores"]) == PROMPTS and (scores["meshes"], scores["failures"]) == (3, 1)
    by_prompt = {prompt: entry["clip_score"] for prompt, entry in scores["scores"].items()}
    assert by_prompt["a yellow sphere"] == 0 and min(by_prompt[prompt] for prompt in PROMPTS[:3]) > 100
    assert scores["clip_score"]["mean"] == pytest.approx(sum(by_prompt.values()) / 4)
    assert scores["clip_score"]["low"] < scores["clip_score"]["mean"] < scores["clip_score"]["high"]
    assert scores["recall_at_1"]["mean"] == pytest.approx(75) and "yellow" in next(iter(scores["errors"]))
    assert scores["geometry"]["watertight_share"] == 1 and scores["seconds_per_mesh"] is None
    with (meshes.parent / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt"] for row in rows] == PROMPTS and rows[3]["error"] and float(rows[0]["recall_at_1"]) == 100
    assert Image.open(meshes.parent / "out" / "sheet.png").width > 700


def test_a_score_is_that_of_the_saved_views(meshes):
    _, scores = evaluate(meshes)
    entry = scores["scores"]["a blue cube"]["meshes"][0]
    judge = ClipJudge.from_pretrained("tinyworld:clip")
    strip = Image.open(meshes.parent / "out" / entry["picture"])
    views = [strip.crop((64 * view, 0, 64 * view + 64, 64)) for view in range(4)]
    expected = clip_score(judge.embed_pictures(views), judge.embed_texts(["a blue cube"]).expand(4, -1))
    assert entry["view_scores"] == pytest.approx(expected.tolist(), rel=1e-4) and entry["clip_score"] == pytest.approx(
        float(expected.mean()), rel=1e-4
    )


def test_an_interrupted_evaluation_goes_on(meshes, monkeypatch):
    first = evaluate(meshes)[1]
    progress = meshes.parent / "out" / "progress.jsonl"
    lines = progress.read_text().splitlines()
    progress.write_text("\n".join(lines[:2]) + "\n" + lines[2][:40])  # torn while the third was written
    drawn, draw = [], clip_evaluation.object_pictures
    monkeypatch.setattr(clip_evaluation, "object_pictures", lambda *given: drawn.append(1) or draw(*given))
    assert evaluate(meshes)[1] == first and len(drawn) == 1
    assert evaluate(meshes)[1] == first and len(drawn) == 1
    (meshes / "a_blue_cube.ply").write_bytes((meshes / "a_red_sphere.ply").read_bytes())
    assert evaluate(meshes)[1] != first and len(drawn) == 2
    evaluate(meshes, "--overwrite")
    assert len(drawn) == 5


def test_the_published_protocol_prints_the_last_prompt_s_score_and_sees_no_failures(meshes):
    _, correct = evaluate(meshes)
    _, published = evaluate(meshes, "--protocol", "published")
    assert published["protocol"]["text"] == "PROMPT" and list(published["scores"]) == PROMPTS[:3]
    last = published["scores"][PROMPTS[2]]["clip_score"]
    assert published["clip_score_as_printed"] == pytest.approx(last)
    assert published["clip_score"]["mean"] == pytest.approx(correct["clip_score"]["mean"] * 4 / 3)
    assert Protocol("published").text("a cone") == "A photo depictsa cone"
    assert Protocol().text("a cone") == "A photo depicts a cone" and Protocol(prefix="").text("a cone") == "a cone"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--recall-at", "4"], "R@4 needs more than 4 different prompts, got 4"),
        (["--recall-at", "0"], "R@k needs k of at least 1"),
        (["--protocol", "best"], "unknown protocol 'best'"),
        (["--missing", "error"], "1 prompts have no mesh, e.g. 'a yellow sphere'"),
        (["--clip", "tinyworld:mvdream"], "has no config.json"),
        (["--up", "w"], "unknown up axis 'w'"),
        (["--size", "4"], "a size from 16"),
        (["--shuffle"], "--shuffle belongs to the tiny world's scores"),
        (["--compositions"], "--compositions says what a generator makes"),
        (["--weights", "runs/mine"], "--weights says what a generator makes"),
    ],
)
def test_mistakes_are_told(meshes, more, message, capsys):
    status, scores = evaluate(meshes, *more)
    assert status == 2 and not scores and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--recall-at", "1"], "--recall-at belongs to CLIP scores: add --clip tinyworld:clip"),
        (["--display-colors"], "--display-colors belongs to CLIP scores"),
        (["--clip", "tinyworld:clip", "--manifest", "list.csv"], "--manifest says which prompts files belong to"),
    ],
)
def test_options_without_an_effect_are_refused(tmp_path, more, message, capsys):
    out = tmp_path / "scores"
    assert cli.main(["evaluate", "--output", str(out), *more]) == 2
    assert message in capsys.readouterr().err and not out.exists()


def test_an_empty_folder_is_told(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    assert cli.main(["evaluate", "--meshes", str(tmp_path / "none"), *FAST, "--output", str(tmp_path / "out")]) == 2
    assert "holds no mesh" in capsys.readouterr().err


def test_a_generator_s_own_meshes_are_made_once(tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("a red cone\na blue cube\n")
    given = ["evaluate", "--prompts", str(tmp_path / "prompts.txt"), *FAST[:4], "--recall-at", "1", "--size", "32"]
    given += ["--output", str(tmp_path / "out"), "--resolution", "16", "--device", "cpu"]
    assert cli.main(given) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["seconds_per_mesh"]["mean"] > 0 and list(scores["scores"]) == ["a red cone", "a blue cube"]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "meshes").iterdir()}
    assert len(written) == 4 and cli.main(given) == 0
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "meshes").iterdir()}


def test_an_unknown_protocol_in_python():
    with pytest.raises(ConfigurationError, match="known: correct, published"):
        Protocol("other")
