"""How far a compiled graph may be from torch, per dtype. Tests and `verify` share this table.

Errors are relative to the largest magnitude of the reference tensor (max_abs) or to its root mean
square (rel_rmse), so a figure means the same for every tensor and size of model. Measured worst
values and the margin above them are in docs/parity.md.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerances:
    """Limits of one dtype.

    Attributes:
        log_mel_max_abs: absolute, on log-mel values of about -1.5 to 1.5.
        encoder_max_abs: of the largest audio state.
        encoder_rel_rmse: of the root mean square of the audio states.
        logits_max_abs: of the largest logit.
        logits_rel_rmse: of the root mean square of the logits.
    """

    log_mel_max_abs: float
    encoder_max_abs: float
    encoder_rel_rmse: float
    logits_max_abs: float
    logits_rel_rmse: float


TOLERANCES = {
    "float32": Tolerances(
        log_mel_max_abs=1e-5,
        encoder_max_abs=4e-4,
        encoder_rel_rmse=2e-5,
        logits_max_abs=3e-5,
        logits_rel_rmse=3e-5,
    )
}
