"""What README and docs say can be typed: their commands compose, their links lead somewhere, and they agree with the configs."""

import re
import shlex
from pathlib import Path

import pytest

from prd_lightning.cli import VERBS, build_parser
from prd_lightning.configuration import check_overrides, compose_config, config_directory
from prd_lightning.errors import ConfigurationError

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# Made by runs or written apart from these pages; a link to them is allowed to come first.
PENDING = {"docs/pictures/first_mesh.png", "docs/real_weights.md", "docs/recipe.md"}
NO_GROUPS = {"weights"}  # cards of downloads


def commands(page: Path, verb: str) -> list[str]:
    """Lines of code blocks that begin with ``prd VERB``, without what explains them."""
    lines = re.findall(rf"^(?: {{4}})?(prd {verb}\b.*)$", page.read_text(), flags=re.MULTILINE)
    return [re.split(r" {2,}(?![ -])|\t| +# ", line)[0] for line in lines]  # options may stand in columns


TRAIN_COMMANDS = sorted({command for page in PAGES for command in commands(page, "train")})
OTHER_COMMANDS = sorted({command for page in PAGES for verb in VERBS if verb != "train" for command in commands(page, verb)})


def test_there_are_commands_to_check():
    assert len(TRAIN_COMMANDS) >= 20
    assert len(OTHER_COMMANDS) >= 5


@pytest.mark.parametrize("command", TRAIN_COMMANDS)
def test_a_training_command_composes(command):
    words = shlex.split(command)[2:]
    for launcher in re.findall(r"hydra/launcher=([a-z]+)", command):
        pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher")
    check_overrides([word for word in words if not word.startswith("-") and ("=" in word or word.startswith("~"))])


@pytest.mark.parametrize(
    ("override", "available"),
    [("teacher=nobody", "richdreamer"), ("hydra/launcher=nobody", "basic"), ("+teacher/part@teacher.x=nobody", "richdreamer_nd")],
)
def test_a_wrong_training_command_would_be_found(override, available):
    with pytest.raises(ConfigurationError, match=f"Could not find .*nobody.* Available options .*{available}"):
        check_overrides([override])


@pytest.mark.parametrize("command", OTHER_COMMANDS)
def test_another_command_is_understood(command):
    verb, *words = shlex.split(command)[1:]
    assert build_parser(verb).parse_args([verb, *words]).verb == verb


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    local = [(page.parent / target).resolve() for target in targets if "://" not in target]
    missing = {str(path.relative_to(REPOSITORY)) for path in local if not path.exists()}
    assert missing <= PENDING


def test_every_group_and_file_of_the_configs_is_described():
    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, flags=re.MULTILINE))
    for folder in config_directory().iterdir():
        if not folder.is_dir() or folder.name in NO_GROUPS:
            continue
        assert folder.name in table, f"the group {folder.name} is not described"
        for file in folder.glob("*.yaml"):
            if folder.name != "world":
                assert f"`{file.stem}`" in table[folder.name], f"{folder.name}={file.stem} is not described"


def test_the_sizes_of_the_teachers_are_those_of_the_configs():
    text = (REPOSITORY / "README.md").read_text()
    rows = {line.split("|")[1].strip().split(" (")[0]: line for line in text.splitlines() if line.startswith("| ")}
    for generator in ("tiny", "sd21"):
        world = compose_config([f"generator={generator}"]).world
        for name, row, size in (
            ("stable_diffusion", "Stable Diffusion", "image_size"),
            ("mvdream", "MVDream", "image_size"),
            ("richdreamer_nd", "RichDreamer normal-depth", "map_size"),
        ):
            assert f"{world[name][size]} x {world[name][size]}" in rows[row]
