"""The grammar of the stories: ten plots, and the tables that their slots draw from."""

from lm.corpora.stories import words as w
from lm.corpora.stories.forms import chores, deal, nouns, places, verbs
from lm.corpora.stories.grammar import Grammar, Option, Table
from lm.corpora.stories.sentences import SENTENCES, sentences


def someone(girl: str, boy: str, animal: str) -> Table:
    """Return a table of a child or a young animal.

    Args:
        girl: Slot that names it if it is female.
        boy: Slot that names it if it is male.
        animal: Slot of its kind if it is an animal.
    """
    she = {"": f"{{{girl}}}", "he": "she", "him": "her", "his": "her", "He": "She", "His": "Her"}
    he = {"": f"{{{boy}}}", "he": "he", "him": "him", "his": "his", "He": "He", "His": "His"}

    def one(pronouns: Option, kind: str, a: str) -> Option:
        name = pronouns[""]
        return {**pronouns, "named": f"{kind} named {name}", "a": f"{a} named {name}"}

    kind, a = f"{{{animal}}}", f"{{a {animal}}}"
    return Table(
        [
            one(she, "girl", "a little girl"),
            one(he, "boy", "a little boy"),
            one(she, kind, a),
            one(he, kind, a),
        ],
        [3, 3, 2, 2],
    )


def things(**how_lost: str) -> Table:
    """Return a table of things to want.

    Args:
        how_lost: For the slot of each kind of thing, the slot that tells how things of this kind are lost.
    """
    return sentences(
        *(
            {"": f"{{{slot}}}", "a": f"{{a {slot}}}", "lost": f"{{{lost}}}", "found": f"{{found {lost}}}"}
            for slot, lost in how_lost.items()
        )
    )


def plot(lesson: str, text: str) -> Option:
    """Return the option of a plot, given the slot of its lesson and its text, in which an empty line ends a paragraph."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return {"": "\n".join(paragraphs), "lesson": f"{{{lesson}}}"}


PLOTS = sentences(
    plot(
        "lesson_lost",
        """
        {opening} {habit} {loves} {treasured}

        {outing} {view} {lost thing} {hero} looked and looked, but the {thing} was gone. {misery}

        {company} {ask} “I lost my {look} {thing},” said {hero}. {offer}

        {search} {search_more}

        At last, they found the {look} {thing} {found thing}. {joy}

        {thanks} {moral} {ending}
        """,
    ),
    plot(
        "lesson_work",
        """
        {opening} {habit} {loves}

        {outing} In a shop window, {he hero} saw {a look} {thing}. {longing} The {thing} cost {number}
        coins, but {hero} had no money at all. {misery}

        {adult} {ask_job} “I want to buy the {look} {thing}, but I have no money,” said {hero}. {job_offer}

        So {hero} {ed chore} {toil}. {company} {help_work}

        When the work was done, the {job} gave {hero} {number} coins. {hero} {ed run} back to the shop and
        bought the {look} {thing}. {joy}

        {thanks_job} {moral} {ending}
        """,
    ),
    plot(
        "lesson_help",
        """
        {opening} {habit} {loves}

        {outing} {view} Then {he hero} heard a small voice. “Help! Help!” It was {a friend}, who was stuck
        {trap}. {fright}

        “I need {a tool} to get you out,” said {hero}. “Wait here, {friend}!” {rush} {borrow}

        {obstacle}

        With the {tool}, {hero} pulled {friend} out {out trap}. {relief}

        {friend} gave {hero} {a look} {thing} to say thank you. {joy} {moral} {ending}
        """,
    ),
    plot(
        "lesson_share",
        """
        {opening} {habit} {loves}

        {outing} There {he hero} met {a friend}. On the grass lay {a look} {thing}. {longing} But {friend}
        wanted the {thing} too.

        “It is mine!” said {hero}. “No, it is mine!” said {friend}. {quarrel} {misery}

        {adult} {ask_job} “We both want the {look} {thing},” said {hero}. {advice}

        {agree advice} {fun} {snack}

        {moral} {ending}
        """,
    ),
    plot(
        "lesson_brave",
        """
        {opening} {habit} {loves}

        {find_map} The map said: first go to {place}, then to {place2}, and then to {place3}. {longing_map}

        {company} {join}

        First they {ed move} to {place}. {view} Then they {ed move2} to {place2}. {obstacle}

        At last they came to {place3}. Under {a spot}, they found a box made of {material}. Inside the box
        was {a look} {thing}! {joy}

        {hero} said, “We went to {place}, to {place2} and to {place3}, and now we have {a look} {thing}!”
        {moral} {ending}
        """,
    ),
    plot(
        "lesson_cook",
        """
        {opening} {habit} {loves}

        It was {a weather} {time}, and it was the birthday of {his hero} {family}. {hero} wanted to make
        {a dish}. For the {dish}, {he hero} needed {ingredient}, {ingredient2} and {ingredient3}, but the
        kitchen was empty. {misery}

        {hero} {ed move} to {place}. {adult} The {job} gave {him hero} some {ingredient}. {company} {friend}
        gave {him hero} some {ingredient2}. {last_ingredient}

        {hero} mixed the {ingredient}, the {ingredient2} and the {ingredient3} and put the {dish} in the
        oven. {kitchen}

        {surprise} {praise} {moral} {ending}
        """,
    ),
    plot(
        "lesson_practice",
        """
        {opening} {habit}

        One {weather} {time}, {he hero} saw {a friend}. {friend} could {activity} better than anyone else.
        {hero} wanted to {activity} too. {try_first} {misery}

        “How do you {activity} so well?” asked {hero}. {practice_answer} So {hero} {ed activity} every day
        {at place}. {practice}

        After {number} days, there was a big show {at place2}. The judge was {a job}. {show}

        The {job} gave {hero} {a look} {thing} as a prize. {joy} {moral} {ending}
        """,
    ),
    plot(
        "lesson_wish",
        """
        {opening} {habit} {loves}

        {outing} Under {a spot}, {he hero} found {a look} {thing}. When {he hero} rubbed it, {a magic} came
        out. “I will give you one wish,” said the {magic}.

        {wish} {wish_granted}

        {too_much} {misery} {company} {ask} “I wished for {food}, and now I see nothing but {food},” said
        {hero}. {wish_help}

        {undone wish_help} The {magic} went back into the {look} {thing}. {moral} {ending}
        """,
    ),
    plot(
        "lesson_truth",
        """
        {opening} {habit} {loves}

        {hero} had a good friend. It was {a friend}. {friend} had {a look} {thing}. {longing} “You may
        borrow it,” said {friend}, “but please be careful with it.”

        {outing} {accident} {hide_it} {misery}

        The next day, {friend} asked, “Where is my {look} {thing}?” {lie}

        {hero} could not {activity} and could not eat any {food}. At last, {he hero} told the truth. “I
        broke your {thing} and hid it under the {spot},” said {hero}. “I am sorry.” {forgive}

        {mend} {moral} {ending}
        """,
    ),
    plot(
        "lesson_fear",
        """
        {opening} {habit} {loves}

        One {night} night, {hero} heard a strange noise. “{Cap sound}! {Cap sound}!” It came from under the
        {spot}. {fright_night}

        {comfort} The next day was {weather}. {company} {ask} “There is something under the {spot}, and it
        goes {sound},” said {hero}. {brave_offer}

        Together they {ed move} to the {spot}. {look_under} It was only {a animal}! The {animal} was
        {sorrow2} and hungry.

        {feed} {named_pet} {joy_pet} {moral} {ending}
        """,
    ),
)

# Slots in one key draw independently from all of the words.
NOUNS = {
    "animal animal2 animal_hero animal_friend": w.ANIMALS,
    "thief": w.BIRDS,
    "magic": w.SPIRITS,
    "family": w.RELATIVES,
    "trait trait2 trait3": w.TRAITS,
    "flyer": w.FLYERS,
    "roller": w.ROLLERS,
    "trinket": w.TRINKETS,
    "plush": w.PLUSHES,
    "floater": w.FLOATERS,
    "instrument": w.INSTRUMENTS,
    "tool": w.TOOLS,
    "garment garment2 garment3": w.GARMENTS,
    "colour colour2 colour3": w.COLOURS,
    "look look2": w.LOOKS,
    "gift": w.GIFTS,
    "material": w.MATERIALS,
    "home": w.HOMES,
    "tree": w.TREES,
    "flowers flowers2": w.FLOWERS,
    "critters critters2": w.CRITTERS,
    "weather": w.WEATHERS,
    "night": w.NIGHTS,
    "time time2": w.TIMES,
    "adverb adverb2": w.ADVERBS,
    "feeling feeling2 feeling3": w.FEELINGS,
    "sorrow sorrow2": w.SORROWS,
    "sound": w.SOUNDS,
    "number number2 number3 number_seen number_kept": w.NUMBERS,
    "smell": w.SMELLS,
    "vehicle vehicle2": w.VEHICLES,
    "game": w.GAMES,
    "collection": w.COLLECTIONS,
    "topic": w.TOPICS,
    "cloud": w.CLOUDS,
    "runner": w.RUNNERS,
    "body_part": w.BODY_PARTS,
    "wow": w.EXCLAMATIONS,
    "dish": w.DISHES,
}
# Slots in one key never draw the same word: a name must tell who is meant, and three places must differ.
DEALT = {
    "girl girl_friend": w.GIRLS,
    "boy boy_friend": w.BOYS,
    "job job2": w.JOBS,
    "spot spot2 spot3": w.SPOTS,
    "food food2": w.FOODS,
    "ingredient ingredient2 ingredient3": w.INGREDIENTS,
}

GRAMMAR: Grammar = {
    "story": PLOTS,
    **SENTENCES,
    "quote": Table([{"": '"', "end": '"'}, {"": "“", "end": "”"}], [2, 1]),
    "hero": someone("girl", "boy", "animal_hero"),
    "friend": someone("girl_friend", "boy_friend", "animal_friend"),
    "thing": things(
        flyer="lost_in_the_wind",
        roller="lost_downhill",
        trinket="lost_from_pocket",
        plush="lost_on_the_way",
        floater="lost_in_water",
        instrument="lost_on_the_way",
    ),
    **{slot: nouns(listing) for slots, listing in NOUNS.items() for slot in slots.split()},
    **{slot: nouns(hand) for slots, listing in DEALT.items() for slot, hand in deal(slots, listing).items()},
    **{slot: places(hand) for slot, hand in deal("place place2 place3", w.PLACES).items()},
    **{slot: verbs(w.ACTIVITIES) for slot in ("activity", "activity2")},
    **{slot: verbs(w.MOVES) for slot in ("move", "move2", "run")},
    "chore": chores(w.CHORES),
}
