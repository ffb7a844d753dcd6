"""The training module: progressive rendering distillation, one unroll step per micro-batch.

For prompts y and K steps with decreasing t_k (Ma et al., CVPR 2025, section 3.2; design section 1)::

    z_t = sqrt(abar_t) z_{k-1} + sqrt(1 - abar_t) eps         re-noise the last estimate (z_0 is Gaussian)
    z_k = (z_t - sqrt(1 - abar_t) UNet(z_t, t_k, y)) / sqrt(abar_t)
    P_k = Decoder(z_k);  I_k = Render(P_k, random cameras)
    L_k = sum over teachers of score distillation(I_k, y) + regularizers
    backward(L_k / K);  z_k <- stop_gradient(z_k)

The graphs of the K steps are independent, so each is one gradient-accumulation micro-batch: the trainer's
``accumulate_grad_batches`` must equal ``unroll_steps``. Only the detached latents live between micro-batches.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn

from prd_lightning.architecture import Architecture, trainable_state
from prd_lightning.data import PromptBatch
from prd_lightning.diffusion import sample_unroll_timesteps, unroll_timesteps
from prd_lightning.draws import normal, shared
from prd_lightning.errors import ConfigurationError, NonFiniteError
from prd_lightning.field import PreparedPlanes
from prd_lightning.generator import copy_state
from prd_lightning.losses import Schedule, TrainingStep, eikonal, scheduled, sparsity
from prd_lightning.memory import checkpoint_gradients
from prd_lightning.optimization import OptimizerFactory, make_optimizer
from prd_lightning.rendering import LearnedBackground, RenderedMaps
from prd_lightning.sampling import sample_planes
from prd_lightning.strategies import ShardedBaseStrategy, check_whole, shard_frozen
from prd_lightning.teachers import Teacher, TeacherResult, ask_teachers, check_teachers, surrogate_loss

logger = logging.getLogger(__name__)


class PRDModule(lightning.LightningModule):
    """Owns the generator, the progressive unroll and the losses.

    Args:
        architecture: of the generator; its parts are built from it.
        renderers: by name, ``volume`` and / or ``mesh``.
        teachers: by name; each scores the renderers that it names.
        optimizer: called with the list of trainable parameters or of groups of them.
        unroll_steps: K; None for the architecture's ``steps``.
        num_train_substeps: evenly spaced timesteps in all; each stratum draws from its share (K: none is random).
        eikonal_weight, sparsity_weight: scheduled weights of the regularizers, for the volume renderer.
        learning_rate_factor: scheduled factor of the optimizer's learning rate.
        color_learning_rate_factor: of colour's learning rate, see ``optimization``.
        max_nonfinite_steps: training stops after so many steps in a row whose loss or gradient is not finite.
        gradient_checkpointing: UNet and decoder are computed again in the backward pass instead of keeping what it needs.
        separate_graphs: where a teacher has a graph of its own (an encoder's), the generator runs twice, first without a graph
            for the teachers: both graphs are never in memory together, for the time of another forward pass.
        loss_prompts: teachers' losses are means over prompts times this number: their weights are meant for batches of that size,
            and stay right in batches of another one.
        shuffle_teacher_prompts: a control experiment: teachers get the prompt of another scene of the batch.

    Raises:
        ConfigurationError: no renderer or teacher, or a teacher names a renderer that is not there.
    """

    def __init__(
        self,
        architecture: Architecture,
        renderers: Mapping[str, nn.Module],
        teachers: Mapping[str, Teacher],
        optimizer: OptimizerFactory,
        unroll_steps: int | None = None,
        num_train_substeps: int | None = None,
        eikonal_weight: Schedule = (0, 1.0, 0.0, 20_000),
        sparsity_weight: Schedule = (0, 1.0, 0.0, 20_000),
        learning_rate_factor: Schedule = 1.0,
        color_learning_rate_factor: float = 1.0,
        shuffle_teacher_prompts: bool = False,
        max_nonfinite_steps: int = 20,
        gradient_checkpointing: bool = False,
        separate_graphs: bool = True,
        loss_prompts: float = 1.0,
    ) -> None:
        super().__init__()
        check_teachers(renderers, teachers)
        if not loss_prompts > 0:
            raise ConfigurationError(f"loss_prompts must be positive, got {loss_prompts}")
        unroll_steps = architecture.steps if unroll_steps is None else unroll_steps
        unroll_timesteps(unroll_steps)  # raises where K is out of range
        self.architecture = replace(architecture, steps=unroll_steps)
        self.parts = self.architecture.build()
        self.generator, self.field = self.parts.generator, self.parts.field
        self.prompt_encoder, self.noise_schedule = self.parts.prompt_encoder, self.parts.noise_schedule
        if gradient_checkpointing:
            checkpoint_gradients(self.generator)
        self.background = LearnedBackground(self.prompt_encoder.pooled_width)
        self.renderers, self.teachers = nn.ModuleDict(renderers), nn.ModuleDict(teachers)
        self.make_optimizer = optimizer
        self.unroll_steps = unroll_steps
        self.num_train_substeps = num_train_substeps or unroll_steps
        self.eikonal_weight, self.sparsity_weight = eikonal_weight, sparsity_weight
        self.learning_rate_factor, self.color_learning_rate_factor = learning_rate_factor, color_learning_rate_factor
        self.loss_prompts, self.separate_graphs = loss_prompts, separate_graphs
        self.shuffle_teacher_prompts = shuffle_teacher_prompts
        self.strict_loading = False  # checkpoints hold the trainable part only; on_load_checkpoint checks that part in full
        self.max_nonfinite_steps = max_nonfinite_steps
        self.skipped_steps = self.skipped_in_a_row = 0
        self.teacher_results: dict[str, TeacherResult] = {}  # of the last micro-batch, for the diagnosis
        self._latents: Tensor | None = None
        self._next_unroll_step = 0

    # ------------------------------------------------------------------------------------------------- training

    def setup(self, stage: str) -> None:
        """Every process loads the frozen models by itself, so that replicas are not to broadcast them."""
        frozen = [name for name, value in self.named_parameters() if not value.requires_grad]
        self._ddp_params_and_buffers_to_ignore = frozen + [name for name, _ in self.named_buffers()]

    def configure_model(self) -> None:
        """Splits the frozen networks over the processes, where the strategy wants it."""
        if isinstance(self.trainer.strategy, ShardedBaseStrategy):
            networks = [network for teacher in self.teachers.values() for network in teacher.networks()]
            own = [self.generator.unet, self.generator.decoder]
            shard_frozen(self, own + networks, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Checks that the trainer's accumulation fits the unroll."""
        accumulation = self.trainer.accumulate_grad_batches
        if accumulation != self.unroll_steps:
            raise ConfigurationError(
                f"trainer.accumulate_grad_batches is {accumulation} but unroll_steps is {self.unroll_steps}: "
                "one unroll step is one micro-batch, so they must be equal"
            )

    @property
    def now(self) -> TrainingStep:
        """Optimizer steps and epochs done."""
        return TrainingStep(self.global_step, self.current_epoch)

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        """One unroll step: the loss of ``batch.unroll_step``; Lightning weighs it by 1 / K.

        All that is random is drawn from the batch's own seeds, so that a resumed training repeats an uninterrupted one, and what
        a prompt sees does not depend on the process and the batch that it is in.
        """
        torch.manual_seed(batch.noise_seed)
        maps, self.teacher_results = self._maps_and_results(batch)
        scale = self.loss_prompts / len(batch.prompts)
        loss = next(iter(maps.values())).rgb.new_zeros(())
        for name, teacher in self.teachers.items():
            result = self.teacher_results[name]
            weight = scale * scheduled(teacher.weight, self.now)
            loss = loss + weight * surrogate_loss(teacher.scored(maps), result)
            self._log_teacher(name, result)
        loss = loss + self._regularization(maps)
        self.log("train/loss", loss.detach(), prog_bar=True, on_step=True, on_epoch=False)
        if "mesh" in maps:
            self.log("train/empty_meshes", float(maps["mesh"].empty_mesh_count), on_step=True, on_epoch=False)
        # The gradient of a loss that is not finite is NaN, so that every process leaves the step out after the reduction.
        return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)

    def _maps_and_results(self, batch: PromptBatch) -> tuple[dict[str, RenderedMaps], dict[str, TeacherResult]]:
        """Maps with the generator's graph, and what the teachers say about them; see ``separate_graphs``."""
        prompts = batch.prompts[1:] + batch.prompts[:1] if self.shuffle_teacher_prompts else batch.prompts
        given = {"prompts": prompts, "cameras": batch.cameras, "step": self.now, "generator": batch.draws("teachers")}
        if not (self.separate_graphs and any(teacher.keeps_graph for teacher in self.teachers.values())):
            maps = self.unroll(batch)
            return maps, ask_teachers(self.teachers, maps, **given)
        before = self._latents, self._next_unroll_step
        with torch.no_grad():
            maps = self.unroll(batch)
        results = ask_teachers(self.teachers, maps, **given)
        self._latents, self._next_unroll_step = before
        torch.clear_autocast_cache()  # it may hold copies of weights that were made without a graph
        return self.unroll(batch), results

    def unroll(self, batch: PromptBatch) -> dict[str, RenderedMaps]:
        """Advances the latents by one step and renders the estimate with every renderer.

        Raises:
            ConfigurationError: the micro-batches of a cycle do not follow one another.
        """
        text = self.prompt_encoder.encode(batch.prompts)
        noise = batch.draws("latents")
        shape = (6 * len(batch.prompts), *self.generator.latent_shape)
        if batch.unroll_step == 0:
            clean = normal(shape, noise).to(self.device)
        elif self._latents is None or self._latents.shape != shape or batch.unroll_step != self._next_unroll_step:
            raise ConfigurationError(
                f"unroll step {batch.unroll_step} does not follow step {batch.unroll_step - 1} of the same prompts"
            )
        else:
            clean = self._latents
        timesteps = sample_unroll_timesteps(
            self.unroll_steps, self.num_train_substeps, self.noise_schedule.num_timesteps, shared(noise)
        )
        t = int(timesteps[batch.unroll_step])
        noisy = self.noise_schedule.add_noise(clean, normal(shape, noise).to(self.device), t)
        predicted = self.noise_schedule.to_noise(self.generator.predict(noisy, t, text.tokens), noisy, t)
        clean = self.noise_schedule.predict_clean(noisy, predicted, t)
        self._latents = None if batch.unroll_step == self.unroll_steps - 1 else clean.detach()
        self._next_unroll_step = batch.unroll_step + 1
        prepared = self.field.prepare(self.generator.decode(clean))
        background = partial(self.background, pooled=text.pooled)
        given = (self.field, prepared, batch.cameras, background, self.now)
        return {name: render(*given, batch.draws(name)) for name, render in self.renderers.items()}

    def _regularization(self, maps: Mapping[str, RenderedMaps]) -> Tensor | float:
        volume = maps.get("volume")
        if volume is None:
            return 0.0
        losses = {"sparsity": (self.sparsity_weight, sparsity(volume.opacity))}
        if volume.sdf_gradient is not None:
            losses["eikonal"] = (self.eikonal_weight, eikonal(volume.sdf_gradient, volume.sdf_counted))
        total = 0.0
        for name, (weight, value) in losses.items():
            self.log(f"train/{name}", value.detach(), on_step=True, on_epoch=False)
            total = total + scheduled(weight, self.now) * value
        return total

    def _log_teacher(self, name: str, result: TeacherResult) -> None:
        self.log(f"train/{name}", result.loss, prog_bar=True, on_step=True, on_epoch=False)
        for key, value in result.log.items():
            self.log(f"train/{name}/{key}", value, on_step=True, on_epoch=False)
        if result.nonfinite:
            logger.warning("teacher %s: %d non-finite samples were left out at step %d", name, result.nonfinite, self.global_step)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leaves out an optimizer step whose loss or gradient is not finite: the gradient is dropped, counted and logged.

        Raises:
            NonFiniteError: ``max_nonfinite_steps`` steps in a row were left out.
        """
        gradients = [parameter.grad for parameter in self.trainable_parameters() if parameter.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm() if gradients else torch.zeros(())
        if not torch.isfinite(norm):
            self.skipped_steps += 1
            self.skipped_in_a_row += 1
            logger.warning("step %d: the gradient is not finite, %d skipped so far", self.global_step, self.skipped_steps)
            # Without a gradient an optimizer leaves weights, momentum and decay alone; a zero gradient would still move them.
            self.zero_grad(set_to_none=True)
            if self.skipped_in_a_row >= self.max_nonfinite_steps:
                raise NonFiniteError(
                    f"{self.skipped_in_a_row} optimizer steps in a row had a loss or gradient that is not finite, the last one "
                    f"is {self.global_step}; go on from an earlier checkpoint with a lower learning rate, clipping or 32 bits"
                )
        else:
            self.skipped_in_a_row = 0
        self.log("train/gradient_norm", norm, on_step=True, on_epoch=False)
        self.log("train/skipped_steps", float(self.skipped_steps), on_step=True, on_epoch=False)

    def configure_optimizers(self) -> dict[str, object]:
        """The optimizer over the trainable parameters, with the scheduled learning rate."""
        if self.color_learning_rate_factor != 1:
            check_whole(self.trainer.strategy, "module.color_learning_rate_factor")
        optimizer = make_optimizer(
            self.make_optimizer, self.trainable_parameters(), self.generator, self.field, self.color_learning_rate_factor
        )
        # A plain function: of other callables the scheduler would store attributes in every checkpoint.
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: scheduled(self.learning_rate_factor, TrainingStep(step, self.current_epoch))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # --------------------------------------------------------------------------------------------- trainable part

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Adapters, field networks and background."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def trainable_state_dict(self) -> dict[str, Float[Tensor, "..."]]:
        """The tensors that training changes, by name: ``generator.*``, ``field.*``, ``background.*``."""
        background = {f"background.{name}": value for name, value in self.background.state_dict().items()}
        return trainable_state(self.generator, self.field) | background

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keeps the trainable tensors and their architecture: the frozen base and the teachers are never saved."""
        checkpoint["state_dict"] = {name: value.detach() for name, value in self.trainable_state_dict().items()}
        checkpoint["architecture"] = self.architecture.to_dict()
        checkpoint["skipped_steps"] = [self.skipped_steps, self.skipped_in_a_row]

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Checks and loads the trainable tensors.

        Raises:
            CheckpointFormatError: the checkpoint is of another architecture.
        """
        self.architecture.check_same(Architecture.from_dict(checkpoint["architecture"]))
        if "state_dict" in checkpoint:  # DeepSpeed has given each process its share already
            copy_state(self.trainable_state_dict(), checkpoint["state_dict"])
        self.skipped_steps, self.skipped_in_a_row = checkpoint.get("skipped_steps", (0, 0))

    # ----------------------------------------------------------------------------------------------- inference

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> PreparedPlanes:
        """Planes of B prompts with the current weights, see ``sampling.sample_planes``."""
        return sample_planes(self.parts, prompts, seeds, self.unroll_steps)
