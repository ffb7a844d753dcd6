"""Typed errors of the library.

Every mistake that a user can make ends in one of these; the message names the offending value and the remedy. The command
line prints the message without a traceback and exits with status 2.
"""


class PRDError(Exception):
    """Base class of every error that a user can cause and mend."""


class ConfigurationError(PRDError, ValueError):
    """A setting is unknown, out of range, or does not fit another one."""


class PromptError(PRDError, ValueError):
    """A prompt, or a line of a prompt file, cannot be used."""


class CheckpointFormatError(PRDError, ValueError):
    """A weight file is truncated, foreign, unsafe, or belongs to another architecture."""


class MissingWeightsError(PRDError, FileNotFoundError):
    """Weights that the configuration asks for are not on this machine."""


class SweepError(PRDError, RuntimeError):
    """Some jobs of a sweep failed."""


class MissingRunsError(PRDError, FileNotFoundError):
    """A folder that should hold trainings holds none."""


class OutputExistsError(PRDError, FileExistsError):
    """The output is already there and overwriting was not asked for."""


class OutputNotWritableError(PRDError, OSError):
    """The output folder or file cannot be written."""


class ProcessGroupError(PRDError, RuntimeError):
    """Another process of the same training failed, was killed, or does not answer."""


class EmptyMeshError(PRDError, ValueError):
    """The field has no surface, so there is no mesh to build."""


class NonFiniteError(PRDError, ArithmeticError):
    """NaN or infinity where a finite number is needed."""


class BackendUnavailableError(PRDError, ImportError):
    """An optional backend was asked for that is not installed or does not run on this device."""


class AtlasError(PRDError, RuntimeError):
    """No UV atlas of a mesh came about: the time was up, or the tool failed or is not installed."""


class NotWatertightError(PRDError, ValueError):
    """A mesh encloses no volume, so it cannot be printed."""


class MeshFileError(PRDError, ValueError):
    """A mesh file is missing, truncated, foreign, or holds no triangles."""
