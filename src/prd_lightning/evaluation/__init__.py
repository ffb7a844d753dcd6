"""Scores of generators and of meshes."""

from prd_lightning.evaluation.tiny_world import evaluate_tiny_world, held_out_prompts

__all__ = ["evaluate_tiny_world", "held_out_prompts"]
