"""``prd VERB``: one command for everything. Each verb is a module with ``configure(parser)`` and ``run(arguments)``."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from prd_lightning import __version__
from prd_lightning.errors import PRDError

VERBS = {
    "train": ("prd_lightning.train", "distil teachers into a generator"),
    "sweep-summary": ("prd_lightning.sweeps.command", "tabulate and plot the trainings under one folder"),
    "generate": ("prd_lightning.generate", "turn prompts into mesh files"),
    "evaluate": ("prd_lightning.evaluate", "score a generator, or a folder of meshes of any system"),
    "diagnose": ("prd_lightning.diagnose", "draw a run's log so that a divergence is visible"),
    "preview-teacher": ("prd_lightning.preview_teacher", "sample a teacher itself: what can be learned from it"),
    "mesh": ("prd_lightning.mesh.command", "report the health of mesh files"),
    "weights": ("prd_lightning.download", "download the real weights that a config needs"),
    "convert": ("prd_lightning.convert", "turn foreign weights into safetensors in our own layout"),
    "doctor": ("prd_lightning.doctor", "show versions, devices, optional backends and weights"),
    "tinyworld": ("prd_lightning.tinyworld.command", "train the tiny models that ship with the package"),
}
USER_ERROR, INTERRUPTED = 2, 130


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The command's parser; only the module of ``verb`` is imported, so that ``--help`` is quick."""
    parser = argparse.ArgumentParser(
        prog="prd",
        description="Text-to-mesh generators by progressive rendering distillation.",
        epilog="prd VERB --help shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"prd_lightning {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (module, summary) in VERBS.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        child = verbs.add_parser(
            name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == verb:
            importlib.import_module(module).configure(child)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; a user's mistake is one line on the error stream and status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=os.environ.get("PRD_LOG_LEVEL", "INFO").upper(), format="%(levelname)s %(name)s: %(message)s")
    verb = given[0] if given and given[0] in VERBS else None
    parsed, rest = build_parser(verb).parse_known_args(given)
    if hasattr(parsed, "overrides"):
        parsed.overrides = given[1:]  # flags among them are Hydra's
    elif rest:
        build_parser(verb).error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return importlib.import_module(VERBS[parsed.verb][0]).run(parsed)
    except PRDError as error:
        print(f"prd {parsed.verb}: error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"prd {parsed.verb}: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
