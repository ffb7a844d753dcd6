"""The Makefile passes on what the user types and installs when it must; CI reports what pytest says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
USER_VARIABLES = ("TEACHER", "EXPERIMENT", "PROMPT", "OUT", "SWEEP", "ARGS", "PYTHON", "VENV", "EXTRAS", "TORCH", "TORCH_INDEX")
MAKE_VARIABLES = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "GNUMAKEFLAGS")
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def write_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


RECORDER = """
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
sys.exit(int("version(" in " ".join(sys.argv)))  # no torch yet
"""


class Make:
    """Runs targets of the Makefile in a stand-in for .venv whose programs only write down how they were called."""

    def __init__(self, folder: Path, installed: bool = True) -> None:
        self.folder, self.venv, self.record = folder, folder / "venv", folder / "record"
        for name in ("prd", "python", "ruff"):
            write_script(self.venv / "bin" / name, RECORDER)
        if installed:
            (self.venv / ".installed-dev").touch()
        self.programs = folder / "programs"
        self.gpu(False)

    def gpu(self, present: bool) -> None:
        write_script(self.programs / "nvidia-smi", "print('GPU 0: one')" if present else "raise SystemExit(9)")

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in USER_VARIABLES + MAKE_VARIABLES}
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return kept | {"PATH": path, "RECORD": str(self.record), "VENV": str(self.venv)}

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        command = ["make", "--no-print-directory", "-C", str(REPOSITORY), *arguments]
        return subprocess.run(command, env=self.environment() | environment, capture_output=True, text=True, timeout=60)

    def calls(self, *arguments: str, **environment: str) -> list[list[str]]:
        """The calls of the stand-ins that a successful run of make does."""
        self.record.write_text("")
        result = self(*arguments, **environment)
        assert result.returncode == 0, result.stderr
        return [json.loads(line) for line in self.record.read_text().splitlines()]


@pytest.fixture
def make(tmp_path) -> Make:
    return Make(tmp_path)


def test_help_is_the_default_and_lists_every_target(make):
    text = (REPOSITORY / "Makefile").read_text()
    targets = next(line for line in text.splitlines() if line.startswith(".PHONY:")).split()[1:]
    named = "help setup train generate evaluate sweep weights doctor tinyworld test lint bench surface soak notebooks"
    assert sorted(targets) == sorted([*named.split(), "validate", "clean"])
    shown = make().stdout
    assert shown == make("help").stdout
    listed = {line.split()[0] for line in shown.splitlines() if line.startswith("  ") and len(line.split()) > 1}
    assert listed == set(targets)


HOSTILE_PROMPTS = [
    "a red cone on a blue cube",
    'it\'s a "red" cone',
    "a cone for $5 or $HOME or ${HOME} or $$",
    "$(touch executed) $(shell touch executed) `touch executed`",
    "cone; touch executed && touch executed | cat > executed",
    "back\\slash * ? # 100% ~ !",
    "ein Kegel, grün",
]


@pytest.mark.parametrize("prompt", HOSTILE_PROMPTS)
@pytest.mark.parametrize("given_by", ["argument", "environment"])
def test_prompt_reaches_the_command_unchanged(make, prompt, given_by):
    if given_by == "argument":
        calls = make.calls("generate", f"PROMPT={prompt}", "OUT=my mesh.glb", "ARGS=--seed 3")
    else:
        calls = make.calls("generate", "OUT=my mesh.glb", "ARGS=--seed 3", PROMPT=prompt)
    assert calls == [["prd", "generate", prompt, "--output", "my mesh.glb", "--seed", "3"]]
    assert not (REPOSITORY / "executed").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train"], ["train"]),
        (
            ["train", "TEACHER=mvdream", "ARGS=trainer.max_steps=20 seed=3"],
            ["train", "teacher=mvdream", "trainer.max_steps=20", "seed=3"],
        ),
        (["train", "EXPERIMENT=fast", "ARGS='data.prompt=a b'"], ["train", "experiment=fast", "data.prompt=a b"]),
        (["evaluate", "ARGS=--run runs/x"], ["evaluate", "--run", "runs/x"]),
        (["tinyworld", "ARGS=--seed 1"], ["tinyworld", "--seed", "1"]),
        (["generate"], ["generate"]),
        (["weights"], ["weights"]),
        (["weights", "EXPERIMENT=triplaneturbo_sd21"], ["weights", "experiment=triplaneturbo_sd21"]),
        (["weights", "ARGS=triplaneturbo"], ["weights", "triplaneturbo"]),
        (["doctor"], ["doctor"]),
        (["sweep"], ["train", "-m", "teacher=mvdream,richdreamer", "seed=0,1"]),
        (["sweep", "TEACHER=mvdream", "ARGS=x=1"], ["train", "-m", "teacher=mvdream", "seed=0,1", "x=1"]),
        (["sweep", "SWEEP=rank"], ["train", "-m", "sweep=rank"]),
        (["sweep", "EXPERIMENT=fast"], ["train", "-m", "experiment=fast", "seed=0,1"]),
    ],
)
def test_targets_call_prd(make, arguments, expected):
    assert make.calls(*arguments) == [["prd", *expected]]


def test_test_and_lint_call_their_tools(make):
    assert make.calls("test", "ARGS=-k mesh") == [["python", "-m", "pytest", "-n", "2", "-k", "mesh"]]
    check = ["python", "-m", "benchmarks.surface_check", "--output", ".make/surface_check.json", "--overwrite", "--minutes", "10"]
    assert make.calls("surface", "ARGS=--minutes 10") == [check]
    assert make.calls("soak", "ARGS=--kills 3") == [["python", "-m", "benchmarks.soak", "--kills", "3"]]
    assert make.calls("lint")[0][:4] == ["ruff", "check", "src", "tests"]


@pytest.mark.parametrize(
    ("gpu", "variables", "torch"),
    [
        (False, [], "torch==2.13.0"),
        (True, [], "torch>=2.11"),
        (False, ["TORCH=torch==2.12.1"], "torch==2.12.1"),
        (True, ["TORCH=torch==2.12.1"], "torch==2.12.1"),
    ],
)
def test_setup_installs_the_torch_that_fits_the_machine(tmp_path, gpu, variables, torch):
    make = Make(tmp_path, installed=False)
    make.gpu(gpu)
    calls = make.calls("setup", *variables)
    assert [call[-1] for call in calls if "install" in call] == [torch, ".[dev]"]
    has_cpu_index = any(argument.endswith("/whl/cpu") for argument in calls[1])
    assert has_cpu_index == (not gpu and sys.platform == "linux")
    assert make.calls("setup") == []


def test_setup_asks_the_general_index_alone_when_told_so(tmp_path):
    make = Make(tmp_path, installed=False)
    assert "--extra-index-url" not in make.calls("setup", TORCH_INDEX="")[1]


def test_setup_runs_again_only_for_new_packaging_files_or_extras(make):
    assert make.calls("setup") == []
    assert make.calls("setup", "-W", "setup.cfg")[-1][-1] == ".[dev]"
    assert make.calls("setup", "-W", "src/prd_lightning/cli.py") == []
    assert make.calls("setup", "EXTRAS=dev,cuda")[-1][-1] == ".[dev,cuda]"
    assert make.calls("setup", "EXTRAS=dev,cuda") == []


def test_setup_keeps_a_torch_that_is_there(tmp_path):
    make = Make(tmp_path, installed=False)
    write_script(make.venv / "bin" / "python", RECORDER.replace('int("version(" in " ".join(sys.argv))', "0"))
    assert [call[-1] for call in make.calls("setup") if "install" in call] == [".[dev]"]


def test_an_unsuitable_python_is_refused_with_the_variable_to_set(tmp_path):
    make = Make(tmp_path)
    old = write_script(tmp_path / "python3.8", "raise SystemExit(1)  # what sys.exit(not suitable) answers")
    result = make("setup", f"PYTHON={old}", VENV=str(tmp_path / "new"))
    assert result.returncode != 0
    assert str(old) in result.stderr and "PYTHON=" in result.stderr
    assert not (tmp_path / "new").exists()


def test_another_python_is_found_when_the_default_is_unsuitable(tmp_path):
    make = Make(tmp_path)
    write_script(make.programs / "python3", "raise SystemExit(1)")
    for name in ("python3.13", "python3.12"):
        write_script(make.programs / name, "raise SystemExit(1)")
    write_script(make.programs / "python3.11", RECORDER)
    make.record.write_text("")
    make("setup", VENV=str(tmp_path / "new"))
    used = [json.loads(line)[:3] for line in make.record.read_text().splitlines()]
    assert ["python3.11", "-m", "venv"] in used


@pytest.mark.parametrize(
    ("closing", "status"),
    [("3 passed in 0.12s", 0), ("1 failed, 2 passed in 1.05s", 1), ("no tests ran in 0.01s", 5)],
)
def test_ci_ends_with_pytests_closing_line_and_status(tmp_path, closing, status):
    make = Make(tmp_path)
    write_script(make.venv / "bin" / "python", f"print({closing!r}, flush=True)\nraise SystemExit({status})")
    command = ["bash", str(REPOSITORY / ".ci" / "run")]
    result = subprocess.run(command, env=make.environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[-1] == closing
    assert result.returncode == status
