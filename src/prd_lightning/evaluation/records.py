"""What has been measured of each mesh, kept in a file line by line so that an interrupted evaluation goes on where it stopped."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prd_lightning.files import check_output

PROGRESS_FILE = "progress.jsonl"


@dataclass(frozen=True)
class MeshRecord:
    """One measured mesh.

    Attributes:
        key: of the file's content and of all settings that its numbers depend on.
        embeddings: [V, D] unit embeddings of its pictures; empty if the mesh is a failure.
        health: of its geometry, None if it is a failure.
        error: why it is one, None if it is not.
        picture: name of the file with its views, None if it is a failure.
    """

    key: str
    embeddings: list[list[float]]
    health: dict[str, Any] | None
    error: str | None
    picture: str | None


def record_key(path: Path, settings: dict[str, Any]) -> str:
    """Changes when the file or a setting does; a file that is not there has a key too."""
    digest = hashlib.sha256(json.dumps([str(path), settings], sort_keys=True).encode())
    if path.is_file():
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Progress:
    """The records of an evaluation's folder.

    Args:
        folder: of the evaluation.
        fresh: whether to forget what is there.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.path = check_output(folder / PROGRESS_FILE, overwrite=True)
        if fresh:
            self.path.unlink(missing_ok=True)
        self.records: dict[str, MeshRecord] = {}
        kept = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for line in kept:
            try:
                record = MeshRecord(**json.loads(line))
            except (ValueError, TypeError):
                continue  # the line that was being written when the evaluation was interrupted
            self.records[record.key] = record

    def add(self, record: MeshRecord) -> None:
        """Keeps a record, on the disk at once."""
        self.records[record.key] = record
        with self.path.open("a+", encoding="utf-8") as file:
            file.seek(0, 2)
            torn = file.tell() and not self.path.read_bytes().endswith(b"\n")
            file.write(("\n" if torn else "") + json.dumps(asdict(record)) + "\n")
