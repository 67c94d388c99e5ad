"""Tables of words with their forms: articles, past, gerund, places."""

from lm.corpora.stories.grammar import Option, Table

VOWELS = "aeiou"
SOUNDS_LIKE_A_CONSONANT = ("uni", "use", "usu", "uku", "eu", "one")  # a unicorn, a useful box
SILENT_H = ("honest", "hour")  # an honest boy


def nouns(listing: str) -> Table:
    """Return a table of words, with the forms `a` (a kite, an owl) and `Cap` (Kite, Owl). `_` stands for a space."""
    return zipf([add_article(word.replace("_", " ")) for word in listing.split()])


def deal(slots: str, listing: str) -> dict[str, str]:
    """Deal the words out to the slots in turn, so that no two of them can draw the same word."""
    hands = slots.split()
    return {slot: " ".join(listing.split()[i :: len(hands)]) for i, slot in enumerate(hands)}


def zipf(options: list[Option]) -> Table:
    """Return a table in which option r has a weight of about 1 / (r + 3): a few are common, none is very rare."""
    return Table(options, [1_000_000 // (rank + 3) for rank in range(len(options))])


def add_article(noun: str) -> Option:
    """Return a noun with its forms `a` and `Cap`."""
    vowel = noun[0] in VOWELS and not noun.startswith(SOUNDS_LIKE_A_CONSONANT)
    article = "an" if vowel or noun.startswith(SILENT_H) else "a"
    return {"": noun, "a": f"{article} {noun}", "Cap": noun[0].upper() + noun[1:]}


def verbs(listing: str) -> Table:
    """Return a table of verbs with the forms `ed` and `ing`. Irregular verbs are written `sing/sang/singing`."""
    return zipf([inflect(*verb.replace("_", " ").split("/")) for verb in listing.split()])


def inflect(verb: str, past: str = "", gerund: str = "") -> Option:
    """Return a verb with its past and gerund.

    >>> inflect("hurry")
    {'': 'hurry', 'ed': 'hurried', 'ing': 'hurrying'}
    """
    if not past:
        stem = verb.removesuffix("e")
        past = verb[:-1] + "ied" if verb[-1] == "y" and verb[-2] not in VOWELS else stem + "ed"
        gerund = stem + "ing"
    return {"": verb, "ed": past, "ing": gerund}


def chores(listing: str) -> Table:
    """Return a table of verbs with their objects, written `sweep/swept/sweeping:floor`."""
    tasks = (chore.split(":") for chore in listing.split())
    return zipf(
        [{form: f"{verb} the {what}" for form, verb in inflect(*v.split("/")).items()} for v, what in tasks]
    )


def places(listing: str) -> Table:
    """Return a table of places, written `park/in`, with the form `at`: in the park."""
    pairs = (place.replace("_", " ").split("/") for place in listing.split())
    return zipf([{"": f"the {noun}", "at": f"{preposition} the {noun}"} for noun, preposition in pairs])
