#!/usr/bin/env python3
"""Simple children's stories without end, made from plots and word lists.

A story is a function of (seed, number) alone, so any range of it can be made by any process.

The template language: `(one|two|three)` is replaced by one of its alternatives, `{slot}` by what the
story's cast says it is; a slot with a capital is capitalized, and what a slot gives is expanded again.
`{hero}`, `{friend}` and `{helper}` become a name or "the fox", each time anew; `{he} {him} {his}` are the
hero's pronouns, `{f_he}` and so on the friend's, which are always of another gender so that no pronoun
is in doubt. Articles ("an apple") and capitals at the start of a sentence are set right at the end.
"""

import argparse
import random
import re

import machine_plots  # noqa: F401 (registers its plots)
import words as w
from plots import GENERAL, MACHINE

PRONOUNS = {
    "he": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
    "she": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
    "it": {"he": "it", "him": "it", "his": "its", "himself": "itself"},
}
TABLES = {"hobby": w.HOBBIES, "fear": w.FEARS, "food": w.FOODS, "build": w.BUILDS, "goal": w.GOALS,
          "contest": w.CONTESTS, "secret": w.SECRETS, "mistake": w.MISTAKES, "skill": w.SKILLS,
          "noise": w.NOISES, "question": w.QUESTIONS}

# {a_hero} introduces the hero, {home} says where; {setting} is a wider place, {hook} comes from the plot.
OPENINGS = """
Once upon a time, there was {a_hero}. {He} lived {home}.
Once upon a time, there was {a_hero}. {He} lived {home}.
Once upon a time, there was {a_hero} who lived {home}.
Once upon a time, there was {a_hero} who lived {home}.
Once upon a time, {a_hero} lived {home}.
Once upon a time, in {setting}, there (was|lived) {a_hero}.
There once was {a_hero}. {He} lived {home}.
There once was {a_hero} who lived {home}.
There was {a_hero} who lived {home}.
There was once {a_hero}. {He} lived {home}.
In {setting}, there (lived|was) {a_hero}.
In {setting}, a long time ago, there lived {a_hero}.
In {setting}, there was {a_hero}. Everybody knew {him}.
Long ago, {a_hero} lived {home}.
Long, long ago, there was {a_hero}. {He} lived {home}.
Far away, in {setting}, there lived {a_hero}.
This is the story of {a_hero}. {He} lived {home}.
{Hero0} was {a_nature}. {He} lived {home}.
{Hero0} lived {home}. {He} was {a_nature}.
{A_hero} lived {home}.
""".strip().splitlines()

# These say the plot's first step.
HOOKED_OPENINGS = """
Once upon a time, there was {a_hero} who {hook}. {He} lived {home}.
Once upon a time, there was {a_hero}. {He} lived {home}, and {he} {hook}.
Once upon a time, in {setting}, there was {a_hero} who {hook}.
There was {a_hero} who {hook}. {He} lived {home}.
There was {a_hero} who {hook}.
There once was {a_hero} who {hook}.
In {setting}, there lived {a_hero} who {hook}.
{Hero0} {hook}. {He} lived {home}.
{Hero0} {hook}. {He} was {a_nature} and lived {home}.
{Hero0} {hook}.
""".strip().splitlines()

# Openings in the middle of a day, for heroes that can move; the plot goes on from there.
ACTIVE_OPENINGS = """
One day, {a_hero} was {doing} {at2}. {He} lived not far from there, {home}.
One day, {a_hero} {walked} {to2}. {He} lived {home}.
One {sky2} morning, {a_hero} woke up early. {He} lived {home}.
It was a {sky2} morning. {A_hero} was {doing} {at2}.
It was a {sky2} day in {setting}. {A_hero} was {doing} {at2}.
""".strip().splitlines()

MACHINE_OPENINGS = """
One day, {a_hero} woke up {home}.
It was a {sky2} day. {A_hero} stood {home} and waited.
It was a quiet night. {A_hero} was still awake, all alone.
""".strip().splitlines()

# What else there is to know about a hero; told after the opening.
TRAITS = """
{He} (liked|loved) {hobbying}.
{He} (liked|loved) {hobbying} more than anything else.
{He} was (very|quite|rather) {nature}, and {he} had a (big|warm|kind) heart.
{His} favorite color was {color}.
{He} always (smiled|laughed|hummed) when the sun came out.
{He} {hobbied} every (morning|evening|afternoon|Sunday).
(When it rained|On rainy days|On cold days|In winter|In summer|On Sundays), {he} {hobbied}.
{He} liked (warm|cold|quiet|rainy|windy|sunny) (days|mornings|evenings|nights) best of all.
Nobody knew how old {he} was.
Everybody said that {he} was {a_nature}.
""".strip().splitlines()

MACHINE_TRAITS = """
{He} had (two|three|four|five|seven) {color} (buttons|lights|wires).
(Inside {him}|Deep inside {him}), there was a (soft|quiet|low) hum.
{He} was (made of|painted in) {color} (metal|wood|plastic).
{He} had a (tiny|small|little) {color} light that (blinked|glowed|shone) in the (dark|night|evening).
{He} had (worked|stood|been) there for (many|ten|twenty|a hundred) years.
{He} liked to (count the stars|listen to the rain|think about the world|watch the snow|hum old songs).
""".strip().splitlines()

# The world goes on meanwhile; told between the plot's steps.
INTERLUDES = """
(High above|Far away|Not far from there|In the distance), a (bird|bell|dog|train|rooster) (could be heard|made a long, soft sound).
The (wind|breeze|air) was (soft|gentle|cool|mild) and smelled of (rain|flowers|grass|snow|bread|leaves|the sea).
(A little|A white|A gray|A big|A tiny) cloud (moved|sailed|floated|drifted) (slowly|quietly|gently) across the sky.
Somewhere, a (door|window|gate) (opened|closed|creaked).
For a (moment|while|minute), (nobody said anything|everything was quiet|it was very still).
The (sun|light) (was warm|was golden|shone softly|was bright and clear).
(A leaf|A feather|A drop of rain|A petal) fell (slowly|softly|quietly) to the ground.
(Two|Three|Four|Five) (birds|bees|butterflies|ducks|geese) flew by.
It was (getting late|getting warmer|still early|almost noon|a little cold).
""".strip().splitlines()

ENDINGS = ["The end.", "And that is the end of the story.", "And so it has been ever since.",
           "And they lived happily for many years.", "And if they have not moved away, they still live there today."]

DOINGS = ["playing", "resting", "sitting", "singing", "looking around", "playing alone", "sitting alone"]


def parse(text):
    """A plot's text as paragraphs of steps (optional?, wordings)."""
    paragraphs = []
    for block in text.strip().split("\n\n"):
        steps = []
        for line in block.splitlines():
            mark, wording = line[0], line[2:].strip()
            depth = 0
            for c in wording:
                depth += (c == "(") - (c == ")")
                if depth < 0 or (c == "|" and depth == 0):
                    raise ValueError(f"brackets in {wording!r}")
            if depth or mark not in "*?|":
                raise ValueError(f"brackets or mark in {line!r}")
            if mark == "|":
                steps[-1][1].append(wording)
            else:
                steps.append((mark == "?", [wording]))
        paragraphs.append(steps)
    return paragraphs


for _plot in (*GENERAL.values(), *MACHINE.values()):
    _plot["steps"] = parse(_plot["text"])

_SLOT = re.compile(r"\(([^()]*)\)|\{(\w+)\}")
_SENTENCE = re.compile(r"(^|[.!?] |\n|(?<!, )(?<!\w)\"|\^)([a-z])", re.M)
# Letters are not sounds, but among the words used here only these differ.
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])(?!(?:one|once|useful|unicorn|used)\b)")


class Cast:
    """What the slots of one story stand for."""

    def __init__(self, rng):
        self.rng = rng
        self.slots = {}

    def add(self, role, prefix, who, gender, name, nature=None):
        """Take `who`, a row of a table of heroes, into the story as `role`."""
        slots, kind = self.slots, who["kind"]
        child = kind in ("girl", "boy")
        for form, pronoun in PRONOUNS[gender].items():
            slots[prefix + form] = pronoun
        for field, value in who.items():
            slots[prefix + field] = value
        described = f"{nature} {kind}" if nature else kind
        slots["a_" + role] = f"a {described}" + (f" (named|called) {name}" if name else "")
        # A repeated reference is a slight preference: names for people, kinds for animals.
        if name and child:
            slots[role] = [name, name, name, name, f"the {kind}"]
        elif name:
            slots[role] = [name, name, name, f"the {kind}", f"the {kind}"]
        elif nature in ("little", "small", "old", "lonely"):
            slots[role] = [f"the {kind}"] * 4 + [f"the {described}"]
        else:
            slots[role] = [f"the {kind}"]
        slots[prefix + "call"] = name or self.rng.choice([f"dear {kind}", "my friend", f"little {kind}"])

    def fill(self, match):
        alternatives, slot = match.groups()
        if slot is None:
            return self.rng.choice(alternatives.split("|"))
        value = self.slots[slot[0].lower() + slot[1:]]
        if isinstance(value, list):
            value = self.rng.choice(value)
        return "^" + value if slot[0].isupper() else value

    def tell(self, text):
        """`text` without alternatives and slots, and with its articles and capitals set right."""
        count = 1
        while count:
            text, count = _SLOT.subn(self.fill, text)
        text = _ARTICLE.sub(r"\1n ", text.replace("^a ", "^A "))
        return _SENTENCE.sub(lambda m: m[1] + m[2].upper(), text).replace("^", "")


def draw_name(rng, gender, machine=False):
    if machine:
        return rng.choice(w.MACHINE_NAMES)
    return rng.choice(w.HE_NAMES if gender == "he" else w.SHE_NAMES)


def draw_hero(rng):
    """A hero's row, the world it lives in ("machine" for one that cannot move), gender and name."""
    r = rng.random()
    if r < 0.40:
        who, world, gender = rng.choice(w.ANIMALS), "wild", rng.choice(["he", "she", "he", "she", "it"])
    elif r < 0.60:
        who, world = rng.choice(w.CHILDREN), "town"
        gender = "she" if who["kind"] == "girl" else "he"
        return who, world, gender, draw_name(rng, gender)
    elif r < 0.70:
        who, world, gender = rng.choice(w.TOYS), "house", rng.choice(["he", "she", "it"])
    elif r < 0.79:
        who, world, gender = rng.choice(w.ROVERS), "rover", rng.choice(["it", "it", "he", "she"])
    else:
        who, world, gender = rng.choice(w.MACHINES), "machine", rng.choice(["it", "it", "it", "he", "she"])
    if who["kind"] in ("hen", "cow"):
        gender = "she"
    named = rng.random() < (0.35 if gender == "it" else 0.6)
    if not named:
        return who, world, gender, None
    machine = gender == "it" or (world in ("rover", "machine") and rng.random() < 0.5)
    return who, world, gender, draw_name(rng, gender, machine)


def draw_friend(rng, plot, hero, world, hero_gender, hero_name):
    """A friend of another kind, gender and name than the hero."""
    tables = {"wild": w.ANIMALS, "town": w.CHILDREN + w.ANIMALS[:20], "house": w.TOYS, "machine": w.VISITORS,
              "rover": w.CHILDREN + w.ANIMALS[:14] + w.ROVERS[:4]}
    while True:
        who = rng.choice(tables[world])
        kind = who["kind"]
        if plot["friends"] and kind not in plot["friends"]:
            continue
        child = kind in ("girl", "boy")
        if child:
            gender = "she" if kind == "girl" else "he"
        else:
            gender = rng.choice(["he", "she", "it"] if world == "machine" else ["he", "she"])
        if kind == hero["kind"] or gender == hero_gender:
            continue
        name = draw_name(rng, gender) if child or (gender != "it" and rng.random() < 0.6) else None
        if name is None or name != hero_name:
            return who, gender, name


def draw_nature(rng, plot):
    if plot["natures"] and rng.random() < 0.7:
        return rng.choice(plot["natures"])
    return rng.choice(w.NATURES)


def draw_things(rng, cast, plot, world):
    """Fill the slots for places, things and whatever else the plot's tables give."""
    slots = cast.slots
    outer = "town" if world in ("rover", "machine") else world
    for table in plot["tables"]:
        slots.update(rng.choice(TABLES[table]))
    first, second = rng.sample(w.PLACES[outer], 2)
    slots.update(first)
    slots.update({"at2": second["at"], "to2": second["to"]})
    slots["hiding"], slots["hiding2"] = rng.sample(w.HIDING[outer], 2)
    slots["setting"] = rng.choice(w.SETTINGS[outer])
    slots.update(rng.choice(w.HOBBIES))
    slots["sky"], slots["sky2"] = rng.sample(w.SKIES, 2)
    slots["color"], slots["item"] = rng.choice(w.COLORS), rng.choice(w.ITEMS)
    slots["gift"] = rng.choice(w.GIFTS)
    slots["plant"] = rng.choice(w.PLANTS)
    slots["crow"] = rng.choice(["crow", "magpie", "thief"])
    slots["crept"] = "(went|crept|walked)"
    slots["flicker"] = {"screen": "flicker", "light": "flicker"}.get(slots.get("voice"), "tremble")
    slots["wonder"] = rng.choice(w.WONDERS)
    slots["other"] = rng.choice([kind for kind in w.CORRESPONDENTS if kind not in slots["kinds"]])
    slots["m_skill"] = rng.choice(w.MACHINE_SKILLS)
    slots["doing"] = rng.choice(DOINGS)
    helper = rng.choice([kind for kind in w.HELPERS[outer] if kind not in slots["kinds"]])
    slots["a_helper"] = f"a {helper}" if outer != "wild" else f"(an old|a wise old) {helper}"
    slots["helper"] = f"the {helper}"


def opening(rng, plot, world):
    """An opening, and whether it has said the plot's first step."""
    r = rng.random()
    if plot["hook"] and r < 0.35:
        return rng.choice(HOOKED_OPENINGS), True
    if r > 0.82:
        return rng.choice(MACHINE_OPENINGS if world == "machine" else ACTIVE_OPENINGS), False
    return rng.choice(OPENINGS), False


_ONE_DAY = re.compile(r"\b[Oo]ne (?:\{sky\} )?(\([a-z|]*\)|day|morning|evening|afternoon|night)\b")


def follow_on(rng, paragraphs):
    """Turn the first "one day" into "the next day", after an opening that was a certain day already."""
    for sentences in paragraphs:
        for i, sentence in enumerate(sentences):
            match = _ONE_DAY.search(sentence)
            if match:
                later = "that " + match[1] if match[1] in ("evening", "night") else rng.choice(
                    ["the next day", "the next morning", "later that day", "a few days later"])
                later = later if match.start() else later.capitalize()
                sentences[i] = sentence[:match.start()] + later + sentence[match.end():]
                return


def story(seed, number):
    """Story `number` of the endless book `seed`."""
    rng = random.Random(seed * 1_000_003 + number)
    hero, world, gender, name = draw_hero(rng)
    group = MACHINE if world == "machine" else GENERAL
    plot = rng.choice([p for p in group.values() if world == "machine" or world in p["heroes"]])
    nature = draw_nature(rng, plot)
    friend, friend_gender, friend_name = draw_friend(rng, plot, hero, world, gender, name)

    cast = Cast(rng)
    cast.slots["sound"] = cast.slots["f_sound"] = "laughed"
    cast.add("hero", "", hero, gender, name, nature)
    cast.add("friend", "f_", friend, friend_gender, friend_name,
             rng.choice(w.NATURES) if rng.random() < 0.6 else None)
    cast.slots["kinds"] = (hero["kind"], friend["kind"])
    cast.slots["hook"] = plot["hook"]
    cast.slots["nature"] = nature
    cast.slots["a_nature"] = f"a {nature} {hero['kind']}" if name else f"{nature}"
    cast.slots["hero0"] = name or f"the {hero['kind']}"
    draw_things(rng, cast, plot, world)

    first, told = opening(rng, plot, world)
    paragraphs = []
    for steps in plot["steps"]:
        sentences = [rng.choice(wordings) for optional, wordings in steps
                     if not optional or rng.random() < 0.5]
        paragraphs.append(sentences)
    if told:
        # The first step is never optional: it is the one that the opening has told.
        paragraphs[0].pop(0)
    if first.startswith(("One", "It was a {sky2}")):
        follow_on(rng, paragraphs)
    if rng.random() < 0.45:
        paragraphs[0].insert(0, rng.choice(MACHINE_TRAITS if world == "machine" else TRAITS))
    paragraphs[0].insert(0, first)
    if rng.random() < 0.4:
        # At a paragraph's end, where it parts no sentence from what it answers to.
        rng.choice(paragraphs[:-1]).append(rng.choice(INTERLUDES))
    if rng.random() < 0.15:
        paragraphs[-1].append(rng.choice(ENDINGS))
    return cast.tell("\n\n".join(" ".join(sentences) for sentences in paragraphs))


def main():
    parser = argparse.ArgumentParser(description="Print simple children's stories.")
    parser.add_argument("--count", type=int, default=5, help="number of stories (default: 5)")
    parser.add_argument("--seed", type=int, default=1, help="which endless book they come from (default: 1)")
    arguments = parser.parse_args()
    for number in range(arguments.count):
        print(story(arguments.seed, number), end="\n\n---\n\n" if number + 1 < arguments.count else "\n")


if __name__ == "__main__":
    main()
