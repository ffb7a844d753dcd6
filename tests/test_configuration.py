"""Every config composes, is instantiated with real constructors, and mistakes are told with what exists."""

import pytest
from omegaconf import OmegaConf

from prd_lightning.cameras import CameraSettings
from prd_lightning.configuration import check_overrides, compose_config, config_directory, plain, to_yaml
from prd_lightning.errors import ConfigurationError

GROUPS = ("teacher", "generator", "renderer", "strategy", "data", "optimizer", "logger", "experiment", "sweep")
MISSING_BY_DESIGN = {
    "data=file": ["data.source.path=prompts.txt"],
    "data=list": ["data.source.prompts=[a red cone]"],
    "data=huggingface": ["data.source.dataset=some/name"],
    "experiment=triplaneturbo_sd21": ["data.source.path=prompts.txt"],
}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))


@pytest.mark.parametrize("override", [f"{group}={choice}" for group in GROUPS for choice in choices(group)])
def test_every_choice_of_every_group_composes_and_resolves(override):
    config = compose_config([override, *MISSING_BY_DESIGN.get(override, [])])
    if override.startswith("logger="):
        config.logger = {"extra": None}  # refers to the run folder, which exists only in a run
    assert OmegaConf.missing_keys(config) == set()
    assert "output" in to_yaml(config)


@pytest.mark.parametrize("group", GROUPS[:7])
def test_the_groups_hold_what_the_documentation_promises(group):
    promised = {
        "teacher": {"stable_diffusion", "mvdream", "richdreamer", "triplaneturbo"},
        "generator": {"tiny", "sd21"},
        "renderer": {"volume", "mesh", "dual"},
        "strategy": {"auto", "ddp", "fsdp", "fsdp2", "deepspeed_stage_2", "deepspeed_stage_3"},
        "data": {"tinyworld", "file", "huggingface"},
        "optimizer": {"adan"},
        "logger": {"csv", "tensorboard", "wandb"},
    }
    assert promised[group] <= set(choices(group))


def test_richdreamer_is_normal_depth_with_stable_diffusion_and_triplaneturbo_is_all_three():
    assert set(compose_config(["teacher=richdreamer"]).teacher) == {"richdreamer_nd", "stable_diffusion"}
    assert set(compose_config(["teacher=triplaneturbo"]).teacher) == {"richdreamer_nd", "stable_diffusion", "mvdream"}


def test_the_published_recipe_has_the_published_numbers():
    config = plain(compose_config(["experiment=triplaneturbo_sd21", "data.source.path=prompts.txt"]))
    teachers, volume, mesh = config["teacher"], config["renderer"]["volume"], config["renderer"]["mesh"]
    generator = config["generator"]
    assert (generator["rank"], generator["plane_channels"], generator["latent_size"], generator["steps"]) == (16, 64, 32, 4)
    assert teachers["mvdream"]["guidance_scale"] == [0, 20.0, 10.0, 20000] and teachers["mvdream"]["shift_ratio"] == 0.0
    assert teachers["richdreamer_nd"]["guidance_scale"] == 20.0 and teachers["richdreamer_nd"]["shift_ratio"] == 0.1
    assert teachers["stable_diffusion"]["guidance_scale"] == 7.5 and teachers["stable_diffusion"]["image_size"] == 512
    assert all(teacher["t_min"] == [0, 0.5, 0.02, 20000] and teacher["t_max"] == 0.98 for teacher in teachers.values())
    assert all(teacher["weighting"] == "dmd" and teacher["student"] == "asd" for teacher in teachers.values())
    assert (volume["proposal_samples"], volume["fine_samples"], volume["near"], volume["far"]) == (64, 128, 0.1, 4.0)
    assert (volume["image_size"], volume["global_size"], volume["patch_size"]) == (128, 42, 40)
    assert volume["inverse_standard_deviation"] == pytest.approx(99.983, abs=1e-3)
    assert (mesh["resolution"], mesh["image_size"], mesh["sdf_gradient_scale"]) == (128, 512, 0.001)
    optimizer = config["optimizer"]
    assert (optimizer["lr"], optimizer["betas"], optimizer["eps"]) == (2e-4, [0.98, 0.92, 0.99], 1e-15)
    assert config["trainer"]["max_steps"] == 15000 and config["module"]["unroll_steps"] == 4
    assert config["module"]["eikonal_weight"] == config["module"]["sparsity_weight"] == [0, 1.0, 0.0, 20000]
    cameras = {key: tuple(value) if isinstance(value, list) else value for key, value in config["cameras"].items()}
    assert CameraSettings(**cameras) == CameraSettings()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("teacher=nobody", ["nobody", "richdreamer", "triplaneturbo"]),
        ("optimiser=adan", ["optimiser", "optimizer"]),
        ("trainer.steps=3", ["trainer.steps", "max_steps"]),
        ("teacher.stable_diffusion.guidance=3", ["guidance", "guidance_scale"]),
        ("seed=[1", ["key=value"]),
    ],
)
def test_unknown_keys_and_values_are_rejected_with_what_exists(override, named):
    with pytest.raises(ConfigurationError) as caught:
        check_overrides([override])
    assert all(word in str(caught.value) for word in named)


def test_a_sweep_is_checked_in_every_value():
    check_overrides(["teacher=mvdream,richdreamer", "seed=0,1"])
    with pytest.raises(ConfigurationError, match="nobody"):
        check_overrides(["teacher=mvdream,nobody", "seed=0,1"])
