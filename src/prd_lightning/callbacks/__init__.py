"""What happens around training: averaged weights, preview sheets, meshes, checkpoints of the trainable part, progress."""

from prd_lightning.callbacks.averaging import WeightAveraging, averaged_weights
from prd_lightning.callbacks.checkpoint_folder import TRAINER_FILE, FolderCheckpointIO, read_checkpoint
from prd_lightning.callbacks.preemption import PreemptionCallback
from prd_lightning.callbacks.previews import MeshCallback, PreviewCallback, export_meshes, render_prompts
from prd_lightning.callbacks.progress import UnrollProgressBar
from prd_lightning.callbacks.step_checkpoint import StepCheckpoint, StepLogger

__all__ = [
    "TRAINER_FILE",
    "FolderCheckpointIO",
    "MeshCallback",
    "PreemptionCallback",
    "PreviewCallback",
    "StepCheckpoint",
    "StepLogger",
    "UnrollProgressBar",
    "WeightAveraging",
    "averaged_weights",
    "export_meshes",
    "read_checkpoint",
    "render_prompts",
]
