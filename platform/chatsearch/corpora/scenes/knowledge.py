"""The small fixed body of world knowledge: riddles that stand for a word, and facts to learn them from."""

from __future__ import annotations

KIND_RIDDLES = {
    "circle": ("the shape of a coin", "the shape of a wheel"),
    "square": ("the shape with four equal sides",),
    "triangle": ("the shape with three sides",),
    "star": ("the shape of a sheriff's badge", "the shape on top of a christmas tree"),
    "heart": ("the sign of love",),
    "cross": ("the sign for plus", "the sign of a hospital"),
    "moon": ("the thing that wolves howl at", "the thing that pulls the tides"),
    "apple": ("the fruit that keeps the doctor away", "the fruit that newton saw falling"),
    "tree": ("the plant that birds nest in", "the plant that gives us wood"),
    "house": ("the building a family lives in",),
    "fish": ("the animal that breathes water", "the animal with fins"),
    "boat": ("the thing that noah built", "the thing with sails"),
    "cup": ("the thing you drink tea from",),
    "key": ("the thing that opens a lock",),
    "flower": ("the plant that bees love", "the plant in a vase"),
    "mushroom": ("the thing that grows after rain",),
    "umbrella": ("the thing that keeps you dry",),
    "car": ("the thing with four wheels", "the thing you drive to work"),
}
"""Noun phrases that mean an object kind."""

COLOUR_RIDDLES = {
    "red": ("the colour of blood", "the colour of a fire truck"),
    "orange": ("the colour of a carrot", "the colour of a pumpkin"),
    "yellow": ("the colour of a ripe banana", "the colour of a lemon"),
    "green": ("the colour of grass", "the colour of a frog"),
    "blue": ("the colour of a clear sky", "the colour of a sapphire"),
    "purple": ("the colour of grapes", "the colour of a plum"),
    "pink": ("the colour of a flamingo", "the colour of a pig"),
    "brown": ("the colour of chocolate", "the colour of coffee"),
    "black": ("the colour of coal", "the colour of a raven"),
    "white": ("the colour of milk", "the colour of a swan"),
}
"""Noun phrases that mean a colour."""

BACKGROUND_RIDDLES = {
    "plain": "where there is nothing but gray",
    "sky": "where planes fly",
    "sea": "where ships sail",
    "field": "where cows graze",
    "night": "when owls wake up",
    "room": "where people sleep",
    "checkers": "where a king takes a pawn",
    "desert": "where camels walk",
    "snow": "where penguins live",
    "wall": "where a mason worked",
    "sunset": "when the day ends",
    "forest": "where bears hide",
}
"""Phrases that take the place of "on the sea", "at night" and mean a background."""
