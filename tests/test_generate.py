"""``prd generate`` as a user types it: files, names, exit statuses, and one line for every mistake."""

import json
import logging
import sys
from functools import partial
from pathlib import Path

import pytest
import trimesh
from PIL import Image
from small_disk import largest_file
from untrained import save_untrained

from prd_lightning import cli
from prd_lightning import generate as generate_module
from prd_lightning.checkpoints import load_generator, save_generator
from prd_lightning.errors import NotWatertightError
from prd_lightning.mesh import atlas, save_mesh, save_turntable
from prd_lightning.mesh.reading import file_health

QUICK = ["--resolution", "12", "--steps", "1", "--device", "cpu", "--no-texture"]
PROMPT = "a red cone on a blue cube"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_untrained(tmp_path_factory.mktemp("weights")))


@pytest.fixture
def generate(weights, tmp_path, monkeypatch):
    """Runs the verb in an empty folder; ``--weights`` is the untrained generator unless it is named."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> int:
        named = [] if "--weights" in arguments else ["--weights", weights]
        return cli.main(["generate", *arguments, *named, *QUICK])

    return call


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_prompt_to_one_file(generate, tmp_path, capsys):
    assert generate(PROMPT, "--output", "out.glb", "--seed", "7", "--turntable") == 0
    assert names(tmp_path) == ["out.glb", "out.json", "out.png"]
    assert capsys.readouterr().out.splitlines() == ["out.glb"]
    shape = trimesh.load(tmp_path / "out.glb", force="mesh", process=False)
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["prompt"], told["seed"], told["mesh"]) == (PROMPT, 7, "out.glb")
    assert (told["faces"], told["vertices"]) == (len(shape.faces), len(shape.vertices))
    assert told["watertight"] is True and told["seconds"] > 0 and len(told["weights_sha256"]) == 64
    assert set(told["versions"]) == {"prd_lightning", "torch", "python"}
    data = (tmp_path / "out.glb").read_bytes()
    extras = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])["asset"]["extras"]
    assert extras == {key: told[key] for key in ("prompt", "seed", "weights_sha256", "versions")}
    sheet = Image.open(tmp_path / "out.png")
    assert sheet.width == 8 * 192 and sheet.height > 2 * 192


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl"])
def test_formats_by_suffix(generate, tmp_path, suffix):
    assert generate(PROMPT, "--output", f"new/folder/out.{suffix}") == 0
    assert len(trimesh.load(tmp_path / "new" / "folder" / f"out.{suffix}", force="mesh").faces) > 100


def test_prompts_times_seeds_into_a_folder(generate, tmp_path):
    assert generate("a red cone", "A blue cube", "--seeds", "0", "2", "--format", "ply", "--output", "all") == 0
    found = names(tmp_path / "all")
    assert len(found) == 8 and "a_red_cone_seed0.ply" in found and "a_red_cone_seed2.json" in found
    assert sum(name.startswith("a_blue_cube_") and name.endswith("_seed2.ply") for name in found) == 1
    told = [json.loads(path.read_text()) for path in (tmp_path / "all").glob("*.json")]
    assert {(each["prompt"], each["seed"]) for each in told} == {(p, s) for p in ("a red cone", "A blue cube") for s in (0, 2)}


def test_the_same_call_makes_the_same_files(generate, tmp_path):
    for folder in ("first", "second"):
        assert generate("a red cone", "--output", folder, "--target-faces", "80") == 0
    first, second = ((tmp_path / folder / "a_red_cone_seed0.glb").read_bytes() for folder in ("first", "second"))
    assert first == second
    told = json.loads((tmp_path / "first" / "a_red_cone_seed0.json").read_text())
    assert told["target_faces"] == 80 and 40 < told["faces"] <= 80


def test_prompt_file_and_repeated_prompts(generate, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red cone\n\na blue cube\na red cone\n")
    assert generate("a red cone", "--prompts", "prompts.txt") == 0  # into the default folder
    expected = [f"{name}_seed0.{kind}" for name in ("a_blue_cube", "a_red_cone") for kind in ("glb", "json")]
    assert names(tmp_path / "meshes") == expected


def test_bad_lines_stop_or_are_left_out(generate, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text('"a red cone"\n{"text": 1}\n')
    assert generate("--prompts", "prompts.jsonl", "--output", "all") == 2
    assert "prompts.jsonl, line 2" in capsys.readouterr().err and not (tmp_path / "all").exists()
    assert generate("--prompts", "prompts.jsonl", "--output", "all", "--on-error", "skip") == 0
    found = [name for name in names(tmp_path / "all") if not name.startswith(".")]
    assert found == ["a_red_cone_seed0.glb", "a_red_cone_seed0.json", "corpus.json", "results.jsonl"]


def test_failed_prompts_are_listed_and_the_status_is_one(generate, tmp_path, capsys):
    """A generator whose field is full everywhere has no surface."""
    path = save_untrained(tmp_path / "weights")
    tensors, header = load_generator(path)
    save_generator(path, tensors, header | {"sphere_radius": 3.0})
    assert generate("a red cone", "a blue cube", "--output", "all", "--weights", str(path)) == 1
    captured = capsys.readouterr()
    assert "2 of 2 failed" in captured.err and "'a blue cube' (seed 0): the field is full" in captured.err
    assert captured.out == "" and names(tmp_path / "all") == []


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["generate", "--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0 and 'prd generate "a red cone on a blue cube" --output out.glb --seed 0' in text


# ------------------------------------------------------------------------------------------- meshes, textures, pictures


def texture_flags(*more: str) -> list[str]:
    """A texture after all: ``QUICK`` leaves it out."""
    return ["--texture-size", "512", *more]


@pytest.fixture
def with_texture(generate, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "QUICK", [word for word in QUICK if word != "--no-texture"])
    return generate


def test_a_textured_mesh_and_its_sidecar(with_texture, tmp_path, monkeypatch):
    monkeypatch.setattr(generate_module, "save_turntable", partial(save_turntable, frames=2, size=32))
    flags = texture_flags("--normal-map", "--scale", "0.5", "--turntable", "gif")
    assert with_texture(PROMPT, "--output", "out.glb", *flags) == 0
    assert names(tmp_path) == ["out.gif", "out.glb", "out.json"]
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["texture"]["size"] == 512 and told["texture"]["normal_map"] and told["texture"]["fallback"] is None
    assert told["health"] == file_health(tmp_path / "out.glb").to_dict()
    assert max(told["health"]["size"]) == pytest.approx(0.5, rel=1e-5) and (told["up"], told["front"]) == ("y", "z")
    assert told["health"]["watertight"] and told["health"]["genus"] == 0 and told["health"]["texel_density"] > 100
    assert told["clean_up"]["faces_after"] == told["faces"] and told["target_faces"] == 20_000


def test_a_textured_obj_has_its_files_beside_it(with_texture, tmp_path):
    assert with_texture(PROMPT, "--output", "out.obj", *texture_flags()) == 0
    assert names(tmp_path) == ["out.json", "out.mtl", "out.obj", "out_color.png"]
    assert json.loads((tmp_path / "out.json").read_text())["files"] == ["out.obj", "out.mtl", "out_color.png"]


def test_a_texture_that_takes_too_long_falls_back(with_texture, tmp_path, monkeypatch, caplog):
    (tmp_path / "endless.py").write_text("import time; time.sleep(600)")
    monkeypatch.setattr(atlas, "WORKER", tmp_path / "endless.py")
    assert with_texture(PROMPT, "--output", "all/out.obj", "--texture-timeout", "0.3") == 0
    assert names(tmp_path / "all") == ["out.json", "out.obj"] and "colours at its vertices" in caplog.text
    told = json.loads((tmp_path / "all" / "out.json").read_text())
    assert "more than 0.3 seconds" in told["texture"]["fallback"] and told["files"] == ["out.obj"]


def test_clean_up_flags_reach_the_mesh(generate, tmp_path):
    assert generate(PROMPT, "--output", "out.stl", "--smooth", "--remesh", "8", "--fill-holes", "--scale", "0.08") == 0
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["clean_up"]["smoothing_steps"] == 10 and told["clean_up"]["remeshed"] and told["health"]["unit"] == "mm"
    assert max(told["health"]["size"]) == pytest.approx(80, rel=1e-5)
    assert generate(PROMPT, "--output", "more.glb", "--target-faces", "100000", "--up", "z", "--front=-y") == 0
    told = json.loads((tmp_path / "more.json").read_text())
    assert told["faces"] == told["clean_up"]["faces_before"] < told["target_faces"] == 100_000
    assert (told["up"], told["front"]) == ("z", "-y")


def test_an_open_mesh_is_not_printed_and_the_others_are(generate, tmp_path, monkeypatch, capsys):
    def refuse_first(mesh, path, *rest):
        if "cone" in str(path):
            raise NotWatertightError("the mesh is not watertight")
        return save_mesh(mesh, path, *rest)

    monkeypatch.setattr(generate_module, "save_mesh", refuse_first)
    assert generate("a red cone", "a blue cube", "--format", "stl", "--output", "all") == 1
    assert names(tmp_path / "all") == ["a_blue_cube_seed0.json", "a_blue_cube_seed0.stl"]
    captured = capsys.readouterr()
    assert "1 of 2 failed" in captured.err and "'a red cone' (seed 0): the mesh is not watertight" in captured.err


def test_a_full_disk_is_told_and_leaves_no_part_of_a_file(generate, tmp_path, capsys):
    with largest_file(2000):
        assert generate(PROMPT, "--output", "all/out.glb") == 2
    assert "cannot write all/out.glb" in capsys.readouterr().err and names(tmp_path / "all") == []


# ------------------------------------------------------------------------------------------------------ mistakes


MISTAKES = {
    "no prompt": ([], "no prompt was given"),
    "blank prompt": (["   "], "blank"),
    "negative seed": ([PROMPT, "--seed", "-1"], "a seed must lie between 0"),
    "one negative seed": ([PROMPT, "--seeds", "0", "-3", "--output", "all"], "got -3"),
    "output exists": ([PROMPT, "--output", "taken.glb"], "taken.glb exists; choose another name or pass --overwrite"),
    "sidecar exists": ([PROMPT, "--output", "taken.obj"], "taken.json exists"),
    "output under a file": ([PROMPT, "--output", "taken.glb/out.glb"], "cannot write into"),
    "unknown format": ([PROMPT, "--format", "fbx"], "unknown mesh format 'fbx'; known: glb, obj, ply, stl"),
    "unknown suffix": ([PROMPT, "--output", "out.fbx"], ".glb, .obj, .ply, .stl"),
    "contradicting format": ([PROMPT, "--output", "out.glb", "--format", "obj"], "contradicts the suffix"),
    "one file for two": ([PROMPT, "a cone", "--output", "out.glb"], "2 meshes are to be made"),
    "missing prompt file": (["--prompts", "none.txt"], "there is no prompt file none.txt"),
    "empty prompt file": (["--prompts", "empty.txt"], "empty.txt is empty"),
    "prompt file of blank lines": (["--prompts", "blank.txt"], "no usable prompt"),
    "unknown prompt file": (["--prompts", "prompts.docx"], "unknown suffix '.docx'"),
    "missing weights": ([PROMPT, "--weights", "nowhere"], "there is no file or folder nowhere"),
    "folder without weights": ([PROMPT, "--weights", "folder.glb"], "no generator in folder.glb"),
    "foreign weights": ([PROMPT, "--weights", "taken.glb"], "not a complete safetensors file"),
    "target faces": ([PROMPT, "--target-faces", "1"], "target_faces must be at least 4"),
    "batch size": ([PROMPT, "--batch-size", "0"], "batch_size"),
    "texture size": ([PROMPT, "--texture-size", "big"], "texture_size must be a whole number between 512 and 4096, got 'big'"),
    "small texture": ([PROMPT, "--texture-size", "64"], "between 512 and 4096, got 64"),
    "normal map alone": ([PROMPT, "--normal-map"], "--normal-map needs a texture, but --no-texture was given"),
    "normal map of a ply": ([PROMPT, "--normal-map", "--format", "ply"], "the format has no place for one"),
    "axes": ([PROMPT, "--up", "y", "--front=-y"], "must lie on different axes"),
    "unknown axis": ([PROMPT, "--up", "north"], "up must be one of x, -x, y, -y, z, -z, got 'north'"),
    "scale": ([PROMPT, "--scale", "-1"], "the scale must be a positive number of metres"),
    "holes": ([PROMPT, "--fill-holes", "-5"], "fill_holes must be at least 0"),
    "remesh": ([PROMPT, "--remesh", "99"], "between 0.1 and 50"),
    "turntable": ([PROMPT, "--turntable", "avi"], "unknown kind of turntable 'avi'; known: png, gif, mp4"),
}


@pytest.fixture
def taken(tmp_path: Path) -> list[Path]:
    """Files that are in the way."""
    paths = [tmp_path / "taken.glb", tmp_path / "taken.json"]
    for path in paths:
        path.write_text("mine")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text("\n\n")
    (tmp_path / "folder.glb").mkdir()
    return paths


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(generate, taken, tmp_path, capsys, name):
    arguments, message = MISTAKES[name]
    assert generate(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("prd generate: error:") == 1
    assert "Traceback" not in captured.err and captured.out == ""
    assert all(path.read_text() == "mine" for path in taken)
    assert not list(tmp_path.rglob("*.partial*")) and not (tmp_path / "out.glb").exists()


def test_truncated_weights(generate, weights, tmp_path, capsys):
    data = Path(weights).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    assert generate(PROMPT, "--weights", "cut.safetensors", "--output", "out.glb") == 2
    assert "not a complete safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "out.glb").exists()


def test_weights_of_another_architecture(generate, weights, tmp_path, capsys):
    tensors, header = load_generator(weights)
    save_generator(tmp_path / "other.safetensors", tensors, header | {"rank": 8})
    assert generate(PROMPT, "--weights", "other.safetensors", "--output", "out.glb") == 2
    assert "in the checkpoint but" in capsys.readouterr().err


def test_overwriting_on_demand(generate, tmp_path):
    (tmp_path / "out.glb").write_text("old")
    (tmp_path / "out.json").write_text("old")
    assert generate(PROMPT, "--output", "out.glb", "--overwrite") == 0
    assert (tmp_path / "out.glb").read_bytes()[:4] == b"glTF" and names(tmp_path) == ["out.glb", "out.json"]


@pytest.mark.parametrize("arguments", ["--seed zero", "--seed 0 --seeds 1", "--on-error ignore", "--colour red"])
def test_arguments_that_do_not_parse(generate, capsys, arguments):
    with pytest.raises(SystemExit) as left:
        generate(PROMPT, *arguments.split())
    assert left.value.code == 2 and "usage: prd" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def keep_logging():
    """The command line configures the root logger; the next test finds it as it was."""
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    logging.getLogger().handlers[:], logging.getLogger().level = handlers, level
