"""The compiled graph of the log-mel features."""

import numpy as np
from max.driver import Device
from max.engine import InferenceSession

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import UsageError
from whisper2max.core.held import HeldFile
from whisper2max.runtime.features import HOP_LENGTH, N_FFT, SILENCE, mel_filters, scaled
from whisper2max.runtime.graphs import load_graph, placed


class FeaturesGraph:
    """Log-mel powers and spectrograms of samples.

    Args:
        session: of the device.
        mef: features.mef, held.
        dims: sizes of the model.
        device: where it runs; None for the CPU.

    Raises:
        ArtifactError: the graph cannot be loaded.
    """

    def __init__(self, session: InferenceSession, mef: HeldFile, dims: ModelDimensions, device: Device | None = None):
        self.model = load_graph(session, mef, {})
        self._device = device
        self._filters = placed(mel_filters(dims.n_mels), device)

    def powers(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        """Log-mel powers of samples from anywhere in a recording, within 4e-6 of `features.log_mel_powers`.

        Both ends are taken for those of the recording: the first and last two frames are others in the midst of it.

        Args:
            samples: float32 [samples], mono, 16 kHz.
            padding: zero samples to add at the end.

        Returns:
            float32 [n_mels, (samples + padding) // 160]: a frame each 10 ms, centred on its time.

        Raises:
            UsageError: on a GPU, a power is NaN or too large for float32. The kernel of the CPU raises ValueError.
        """
        if samples.ndim != 1 or samples.dtype != np.float32 or padding < 0:
            raise UsageError(
                f"samples are {samples.dtype} {list(samples.shape)} with {padding} zeros after them, expected float32 "
                "[samples] and 0 zeros or more"
            )
        # frames that begin later hear nothing but zeros
        heard = np.concatenate([samples, np.zeros(min(padding, 2 * N_FFT), np.float32)]) if padding else samples
        (buffer,) = self.model.execute(placed(heard, self._device), self._filters)
        powers = np.full((buffer.shape[0], (samples.size + padding) // HOP_LENGTH), SILENCE, np.float32)
        powers[:, : buffer.shape[1]] = buffer.to_numpy()
        if self._device is not None and np.isnan(powers.max(initial=SILENCE)):
            raise UsageError("a sample is NaN, infinite or too large for float32 powers; samples lie between -1 and 1")
        return powers

    def log_mel(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        """The log-mel spectrogram of a whole recording, within 1e-6 of `features.log_mel`; as `powers`."""
        powers = self.powers(samples, padding)
        return scaled(powers, powers.max(initial=SILENCE))
