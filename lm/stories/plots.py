"""The grammar of the stories: ten plots, the sentences they share, and the words of both.

How to read a template is said in `lm.stories.grammar`. Quotation marks are written “ ” here; whether a story
has those or straight ones is decided by its first one.
"""

from lm.stories import words as w
from lm.stories.grammar import Grammar, Option, Table


def sentences(*templates: str | Option) -> Table:
    """A table of templates, all equally likely."""
    return Table([quoted({"": t} if isinstance(t, str) else t) for t in templates], [1] * len(templates))


def quoted(option: Option) -> Option:
    return {form: text.replace("“", "{quote}").replace("”", "{end quote}") for form, text in option.items()}


def someone(girl: str, boy: str, animal: str) -> Table:
    """A child or a young animal, whose name is drawn from the slot `girl` or `boy`."""
    she = {"he": "she", "him": "her", "his": "her", "He": "She", "His": "Her", "": f"{{{girl}}}"}
    he = {"he": "he", "him": "him", "his": "his", "He": "He", "His": "His", "": f"{{{boy}}}"}
    beast = {"kind": f"{{{animal}}}"}
    child = [{**she, "kind": "girl"}, {**he, "kind": "boy"}]
    young = [{**she, **beast}, {**he, **beast}]
    article = [f"{{a {animal}}}"] * 2
    return Table(
        [
            {**one, "named": f"{one['kind']} named {one['']}", "a": f"{a} named {one['']}"}
            for one, a in zip(child + young, ["a little girl", "a little boy", *article])
        ],
        [3, 3, 2, 2],
    )


def things(**how_lost: str) -> Table:
    """A thing to want, by what can become of it: its slot -> the slot that tells how such a thing is lost."""
    return sentences(
        *(
            {"": f"{{{slot}}}", "a": f"{{a {slot}}}", "lost": f"{{{lost}}}", "found": f"{{found {lost}}}"}
            for slot, lost in how_lost.items()
        )
    )


def plot(lesson: str, *paragraphs: str) -> Option:
    return {"": "\n".join(paragraphs), "lesson": "{" + lesson + "}"}


PLOTS = sentences(
    plot(
        "lesson_lost",
        "{opening} {wears} {loves} {treasured}",
        "{outing} {view} {lost thing} {hero} looked and looked, but the {thing} was gone. {misery}",
        "{company} {ask} “I lost my {look} {thing},” said {hero}. {offer}",
        "{search} {search_more}",
        "At last, they found the {look} {thing} {found thing}. {joy}",
        "{thanks} {moral} {ending}",
    ),
    plot(
        "lesson_work",
        "{opening} {wears} {loves}",
        "{outing} In a shop window, {he hero} saw {a look} {thing}. {longing} The {thing} cost {number} coins, but {hero} had "
        "no money at all. {misery}",
        "{adult} {ask_job} “I want to buy the {look} {thing}, but I have no money,” said {hero}. {job_offer}",
        "So {hero} {ed chore} {toil}. {company} {help_work}",
        "When the work was done, the {job} gave {hero} {number} coins. {hero} {ed run} back to the shop and bought the "
        "{look} {thing}. {joy}",
        "{thanks_job} {moral} {ending}",
    ),
    plot(
        "lesson_help",
        "{opening} {wears} {loves}",
        "{outing} {view} Then {he hero} heard a small voice. “Help! Help!” It was {a friend}, who was stuck {trap}. {fright}",
        "“I need {a tool} to get you out,” said {hero}. “Wait here, {friend}!” {hero} {ed run} to {place2} and found {a job}. {borrow}",
        "{obstacle}",
        "With the {tool}, {hero} pulled {friend} out {out trap}. {relief}",
        "{friend} gave {hero} {a look} {thing} to say thank you. {joy} {moral} {ending}",
    ),
    plot(
        "lesson_share",
        "{opening} {wears} {loves}",
        "{outing} There {he hero} met {a friend}. On the grass lay {a look} {thing}. {longing} But {friend} wanted the "
        "{thing} too.",
        "“It is mine!” said {hero}. “No, it is mine!” said {friend}. {quarrel} {misery}",
        "{adult} {ask_job} “We both want the {look} {thing},” said {hero}. {advice}",
        "{agree advice} {fun} {snack}",
        "{moral} {ending}",
    ),
    plot(
        "lesson_brave",
        "{opening} {wears} {loves}",
        "{find_map} The map said: first go to {place}, then to {place2}, and then to {place3}. {longing_map}",
        "{company} {join}",
        "First they {ed move} to {place}. {view} Then they {ed move2} to {place2}. {obstacle}",
        "At last they came to {place3}. Under {a spot}, they found a box made of {material}. Inside the box was {a look} {thing}! {joy}",
        "{hero} said, “We went to {place}, to {place2} and to {place3}, and now we have {a look} {thing}!” {moral} {ending}",
    ),
    plot(
        "lesson_cook",
        "{opening} {wears} {loves}",
        "It was {a weather} {time}, and it was the birthday of {his hero} {family}. {hero} wanted to make {a dish}. For the "
        "{dish}, {he hero} needed {ingredient}, {ingredient2} and {ingredient3}, but the kitchen was empty. {misery}",
        "{hero} {ed move} to {place}. {adult} The {job} gave {him hero} some {ingredient}. {company} {friend} gave {him hero} "
        "some {ingredient2}. {last_ingredient}",
        "{hero} mixed the {ingredient}, the {ingredient2} and the {ingredient3} and put the {dish} in the oven. {kitchen}",
        "{surprise} {praise} {moral} {ending}",
    ),
    plot(
        "lesson_practice",
        "{opening} {wears}",
        "One {weather} {time}, {he hero} saw {a friend}. {friend} could {activity} better than anyone else. {hero} wanted "
        "to {activity} too. {try_first} {misery}",
        "“How do you {activity} so well?” asked {hero}. {practice_answer} So {hero} {ed activity} every day {at place}. "
        "{practice}",
        "After {number} days, there was a big show {at place2}. The judge was {a job}. {show}",
        "The {job} gave {hero} {a look} {thing} as a prize. {joy} {moral} {ending}",
    ),
    plot(
        "lesson_wish",
        "{opening} {wears} {loves}",
        "{outing} Under {a spot}, {he hero} found {a look} {thing}. When {he hero} rubbed it, {a magic} came out. “I will give "
        "you one wish,” said the {magic}.",
        "{wish} {wish_granted}",
        "{too_much} {misery} {company} {ask} “I wished for {food}, and now I see nothing but {food},” said {hero}. {wish_help}",
        "{undone wish_help} The {magic} went back into the {look} {thing}. {moral} {ending}",
    ),
    plot(
        "lesson_truth",
        "{opening} {wears} {loves}",
        "{hero} had a good friend. It was {a friend}. {friend} had {a look} {thing}. {longing} “You may borrow it,” said "
        "{friend}, “but please be careful with it.”",
        "{outing} {accident} {hide_it} {misery}",
        "The next day, {friend} asked, “Where is my {look} {thing}?” {lie}",
        "{hero} could not {activity} and could not eat any {food}. At last, {he hero} told the truth. “I broke your {thing} and hid it under "
        "the {spot},” said {hero}. “I am sorry.” {forgive}",
        "{mend} {moral} {ending}",
    ),
    plot(
        "lesson_fear",
        "{opening} {wears} {loves}",
        "One {night} night, {hero} heard a strange noise. “{Cap sound}! {Cap sound}!” It came from under the {spot}. {fright_night}",
        "{comfort} The next day was {weather}. {company} {ask} “There is something under the {spot}, and it goes {sound},” said {hero}. "
        "{brave_offer}",
        "Together they {ed move} to the {spot}. {look_under} It was only {a animal}! The {animal} was {sorrow2} and hungry.",
        "{feed} {named_pet} {joy_pet} {moral} {ending}",
    ),
)

SENTENCES = {
    # --- the beginning ---
    "opening": sentences(
        "Once upon a time, there was {a trait} {named hero}.",
        "Once upon a time, in {a home}, there lived {a trait} {named hero}.",
        "Once there was {a trait} {named hero} who lived in {a home}.",
        "Long, long ago, {a trait} {named hero} lived in {a home}.",
        "There once was a little {named hero}. Everyone said that {he hero} was very {trait}.",
        "In {a home} far away, there lived a little {named hero} who was always {trait}.",
    ),
    "wears": sentences(
        "{He hero} always wore {a colour} {garment}.",
        "{His hero} favorite color was {colour}, and {he hero} had {a colour} {garment}.",
        "{He hero} had {a colour} {garment} that {his hero} {family} had made.",
        "Everyone knew {him hero} by {his hero} {colour} {garment}.",
    ),
    "loves": sentences(
        "{He hero} loved to {activity} and to eat {food}.",
        "{He hero} liked to {activity} with {his hero} {family}, and {he hero} loved {food}.",
        "More than anything, {he hero} loved to {activity}, and {food} always made {him hero} smile.",
        "Every day, {he hero} would {activity} until it was time to eat {food}.",
    ),
    "treasured": sentences(
        "{His hero} favorite thing was {a look} {thing}.",
        "For {his hero} birthday, {his hero} {family} had given {him hero} {a look} {thing}.",
        "{hero} had {a look} {thing} and took it everywhere.",
    ),
    "outing": sentences(
        "One {weather} {time}, {hero} {ed move} {adverb} to {place}.",
        "On {a weather} {time}, {hero} went to {place} to {activity}.",
        "It was {a weather} {time}, so {hero} {ed move} to {place} in {his hero} {colour} {garment}.",
        "“I am going to {place},” {hero} told {his hero} {family} one {weather} {time}.",
    ),
    "view": sentences(
        "Some {flowers} grew along the path, and there were {critters} all around.",
        "The air smelled of {smell}, and {he hero} saw {number_seen} {critters}.",
        "There were {flowers} everywhere, and {number_seen} {critters} came to say hello.",
        "{hero} counted {number_seen} {critters} {at place} and looked at the {flowers}.",
    ),
    # --- who comes along ---
    "company": sentences(
        "Just then, {a friend} came by.",
        "Soon {hero} met {a friend}.",
        "Along came {a friend} in {a colour2} {garment2}.",
        "Then {hero} saw {a friend}, who was {trait2} and liked to {activity2}.",
    ),
    "ask": sentences(
        "“What is wrong, {hero}?” asked {friend}.",
        "{friend} asked, “Why are you so {sorrow}?”",
        "“You look {sorrow}, {hero},” said {friend}. “What happened?”",
    ),
    "adult": sentences(
        "Just then, {a job} came by.",
        "Soon {a trait3} {job} came along.",
        "An old {job} heard {him hero} and came over.",
        "Then {hero} met {a job} in {a colour3} {garment3}.",
    ),
    "ask_job": sentences(
        "“What is the matter?” asked the {job}.",
        "The {job} asked, “Why are you so {sorrow}?”",
        "“Can I help you?” asked the {job}.",
    ),
    # --- how it feels ---
    "longing": sentences(
        "{hero} wanted the {look} {thing} very much.",
        "“I wish I had {a thing} like that,” said {hero}.",
        "{He hero} had never seen such {a look} {thing}.",
    ),
    "misery": sentences(
        "{He hero} felt {sorrow}.",
        "“Oh no,” said {hero}. {He hero} felt very {sorrow}.",
        "{hero} sat down and cried. {He hero} was so {sorrow}.",
        "Poor {hero} was {sorrow} and did not know what to do.",
    ),
    "joy": sentences(
        "{hero} was not {sorrow} anymore. {He hero} felt {feeling}.",
        "“Hooray!” said {hero}. {He hero} was so {feeling}.",
        "{hero} held the {look} {thing} and felt {feeling}.",
        "“What {a look} {thing}!” cried {hero}, and {he hero} felt {feeling}.",
    ),
    # --- lost and found ---
    "lost_in_the_wind": sentences(
        {
            "": "Suddenly, a strong wind carried the {thing} away, over {a tree}.",
            "found": "on the other side of the {tree}",
        },
        {"": "Then {a thief} took the {thing} and flew away with it.", "found": "in the nest of the {thief}"},
    ),
    "lost_downhill": sentences(
        {"": "Suddenly, the {thing} rolled down the hill.", "found": "at the bottom of the hill"},
        {"": "Then the {thing} fell into a dark hole in the ground.", "found": "deep in the dark hole"},
    ),
    "lost_from_pocket": sentences(
        {
            "": "But there was a hole in {his hero} {garment}, and the {thing} fell out near some {flowers2}.",
            "found": "between the {flowers2}",
        },
        {"": "Then {a thief} took the {thing} and flew away with it.", "found": "in the nest of the {thief}"},
    ),
    "lost_in_water": sentences(
        {"": "Suddenly, the {thing} fell into the water.", "found": "in the water, next to some {critters2}"},
        {"": "Then a big wave took the {thing} away.", "found": "where the big wave had left it"},
    ),
    "lost_on_the_way": sentences(
        {
            "": "{He hero} put the {thing} down next to {a spot3} and forgot where it was.",
            "found": "next to the {spot3}",
        },
        {"": "Then {a animal} ran away with the {thing}.", "found": "in the home of the {animal}"},
    ),
    "offer": sentences(
        "“Don't be {sorrow},” said {friend}. “We will look for it together.”",
        "“I will help you to find your {thing},” said {friend}.",
        "{friend} took {hero} by the hand. “Come, let us find it!”",
    ),
    "search": sentences(
        "First they looked under the {spot}, but there was only {a gift}.",
        "{hero} looked under the {spot}. There was no {thing}, just some {critters2}.",
        "They looked under the {spot} and behind the {spot2}, but the {thing} was not there.",
    ),
    "search_more": sentences(
        "Then they asked {a job}, but the {job} had not seen it.",
        "They {ed move2} all the way to {place2}, but it was not there.",
        "“Maybe it is {at place2},” said {friend}. So they {ed move2} to {place2}, but there was only {a gift2}.",
    ),
    "thanks": sentences(
        "“Thank you, {friend},” said {hero}. “You are a true friend.”",
        "{hero} gave {friend} some {food} to say thank you.",
        "{hero} hugged {friend}. “Without you I would never have found my {thing},” {he hero} said.",
    ),
    # --- working for it ---
    "job_offer": sentences(
        "“If you {chore}, I will give you {number} coins,” said the {job}.",
        "The {job} smiled. “I need someone to {chore} and will pay {number} coins.”",
        "“Will you {chore} for me?” asked the {job}. “Then I will give you {number} coins.”",
    ),
    "toil": sentences(
        "until the sun went down",
        "from morning to night",
        "for {number2} days",
        "and did not stop to {activity}",
    ),
    "help_work": sentences(
        "{friend} helped {hero} to {chore}, so it did not take long.",
        "“May I help you?” asked {friend}. Together they were twice as fast.",
        "{friend} brought some {food2}, and they took a little rest.",
    ),
    "thanks_job": sentences(
        "“Thank you,” {hero} told the {job}.",
        "{hero} showed the {thing} to the {job}, who was very {feeling2}.",
        "{friend} was allowed to hold the {look} {thing} too.",
    ),
    # --- helping ---
    "trap": sentences(
        {"": "in the mud", "out": "of the mud"},
        {"": "in a deep hole", "out": "of the deep hole"},
        {"": "in {a tree}", "out": "of the {tree}"},
        {"": "in the cold water", "out": "of the cold water"},
        {"": "under {a spot}", "out": "from under the {spot}"},
        {"": "between two rocks", "out": "from between the two rocks"},
    ),
    "fright": sentences(
        "{friend} was {sorrow} and could not move.",
        "“I am so {sorrow},” said {friend}.",
        "Poor {friend} had been there since {time2} and felt {sorrow}.",
    ),
    "borrow": sentences(
        "“May I have your {tool}?” asked {hero}. “Of course,” said the {job}.",
        "The {job} had a good {tool} and gave it to {hero}.",
        "“Please lend me your {tool},” said {hero}, and the {job} did.",
    ),
    "obstacle": sentences(
        "But a wide river was in the way. {over_river}",
        "But the path went up a steep hill. {over_hill}",
        "But the way led through a dark forest. {through_dark}",
        "But {a animal2} would not let {hero} pass. {past_animal}",
    ),
    "over_river": sentences(
        "{hero} found {a floater} and used it to cross the river.",
        "{hero} jumped from stone to stone until {he hero} reached the other side of the river.",
    ),
    "over_hill": sentences(
        "{hero} climbed {adverb2} until {he hero} was over the hill.",
        "{hero} was tired, but {he hero} ate some {food} and ran up the hill.",
    ),
    "through_dark": sentences(
        "{hero} began to sing, and the forest did not seem so dark.",
        "{hero} followed {number3} {critters2}, and they showed {him hero} the way out of the forest.",
    ),
    "past_animal": sentences(
        "{hero} gave the {animal2} some {food}, and it let {him hero} go.",
        "“Please,” said {hero} {adverb2}, and the {animal2} stepped aside.",
    ),
    "relief": sentences(
        "“You saved me!” said {friend}.",
        "{friend} felt {feeling2} and gave {hero} a big hug.",
        "“Thank you, {hero},” said {friend}. “You are so {trait}!”",
    ),
    # --- sharing ---
    "quarrel": sentences(
        "They pulled and pulled until the {thing} almost broke.",
        "{hero} pulled on one side, and {friend} pulled on the other side.",
        "{friend} pushed {hero}, and {hero} pushed {friend}.",
    ),
    "advice": sentences(
        {
            "": "“You can take turns,” said the {job}.",
            "agree": "So {hero} had the {thing} first, and then {friend} had it.",
        },
        {
            "": "“Why don't you play together?” asked the {job}.",
            "agree": "So {hero} and {friend} played with the {thing} together.",
        },
        {
            "": "“Then nobody can have it before you {chore},” said the {job}.",
            "agree": "So they {ed chore} together, and by then they were friends.",
        },
    ),
    "fun": sentences(
        "They had so much fun with the {look} {thing}.",
        "Soon they forgot that they had ever been {sorrow}.",
        "“This is more fun than being {sorrow},” said {friend}.",
    ),
    "snack": sentences(
        "Then {hero} shared some {food} too.",
        "When they were hungry, {friend} shared some {food2}.",
        "The {job} gave them some {food2}.",
    ),
    # --- the map ---
    "find_map": sentences(
        "One {weather} {time}, {hero} found an old map under {a spot2}.",
        "On {a weather} {time}, {hero} got an old map from {a job}.",
        "It was {a weather} {time}, and {his hero} {family} gave {him hero} an old map.",
    ),
    "longing_map": sentences(
        "“I want to find the treasure!” said {hero}.",
        "It was a long way, and {hero} was a little {sorrow}.",
        "{hero} wanted to go at once.",
    ),
    "join": sentences(
        "“May I come with you?” asked {friend}. “Yes, let us go to {place} first,” said {hero}.",
        "{hero} showed the map to {friend}, and they packed some {food} and {a tool}.",
        "“I know the way to {place},” said {friend}.",
    ),
    # --- cooking ---
    "last_ingredient": sentences(
        "And {hero} bought some {ingredient3} {at place2}.",
        "Last of all, {a job2} gave {him hero} some {ingredient3}.",
        "And under {a spot}, {he hero} found some {ingredient3}.",
    ),
    "kitchen": sentences(
        "Soon the whole house smelled of {smell}.",
        "{He hero} waited {adverb2} until it was ready.",
        "There was {ingredient} all over {his hero} {colour} {garment}.",
    ),
    "surprise": sentences(
        "“Happy birthday!” said {hero} and {friend}.",
        "{His hero} {family} came home and felt {feeling}.",
        "When {his hero} {family} saw the {dish}, they all sang a song.",
    ),
    "praise": sentences(
        "“I can taste the {ingredient} and the {ingredient3},” said {his hero} {family}.",
        "“This is the best {dish} I have ever eaten,” said {friend}.",
        "They ate the {dish} with some {food}.",
    ),
    # --- practice ---
    "try_first": sentences(
        "But it was too hard.",
        "But the first time {he hero} tried, {he hero} fell down.",
        "But {he hero} did not know how.",
    ),
    "practice_answer": sentences(
        "“I practice every day,” said {friend}.",
        "“It took me {number2} weeks to learn,” said {friend}.",
        "{friend} said, “Just try again, and don't be {sorrow}.”",
    ),
    "practice": sentences(
        "Sometimes {he hero} was {sorrow}, but {he hero} did not stop.",
        "{His hero} {family} brought {him hero} some {food} and watched.",
        "The {critters} watched {him hero} and made a lot of noise.",
    ),
    "show": sentences(
        "{hero} {ed activity} {adverb}, and everyone clapped.",
        "{hero} was {sorrow} at first, but then {he hero} {ed activity} just like {friend}.",
        "“Look how well {hero} can {activity}!” said {friend}.",
    ),
    # --- wishing ---
    "wish": sentences(
        "“I wish for all the {food} in the world!” said {hero}.",
        "{hero} said, “I want {food}, {food} and more {food}!”",
        "“I want to eat {food} all day long,” said {hero}.",
    ),
    "wish_granted": sentences(
        "{Cap sound}! It rained {food} from the sky.",
        "{Cap sound}! The house was full of {food}.",
        "{Cap sound}! Wherever {he hero} looked, there was nothing but {food}.",
    ),
    "too_much": sentences(
        "{hero} ate and ate, but soon {he hero} did not like {food} anymore.",
        "At first it was fun, but then {hero} could not find {his hero} {garment} under all the {food}.",
        "Soon there was no room to {activity}.",
    ),
    "wish_help": sentences(
        {
            "": "“Let us call the {magic},” said {friend}.",
            "undone": "They called the {magic}, and {hero} wished it all away.",
        },
        {
            "": "“Then give it to those who are hungry,” said {friend}.",
            "undone": "They gave all the {food} to the hungry {critters}.",
        },
        {
            "": "“Let us take it to {place},” said {friend}.",
            "undone": "They took the {food} to {place} and had a party with {a job}.",
        },
    ),
    # --- telling the truth ---
    "accident": sentences(
        "But {he hero} began to {activity} and forgot to be careful. {Cap sound}! The {thing} broke.",
        "Then {he hero} fell over {a spot2}. {Cap sound}! The {thing} broke.",
        "But {a animal} sat down on the {thing}. {Cap sound}! It broke.",
    ),
    "hide_it": sentences(
        "{hero} hid it under {a spot}.",
        "“Nobody will see it under {a spot},” thought {hero}.",
    ),
    "lie": sentences(
        "“I do not know,” said {hero}.",
        "“Maybe {a thief} took it,” said {hero}.",
        "“I left it {at place2},” said {hero}.",
    ),
    "forgive": sentences(
        "“Thank you for telling me,” said {friend}.",
        "{friend} was {sorrow2} at first, but then {he friend} smiled.",
        "{friend} said, “I am glad that you told me.”",
    ),
    "mend": sentences(
        "Together they fixed the {look} {thing} with {a tool}.",
        "They took the {look} {thing} to {a job}, who fixed it.",
        "{hero} gave {friend} {a gift} and {a look2} {thing}, a new one.",
    ),
    # --- the noise ---
    "fright_night": sentences(
        "{hero} felt {sorrow} and could not sleep.",
        "“Who is there?” asked {hero}, but nobody answered.",
        "{hero} hid behind {his hero} {colour} {garment} and waited.",
    ),
    "comfort": sentences(
        "{His hero} {family} came, but the noise had stopped.",
        "{He hero} thought of {food} and fell asleep at last.",
        "“I will find out what it is,” {he hero} said {adverb}.",
    ),
    "brave_offer": sentences(
        "“Then let us look,” said {friend}.",
        "“I am not {sorrow},” said {friend}. “I have {a tool}.”",
        "{friend} laughed. “I will go with you.”",
    ),
    "look_under": sentences(
        "Slowly, {hero} bent down.",
        "{friend} lifted the {spot} with {a tool}.",
        "They held their breath and looked.",
    ),
    "feed": sentences(
        "{hero} gave it some {food}.",
        "“Do you like {food}?” asked {hero}. It did!",
        "{hero} brought {food}, and {friend} brought {food2}.",
    ),
    "named_pet": sentences(
        "They named it {Cap sound}, because it had said {sound} all night.",
        "“I will call you {Cap sound},” said {hero}.",
    ),
    "joy_pet": sentences(
        "The {animal} was {feeling} and said, “{Cap sound}!”",
        "{hero} was not {sorrow} anymore when {he hero} heard {sound} at night.",
        "Now {hero} felt {feeling}.",
    ),
    # --- the end ---
    "moral": sentences(
        "{hero} learned that {lesson story}.",
        "That is how {hero} found out that {lesson story}.",
        "“Now I know that {lesson story},” said {hero}.",
        "The moral of the story is that {lesson story}.",
    ),
    "lesson_lost": sentences(
        "friends help each other", "it is good to ask for help", "you should look after your things"
    ),
    "lesson_work": sentences(
        "good work brings good things", "it is nice to earn what you want", "you should never give up"
    ),
    "lesson_help": sentences(
        "helping others makes you happy", "it is good to be kind", "even a little one can do big things"
    ),
    "lesson_share": sentences("sharing is fun", "it is better to share than to fight", "friends take turns"),
    "lesson_brave": sentences(
        "a long way is short with a friend", "it is good to be brave", "you should follow your dreams"
    ),
    "lesson_cook": sentences(
        "the best gifts are made with love", "many hands make light work", "it is nice to make others happy"
    ),
    "lesson_practice": sentences(
        "practice makes perfect", "it is good to try again", "everyone has to start small"
    ),
    "lesson_wish": sentences(
        "you can have too much of a good thing", "it is good to think before you wish", "enough is enough"
    ),
    "lesson_truth": sentences(
        "it is always best to tell the truth", "a lie makes your heart heavy", "friends forgive each other"
    ),
    "lesson_fear": sentences(
        "strange things are often not so bad", "it is good to look before you are afraid", "everyone needs a friend"
    ),
    "ending": sentences(
        "That night, {hero} told {his hero} {family} all about {friend} and fell asleep with a smile.",
        "From that day on, {hero} and {friend} were the best of friends.",
        "Then they all went home and ate {food}. The end.",
        "{hero} went home in {his hero} {colour} {garment}, and {he hero} felt {feeling3}.",
        "And the next day, {hero} and {friend} {ed activity} together.",
        "“I am so proud of you, {hero},” said {his hero} {family}.",
    ),
}

GRAMMAR: Grammar = {
    "story": PLOTS,
    **SENTENCES,
    "quote": Table([{"": '"', "end": '"'}, {"": "“", "end": "”"}], [2, 1]),
    # The two casts share no name, so a name says who is meant.
    "hero": someone("girl", "boy", "animal_hero"),
    "friend": someone("girl_friend", "boy_friend", "animal_friend"),
    "girl": w.words(" ".join(w.GIRLS.split()[0::2])),
    "girl_friend": w.words(" ".join(w.GIRLS.split()[1::2])),
    "boy": w.words(" ".join(w.BOYS.split()[0::2])),
    "boy_friend": w.words(" ".join(w.BOYS.split()[1::2])),
    "thing": things(
        flyer="lost_in_the_wind",
        roller="lost_downhill",
        trinket="lost_from_pocket",
        plush="lost_on_the_way",
        floater="lost_in_water",
        instrument="lost_on_the_way",
    ),
    "flyer": w.words(w.FLYERS),
    "roller": w.words(w.ROLLERS),
    "trinket": w.words(w.TRINKETS),
    "plush": w.words(w.PLUSHES),
    "floater": w.words(w.FLOATERS),
    "instrument": w.words(w.INSTRUMENTS),
    "activity": w.verbs(w.ACTIVITIES),
    "activity2": w.verbs(w.ACTIVITIES),
    "move": w.verbs(w.MOVES),
    "move2": w.verbs(w.MOVES),
    "run": w.verbs(w.MOVES),
    "chore": w.chores(w.CHORES),
    "place": w.places(w.PLACES),
    "place2": w.places(w.PLACES),
    "place3": w.places(w.PLACES),
    **{
        slot: w.words(listing)
        for slots, listing in {
            "animal animal2 animal_hero animal_friend": w.ANIMALS,
            "thief": w.BIRDS,
            "magic": w.SPIRITS,
            "job job2": w.JOBS,
            "family": w.RELATIVES,
            "trait trait2 trait3": w.TRAITS,
            "gift gift2": w.GIFTS,
            "tool": w.TOOLS,
            "garment garment2 garment3": w.GARMENTS,
            "colour colour2 colour3": w.COLOURS,
            "look look2": w.LOOKS,
            "material": w.MATERIALS,
            "home": w.HOMES,
            "spot spot2 spot3": w.SPOTS,
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
            "number number2 number3 number_seen": w.NUMBERS,
            "smell": w.SMELLS,
            "food food2": w.FOODS,
            "dish": w.DISHES,
            "ingredient ingredient2 ingredient3": w.INGREDIENTS,
        }.items()
        for slot in slots.split()
    },
}
