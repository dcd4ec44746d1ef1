"""Write demo.json: a few hundred short questions whose answers anyone can check.

The facts are listed here and the file follows from them: each run gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

CAPITALS = {
    "Austria": "Vienna", "Belgium": "Brussels", "Bulgaria": "Sofia", "Canada": "Ottawa", "Chile": "Santiago",
    "China": "Beijing", "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo", "Finland": "Helsinki",
    "France": "Paris", "Germany": "Berlin", "Greece": "Athens", "Hungary": "Budapest", "Iceland": "Reykjavik",
    "India": "New Delhi", "Iran": "Tehran", "Ireland": "Dublin", "Italy": "Rome", "Japan": "Tokyo",
    "Kenya": "Nairobi", "Nepal": "Kathmandu", "Norway": "Oslo", "Peru": "Lima", "Poland": "Warsaw",
    "Portugal": "Lisbon", "Romania": "Bucharest", "Spain": "Madrid", "Sweden": "Stockholm",
    "Thailand": "Bangkok", "Turkey": "Ankara", "Vietnam": "Hanoi",
}  # fmt: skip
COLOURS = {
    "a banana": "yellow", "a carrot": "orange", "a lemon": "yellow", "a ripe tomato": "red",
    "a strawberry": "red", "an emerald": "green", "blood": "red", "chocolate": "brown", "coal": "black",
    "fresh grass": "green", "fresh snow": "white", "milk": "white", "the clear sky": "blue",
    "the night": "black", "a flamingo": "pink", "a polar bear": "white", "a ruby": "red",
    "a sapphire": "blue", "a violet": "purple", "an elephant": "grey",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "high": "low", "old": "young", "rich": "poor",
    "happy": "sad", "light": "dark", "early": "late", "open": "closed", "full": "empty", "hard": "soft",
    "long": "short", "loud": "quiet", "near": "far", "strong": "weak", "wet": "dry", "clean": "dirty",
    "left": "right", "up": "down", "day": "night", "north": "south", "east": "west", "true": "false",
}  # fmt: skip
SOUNDS = {
    "cat": "meows", "cow": "moos", "dog": "barks", "duck": "quacks", "frog": "croaks", "horse": "neighs",
    "lion": "roars", "mouse": "squeaks", "owl": "hoots", "pig": "oinks", "sheep": "bleats", "wolf": "howls",
}  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
)  # fmt: skip


def facts() -> Iterator[tuple[str, str]]:
    """(question, answer) of every fact."""
    for country, city in CAPITALS.items():
        yield f"What is the capital of {country}?", f"The capital of {country} is {city}."
        yield f"{city} is the capital of which country?", f"{city} is the capital of {country}."
    for thing, colour in COLOURS.items():
        yield f"What colour is {thing}?", f"{thing[0].upper()}{thing[1:]} is {colour}."
    for word, other in OPPOSITES.items():
        yield f"What is the opposite of {word}?", f"The opposite of {word} is {other}."
        yield f"What is the opposite of {other}?", f"The opposite of {other} is {word}."
    for animal, sound in SOUNDS.items():
        yield f"What does a {animal} do?", f"A {animal} {sound}."
    for row, kind in ((DAYS, "day"), (MONTHS, "month")):
        for here, after in zip(row, row[1:] + row[:1], strict=True):
            yield f"Which {kind} comes after {here}?", f"{after} comes after {here}."
            yield f"Which {kind} comes before {after}?", f"{here} comes before {after}."
    for a in range(1, 10):
        for b in range(1, 10):
            question = f"What is {NUMBERS[a]} plus {NUMBERS[b]}?"
            yield question, f"{NUMBERS[a].capitalize()} plus {NUMBERS[b]} is {NUMBERS[a + b]}."


def main() -> None:
    records = [{"instruction": q, "input": "", "output": a} for q, a in facts()]
    text = "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n]\n"
    Path(__file__).with_name("demo.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
