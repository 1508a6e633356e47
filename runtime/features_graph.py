"""The compiled graph of the log-mel features, which runs on the CPU."""

import numpy as np
from max.driver import Buffer
from max.engine import InferenceSession

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import UsageError
from whisper2max.core.held import HeldFile
from whisper2max.runtime.features import SILENCE, mel_filters, scaled
from whisper2max.runtime.graphs import load_graph


class FeaturesGraph:
    """Log-mel powers and spectrograms of samples.

    Args:
        session: of the CPU.
        mef: features.mef, held.
        dims: sizes of the model.

    Raises:
        ArtifactError: the graph cannot be loaded.
    """

    def __init__(self, session: InferenceSession, mef: HeldFile, dims: ModelDimensions):
        self.model = load_graph(session, mef, {})
        self._n_mels = dims.n_mels

    def powers(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        """Log-mel powers of samples from anywhere in a recording, within 4e-6 of `features.log_mel_powers`.

        Both ends are taken for those of the recording: the first and last two frames are others in the midst of it.

        Args:
            samples: float32 [samples], mono, 16 kHz.
            padding: zero samples to add at the end.

        Returns:
            float32 [n_mels, (samples + padding) // 160]: a frame each 10 ms, centred on its time.
        """
        if samples.ndim != 1 or samples.dtype != np.float32 or padding < 0:
            raise UsageError(
                f"samples are {samples.dtype} {list(samples.shape)} with {padding} zeros after them, expected float32 "
                "[samples] and 0 zeros or more"
            )
        inputs = np.ascontiguousarray(samples), mel_filters(self._n_mels), np.array(padding, np.int64)
        (powers,) = self.model.execute(*map(Buffer.from_numpy, inputs))
        return powers.to_numpy().copy()

    def log_mel(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        """The log-mel spectrogram of a whole recording, within 1e-6 of `features.log_mel`; as `powers`."""
        powers = self.powers(samples, padding)
        return scaled(powers, powers.max(initial=SILENCE))
