"""GLB files through Khronos' validator: ``make validate``, which fetches it from npm, or ``python -m benchmarks.validate``.

Without files it makes those of the test set: every held-out prompt of the tiny world by ``prd generate``, once with colours at
the vertices and once with a texture and a normal map.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import write_results
from prd_lightning import cli
from prd_lightning.errors import BackendUnavailableError, ConfigurationError, MeshFileError, PRDError
from prd_lightning.files import check_output
from prd_lightning.tinyworld.grammar import describe, held_out_compositions, held_out_pair_prompts

SCHEMA = "prd_lightning.validate.1"
FOLDER = Path(__file__).resolve().parents[1] / ".make" / "gltf-validator"
KINDS = {
    "colors": ("--no-texture",),
    "textures": ("--normal-map", "--texture-size", "512", "--target-faces", "3000"),
}
"""Folders of the test set and the options of ``prd generate``."""
AT_ONCE = 25
PROGRAM = """
const validator = require('gltf-validator'), fs = require('fs');
const one = file => validator.validateBytes(new Uint8Array(fs.readFileSync(file)))
    .then(report => report.issues, error => ({numErrors: 1, numWarnings: 0, messages: [{code: String(error)}]}));
Promise.all(process.argv.slice(1).map(one)).then(found => console.log(JSON.stringify({version: validator.version(), found})));
"""


def find_validator(folder: Path = FOLDER) -> Path:
    """Where npm has put gltf-validator.

    Raises:
        BackendUnavailableError: node or the validator is missing.
    """
    if shutil.which("node") is None:
        raise BackendUnavailableError("the Khronos validator runs in node, which is not installed")
    if not (folder / "node_modules" / "gltf-validator").is_dir():
        raise BackendUnavailableError("the Khronos validator is not installed; `make validate` fetches it from npm")
    return folder


def validate(paths: Sequence[Path]) -> tuple[str, list[dict[str, Any]]]:
    """The validator's version, and its issues for each file: ``numErrors``, ``numWarnings``, ``messages``.

    Raises:
        BackendUnavailableError: the validator is missing or does not run.
        MeshFileError: a file is missing.
    """
    folder, version, found = find_validator(), "", []
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise MeshFileError(f"there is no file {missing[0]}")
    for first in range(0, len(paths), AT_ONCE):
        command = ["node", "-e", PROGRAM, *(str(path.resolve()) for path in paths[first : first + AT_ONCE])]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise BackendUnavailableError(f"the Khronos validator does not run: {done.stderr.strip()[-300:]}")
        answer = json.loads(done.stdout)
        version = answer["version"]
        found += answer["found"]
    return version, found


def make_test_set(folder: Path, count: int | None) -> list[Path]:
    """Writes the files of the first ``count`` held-out prompts (None: all) and returns their paths."""
    prompts = [*held_out_pair_prompts(), *map(describe, held_out_compositions())][:count]
    for name, options in KINDS.items():
        status = cli.main(["generate", *prompts, "--output", str(folder / name), *options])
        if status:
            raise PRDError(f"prd generate ended with status {status}")
    return sorted(folder.glob("*/*.glb"))


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validate", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="GLB files (default: those of the test set)")
    parser.add_argument("--prompts", type=int, metavar="N", help="only the first N prompts of the test set")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file for what was found")
    parser.add_argument("--overwrite", action="store_true", help="replace --output if it exists")
    return parser


def report(paths: Sequence[Path], version: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Prints what is wrong with each file; returns the sums."""
    for path, issues in zip(paths, found):
        for message in issues["messages"]:
            place = message.get("pointer", "")
            print(f"{path}: {message['code']} {message.get('message', '')} {place}".rstrip())
    kinds = Counter(path.parent.name for path in paths)
    errors, warnings = (sum(issues[name] for issues in found) for name in ("numErrors", "numWarnings"))
    print(f"{len(paths)} files, gltf-validator {version}: {errors} errors, {warnings} warnings")
    return {"schema": SCHEMA, "validator": version, "files": len(paths), "errors": errors, "warnings": warnings, "kinds": kinds}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; status 1 if a file has an error or a warning, 2 after a user's mistake or without the validator."""
    given = build_parser().parse_args(arguments)
    try:
        if given.prompts is not None and given.prompts < 1:
            raise ConfigurationError(f"--prompts must be at least 1, got {given.prompts}")
        find_validator()
        if given.output:
            check_output(given.output, given.overwrite)
        with tempfile.TemporaryDirectory() as folder:
            paths = given.files or make_test_set(Path(folder), given.prompts)
            sums = report(paths, *validate(paths))
        write_results(sums, given.output, given.overwrite)
    except PRDError as error:
        print(f"python -m benchmarks.validate: error: {error}", file=sys.stderr)
        return 2
    return int(sums["errors"] + sums["warnings"] > 0)


if __name__ == "__main__":
    sys.exit(main())
