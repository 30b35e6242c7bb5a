"""What an expression says of places leads to the right region; what only looks like it leads nowhere."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_parts
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ris.modeling.language_expression import Expression
from hf_ris.modeling.language_lexicon import RELATIONS
from hf_ris.modeling.language_places import Place, read_places
from hf_ris.modeling.tas_rectifier import Layout, find_candidates, rate_place, rectify


CASES = json.loads((Path(__file__).parent / "spatial_cases.json").read_text(encoding="utf-8"))


def draw(scene: dict) -> tuple[list[str], Layout]:
    """The labels of a scene's objects, and where they lie; every tenth pixel is enough."""
    width, height = scene["size"]
    masks = np.zeros((len(scene["objects"]), height // 10, width // 10), bool)
    for mask, (_, *box) in zip(masks, scene["objects"], strict=True):
        left, top, right, bottom = (round(edge / 10) for edge in box)
        mask[top:bottom, left:right] = True
    return [label for label, *_ in scene["objects"]], Layout.of(masks)


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: f"{case[0]}: {case[2]}")
def test_places_lead_to_the_right_region(case):
    name, referent, expression, answer = case[:4]
    labels, layout = draw(CASES["scenes"][name])
    referent_fits = iter(CASES["scenes"][name]["fits"].get(referent, [1.0]))
    fits = np.array([next(referent_fits) if label == referent else 0.1 for label in labels])

    def score_phrase(phrase: str) -> np.ndarray:
        return np.array([1.0 if label in phrase else 0.1 for label in labels])

    reading = Expression(expression)
    pick, candidates = rectify(reading, layout, fits, score_phrase)
    assert pick == answer, (reading.places, candidates)


@pytest.mark.parametrize(
    "expression",
    [
        "bright umbrella",
        "the laptop",
        "roast beef",
        "upright piano",
        "woman in a white top",
        "man raising his right hand",
        "dog looking left",
        "the man with his left arm up",
        "guy facing right",
        "the only slice left",
        "slices left over",
        "the backpack",
        "man with his back to us",
        "the back of the chair",
        "little girl",
        "big brother",
        "girl in a tank top",
        "the man holding a large umbrella",
        "woman walking to the left",
        "top hat",
        "the top of the tree",
        "girl looking back",
        "man facing front",
        "man with back turned",
        "guy seen from behind",
        "middle-aged man",
        "skater in mid air",
        "guy over there",
        "boy by himself",
        "woman with a bag over her shoulder",
        "second row from the front",
        "not the left one",
        "horse with front legs up",
        "left-handed batter",
        "woman in a floral top",
        "short-sleeve shirt guy",
        "lady big hat",
        "second to last",
        "the two",
        "row two",
        "the dog that isn't on the left",
        "the dog that isn\u2019t the biggest",
        "all but the left dog",
        "all the apples except the left one",
        "cup except for the right one",
        "dog other than the left one",
        "don't pick the left one",
        "neither left nor right",
        "the guy whose back is to us",
        "man's back",
        "the car's back",
        "the man\u2019s left hand",
        "cat on the dog's left ear",
    ],
)
def test_words_that_are_no_places_say_nothing(expression):
    assert read_places(expression) == ()


@pytest.mark.parametrize(
    ("expression", "kinds"),
    [
        ("second from left", ["ordinal"]),
        ("top left donut", ["side", "side"]),
        ("the man left of the tree", ["relation"]),
        ("left of the picture", ["side"]),
        ("dog next to the man on the left", ["relation"]),
        ("dog next to the man, left", ["relation", "side"]),
        ("biggest one in the middle", ["size", "middle"]),
        ("left man in the back", ["side", "side"]),
        ("the nearest car", ["side"]),
        ("man walking on the right", ["side"]),
        ("furthest to the left", ["side"]),
        ("left of center", ["side"]),
        ("near the top", ["side"]),
        ("closest to the left edge", ["side"]),
        ("close to the camera", ["side"]),
        ("the house far away", ["side"]),
        ("cake top right", ["side", "side"]),
        ("sheep in front of the other one", ["side"]),
        ("a little to the left of the tree", ["relation"]),
        ("second man in the row from the left", ["ordinal"]),
        ("second man in the back row from the left", ["ordinal"]),
        ("the second to last cup from the right", ["ordinal"]),
        ("man on the left-hand  side", ["side"]),
        ("the left - most man", ["side"]),
        ("dog behind the fence left", ["relation"]),
        ("near the middle", ["middle"]),
        ("lamp next to the picture frame", []),
        ("furthest from the left", ["side"]),
        ("second row left", ["side"]),
        ("lady black top", []),
        ("cup in left top corner", ["side", "side"]),
        ("find the small mug", ["size"]),
        ("car that is small", ["size"]),
        ("bird nearest feeder", ["relation"]),
        ("man in back facing left", ["side"]),
        ("dog behind fence left", ["relation"]),
        ("first man with a bat in his right hand", []),
        ("the two from the left", ["side"]),
        ("the one that's on the left", ["side"]),
        ("the near zebra", ["side"]),
        ("near the zebra", ["relation"]),
        ("near left", ["side"]),
        ("higher kite", ["side"]),
        ("frontmost", ["side"]),
        ("the back most one", ["side"]),
        ("cat on the dog's left", ["relation"]),
        ("cat on the picture's left side", ["side"]),
        ("cup next to the man's hand", ["relation"]),
        ("right of the three", ["side"]),
        ("right of the three dogs", ["side"]),
        ("left of the pair of giraffes", ["side"]),
        ("man right of the three dogs", ["relation"]),
        ("right of the other dog", ["relation"]),
        ("second nearest car", ["ordinal"]),
        ("top second from left", ["side", "ordinal"]),
        ("not the left one but the right one", ["side"]),
        ("everything but the left one, on top", ["side"]),
    ],
)
def test_what_is_said_is_read_once(expression, kinds):
    assert [place.kind for place in read_places(expression)] == kinds


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("ninth dog from the left", 8),
        ("9th dog from left", 8),
        ("tenth dog from the left", 9),
        ("number 3 from the left", 2),
        ("dog #3 from the left", 2),
        ("two from the left", 1),
        ("the left second dog", 1),
        ("last dog on the right", 9),
        ("second to last dog on the right", 8),
        ("dog, third to last from the left", 7),
        ("second largest dog", 1),
        ("second biggest dog on the right", 1),
        ("third smallest dog", 7),
        ("third tallest dog", 2),
        ("second closest dog", 8),
        ("dog third closest to the camera", 7),
        ("dog second closest to the tree", 7),
        ("second furthest from the left", 8),
    ],
)
def test_ranks_are_counted_in_the_order_that_is_said(expression, answer):
    """Ten dogs in a row: to the right they are smaller and nearer; the tree stands beside the ninth."""
    boxes = [(number * 40, 10 + 2 * number, number * 40 + 35 - number, 40 + number) for number in range(10)]
    layout = Layout.of(tiny_parts.boxes((60, 400), *boxes, (312, 0, 320, 60)))
    fits = np.array([1.0] * 10 + [0.1])
    assert rectify(Expression(expression), layout, fits, lambda _: 1.1 - fits)[0] == answer


@pytest.mark.parametrize(
    ("expression", "anchors"),
    [
        ("between the cat and the dog", ("the cat", "the dog")),
        ("between the man in red and the boy", ("the man in red", "the boy")),
        ("cup between the man next to the tree and the boy", ("the man next to the tree", "the boy")),
        ("between the two men in red and blue", ("the two men",)),
        ("between the chairs, the dog and the cat", ("the chairs",)),
    ],
)
def test_between_names_one_or_two_things(expression, anchors):
    (place,) = read_places(expression)
    assert place.anchors == anchors


@pytest.mark.parametrize(("expression", "extreme"), [("west side", False), ("left side", False), ("leftmost", True)])
def test_only_superlatives_are_extreme(expression, extreme):
    assert [place.extreme for place in read_places(expression)] == [extreme]


def test_relations_need_something_that_finds_what_they_are_to():
    _, layout = draw(CASES["scenes"]["desk"])
    fits = np.array([0.9, 1.0, 0.1, 0.1, 0.1])
    assert rectify(Expression("mug left of the laptop"), layout, fits)[0] == 1


def test_candidates_are_things_once_and_no_background():
    masks = np.zeros((4, 20, 20), bool)
    masks[0] = True  # all of the image
    masks[1, 2:8, 2:8] = True
    masks[2, 3:7, 3:7] = True  # a part of it
    masks[3, 12:18, 12:18] = True
    layout = Layout.of(masks)
    assert find_candidates(layout, np.array([1.0, 0.9, 0.8, 0.7]), least=2).tolist() == [1, 3]
    assert find_candidates(layout, np.array([1.0, 0.4, 0.3, 0.2]), least=1).tolist() == [1]


def test_a_layout_is_in_shares_of_the_image():
    masks = np.zeros((1, 10, 20), bool)
    masks[0, 2:6, 5:15] = True
    layout = Layout.of(masks)
    assert layout.centres.tolist() == [[0.5, 0.4]]
    assert layout.boxes.tolist() == [[0.25, 0.2, 0.75, 0.6]]
    assert layout.areas.tolist() == [0.2]


AXES = ("x", "y", "depth", "area", "height", "width", "length")
PLACES = st.one_of(
    st.builds(
        Place,
        st.sampled_from(("side", "ordinal", "size")),
        st.just(""),
        st.sampled_from(AXES),
        st.sampled_from((-1, 1)),
        st.integers(-9, 9),
        st.booleans(),
    ),
    st.builds(Place, st.just("middle"), st.just(""), st.sampled_from(("x", "y", "image"))),
    st.builds(
        Place,
        st.just("relation"),
        st.just(""),
        st.sampled_from(sorted(set(RELATIONS.values()))),
        anchors=st.lists(st.just("a tree"), min_size=1, max_size=2).map(tuple),
    ),
)
BOXES = st.tuples(*[st.integers(0, 11)] * 4).map(
    lambda edges: (*sorted(edges[::2]), *sorted(edges[1::2]))  # first and last column, first and last row
)


@settings(max_examples=400, deadline=None)
@given(place=PLACES, boxes=st.lists(BOXES, min_size=1, max_size=9), data=st.data())
def test_any_place_rates_any_candidates(place, boxes, data):
    masks = np.zeros((len(boxes), 12, 12), bool)
    for mask, (left, right, top, bottom) in zip(masks, boxes, strict=True):
        mask[top : bottom + 1, left : right + 1] = True
    layout = Layout.of(masks)
    numbers = st.sets(st.integers(0, len(boxes) - 1), min_size=1).map(lambda found: np.array(sorted(found)))
    members = data.draw(numbers)
    values = rate_place(place, layout, members, lambda phrase: np.ones(len(boxes)))
    assert values.shape == members.shape
    assert np.isfinite(values).all()
    assert (values > -0.02).all()  # middles differ by a hundredth at least
    assert (values <= 1).all()
    if place.kind == "ordinal":
        assert values.sum() == 1


@pytest.mark.parametrize(("rank", "chosen"), [(1, 0), (3, 2), (7, 2), (-1, 2), (-2, 1), (-3, 0), (-4, 0), (-9, 0)])
def test_ranks_that_do_not_exist_are_the_farthest_that_do(rank, chosen):
    layout = Layout.of(np.eye(3, dtype=bool)[:, None].repeat(3, axis=1))
    place = Place("ordinal", "", "x", sign=-1, rank=rank)
    assert np.flatnonzero(rate_place(place, layout, np.arange(3), None)).tolist() == [chosen]
