"""Progressive Rendering Distillation: text-to-image diffusion models become instant text-to-mesh generators."""

__version__ = "0.1.0"
