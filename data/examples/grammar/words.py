"""The words of the grammar, drawn so that a sentence has no content word twice.

All forms are regular: a past tense is also the participle, so an active and a passive sentence have the same content
words, and every plural ends in s, so that only was and were depend on number.
"""

from collections.abc import Sequence
from random import Random

NOUNS = (
    "baker barber butcher captain carpenter clerk cook cousin dancer driver farmer gardener guard hunter miner monk "
    "neighbour nurse painter pilot plumber poet porter prisoner sailor singer tailor teacher visitor waiter"
).split()
TRANSITIVE = (
    "praised blamed greeted ignored followed rescued scolded hired visited teased helped mocked flattered welcomed "
    "chased tricked comforted insulted hugged pushed phoned interrupted defended pleased"
).split()
# Verbs with a noun phrase or a sentence, which need not be true, as their object: "she heard (that) ..."
BELIEF = "believed doubted feared heard suspected understood".split()
# Verbs with or without an object, whose subject has the same role in both: "they painted (her)".
EITHER = "attacked cheated investigated painted paid served taught".split()
INTRANSITIVE = (
    "coughed danced hesitated knelt laughed prayed rested shouted sneezed slept smiled stumbled trembled waited wept "
    "whistled yawned"
).split()
PLACES = "barn chapel garden harbour hotel kitchen library market museum office school stable station tower".split()

NEAR = ("near", "behind", "beside", "next to", "opposite")
WHO = ("who", "that")
TIMES = ("before noon", "after dinner", "at night", "in the morning", "on Monday", "on Friday")
IF = ("if", "unless")
SINCE = ("since", "because", "after", "although", "while")
# Followed by "that" and a sentence: one that need not be true, and one that must be.
CLAIMED = ("assumed", "believed", "claimed", "dreamed", "feared", "guessed", "hoped", "insisted", "suspected")
KNEW = ("knew", "noticed", "discovered", "realised", "remembered", "forgot", "learned", "regretted")
PERHAPS = ("perhaps", "probably", "maybe", "supposedly", "allegedly")
CERTAINLY = ("certainly", "clearly", "luckily", "sadly", "of course")


class Words:
    """A source of words for one sentence, with content words that do not repeat (a plural counts as its singular).

    Args:
        chance: The random generator.
    """

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self._used: set[str] = set()

    def any_of(self, words: Sequence[str]) -> str:
        """Return one of the function words `words`."""
        return words[int(self.chance.random() * len(words))]

    def noun(self) -> str:
        """Return a noun, half of the time in the plural."""
        return self.one_of(NOUNS) + ("s" if self.chance.random() < 0.5 else "")

    def nouns(self, count: int) -> list[str]:
        """Return noun phrases: "the" and a noun."""
        return [f"the {self.noun()}" for _ in range(count)]

    def verb(self) -> str:
        """Return a verb that has an object here."""
        return self.one_of(TRANSITIVE + BELIEF + EITHER)

    def action(self) -> str:
        """Return a verb whose object cannot be a sentence."""
        return self.one_of(TRANSITIVE)

    def intransitive(self) -> str:
        """Return a verb that has no object here."""
        return self.one_of(INTRANSITIVE + EITHER)

    def place(self) -> str:
        """Return a noun that follows "in the"."""
        return self.one_of(PLACES)

    def one_of(self, words: Sequence[str]) -> str:
        """Return one of the content words `words` that this sentence does not have yet."""
        # Sentences are short and lists are long, so few draws are repeated.
        while (word := self.any_of(words)) in self._used:
            pass
        self._used.add(word)
        return word
