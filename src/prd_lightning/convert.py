"""``prd convert``: foreign weights to safetensors in our own layout with a card, and back.

The result appears under its name only when it is complete. The card (``card.json``) says what it was made from: file, hash,
format, counts, licence, and which foreign tensors were left out.
"""

import argparse
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prd_lightning import __version__
from prd_lightning.cards import card_of_format
from prd_lightning.errors import (
    ConfigurationError,
    MissingWeightsError,
    OutputExistsError,
    OutputNotWritableError,
)
from prd_lightning.files import atomic_write
from prd_lightning.formats import (
    FILE_FORMATS,
    FOLDER_FORMAT,
    CheckpointFormat,
    Conversion,
    convert_folder,
    find_format,
    format_named,
    is_diffusers_folder,
)
from prd_lightning.formats.diffusers_folder import STEMS, weight_file
from prd_lightning.formats.multiview import MultiViewFormat
from prd_lightning.tensorfiles import SAFETENSORS_SUFFIX, file_sha256, read_tensors, write_tensors
from prd_lightning.weights import resolve_folder, weights_directory

logger = logging.getLogger(__name__)

CARD_FILE = "card.json"
EXAMPLES = """examples:
  prd convert sd-v2.1-base-4view.pt --to weights/mvdream-sd21-4view --base weights/stable-diffusion-2-1-base
  prd convert nd_mv_ema.ckpt --to weights/richdreamer-nd --base weights/stable-diffusion-v1-5
  prd convert triplane_turbo_sd_v1.pth --to weights/triplaneturbo
  prd convert old_folder_with_pickles --to weights/stable-diffusion-2-1-base
  prd convert weights/mvdream-sd21-4view --to back.safetensors --export mvdream

SOURCE is a .pt, .pth, .ckpt or .safetensors file, or a folder in diffusers layout. Pickles are read without running code. fp16
and bf16 files stay what they are. --base lends what a file does not hold: the text encoder, and for a generator the sizes."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments and examples."""
    parser.epilog = EXAMPLES
    parser.add_argument("source", metavar="SOURCE", help="a weight file, or a folder in diffusers layout")
    parser.add_argument("--to", required=True, metavar="DIR", help="folder to write; with --export the file to write")
    parser.add_argument("--format", choices=tuple(FILE_FORMATS), help="of SOURCE (default: told by its keys)")
    parser.add_argument("--base", metavar="DIR", help="a Stable Diffusion in diffusers layout (default: the downloaded one)")
    parser.add_argument("--unet-config", metavar="FILE", help="diffusers configuration of a multi-view UNet of another size")
    parser.add_argument("--export", choices=tuple(FILE_FORMATS), help="the way back: a converted model to the original layout")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def run(arguments: argparse.Namespace) -> int:
    """Converts, and prints where the result is."""
    source, target = Path(arguments.source).expanduser(), Path(arguments.to).expanduser()
    base = None if arguments.base is None else resolve_folder(arguments.base)
    if arguments.export is not None:
        export(source, target, arguments.export, arguments.overwrite)
    else:
        chosen = None if arguments.format is None else with_unet(format_named(arguments.format), arguments.unet_config)
        convert(source, target, chosen, base, arguments.overwrite, arguments.unet_config)
    print(target)
    return 0


def with_unet(chosen: CheckpointFormat, config: str | Path | None) -> CheckpointFormat:
    """The format for a UNet of another size.

    Raises:
        ConfigurationError: the format has no UNet of its own, or there is no such file.
    """
    if config is None:
        return chosen
    if not isinstance(chosen, MultiViewFormat) or not Path(config).is_file():
        raise ConfigurationError(f"--unet-config {config} must be a UNet's config.json, and goes with a multi-view format only")
    values = {key: value for key, value in json.loads(Path(config).read_text()).items() if not key.startswith("_")}
    return replace(chosen, unet=values)


def convert(
    source: Path,
    target: Path,
    chosen: CheckpointFormat | None = None,
    base: Path | None = None,
    overwrite: bool = False,
    unet_config: str | Path | None = None,
) -> dict[str, Any]:
    """Converts a file or a folder to a folder of ours.

    Args:
        source: a weight file or a diffusers folder.
        target: the folder to write.
        chosen: the format of a file; None tells it by its keys.
        base: see ``CheckpointFormat.convert``; None looks where the format's weight card says.
        overwrite: whether ``target`` may be replaced.
        unet_config: see ``with_unet``, for a format that is told by its keys.

    Returns:
        The card.

    Raises:
        MissingWeightsError, CheckpointFormatError: ``source`` or ``base`` are missing, damaged or of another kind.
        OutputExistsError, OutputNotWritableError: ``target``.
    """
    check_target(target, overwrite)
    if source.is_dir():
        if not is_diffusers_folder(source):
            config = source / "unet" / "config.json"
            raise MissingWeightsError(f"{source} is no folder in diffusers layout: {config} does not exist")
        conversion, name, state = convert_folder(source), FOLDER_FORMAT, {}
        card = _source_of_folder(source)
    else:
        state = read_tensors(source)
        chosen = chosen or with_unet(find_format(state, source), unet_config)
        conversion, name = chosen.convert(state, base or default_base(chosen.name)), chosen.name
        card = {"source": source.name, "sha256": file_sha256(source), "bytes": source.stat().st_size, **count(state)}
    card = {"format": name, **card, "left_out": conversion.left_out, **_licence(name, source)}
    card["base"] = None if conversion.base is None else str(conversion.base)
    card["prd_lightning"] = __version__
    write(conversion, target, card)
    logger.info("%s (%s) is now %s", source, name, target)
    return card


def export(source: Path, target: Path, name: str, overwrite: bool = False) -> None:
    """Writes a converted model in the original layout, as safetensors or, by the suffix of ``target``, with ``torch.save``.

    Raises:
        MissingWeightsError, CheckpointFormatError: ``source`` is no such model.
        OutputExistsError: ``target`` is there.
    """
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists; choose another name or pass --overwrite")
    state = format_named(name).export(source)
    if target.suffix == SAFETENSORS_SUFFIX:
        write_tensors(target, state)
        return

    with atomic_write(target, overwrite) as temporary:
        torch.save({"state_dict": {key: value.detach().clone() for key, value in state.items()}}, temporary)


def default_base(name: str) -> Path | None:
    """The downloaded base model of a format, None if it is not there."""
    card = card_of_format(name)
    if card is None or not card.needs:
        return None
    folder = card.base_card().place(weights_directory())
    return folder if folder.is_dir() else None


def check_target(target: Path, overwrite: bool) -> None:
    """Raises OutputExistsError or OutputNotWritableError, before any work is done."""
    if target.is_file():
        raise OutputNotWritableError(f"{target} is a file; name a folder with --to")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise OutputExistsError(f"{target} exists and is not empty; choose another folder or pass --overwrite")


def write(conversion: Conversion, target: Path, card: Mapping[str, Any]) -> None:
    """Writes a converted model and its card.

    Raises:
        OutputNotWritableError: it cannot be written; nothing is left behind then.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        files = {}
        for name, tensors in conversion.tensors.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            write_tensors(temporary / name, tensors, conversion.metadata.get(name))
            files[name] = {"sha256": file_sha256(temporary / name), **count(tensors)}
        for name, config in conversion.configs.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name, folder in conversion.folders.items():
            shutil.copytree(folder, temporary / name, copy_function=link_or_copy)
        (temporary / CARD_FILE).write_text(json.dumps({**card, "files": files}, indent=2) + "\n", encoding="utf-8")
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except OSError as error:
        raise OutputNotWritableError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def count(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Number of tensors and values, and their precisions."""
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in tensors.values()})
    return {"tensors": len(tensors), "values": sum(value.numel() for value in tensors.values()), "precisions": kinds}


def link_or_copy(source: str, target: str) -> str:
    """Weights are taken over without a second copy where the file system can."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _source_of_folder(folder: Path) -> dict[str, Any]:
    files = [weight_file(folder, part) for part in STEMS if (folder / part).is_dir()]
    return {"source": folder.name, "sha256": {str(path.relative_to(folder)): file_sha256(path) for path in files}}


def _licence(name: str, source: Path) -> dict[str, Any]:
    card = card_of_format(name, source.name)
    if card is None:
        return {"licence": None, "licence_url": None}
    return {"licence": card.licence, "licence_url": card.licence_url}
