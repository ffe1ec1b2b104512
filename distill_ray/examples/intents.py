"""Which intent a spoken command to a smart home has, from `home-assistant-intents`.

The package holds templates ("<turn> on [<the>] {area} <light>"); its own parser, `hassil`, reads
them. Rooms, devices and things said freely are a user's own, so they come from `Home`.

The `group` of a row is its template without what is optional and what fills the slots: templates
that differ by a slot ("in {area}", "in {floor} [floor]") or by an aside give near copies.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

Row = dict[str, str]

INTENTS = (
    "HassCancelTimer",
    "HassClimateGetTemperature",
    "HassClimateSetFanMode",
    "HassClimateSetTemperature",
    "HassDecreaseTimer",
    "HassFanSetSpeed",
    "HassGetState",
    "HassIncreaseTimer",
    "HassLawnMowerDock",
    "HassLightSet",
    "HassMediaNext",
    "HassMediaPause",
    "HassMediaPrevious",
    "HassMediaSearchAndPlay",
    "HassPauseTimer",
    "HassRespond",
    "HassSetPosition",
    "HassSetVolume",
    "HassSetVolumeRelative",
    "HassStartTimer",
    "HassTimerStatus",
    "HassTurnOff",
    "HassTurnOn",
    "HassUnpauseTimer",
)
"""The intents with at least five groups of templates, keyed `A` to `X`: with fewer, a split by
group would mostly leave an intent without training or without test rows."""

PER_INTENT = 800
"""Commands drawn of one intent, evenly from its templates; repeated ones are dropped."""

PER_TEMPLATE = 60
"""Most commands of one template, which bounds the intents that have few."""

LINES = 12
"""Commands in one document of `text`."""

POLITE = ("{}", "{} please", "please {}", "{} for me")
"""Polite forms, of words that the package has a recogniser skip."""

_OPTIONAL = re.compile(r"\[[^\[\]]*\]")
_FILLED = re.compile(r"\{[^}]*\}|<the>")


@dataclass(frozen=True)
class Home:
    """Words of one household that templates leave open: its rooms, its devices, its own words."""

    areas: tuple[str, ...]
    floors: tuple[str, ...]
    devices: dict[str, tuple[str, ...]]
    """Domain of Home Assistant → names of devices."""
    open_words: dict[str, tuple[str, ...]]
    """List of the package that takes any words → words."""

    def words(self, slot: str, domains: tuple[str, ...]) -> tuple[str, ...]:
        """List the words for a slot that the package leaves open."""
        if slot == "name":
            return tuple(name for domain in domains for name in self.devices[domain])
        return {"area": self.areas, "floor": self.floors, **self.open_words}[slot]


@dataclass(frozen=True)
class Template:
    """One sentence template of an intent."""

    intent: str
    text: str
    group: str
    domains: tuple[str, ...]
    """Domains whose devices `{name}` stands for."""
    response: str | None
    """The assistant's answer; None where it depends on the state of the home."""


@dataclass(frozen=True)
class Grammar:
    """The templates of one folder of the package, and all that is needed to fill them."""

    templates: tuple[Template, ...]
    lists: dict[str, Any]
    rules: dict[str, str]
    home: Home
    number: Callable[[int], str]
    """Writes a number."""

    def sentence(self, template: Template, draw: int) -> str:
        """Fill a template's slots and choose among its alternatives; `draw` is the seed."""
        random = Random(f"{template.intent} {template.text} {draw}")
        return " ".join(self._say(_parse(template.text), template, random).split())

    def _say(self, part: Any, template: Template, random: Random) -> str:
        kind = type(part).__name__
        if kind == "TextChunk":
            return str(part.original_text)
        if kind == "ListReference":
            return self._fill(part.list_name, template, random)
        if kind == "RuleReference":
            return self._say(_parse(self.rules[part.rule_name]), template, random)
        if kind == "Alternative":
            return self._say(random.choice(part.items), template, random)
        if kind == "Permutation":
            order = random.sample(part.items, len(part.items))
            return " ".join(self._say(item, template, random) for item in order)
        return "".join(self._say(item, template, random) for item in part.items)

    def _fill(self, slot: str, template: Template, random: Random) -> str:
        values = self.lists.get(slot, {})
        if "values" in values:
            return self._say(_parse(random.choice(values["values"])["in"]), template, random)
        if "range" in values:
            bounds = values["range"]
            steps = range(bounds["from"], bounds["to"] + 1, bounds.get("step", 1))
            return self.number(random.choice(steps))
        return random.choice(self.home.words(slot, template.domains))


TRAINING_HOME = Home(
    areas=("kitchen", "living room", "bedroom", "bathroom", "office", "garage", "hallway", "patio"),
    floors=("first", "second", "ground", "upper"),
    devices={
        "light": ("ceiling light", "bedside lamp", "desk lamp", "chandelier"),
        "switch": ("coffee maker", "christmas tree", "router"),
        "fan": ("ceiling fan", "tower fan"),
        "media_player": ("tv", "kitchen speaker", "stereo"),
        "input_boolean": ("guest mode", "vacation mode"),
        "climate": ("thermostat", "air conditioner"),
        "cover": ("left curtain", "garage door", "roller blind"),
        "valve": ("water valve", "sprinkler valve"),
        "lock": ("front door", "back door lock"),
        "sensor": ("outdoor humidity", "power meter"),
        "binary_sensor": ("smoke detector", "phone charger"),
        "person": ("alice", "my brother"),
        "script": ("good night routine",),
        "scene": ("party mode", "movie night"),
        "button": ("doorbell button",),
        "input_button": ("panic button",),
        "todo": ("chores", "holiday plans"),
        "vacuum": ("robot vacuum",),
        "lawn_mower": ("lawn mower",),
        "weather": ("london", "home weather"),
    },
    open_words={
        "message": ("dinner is ready", "we are leaving in ten minutes"),
        "search_query": ("the beatles", "jazz", "bohemian rhapsody", "the daily news", "star wars"),
        "zone": ("work", "school", "home"),
        "timer_name": ("pizza", "laundry", "homework", "tea"),
        "timer_command": ("turn off the lights", "open the garage door", "play music"),
        "shopping_list_item": ("milk", "apples", "toilet paper"),
        "todo_list_item": ("call the dentist", "wash the car"),
    },
)
"""The household that `labelled` and `text` use."""

OTHER_HOME = Home(
    areas=("den", "nursery", "dining room", "attic", "pantry", "guest room", "porch", "studio"),
    floors=("third", "lower", "main", "top"),
    devices={
        "light": ("reading light", "spotlight", "night light", "led strip"),
        "switch": ("kettle", "aquarium pump", "heater plug"),
        "fan": ("exhaust fan", "box fan"),
        "media_player": ("soundbar", "radio", "projector"),
        "input_boolean": ("away mode", "sleep mode"),
        "climate": ("heat pump", "radiator"),
        "cover": ("skylight", "side gate", "sun shade"),
        "valve": ("gas valve", "pool valve"),
        "lock": ("shed door", "cellar lock"),
        "sensor": ("soil moisture", "solar output"),
        "person": ("bob", "grandma"),
    },
    open_words={},
)
"""The household that `shifted` uses."""

# fmt: off
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)
# fmt: on
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_MISSING = "The intents example needs its packages: pip install 'distill-ray[studies]'"


def labelled(*, rows: int = 12000) -> Iterator[Row]:
    """Yield commands with the key of their intent, `A` to `X`; at most `rows`."""
    for count, row in enumerate(_distinct(_typed(), PER_INTENT)):
        if count >= rows:
            return
        yield row


def shifted(*, rows: int | None = None) -> Iterator[Row]:
    """Yield commands as a speech recogniser hears them in another household.

    The templates are those the package keeps for recognisers, numbers are words, and most commands
    are wrapped in politeness.
    """
    for count, row in enumerate(_distinct(_spoken(), PER_INTENT // 4)):
        if rows is not None and count >= rows:
            return
        polite = POLITE[_shuffle_key(f"polite {row['text']}")[0] % len(POLITE)]
        yield row | {"text": polite.format(row["text"])}


def text(*, per_template: int = 4) -> Iterator[Row]:
    """Yield commands of all intents, with the assistant's answer where every home has the same.

    A document has the commands of one template and its group, so what a split holds out of
    `labelled` it holds out here too. No intent is named.
    """
    grammar = _typed()
    templates = sorted(grammar.templates, key=lambda t: _shuffle_key(f"{t.intent} {t.text}"))
    for part in range(per_template):
        for template in templates:
            # Far from the draws of `labelled`.
            first = (part + 1) * PER_INTENT
            lines = dict.fromkeys(grammar.sentence(template, first + i) for i in range(LINES))
            answer = f"\n{template.response}" if template.response else ""
            yield {"text": "\n".join(line + answer for line in lines), "group": template.group}


def _distinct(grammar: Grammar, per_intent: int) -> Iterator[Row]:
    """Yield distinct commands of the labelled intents in a fixed shuffled order."""
    draws = []
    for intent in INTENTS:
        templates = [t for t in grammar.templates if t.intent == intent]
        number = min(per_intent, PER_TEMPLATE * len(templates))
        draws += [(templates[i % len(templates)], i) for i in range(number)]
    draws.sort(key=lambda draw: _shuffle_key(f"{draw[0].intent} {draw[0].text} {draw[1]}"))
    known = set()
    for template, number in draws:
        sentence = grammar.sentence(template, number)
        if sentence not in known:
            known.add(sentence)
            yield {"text": sentence, "label": key_of(template.intent), "group": template.group}


def key_of(intent: str) -> str:
    """Look up the label of one of `INTENTS`."""
    return chr(ord("A") + INTENTS.index(intent))


@cache
def _typed() -> Grammar:
    return _grammar("data", TRAINING_HOME, str)


@cache
def _spoken() -> Grammar:
    return _grammar("speech_to_phrase", OTHER_HOME, _in_words)


def _grammar(folder: str, home: Home, number: Callable[[int], str]) -> Grammar:
    """Read the templates of one of the package's folders."""
    spec = find_spec("home_assistant_intents")
    if spec is None or spec.origin is None:
        raise ImportError(_MISSING)
    file = Path(spec.origin).parent / folder / "en.json"
    raw = json.loads(file.read_text(encoding="utf-8"))
    templates = []
    for intent, content in raw["intents"].items():
        responses = raw["responses"]["intents"].get(intent, {})
        for entry in content["data"]:
            response = responses.get(entry.get("response") or "default", "").strip()
            if "{" in response:
                response = ""  # It is filled in from the state of the home.
            templates += [
                Template(
                    intent=intent,
                    text=sentence,
                    group=_group(sentence),
                    domains=tuple(entry.get("requires_context", {}).get("domain", ())),
                    response=response or None,
                )
                for sentence in entry["sentences"]
            ]
    return Grammar(tuple(templates), raw["lists"], raw["expansion_rules"], home, number)


def _group(sentence: str) -> str:
    """A template without what is optional and what fills the slots."""
    while (shorter := _OPTIONAL.sub(" ", sentence)) != sentence:
        sentence = shorter
    return " ".join(_FILLED.sub("_", sentence).split())


def _in_words(number: int) -> str:
    """Write a number from 0 to 100 in words."""
    if number < 20:
        return _ONES[number]
    if number == 100:
        return "one hundred"
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f" {_ONES[ones]}" if ones else "")


def _shuffle_key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


@cache
def _parse(template: str) -> Any:
    try:
        hassil = import_module("hassil.parse_expression")
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return hassil.parse_sentence(template).expression
