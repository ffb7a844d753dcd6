"""How fast prompts come, and what memory a corpus of a million takes: prompts alone, without text encoding."""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measuring import Result, Settings, make_cases, measure
from prd_lightning.data import FilePrompts, HuggingFacePrompts, PromptDataModule, PromptSource, PromptStream
from prd_lightning.data.store import CACHE_VARIABLE

BATCH = 8
STORED, LOADED, RANK, STREAMED, DATASET = (
    "copied file, shuffled",
    "the same in batches of 8, by the data module's loader",
    "the same, one rank of 8",
    "file read line by line, shuffled in a buffer",
    "Hugging Face dataset, streamed and shuffled in a buffer",
)


def write_corpus(path: Path, count: int) -> Path:
    """JSON lines of about 90 bytes, all different."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(f'{{"prompt": "a photo of object number {number}, with handles and a lid, on a table", "id": {number}}}\n')
    return path


@contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """Copies go into ``folder``."""
    before = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(CACHE_VARIABLE) if before is None else os.environ.update({CACHE_VARIABLE: before})


def resident_bytes() -> int:
    """Memory of this process, pages of mapped files included; 0 where the system does not tell."""
    table = Path("/proc/self/statm")
    return int(table.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if table.is_file() else 0


def peak_above_baseline(path: Path, count: int) -> int:
    """Largest growth of memory, in bytes, while a file is copied and a shuffled epoch of it is streamed."""
    baseline = peak = resident_bytes()
    source = FilePrompts(path)
    stream = iter(PromptStream(source, 0, 1, 1, seed=0, batch_size=BATCH, store=source.snapshot()))
    for _ in range(0, count, 10_000):
        next(itertools.islice(stream, min(count, 10_000) - 1, None))
        peak = max(peak, resident_bytes())
    return peak - baseline


def build(settings: Settings) -> Result:
    """Measures on a corpus that is written for the purpose."""
    count, taken = (2_000, 400) if settings.smallest else (1_000_000, 100_000)
    with tempfile.TemporaryDirectory() as name, own_cache(Path(name) / "cache"):
        path = write_corpus(Path(name) / "corpus.jsonl", count)
        peak = peak_above_baseline(path, count)
        rounds = measure(_cases(path, taken, settings.smallest), settings)
    sizes = {"corpus": count, "prompts": taken, "batch": BATCH, "megabytes_above_baseline": round(peak / 1e6)}
    return Result("prompts of a corpus, without text encoding", sizes, make_cases(rounds, STORED, work=taken))


def _cases(path: Path, taken: int, smallest: bool) -> dict[str, Callable[[], object]]:
    source = FilePrompts(path)
    store = source.snapshot()

    def take(stream: PromptStream) -> Callable[[], object]:
        return lambda: sum(1 for _ in itertools.islice(stream, taken))

    def load() -> None:
        loader = PromptDataModule(source, batch_size=BATCH, shuffle_buffer=1).train_dataloader().loader
        sum(1 for _ in itertools.islice(loader, taken // BATCH))

    def streamed(given: PromptSource) -> PromptStream:
        return PromptStream(given, 0, 1, min(10_000, taken), seed=0, batch_size=BATCH)

    cases = {
        STORED: take(PromptStream(source, 0, 1, 1, seed=0, batch_size=BATCH, store=store)),
        LOADED: load,
        RANK: take(PromptStream(source, 3, 8, 1, seed=0, batch_size=BATCH, store=store)),
        STREAMED: take(streamed(source)),
    }
    if not smallest:
        cases[DATASET] = take(streamed(HuggingFacePrompts("json", options={"data_files": str(path)})))
    return cases
