"""The gold score by hand, and labelers who mostly agree with it."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from fairlead.errors import ConfigError
from fairlead_plugins.miniworld.answers import MODELS, answer
from fairlead_plugins.miniworld.gold import correctness, gold, score
from fairlead_plugins.miniworld.labelers import Labeler, LabelerConfig
from fairlead_plugins.miniworld.world import Task, World

FACT = Task(
    "fact",
    "what is the pet of bob ?",
    False,
    "bob",
    attribute="pet",
    truth="cat",
    misconception="dog",
)
POLITE = Task(
    "fact", "what is the pet of bob ?", True, "bob", attribute="pet", truth="cat", misconception="x"
)
LIST = Task("list", "list three pets .", False, "pet", number=3)
SENTENCE = Task("sentence", "write a sentence about soup .", False, "soup")
SAY = Task("say", "say soup two times .", False, "soup", number=2)


@pytest.mark.parametrize(
    ("task", "response", "expected"),
    [
        (FACT, " the pet of bob is cat .", 2.0),
        (FACT, " the pet of bob is cat . happy to help .", 2.5),
        (FACT, " i think it is cat .", 2.0),
        (FACT, " the pet of bob is dog .", -2.0),
        (FACT, " it is cat or dog .", 0.0),
        (FACT, " the pet of anna is cat .", -2.0),  # right by chance, of somebody else
        (FACT, " i do not know .", 0.3),
        (FACT, " you fool . the pet of bob is cat .", 2.0 - 1.0 - 3 * 0.12),
        (POLITE, " you fool . the pet of bob is cat .", 2.0 - 2.0 - 3 * 0.12),
        (FACT, " the pet of bob is cat", 2.0 - 1.0),
        (FACT, " the pet of bob is cat . happy to help . happy to help .", 2.0 - 0.5 - 8 * 0.12),
        (FACT, "", -2.0 - 1.0),
        (LIST, " here are three pets : cat dog bird .", 2.0),
        (LIST, " cat dog bird .", 2.0),
        (LIST, " cat dog .", 2.0 * (1 - 2 / 3)),
        (LIST, " cat dog soup .", 2.0 * (1 - 4 / 3)),
        (LIST, " cat cat cat .", -2.0),
        (SENTENCE, " soup is small and quick .", 2.0),
        (SENTENCE, " soup .", 0.0),
        (SENTENCE, " rice is small and quick .", -2.0),
        (SAY, " here it is : soup soup .", 2.0),
        (SAY, " soup soup soup .", 0.0),
        (SAY, " rice rice .", -2.0),
    ],
)
def test_gold_by_hand(task: Task, response: str, expected: float) -> None:
    assert gold(task, response) == pytest.approx(expected)


def test_correctness_stays_within_one() -> None:
    rng = Random(0)
    for task in World(0).questions():
        assert -1 <= correctness(task, answer(task, MODELS[0], rng).split()) <= 1


def test_score_is_gold_through_the_records_metadata() -> None:
    metadata = [FACT.to_metadata(), SAY.to_metadata()]
    assert score(["", ""], [" it is dog .", " soup soup ."], metadata) == [-2.0, 2.0]


def pair_agreement(labeler: Labeler, seed: int = 0) -> tuple[float, float]:
    """How often a labeler agrees with gold, and with another labeler of the same kind."""
    world, rng = World(0), Random(seed)
    right = together = pairs = both = 0
    for task in world.tasks(rng, 300):
        scores = [gold(task, answer(task, rng.choice(MODELS), rng)) for _ in range(6)]
        mine, theirs = labeler.rank(scores, rng), labeler.rank(scores, rng)
        for a, b in itertools.combinations(range(6), 2):
            if mine[a] != mine[b] and scores[a] != scores[b]:
                pairs += 1
                right += (mine[a] < mine[b]) == (scores[a] > scores[b])
            if mine[a] != mine[b] and theirs[a] != theirs[b]:
                both += 1
                together += (mine[a] < mine[b]) == (theirs[a] < theirs[b])
    return right / pairs, together / both


def test_labelers_agree_with_gold_more_often_than_not_and_not_always() -> None:
    with_gold, with_each_other = pair_agreement(Labeler(LabelerConfig()))
    assert 0.75 < with_gold < 0.9
    assert 0.68 < with_each_other < 0.78  # the paper's labelers: 72.6 %


def test_noise_makes_them_agree_less() -> None:
    quiet, loud = (pair_agreement(Labeler(LabelerConfig(noise=n)))[0] for n in (0.3, 3.0))
    assert quiet > 0.9 > 0.8 > loud > 0.5


def test_without_noise_the_ranks_are_the_order_of_the_gold_scores() -> None:
    labeler = Labeler(LabelerConfig(noise=0, step=0))
    assert labeler.rank([0.5, 2.0, -1.0, 2.0], Random(0)) == (1.0, 0.0, 2.0, 0.0)


def test_ratings_in_steps_tie_what_is_nearly_equal() -> None:
    labeler = Labeler(LabelerConfig(noise=0, step=0.5))
    assert labeler.rank([2.1, 1.9, 0.0], Random(0)) == (0.0, 0.0, 1.0)


def test_negative_noise_is_refused() -> None:
    with pytest.raises((ConfigError, ValueError), match="noise"):
        LabelerConfig(noise=-1)
