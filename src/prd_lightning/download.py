"""``prd weights``: downloads the real weights that a config needs, and converts those that come in another layout.

Downloads resume, show their progress, and respect HF_HUB_OFFLINE and HF_ENDPOINT. Files that are already there are left alone.
"""

import argparse
import logging
import os
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tqdm import tqdm

from prd_lightning.cards import WeightCard, WeightFile, all_cards, card_named, card_of_folder, folders_of_config, with_needs
from prd_lightning.convert import convert, link_or_copy
from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.formats import format_named
from prd_lightning.tensorfiles import file_sha256
from prd_lightning.weights import WEIGHTS_VARIABLE, weights_directory

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = ("experiment=triplaneturbo_sd21",)
CHUNK = 1 << 20
EXAMPLES = """examples:
  prd weights                                        (what experiment=triplaneturbo_sd21 needs)
  prd weights triplaneturbo                          (the published generator and its base)
  prd weights experiment=triplaneturbo_sd21 teacher=mvdream
  prd weights --list                                 (all cards: what is there, licences)
  PRD_WEIGHTS=/data/weights prd weights mvdream

Names are those of conf/weights/*.yaml. A folder that you have already is used as it is: put it, or a link to it, where --list
says."""


@dataclass(frozen=True)
class Failure:
    """A file that could not be had.

    Attributes:
        card, file: which.
        reason: of the last attempt.
        no_network: whether no server was reached.
    """

    card: WeightCard
    file: WeightFile
    reason: str
    no_network: bool = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments and examples."""
    parser.epilog = EXAMPLES
    parser.add_argument("wanted", nargs="*", metavar="NAME|OVERRIDE", help="names of weight cards, or overrides of `prd train`")
    parser.add_argument("--root", metavar="DIR", help=f"weight folder (default: {WEIGHTS_VARIABLE}, or weights)")
    parser.add_argument("--list", action="store_true", help="show all cards and download nothing")


def run(arguments: argparse.Namespace) -> int:
    """Downloads and converts; prints the finished folders."""
    if arguments.root is not None:
        os.environ[WEIGHTS_VARIABLE] = arguments.root
    root = weights_directory()
    if arguments.list:
        print("\n\n".join(describe(card, root) for card in all_cards().values()))
        return 0
    cards = with_needs(wanted_cards(arguments.wanted, root))
    if not cards:
        print("nothing to download: the config uses models that ship with the package, or folders of your own", file=sys.stderr)
    prepare(cards, root)
    for card in cards:
        print(card.place(root))
    return 0


def wanted_cards(wanted: Sequence[str], root: Path) -> list[WeightCard]:
    """Cards by name, and those of the folders that a config with the given overrides would load.

    Raises:
        ConfigurationError: there is no such card, or an override is wrong.
    """
    names = [each for each in wanted if "=" not in each]
    overrides = [each for each in wanted if "=" in each]
    cards = [card_named(name) for name in names]
    if overrides or not names:
        found = [card_of_folder(folder, root) for folder in folders_of_config(overrides or DEFAULT_CONFIG)]
        cards += [card for card in found if card is not None]
    return list(dict.fromkeys(cards))


def prepare(cards: Sequence[WeightCard], root: Path, endpoint: str | None = None) -> None:
    """Makes models ready for use.

    Args:
        cards: in an order in which conversions find what they borrow.
        root: the weight folder.
        endpoint: of the hub; None for its own.

    Raises:
        MissingWeightsError: files could not be had; the message lists all of them, and how to put them there.
        CheckpointFormatError: a file is not the one that its card describes.
    """
    unready = [card for card in cards if card.lacking(root)]
    failures = [failure for card in unready for failure in fetch(card, root, endpoint)]
    if failures:
        raise MissingWeightsError(explain(failures, root))
    for card in unready:
        if card.converted:
            base = card.base_card().place(root)
            convert(card.download_folder(root) / card.files[0].path, card.place(root), format_named(card.format), base, True)


def fetch(card: WeightCard, root: Path, endpoint: str | None = None) -> list[Failure]:
    """Downloads what is missing of a card; returns what could not be had. After one file without network no other is tried."""
    failures: list[Failure] = []
    for file in card.files:
        target = card.download_folder(root) / file.path
        if not target.is_file():
            unreachable = next((failure for failure in failures if failure.no_network), None)
            failure = replace(unreachable, file=file) if unreachable else fetch_file(card, file, target, endpoint)
            if failure is not None:
                failures.append(failure)
                continue
        check_file(card, file, target)
    return failures


def fetch_file(card: WeightCard, file: WeightFile, target: Path, endpoint: str | None = None) -> Failure | None:
    """One file from the hub's cache, a repository, a mirror or an address. Returns why it failed, None if it did not."""
    for repository in card.repositories:
        cached = try_to_load_from_cache(repository, file.path, revision=card.revision)
        if isinstance(cached, str):
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(cached, str(target))
            return None
    failure = Failure(card, file, "the card names no source")
    for repository in card.repositories:
        try:
            folder = target.parents[len(Path(file.path).parts) - 1]
            hf_hub_download(repository, file.path, revision=card.revision, local_dir=folder, endpoint=endpoint)
            return None
        except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
            answered = isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError)
            failure = Failure(card, file, _first_line(error), not answered)
            logger.info("%s is not to be had from %s: %s", file.path, repository, failure.reason)
    if card.url is not None:
        try:
            download_url(card.url, target)
            return None
        except OSError as error:
            failure = Failure(card, file, _first_line(error))
    return failure


def download_url(url: str, target: Path) -> None:
    """Downloads a file; an interrupted download goes on where it stopped.

    Raises:
        OSError: no network (also where HF_HUB_OFFLINE is set), or the server refuses.
    """
    if constants.HF_HUB_OFFLINE:
        raise OSError(f"HF_HUB_OFFLINE is set, so {url} is not asked for")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    done = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        resumed = answer.status == 206
        total = int(answer.headers.get("Content-Length", 0)) + (done if resumed else 0)
        progress = tqdm(total=total or None, unit="B", unit_scale=True, desc=target.name)
        with partial.open("ab" if resumed else "wb") as file, progress as bar:
            bar.update(done if resumed else 0)
            while block := answer.read(CHUNK):
                file.write(block)
                bar.update(len(block))
    if total and partial.stat().st_size != total:
        raise OSError(f"{url} ended after {partial.stat().st_size} of {total} bytes; run the same command again to go on")
    os.replace(partial, target)


def check_file(card: WeightCard, file: WeightFile, path: Path) -> None:
    """Raises CheckpointFormatError if a file has not the size or hash that its card states."""
    size, allowed = path.stat().st_size, file.size_range()
    if allowed is not None and not allowed[0] <= size <= allowed[1]:
        expected = file.size if file.size is not None else f"about {file.shown_size}"
        raise CheckpointFormatError(
            f"{path} has {size} bytes, but {card.title} has {expected}: delete it and run `prd weights` again"
        )
    if file.sha256 is not None and (found := file_sha256(path)) != file.sha256:
        raise CheckpointFormatError(
            f"{path} has SHA-256 {found}, but {card.title} has {file.sha256}: delete it and run `prd weights` again"
        )


def explain(failures: Sequence[Failure], root: Path) -> str:
    """What is missing, where it was looked for, and how to put it there."""
    lines = [f"{len(failures)} weight files are missing and could not be downloaded ({failures[0].reason}):"]
    for failure in failures:
        lines.append(f"  {failure.card.download_folder(root) / failure.file.path}")
        lines += [f"      from {address}" for address in failure.card.sources(failure.file)]
    names = list(dict.fromkeys(failure.card.name for failure in failures))
    lines += [
        f"Looked for in {root} ({WEIGHTS_VARIABLE}), in the hub's cache {constants.HF_HUB_CACHE}, and at these addresses.",
        f"On a machine with network run `prd weights {' '.join(names)}` and copy {root} here, or download the files by hand to "
        "the paths above and run the same command again.",
        f"If you have them elsewhere, set {WEIGHTS_VARIABLE} to their folder, or name the model's folder in the config "
        "(generator.base=FOLDER world.stable_diffusion.folder=FOLDER ...).",
    ]
    return "\n".join(lines)


def describe(card: WeightCard, root: Path) -> str:
    """A card for people."""
    lacking = card.lacking(root)
    lines = [
        f"{card.name}: {card.title}",
        f"  {'ready' if not lacking else 'not there'}: {card.place(root)}",
        f"  from {', '.join(card.repositories) or card.url}: {', '.join(map(_named, card.files))}",
        f"  licence: {card.licence or 'see'} {card.licence_url or ''}".rstrip(),
        f"  {card.notes}",
    ]
    return "\n".join(lines + ([f"  get it: prd weights {card.name}"] if lacking else []))


def _named(file: WeightFile) -> str:
    return f"{file.path} ({file.shown_size})" if file.shown_size else file.path


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"

