"""Gradient checkpointing: the same gradients with less that is kept."""

import pytest
import torch
from untrained import ARCHITECTURE

from prd_lightning.configuration import compose_config
from prd_lightning.memory import checkpoint_gradients


def gradients_and_kept_bytes(checkpointed: bool) -> tuple[list[torch.Tensor], int]:
    torch.manual_seed(5)
    generator = ARCHITECTURE.build().generator
    with torch.no_grad():
        for value in generator.trainable_state_dict().values():
            value.add_(0.05 * torch.randn_like(value))
    if checkpointed:
        checkpoint_gradients(generator)
    own = {value.untyped_storage().data_ptr() for value in generator.parameters()}
    kept: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    draw = torch.Generator().manual_seed(7)
    latents = torch.randn(6, *generator.latent_shape, generator=draw)
    text = torch.randn(1, 5, generator.text_width, generator=draw)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        planes = generator.decode(latents - generator.predict(latents, 500, text))
    total = sum(kept.values())
    planes.square().mean().backward()
    return [value.grad for value in generator.parameters() if value.requires_grad], total


def test_gradients_are_the_same_and_less_is_kept(close):
    (plain, kept_plain), (again, kept_again) = gradients_and_kept_bytes(False), gradients_and_kept_bytes(True)
    for first, second in zip(plain, again, strict=True):
        close(second, first, 1e-5)
    assert any(value.any() for value in plain) and kept_again < 0.6 * kept_plain


PRESETS = [("16gb", 1, True), ("24gb", 1, True), ("48gb", 2, True), ("80gb", 2, False)]


@pytest.mark.parametrize(("memory", "batch", "again"), PRESETS)
def test_a_preset_sets_everything_together_and_a_value_can_still_be_chosen(memory, batch, again):
    config = compose_config(["generator=sd21", f"memory={memory}"])
    assert config.data.batch_size == batch and config.module.gradient_checkpointing is again
    assert config.trainer.precision == "bf16-mixed" and config.world.precision == "bfloat16"
    assert compose_config(["generator=sd21", f"memory={memory}", "world.batch_size=3"]).data.batch_size == 3
