"""The wheel holds what it must, and its parts find the configs."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from prd_lightning import __version__
from prd_lightning.configuration import config_directory
from prd_lightning.errors import ConfigurationError

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "prd_lightning"


def relative_files(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern) if path.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built, without build isolation, from a copy of the tree (a build leaves folders beside its sources)."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("src", "conf", "tests"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (REPOSITORY / name).is_file():
            shutil.copy(REPOSITORY / name, source)
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", str(output)]
    command = [sys.executable, "-m", "pip", "wheel", *options, "."]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return next(output.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel_names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def wheel_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"prd_lightning-{__version__}.dist-info/METADATA").decode())


def test_setup_cfg_lists_every_package():
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    folders = {PACKAGE, *(path.parent for path in PACKAGE.rglob("*.py"))}
    on_disk = {".".join(folder.relative_to(PACKAGE.parent).parts) for folder in folders}
    assert listed == on_disk | {"prd_lightning.conf"}, "mend the list of packages in setup.cfg"


def test_every_package_folder_has_an_init():
    assert [folder for folder in {path.parent for path in PACKAGE.rglob("*.py")} if not (folder / "__init__.py").is_file()] == []


def test_wheel_holds_all_modules_configs_and_weights(wheel_names):
    modules = {f"prd_lightning/{name}" for name in relative_files(PACKAGE, "*.py")}
    configs = {f"prd_lightning/conf/{name}" for name in relative_files(REPOSITORY / "conf", "*.yaml")}
    weights = {f"prd_lightning/tinyworld/weights/{name}" for name in relative_files(PACKAGE / "tinyworld" / "weights", "*")}
    assert configs and weights
    assert {name for name in wheel_names if ".dist-info/" not in name} == modules | configs | weights


def test_wheel_holds_no_tests_and_the_licence(wheel_names):
    assert not [name for name in wheel_names if "tests/" in name or "conftest" in name or "__pycache__" in name]
    assert f"prd_lightning-{__version__}.dist-info/licenses/LICENSE" in wheel_names


def test_wheel_metadata(wheel):
    metadata = wheel_metadata(wheel)
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.11"
    extras = {"data", "video", "wandb", "tensorboard", "cuda", "deepspeed", "sweep", "notebook", "test", "lint", "dev"}
    assert set(metadata.get_all("Provides-Extra")) == extras


def test_cuda_only_and_non_commercial_packages_are_extras(wheel):
    requirements = wheel_metadata(wheel).get_all("Requires-Dist")
    core = [line for line in requirements if "extra ==" not in line]
    assert any(line.startswith("torch>=") for line in core)
    optional = ("nvdiffrast", "deepspeed", "wandb", "datasets", "pyarrow")
    assert not [line for line in core if any(name in line for name in optional)]
    assert [line.split("; ")[1] for line in requirements if "nvdiffrast" in line] == ['extra == "cuda"']


def test_unpacked_wheel_works_away_from_the_checkout(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        entry_points = archive.read(f"prd_lightning-{__version__}.dist-info/entry_points.txt").decode()
    assert "prd = prd_lightning.cli:main" in entry_points
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); from prd_lightning.cli import main; "
        "from prd_lightning.configuration import config_directory; print(config_directory()); sys.exit(main(['--help']))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == str(site / "prd_lightning" / "conf")
    assert "generate" in result.stdout


def test_configs_of_a_checkout_lie_at_its_top():
    assert config_directory() == REPOSITORY / "conf"


def test_configs_of_an_installed_package_come_first(tmp_path):
    package = tmp_path / "site-packages" / "prd_lightning"
    (package / "conf").mkdir(parents=True)
    (tmp_path / "conf").mkdir()
    assert config_directory(package) == package / "conf"


def test_missing_configs_are_named(tmp_path):
    package = tmp_path / "site-packages" / "prd_lightning"
    with pytest.raises(ConfigurationError) as caught:
        config_directory(package)
    assert str(package / "conf") in str(caught.value) and str(tmp_path / "conf") in str(caught.value)
