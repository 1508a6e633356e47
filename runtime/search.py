"""Which of the tokens that may follow are taken. Greedy takes the most probable; others would keep several rows."""

from collections.abc import Callable, Sequence
from typing import Protocol

from whisper2max.runtime.choice import Allowed, Choice
from whisper2max.runtime.hypotheses import Hypothesis
from whisper2max.runtime.rules import Rules


class Search(Protocol):
    """One window's search.

    Attributes:
        live: hypotheses that want a further token, each a row; one without tokens at first, none at the end.
    """

    live: list[Hypothesis]

    def allowed(self) -> list[Allowed]:
        """What may follow each live hypothesis."""

    def advance(self, choices: Sequence[Choice]) -> list[int]:
        """Take the next tokens.

        Args:
            choices: the most probable token that follows each live hypothesis.

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

    def allowed(self) -> list[Allowed]:
        return [self._rules.allowed(each) for each in self.live]

    def advance(self, choices: Sequence[Choice]) -> list[int]:
        (choice,) = choices
        self._latest = self._rules.follow(self._latest, choice)
        self.live = [] if self._latest.finished else [self._latest]
        return [0] * len(self.live)

    def best(self) -> Hypothesis:
        return self._latest
