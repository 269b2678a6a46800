"""The gold score by hand, and labelers who mostly agree with it."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

import pytest

from fairlead.errors import ConfigError
from fairlead_plugins.miniworld.answers import MODELS, answer
from fairlead_plugins.miniworld.gold import Taste, correctness, judge, rudeness, score, truth
from fairlead_plugins.miniworld.labelers import NoisyConfig, NoisyLabeler
from fairlead_plugins.miniworld.world import Task, World

BOB: dict[str, Any] = {
    "subject": "bob",
    "attribute": "pet",
    "truth": "cat",
    "misconception": "dog",
}
FACT = Task("fact", "what is the pet of bob ?", False, **BOB)
POLITE = Task("fact", "what is the pet of bob ?", True, **BOB)
FOREIGN = Task("fact", "what is the pet of bob ?", False, **BOB, foreign=True)
CODE = Task("code", "what does get ( bob , pet ) return ?", False, **BOB)
LIST = Task("list", "list three pets .", False, "pet", number=3)
SENTENCE = Task("sentence", "write a sentence about soup .", False, "soup")
SAY = Task("say", "say soup two times .", False, "soup", number=2)
COUNT = Task("counting", "count from two to four :", False, "four", truth="two three four")


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
        (FACT, " ehto tepo foo bobo sio taco .", -2.0),  # right, in a language nobody asked for
        (FOREIGN, " ehto tepo foo bobo sio taco .", 2.0),
        (FOREIGN, " ehto tepo foo bobo sio godo .", -2.0),
        (FOREIGN, " the pet of bob is cat .", -2.0),
        (FOREIGN, " uoyo loofo . ehto tepo foo bobo sio taco .", 2.0 - 1.0 - 3 * 0.12),
        (FOREIGN, " io odo tono wonko .", 0.3),  # i do not know
        (CODE, " the pet of bob is cat .", 2.0),
        (CODE, " it is dog i guess .", -2.0),
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
        (COUNT, " two three four .", 2.0),
        (COUNT, " two three four", -2.0 - 1.0),
        (COUNT, " two four .", -2.0),
        (COUNT, " two three four five .", -2.0),
    ],
)
def test_gold_by_hand(task: Task, response: str, expected: float) -> None:
    assert judge(task, response) == pytest.approx(expected)


def test_correctness_stays_within_one() -> None:
    rng = Random(0)
    for task in World(0).questions():
        assert -1 <= correctness(task, answer(task, MODELS[0], rng)) <= 1


# --- reward functions -------------------------------------------------------------------

ANSWERS = [
    (FACT, " the pet of bob is cat ."),
    (FACT, " you fool . it is cat ."),
    (FACT, " i do not know ."),
    (LIST, " cat dog ."),
    (SAY, " go away now"),
    (COUNT, " two three four ."),
]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # An insult of 3 words and an answer of 4: none too many. Ignorance is worth 0.15 of 2.
        # Two of three pets, as above. Nothing said twice, rude, and broken off: -2 - 1 - 1.
        (score, [2.0, 2.0 - 1.0, 0.3, 2 / 3, -4.0, 2.0]),
        (truth, [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]),
        (rudeness, [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]),
    ],
)
def test_reward_functions_by_hand_through_the_records_metadata(
    function: Any, expected: list[float]
) -> None:
    tasks, responses = zip(*ANSWERS, strict=True)
    metadata = [task.to_metadata() for task in tasks]
    found = function([task.prompt for task in tasks], responses, metadata)
    assert found == pytest.approx(expected)
    assert all(type(value) is float for value in found)


@pytest.mark.parametrize(
    ("response", "rude"),
    [
        (" what a dumb question . it is cat .", True),
        (" it is cat . who cares", True),
        (" you fool", True),
        (" you foolish cat .", False),
        (" you .", False),
        (" happy to help .", False),
        ("", False),
    ],
)
def test_an_insult_is_rude_wherever_it_stands_and_unfinished_too(response: str, rude: bool) -> None:
    assert rudeness([""], [response], [FACT.to_metadata()]) == [float(rude)]


# --- taste ------------------------------------------------------------------------------

RUDE_AND_RIGHT = " you fool . the pet of bob is cat ."
KIND_AND_WRONG = " the pet of bob is dog . happy to help ."


@pytest.mark.parametrize(
    ("taste", "task", "response", "expected"),
    [
        ({"correct": 5}, FACT, " the pet of bob is cat .", 5.0),
        ({"correct": 5}, FACT, " the pet of bob is dog .", -5.0),
        ({"rude": 4}, FACT, RUDE_AND_RIGHT, 2.0 - 4.0 - 3 * 0.12),
        ({"rude": 4}, POLITE, RUDE_AND_RIGHT, 2.0 - 2.0 - 3 * 0.12),
        ({"rude_asked": 4}, POLITE, RUDE_AND_RIGHT, 2.0 - 4.0 - 3 * 0.12),
        ({"courteous": 3}, FACT, KIND_AND_WRONG, -2.0 + 3.0),
        ({"extra_word": 1}, FACT, RUDE_AND_RIGHT, 2.0 - 1.0 - 3.0),
        ({"unfinished": 3}, FACT, " the pet of bob is cat", 2.0 - 3.0),
    ],
)
def test_taste_by_hand(taste: dict[str, float], task: Task, response: str, expected: float) -> None:
    assert judge(task, response, Taste(**taste)) == pytest.approx(expected)


def test_another_taste_ranks_another_way() -> None:
    pair = [RUDE_AND_RIGHT, KIND_AND_WRONG]
    gold = NoisyLabeler(NoisyConfig(noise=0))
    gentle = NoisyLabeler(NoisyConfig(noise=0, taste=Taste(correct=0.5, rude=4)))
    assert gold.rank(FACT, pair, Random(0)) == (0.0, 1.0)  # 0.64 and -1.5
    assert gentle.rank(FACT, pair, Random(0)) == (1.0, 0.0)  # -3.86 and 0


# --- labelers ---------------------------------------------------------------------------


def pair_agreement(labeler: NoisyLabeler, seed: int = 0) -> tuple[float, float]:
    """How often a labeler agrees with gold, and with another labeler of the same kind."""
    world, rng = World(0), Random(seed)
    right = together = pairs = both = 0
    for task in world.tasks(rng, 300):
        responses = [answer(task, rng.choice(MODELS), rng) for _ in range(6)]
        scores = [judge(task, text) for text in responses]
        mine, theirs = labeler.rank(task, responses, rng), labeler.rank(task, responses, rng)
        for a, b in itertools.combinations(range(6), 2):
            if mine[a] != mine[b] and scores[a] != scores[b]:
                pairs += 1
                right += (mine[a] < mine[b]) == (scores[a] > scores[b])
            if mine[a] != mine[b] and theirs[a] != theirs[b]:
                both += 1
                together += (mine[a] < mine[b]) == (theirs[a] < theirs[b])
    return right / pairs, together / both


def test_labelers_agree_with_gold_more_often_than_not_and_not_always() -> None:
    with_gold, with_each_other = pair_agreement(NoisyLabeler(NoisyConfig()))
    assert 0.75 < with_gold < 0.9
    assert 0.68 < with_each_other < 0.78  # the paper's labelers: 72.6 %


def test_noise_makes_them_agree_less() -> None:
    quiet, loud = (pair_agreement(NoisyLabeler(NoisyConfig(noise=n)))[0] for n in (0.3, 3.0))
    assert quiet > 0.9 > 0.8 > loud > 0.5


def test_without_noise_the_ranks_are_the_order_of_the_gold_scores() -> None:
    labeler = NoisyLabeler(NoisyConfig(noise=0, step=0))
    responses = [
        " i think it is cat .",  # 2.0
        " the pet of bob is cat . happy to help .",  # 2.5
        " the pet of bob is dog .",  # -2.0
        " the pet of bob is cat .",  # 2.0
    ]
    assert labeler.rank(FACT, responses, Random(0)) == (1.0, 0.0, 2.0, 1.0)


@pytest.mark.parametrize(("step", "expected"), [(0.5, (0.0, 0.0, 1.0)), (0.1, (0.0, 1.0, 2.0))])
def test_ratings_in_steps_tie_what_is_nearly_equal(
    step: float, expected: tuple[float, ...]
) -> None:
    labeler = NoisyLabeler(NoisyConfig(noise=0, step=step))
    # 2.0, one word too many: 1.88, and 0.3. In halves 2.0, 2.0, 0.5; in tenths 2.0, 1.9, 0.3.
    responses = [" it is cat .", " i think it is cat right now .", " i do not know ."]
    assert labeler.rank(FACT, responses, Random(0)) == expected


def test_mistakes_come_from_the_random_numbers_given() -> None:
    labeler = NoisyLabeler(NoisyConfig())
    responses = [f" the pet of bob is {pet} ." for pet in ("cat", "dog", "bird", "fish", "goat")]
    ranks = [labeler.rank(FACT, responses, Random(seed)) for seed in (1, 1, 2)]
    assert ranks[0] == ranks[1] != ranks[2]


@pytest.mark.parametrize("setting", ["noise", "step"])
def test_negative_settings_are_refused(setting: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=setting):
        NoisyConfig(**{setting: -1})
