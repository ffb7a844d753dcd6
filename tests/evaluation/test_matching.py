"""Files find their prompts: by manifest, by description, by name, by folder."""

import pytest

from prd_lightning.errors import MeshFileError, PromptError
from prd_lightning.evaluation.matching import find_meshes


def touch(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


PROMPTS = ["a red cone", "A DSLR photo of a corgi!", "a 20-sided die", "a chair"]


def test_by_name_folder_and_description(tmp_path):
    cone = touch(tmp_path / "a_red_cone_seed3.glb")
    corgi = touch(tmp_path / "a_dslr_photo_of_a_corgi_0123abcd_seed0.ply")
    die = touch(tmp_path / "a 20-sided die" / "model.obj")
    odd = touch(tmp_path / "x17.obj")
    touch(tmp_path / "x17.json", '{"prompt": "a chair", "seconds": 2.5}')
    touch(tmp_path / "stranger.glb")
    found = find_meshes(tmp_path, PROMPTS)
    assert [(item.prompt, item.path) for item in found] == list(zip(PROMPTS, [cone, corgi, die, odd]))
    assert found[3].seconds == 2.5


def test_letters_of_other_scripts_count(tmp_path):
    prompts = ["红色的圆锥", "蓝色的立方体", "une chaise dor\u00e9e"]
    files = [touch(tmp_path / name) for name in ("红色的圆锥_seed0.glb", "蓝色的立方体.ply", "une_chaise_dore\u0301e.obj")]
    assert [(item.prompt, item.path) for item in find_meshes(tmp_path, prompts)] == list(zip(prompts, files))


def test_a_prompt_without_a_mesh_stays_and_several_meshes_are_kept(tmp_path):
    touch(tmp_path / "a_red_cone_seed0.glb")
    touch(tmp_path / "a_red_cone_seed1.glb")
    found = find_meshes(tmp_path, PROMPTS[:2])
    assert [item.prompt for item in found] == ["a red cone", "a red cone", PROMPTS[1]] and found[2].path is None


def test_without_a_list_names_are_prompts(tmp_path):
    touch(tmp_path / "a_red_cone_seed0.glb")
    assert [item.prompt for item in find_meshes(tmp_path)] == ["a red cone"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "file,prompt,seconds\n1.glb,a red cone,1.5\n2.glb,a chair,\n"),
        ("list.jsonl", '{"file": "1.glb", "prompt": "a red cone", "seconds": 1.5}\n\n{"file": "2.glb", "prompt": "a chair"}\n'),
    ],
)
def test_by_manifest(tmp_path, name, text):
    found = find_meshes(tmp_path, PROMPTS, touch(tmp_path / name, text))
    paths = {item.prompt: (item.path, item.seconds) for item in found}
    assert paths["a red cone"] == (tmp_path / "1.glb", 1.5) and paths["a chair"] == (tmp_path / "2.glb", None)
    assert paths["a 20-sided die"] == (None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("file\nx.glb\n", "entry 1"), ("file,prompt,seconds\nx.glb,a cone,soon\n", "no number: 'soon'")],
)
def test_a_manifest_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(PromptError, match=message):
        find_meshes(tmp_path, None, touch(tmp_path / "list.csv", text))


def test_nothing_to_evaluate_is_told(tmp_path):
    with pytest.raises(MeshFileError, match="no folder of meshes"):
        find_meshes(tmp_path / "none")
    with pytest.raises(MeshFileError, match="holds no mesh"):
        find_meshes(tmp_path)
    touch(tmp_path / "stranger.glb")
    with pytest.raises(MeshFileError, match="no mesh of .* belongs to one of the 4 prompts"):
        find_meshes(tmp_path, PROMPTS)
    with pytest.raises(PromptError, match="cannot be told apart"):
        find_meshes(tmp_path, ["a red cone", "A red, cone"])
