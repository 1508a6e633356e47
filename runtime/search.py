"""Which of the tokens that may follow are taken. Greedy takes the most probable; others would keep several rows."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from whisper2max.runtime.hypotheses import Hypothesis
from whisper2max.runtime.rules import Rules


class Search(Protocol):
    """One window's search.

    Attributes:
        live: hypotheses that want a further token, each a row; one without tokens at first, none at the end.
    """

    live: list[Hypothesis]

    def advance(self, logits: np.ndarray) -> list[int]:
        """Take the next tokens.

        Args:
            logits: float32 [live, n_vocab], of what follows each live hypothesis; overwritten.

        Returns:
            For each hypothesis that is live now, the number of the one that was live before and that it continues.

        Raises:
            ArtifactError: logits are no numbers.
        """

    def best(self) -> Hypothesis:
        """The hypothesis to tell, once none is live."""


MakeSearch = Callable[[Rules], Search]


class Greedy:
    """The most probable token, always: openai-whisper at temperature 0."""

    def __init__(self, rules: Rules):
        self.live = [Hypothesis()]
        self._rules = rules
        self._latest = self.live[0]

    def advance(self, logits: np.ndarray) -> list[int]:
        (scores,) = logits
        candidates = self._rules.apply(scores, self._latest)
        scores = scores[candidates]
        chosen = int(scores.argmax())
        self._rules.require_possible(self._latest, scores[chosen])
        scores -= scores[chosen]
        logprob = -np.log(np.exp(scores, out=scores).sum())
        self._latest = self._rules.follow(self._latest, candidates.start + chosen, logprob)
        self.live = [] if self._latest.finished else [self._latest]
        return [0] * len(self.live)

    def best(self) -> Hypothesis:
        return self._latest
