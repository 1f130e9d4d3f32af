"""Modalities by the hundred: templates in recipes, what they stand for, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recipes import DOCS, problems

from modalkit.errors import InputError
from modalkit.recipe.loading import load_recipe
from modalkit.recipe.templates import expand, fold
from modalkit.recipe.yaml import Document, Place, dump, parse

GOOD = """\
data: {path: somewhere}
modalities:
  place: {kind: vector, size: 2}
  bit{}:
    each: 8..11
    kind: bit
    network: {type: mlp, hidden: [3]}
  "{}": {each: [Male, Young], kind: bit}
  "v{}-x": {each: [098..101, z], kind: bit}
  last: {kind: bit}
"""


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(text: str, name: str = "r.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_a_template_stands_for_many_in_the_order_of_writing(write):
    recipe = load_recipe(write(GOOD))
    bits, views = [f"bit{i}" for i in range(8, 12)], [f"v{i}-x" for i in ("098", "099", "100", "101", "z")]
    assert list(recipe.modalities) == ["place", *bits, "Male", "Young", *views, "last"]
    assert recipe.modalities["bit8"] == recipe.modalities["bit11"] != recipe.modalities["Male"]
    assert recipe.modalities["bit8"].model_dump()["network"]["hidden"] == (3,)
    saved = recipe.to_yaml()
    assert "bit{}:\n    each: 8..11\n    kind: bit\n" in saved and "{}':\n    each:\n    - Male\n" in saved
    again = load_recipe(write(saved, "saved.yaml"))
    assert again == recipe and list(again.modalities) == list(recipe.modalities)


def test_one_of_many_is_changed_removed_and_the_template_itself(write):
    write(GOOD, "base.yaml")
    child = "extends: base.yaml\nmodalities:\n  bit9: {weight: 2, network: {hidden: [4]}}\n  bit10: null\n"
    child += "  v{}-x: {each: z, weight: 3}\n  Young: {kind: label, classes: 2}\n"
    recipe = load_recipe(
        write(child),
        ["modalities.Male.weight=4", "modalities.bit11=null", "modalities.bit{}.each=8..12", "modalities.last=null"],
    )
    assert {name: m.weight for name, m in recipe.modalities.items()} == {
        "place": 1, "bit8": 1, "bit9": 2, "bit12": 1, "Male": 4, "Young": 1, "vz-x": 3
    }  # fmt: skip
    assert recipe.modalities["bit9"].model_dump()["network"]["hidden"] == (4,)
    assert recipe.modalities["Young"].kind == "label"
    gone = load_recipe(write("extends: base.yaml\nmodalities: {'bit{}': null, '{}': null}\n"))
    assert "bit8" not in gone.modalities and "Male" not in gone.modalities and "v098-x" in gone.modalities
    same_file = load_recipe(write(GOOD + "  bit8: {weight: 5}\n"))
    assert [m.weight for m in same_file.modalities.values()][:3] == [1, 5, 1]


MISTAKES = {
    "bits: {each: 0..9, kind: bit}": "bits.each: works only under a key that holds {}: 'bits{}'",
    "bit{}: {kind: bit}": "bit{}.each: is missing; where a key holds {}, `each` lists names or a range",
    "bit{}: null": "bit{}: is missing; where a key holds {}, `each` lists",
    "bit{}: {each: 0..9}": "bit{}.kind: is missing",
    "bit{}: {each: [], kind: bit}": "bit{}.each: should have 1 or more entries, has 0",
    "bit{}: {each: 9..0, kind: bit}": "bit{}.each: the range 9..0 goes backwards",
    "bit{}: {each: 0..1000000, kind: bit}": "bit{}.each: the range 0..1000000 makes more than 1,000,000 modalities",
    "bit{}: {each: 7, kind: bit}": "bit{}.each: should be a name or a range such as 0..9, got 7; put numbers in quotes",
    "bit{}: {each: [a, {}], kind: bit}": "bit{}.each.1: should be a name or a range such as 0..9, got {}",
    "bit{}: {each: [0..3, a, 2..9], kind: bit}": "bit{}.each.2: 'bit2' is given twice",
    "'{}': {each: 0..9, kind: bit}": "{}.each: '0': a modality's name should begin with a letter",
    "'{}': {each: [a..b, c], kind: bit}": "{}.each.0: 'a..b': a modality's name should begin with a letter",
    "'{}': {each: [a, 2b, all], kind: bit}": [
        "{}.each.1: '2b': a modality's name should begin with a letter",
        "{}.each.2: 'all' stands for all modalities together",
    ],
    "'{}': {each: [a, place], kind: bit}": "place: is one of '{}' already; to change it, give no kind",
    "bit{}: {each: 0..999, kind: bit, wieght: 2}": "bit{}.wieght: unknown key (did you mean 'weight'?)",
    "bit{}: {each: 0..999, kind: bti}": "bit{}.kind: unknown kind 'bti' (did you mean 'bit'?)",
    "v{}: {each: 0..999, kind: vector}": "v{}.size: is missing",
    "v{}: {each: 0..999, kind: bit, weight: .nan}": "v{}.weight: should be a finite number, got .nan",
    "v{}: {each: 0..9, kind: bit, weight: -1}\n  v0: {weight: 1}": "v{}.weight: should be a number of at least 0",
}


@pytest.mark.parametrize("added", MISTAKES)
def test_each_mistake_is_explained_once_at_its_line(write, added):
    start = "data: {path: x}\nobjective: {name: mvae}\nmodalities:\n"
    wanted = MISTAKES[added] if isinstance(MISTAKES[added], list) else [MISTAKES[added]]
    found = problems(write(f"{start}  place: {{kind: bit}}\n  {added}\n"))
    line = 4 if "place]" in added else 5
    assert len(found) == len(wanted)
    for one, words in zip(found, wanted, strict=True):
        assert one.startswith(f"r.yaml:{line}: modalities.{words}")
    alone = problems(write(f"{start}  {added}\n")) if "place]" not in added else wanted
    assert len(alone) == len(wanted)  # no other complaint follows from it


def test_two_templates_that_collide_and_changes_that_are_wrong(write):
    text = GOOD + "  b{}: {each: [it8, it7], kind: bit}\n  bit9: {weigt: 2}\n  bit99: {weight: 3}\n"
    found = problems(write(text), "modalities.Male.weight=-1")
    assert [line.split("; known")[0] for line in found] == [
        "--set modalities.Male.weight=-1: modalities.Male.weight: should be a number of at least 0, got -1",
        "r.yaml:11: modalities.b{}.each.0: 'bit8' is made by 'bit{}' too",
        "r.yaml:12: modalities.bit9.weigt: unknown key (did you mean 'weight'?)",
        "r.yaml:13: modalities.bit99.kind: is missing (did you mean 'bit9'?)",
    ]


def test_a_template_may_make_names_that_torch_uses_for_itself(write):
    each = "modalities:\n  '{}': {each: [keys, type, train], kind: bit}\n"
    assert list(load_recipe(write(f"data: {{path: x}}\n{each}")).modalities) == ["keys", "type", "train"]


def test_weak_groups_name_what_a_template_makes(write):
    weak = "data: {path: x, weak: {paired: 0.5, groups: [[bit8, Male]]}}\n"
    assert load_recipe(write(weak + GOOD.split("\n", 1)[1])).data.weak.groups == (("bit8", "Male"),)


def test_the_docs_example(write):
    blocks = [part.split("\n```", 1)[0] for part in DOCS.read_text().split("```yaml\n")[1:]]
    example = next(block for block in blocks if "each:" in block)
    recipe = load_recipe(write(f"data: {{path: x}}\n{example}\n"))
    assert len(recipe.modalities) == 1 + 3 + 1000 + 2 + 5 and recipe.modalities["Male"].weight == 3
    assert list(recipe.modalities)[-1] == "view12" and "view08" in recipe.modalities


NAMES = st.from_regex(r"\A[a-c]{1,2}[0-9]{0,3}\Z")
ENTRIES = st.sampled_from([{"kind": "bit", "weight": 1.0}, {"kind": "bit", "weight": 2.0}])


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(NAMES, ENTRIES, max_size=30), st.integers(0, 12), st.integers(0, 30))
def test_what_is_folded_is_expanded_back(modalities, first, many):
    modalities |= {f"x{i}": {"kind": "bit"} for i in range(first, first + many)}
    document = parse(dump({"modalities": fold(modalities)}), Place("x", 1))
    expand(document)
    assert document.problems == [] and list(document.value["modalities"].items()) == list(modalities.items())
    assert sum(name.startswith("x") for name in fold(modalities)) <= 3


def test_a_thousand_modalities_are_a_few_lines(write, monkeypatch):
    recipe = load_recipe(write("data: {path: x}\nmodalities:\n  bit{}: {each: 000..999, kind: bit}\n"))
    assert len(recipe.modalities) == 1000 and list(recipe.modalities)[7] == "bit007"
    assert recipe.modalities["bit007"] is recipe.modalities["bit999"]  # checked once
    assert len(recipe.to_yaml().splitlines()) < 80
    monkeypatch.setattr("modalkit.recipe.yaml._MAX_ALIASED", 10)  # bounds what aliases make, not what is written out
    assert len(parse(f"{[0] * 100}", Place("x", 1)).value) == 100
    with pytest.raises(InputError, match="too many aliases"):
        parse(f"[&a {[0] * 10}, {', '.join(['*a'] * 20)}]", Place("x", 1))


def test_documents_without_modalities_are_left_alone():
    assert expand(Document({"modalities": 3}, {(): Place("x")})) == {}
