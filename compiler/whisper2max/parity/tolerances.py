"""How far a compiled graph may be from a float64 run of torch, per dtype. Tests and `verify` share this table.

For float32 the unit is torch float32's own error against float64, taken for the same value of the same input, so a
limit is a statement about arithmetic and holds for every model: a compiled graph may err a few times as much as
torch does. Where torch is nearly exact (a sum of two numbers, a table read) the unit is the dtype's epsilon, and for
the narrow dtypes it always is, because there torch's float32 is exact beside it.

    limit = multiple * max(error of torch float32, floor * epsilon)

Where a row is some tokens of a sequence, torch's error is that of all of the sequence if that is larger: in a few
tokens it is small by luck now and then. A step gives one position, with no others to average the graph's own error
over, so steps have multiples of their own.

Measured worst ratios and the margin above them are in docs/parity.md.
"""

from dataclasses import dataclass

EPSILONS = {"float32": 2.0**-23, "bfloat16": 2.0**-8, "int8": 1 / 127}
"""The step between two neighbouring values of a dtype, as a fraction of the larger; of int8, of the row's largest."""


@dataclass(frozen=True)
class Tolerances:
    """Limits of one dtype. Errors are relative to the reference's largest value, or its root mean square.

    Attributes:
        log_mel_max_abs: absolute, on log-mel values of about -1.5 to 1.5.
        max_abs: multiple of torch's largest error.
        rel_rmse: multiple of torch's root mean square error.
        step_max_abs: the same of a single position.
        step_rel_rmse: the same of a single position.
        floor: errors of torch below this many epsilons count as this many.
        epsilon: of the dtype.
        witness_rel_rmse: torch float32 further than this from float64 is not a rounding error: the two
            references are not the same network and prove nothing.
        against_max_abs: limit for two artifacts that are compared with each other, without torch.
        against_rel_rmse: the same.
        token_agreement: share of the teacher-forced tokens that must be equal; where it is below 1, one may always
            differ, because the share of a few tokens is none. Free-running tokens are judged only where it is 1:
            after one that differs, those that follow answer another question.
    """

    log_mel_max_abs: float
    max_abs: float
    rel_rmse: float
    step_max_abs: float
    step_rel_rmse: float
    floor: float
    epsilon: float
    witness_rel_rmse: float
    against_max_abs: float
    against_rel_rmse: float
    token_agreement: float

    def limits(self, torch_max_abs: float, torch_rel_rmse: float, one_position: bool = False) -> dict[str, float]:
        """{"max_abs", "rel_rmse"} beside these errors of torch float32."""
        floor = self.floor * self.epsilon
        max_abs = self.step_max_abs if one_position else self.max_abs
        rel_rmse = self.step_rel_rmse if one_position else self.rel_rmse
        return {"max_abs": max_abs * max(torch_max_abs, floor), "rel_rmse": rel_rmse * max(torch_rel_rmse, floor)}


TOLERANCES = {
    "float32": Tolerances(
        log_mel_max_abs=1e-5,
        max_abs=25,
        rel_rmse=8,
        step_max_abs=40,
        step_rel_rmse=30,
        floor=0.5,
        epsilon=EPSILONS["float32"],
        witness_rel_rmse=1e-3,
        against_max_abs=1e-3,
        against_rel_rmse=5e-4,
        token_agreement=1.0,
    ),
    "bfloat16": Tolerances(
        log_mel_max_abs=1e-5,
        max_abs=200,
        rel_rmse=40,
        step_max_abs=200,
        step_rel_rmse=120,
        floor=1,
        epsilon=EPSILONS["bfloat16"],
        witness_rel_rmse=1e-3,
        against_max_abs=0.3,
        against_rel_rmse=0.1,
        token_agreement=0.9,
    ),
    "int8": Tolerances(
        log_mel_max_abs=1e-5,
        max_abs=300,
        rel_rmse=80,
        step_max_abs=300,
        step_rel_rmse=170,
        floor=1,
        epsilon=EPSILONS["int8"],
        witness_rel_rmse=1e-3,
        against_max_abs=0.5,
        against_rel_rmse=0.2,
        token_agreement=0.9,
    ),
}
