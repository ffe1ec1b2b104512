"""Quality filters: each published threshold at its border, and a user's own functions."""

import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_ray.config.errors import InputError
from distill_ray.core.plugins import PluginError
from distill_ray.stages.reading.filters import (
    FILTERS,
    Filter,
    c4,
    fineweb,
    gopher_quality,
    gopher_repetition,
    load_filter,
    words_of,
)


def unique_words(num_characters):
    """Different words of six characters, the last one longer: so many characters in all."""
    words = [f"{i:06d}" for i in range(num_characters // 6)]
    words[-1] += "z" * (num_characters % 6)
    return words


# Gopher's quality rules.


def prose(*others, size=100):
    """So many words: two stop words, these others, and plain ones."""
    words = ["the", "and", *others]
    return " ".join([*words, *["plain"] * (size - len(words))])


GOOD_LINE = "the plain and simple words of this line are ten"


def lines(number, of, change):
    return "\n".join([change(GOOD_LINE)] * number + [GOOD_LINE] * (of - number))


@pytest.mark.parametrize(
    ("stays", "goes", "reason"),
    [
        (prose(size=50), prose(size=49), "fewer than 50 words"),
        (prose(size=50) + " — —", prose(size=49) + " — —", "fewer than 50 words"),
        (prose(size=100_000), prose(size=100_001), "more than 100,000 words"),
        # Means of 3 and 10 characters: of 100 words, two have three.
        (
            " ".join(["the", "and", *["abc"] * 98]),
            " ".join(["the", "and", *["abc"] * 97, "ab"]),
            "mean word length under 3 characters",
        ),
        (
            " ".join(["the", "and", *["abcdefghij"] * 97, "a" * 24]),
            " ".join(["the", "and", *["abcdefghij"] * 97, "a" * 25]),
            "mean word length over 10 characters",
        ),
        (prose(*["tag#"] * 10), prose(*["tag#"] * 11), "more than 0.1 hash signs a word"),
        (prose(*["so..."] * 10), prose(*["so..."] * 11), "more than 0.1 ellipses a word"),
        (prose(*["so…"] * 10), prose(*["so…"] * 11), "more than 0.1 ellipses a word"),
        (
            lines(9, 10, "- {}".format),
            lines(10, 10, "- {}".format),
            "more than 90 % of lines begin with a bullet",
        ),
        (
            lines(3, 10, "{}...".format),
            lines(4, 10, "{}...".format),
            "more than 30 % of lines end with an ellipsis",
        ),
        (
            prose(*["12345"] * 20),
            prose(*["12345"] * 21),
            "fewer than 80 % of words have a letter",
        ),
        (
            prose().replace("and", "The,").replace("the", "of"),
            prose().replace("and", "The,"),
            "fewer than two stop words",
        ),
    ],
)
def test_gopher_quality_at_each_border(stays, goes, reason):
    assert gopher_quality(stays) is None
    assert gopher_quality(goes) == reason


def test_gopher_quality_in_other_languages():
    german = " ".join(["der", "und", *["schlicht"] * 60])
    assert gopher_quality(german) == "fewer than two stop words"
    assert gopher_quality(german, stop_words={"der", "und"}) is None
    assert gopher_quality("我们今天去图书馆看书。" * 6) is None
    assert gopher_quality("我们今天去图书馆看书。") == "fewer than 50 words"


def test_words_of_scripts_without_spaces_are_characters():
    assert words_of("no spaces") == ["no", "spaces"]
    assert words_of("去 Tokyo東京") == ["去", "Tokyo", "東", "京"]


# Gopher's repetition rules: thresholds from table A1.


def repeated(separator, times, unique_lines=10):
    """Ten parts: one of one letter, so many repetitions of it, and long ones."""
    parts = [" ".join(f"{i}-{j}-word" for j in range(20)) for i in range(unique_lines - 1 - times)]
    return separator.join(["x", *parts, *["x"] * times])


@pytest.mark.parametrize(("separator", "name"), [("\n", "lines"), ("\n\n", "paragraphs")])
def test_three_repeated_parts_of_ten_stay_and_four_go(separator, name):
    assert gopher_repetition(repeated(separator, 3)) is None
    assert gopher_repetition(repeated(separator, 4)) == f"more than 30 % of {name} are repeated"


@pytest.mark.parametrize(("separator", "name"), [("\n", "lines"), ("\n \n", "paragraphs")])
def test_repeated_parts_with_a_fifth_of_the_characters_stay(separator, name):
    def text(others):
        return separator.join(["abcdefghij", "abcdefghij", *unique_words(others)])

    assert gopher_repetition(text(30)) is None  # 10 repeated of 50
    reason = f"more than 20 % of characters are in repeated {name}"
    assert gopher_repetition(text(29)) == reason


@pytest.mark.parametrize(("n", "percent", "times"), [(2, 20, 5), (3, 18, 3), (4, 16, 2)])
def test_the_most_frequent_ngram_at_its_border(n, percent, times):
    ngram = ["aa", "bb", "cc", "dd"][:n]
    assert times * 2 * n == percent

    def text(total):
        others = unique_words(total - percent)
        words = [word for i in range(times) for word in [*ngram, others[i]]]
        return " ".join([*words, *others[times:]])

    assert gopher_repetition(text(100)) is None
    reason = f"more than {percent} % of characters are in the most frequent {n}-gram"
    assert gopher_repetition(text(99)) == reason


@pytest.mark.parametrize(("n", "percent"), [(5, 15), (6, 14), (7, 13), (8, 12), (9, 11), (10, 10)])
def test_repeated_ngrams_at_their_border(n, percent):
    # As many n-grams as per cent, each of 2n characters and twice, in 100 times 2n characters.
    ngrams = [[f"{chr(97 + i)}{chr(97 + j)}" for j in range(n)] for i in range(percent)]

    def text(total):
        others = iter(unique_words(total - 2 * percent * 2 * n))
        words = [word for ngram in ngrams * 2 for word in [*ngram, next(others)]]
        return " ".join([*words, *others])

    assert gopher_repetition(text(200 * n)) is None
    reason = f"more than {percent} % of characters are in repeated {n}-grams"
    assert gopher_repetition(text(200 * n - 1)) == reason


def slow_ngram_rules(text):
    """The n-gram rules by their definition, with tuples and sets of positions."""
    words = text.split()
    total = sum(map(len, words))
    for n in range(2, 11):
        ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(ngrams)
        top = max(counts.values(), default=0)
        if n <= 4:
            sizes = [len("".join(g)) * c for g, c in counts.items() if c == top and c > 1]
            if 100 * max(sizes, default=0) > (24 - 2 * n) * total:
                return n
        else:
            inside = {i + k for i, g in enumerate(ngrams) if g in ngrams[:i] for k in range(n)}
            if 100 * sum(len(words[i]) for i in inside) > (20 - n) * total:
                return n
    return None


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), max_size=8),
    st.integers(1, 3),
    st.integers(0, 60),
)
def test_ngram_rules_are_those_of_the_definition(block, times, num_others):
    others = [f"w{i}" for i in range(num_others)]
    third = num_others // 3
    words = [*others[:third], *block * times, *others[third : 2 * third], *block]
    text = " ".join([*words, *others[2 * third :]])
    expected = slow_ngram_rules(text)
    reason = gopher_repetition(text)
    assert (reason is None) is (expected is None)
    if expected is not None:
        assert f"{expected}-gram" in reason


# C4 and FineWeb.

SENTENCE = "This line has five words."


def test_c4_at_each_border():
    assert c4("\n".join([SENTENCE] * 3)) is None
    assert c4(f"{SENTENCE} {SENTENCE} And “this one too.”") is None
    few = "fewer than 3 sentences in lines that C4 keeps"
    assert c4("\n".join([SENTENCE] * 2)) == few
    for cut in (
        "This line has four.",
        "No mark ends this line",
        "This line trails off somehow...",
        "Please enable JavaScript in your browser.",
        "We value that you read our Privacy Policy.",
        f"This line has one {'x' * 1001}.",
    ):
        assert c4("\n".join([SENTENCE, SENTENCE, cut])) == few, cut
    assert c4("\n".join([SENTENCE, SENTENCE, f"This has a long {'x' * 999}."])) is None
    assert c4("\n".join([SENTENCE] * 3 + ["Lorem Ipsum is here."])) == "lorem ipsum"
    for bracket in "{}":
        assert c4("\n".join([SENTENCE] * 3 + [f"f() {bracket}"])) == "a curly bracket"


def test_c4_keeps_a_document_whole_unless_most_of_it_would_be_cut():
    kept = "\n".join([SENTENCE] * 3)
    menu = "x" * (3 * len(SENTENCE))
    assert c4(f"{menu}\n{kept}") is None
    reason = "more than half of the characters in lines that C4 cuts out"
    assert c4(f"{menu}x\n{kept}") == reason


def test_c4_counts_sentences_of_other_scripts():
    assert c4("我们今天去图书馆。你要不要一起来？当然好！") is None
    assert c4("यह एक लंबा वाक्य है। यह दूसरा वाक्य है। यह तीसरा है।") is None


def test_fineweb_at_each_border():
    def text(marked, of):
        return "\n".join(
            f"a line of more than thirty characters, number {i}{'.' * (i < marked)}"
            for i in range(of)
        )

    assert fineweb(text(4, 25)) is None
    assert fineweb(text(3, 25)) == "at most 12 % of lines end with a terminal mark"

    def short(number):
        return "\n".join(
            [f"short number {i}." for i in range(number)]
            + [f"thirty characters at the least {i}." for i in range(100 - number)]
        )

    assert fineweb(short(66)) is None
    assert fineweb(short(67)) == "at least 67 % of lines have under 30 characters"

    def twice(size, others):
        unique = [f"{i:039d}." for i in range(others)]
        return "\n".join(["y" * (size - 1) + "."] * 2 + unique)

    # 79 or 80 repeated characters of 2 · 79 + 640 or 2 · 80 + 640.
    assert fineweb(twice(79, 16)) is None
    assert fineweb(twice(80, 16)) == "at least 10 % of characters are in repeated lines"


@pytest.mark.parametrize("name", sorted(FILTERS))
@settings(deadline=None, max_examples=40)
@given(text=st.text(max_size=200) | st.just("") | st.just("\n\n"))
def test_no_text_breaks_a_filter(name, text):
    reason = load_filter(name).reason(text, place="row 1")
    assert reason is None or (reason and isinstance(reason, str))


# A user's own.


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_filters.py").write_text(
        "def keep(text): return len(text) > 3\n"
        "def broken(text): return 1 / 0\n"
        "def two(text, other): return True\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_filters", None)


def test_an_own_function_by_import_path(own):
    keep = load_filter("own_filters:keep")
    assert keep.name == "own_filters:keep"
    assert keep.reason("long enough", place="a.jsonl, row 1") is None
    assert keep.reason("no", place="a.jsonl, row 2") == "dropped"


def test_an_exception_names_function_and_place(own):
    with pytest.raises(InputError) as error:
        load_filter("own_filters:broken").reason("text", place="a.jsonl, row 7")
    for part in ("own_filters:broken", "a.jsonl, row 7", "ZeroDivisionError: division by zero"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_filters:two", "other"),
        ("own_filters:absent", "absent"),
        ("own_filters:number", "not a function"),
        ("no_such_module:keep", "can't be imported"),
        ("gopher_qualty", "Did you mean 'gopher_quality'?"),
    ],
)
def test_a_wrong_name_is_refused_before_any_text_is_read(own, name, message):
    with pytest.raises(PluginError, match=message.replace("?", r"\?")):
        load_filter(name)


@pytest.mark.parametrize(
    ("returned", "reason"),
    [(True, None), (None, None), (False, "dropped"), ("too long", "too long")],
)
def test_what_a_function_may_return(returned, reason):
    assert Filter("f", lambda _: returned).reason("text", place="row 1") == reason


@pytest.mark.parametrize("returned", [0, 1, "", 0.5, []])
def test_what_a_function_may_not_return(returned):
    with pytest.raises(InputError, match="True or None to keep"):
        Filter("f", lambda _: returned).reason("text", place="row 1")
