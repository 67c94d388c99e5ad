"""The sentences that the plots share, by slot.

`lm.corpora.stories.grammar` explains templates. Quotation marks are written “ ” here. The first one in a story draws
whether all of them are curly or straight.
"""

from lm.corpora.stories.grammar import Option, Table


def sentences(*templates: str | Option) -> Table:
    """Return a table of templates, all equally likely."""
    return Table([draw_quotes({"": t} if isinstance(t, str) else t) for t in templates], [1] * len(templates))


def draw_quotes(option: Option) -> Option:
    """Replace quotation marks by the slot that draws their kind."""
    return {form: text.replace("“", "{quote}").replace("”", "{end quote}") for form, text in option.items()}


SENTENCES = {
    # --- the beginning ---
    "opening": sentences(
        "Once upon a time, there was {a trait} {named hero}.",
        "Once upon a time, in {a home}, there lived {a trait} {named hero}.",
        "Once there was {a trait} {named hero} who lived in {a home}.",
        "Long, long ago, {a trait} {named hero} lived in {a home}.",
        "There once was a little {named hero}. Everyone said that {he hero} was very {trait}.",
        "In {a home} far away, there lived a little {named hero} who was always {trait}.",
        "This is the story of {a trait} {named hero}.",
    ),
    "habit": sentences(
        "{He hero} always wore {a colour} {garment}.",
        "{He hero} was proud of {his hero} {colour} {garment}.",
        "{He hero} had {a colour} {garment} that {his hero} {family} had made.",
        "Everyone knew {him hero} by {his hero} {colour} {garment}.",
        "In {his hero} room, {he hero} kept {number_kept} {collection}.",
        "{He hero} had {number_kept} {collection} and a picture book about {topic}.",
    ),
    "loves": sentences(
        "{He hero} loved to {activity} and to eat {food}.",
        "{He hero} liked to {activity} with {his hero} {family}, and {he hero} loved {food}.",
        "More than anything, {he hero} loved to {activity}, and {food} always made {him hero} smile.",
        "Every day, {he hero} would {activity} until it was time to eat {food}.",
        "When {he hero} was not eating {food}, {he hero} liked to {activity}.",
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
        "One {weather} {time}, {hero} went to {place} by {vehicle}.",
    ),
    "view": sentences(
        "Some {flowers} grew along the path, and there were {critters} all around.",
        "The air smelled of {smell}, and {he hero} saw {number_seen} {critters}.",
        "There were {flowers} everywhere, and {number_seen} {critters} came to say hello.",
        "{hero} counted {number_seen} {critters} {at place} and looked at the {flowers}.",
        "A cloud in the sky looked like {a cloud}, and the {critters} made a lot of noise.",
    ),
    # --- who comes along ---
    "company": sentences(
        "Just then, {a friend} came by.",
        "Soon {hero} met {a friend}.",
        "“Hello, {hero}!” It was {a friend}.",
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
        "“Hello there!” It was {a job}.",
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
        "“I feel so {sorrow},” said {hero}.",
    ),
    "joy": sentences(
        "{hero} was not {sorrow} anymore. {He hero} felt {feeling}.",
        "“{wow}!” said {hero}. {He hero} was so {feeling}.",
        "{hero} held the {look} {thing} and felt {feeling}.",
        "{hero} jumped up and down, because {he hero} was so {feeling}.",
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
            "": "But {his hero} {garment} had a hole, and the {thing} fell out near some {flowers2}.",
            "found": "between the {flowers2}",
        },
        {"": "Then {a thief} took the {thing} and flew away with it.", "found": "in the nest of the {thief}"},
    ),
    "lost_in_water": sentences(
        {"": "It began to rain, and the {thing} floated away.", "found": "in a big puddle"},
        {
            "": "There was a little stream, and the {thing} floated away on it.",
            "found": "at the end of the little stream",
        },
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
        "“Maybe it is {at place2},” said {friend}. They {ed move2} to {place2}, but it was not there either.",
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
    "rush": sentences(
        "{hero} {ed run} {adverb} to {place2} and found {a job}.",
        "{hero} ran as fast as {a runner} to {place2}, where {a job} was at work.",
        "{hero} went to {place2} by {vehicle2} and met {a job}.",
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
        "{His hero} {colour} {garment} was covered with {ingredient}.",
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
        "But the first time {he hero} tried, {he hero} fell and hurt {his hero} {body_part}.",
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
        "From then on, {hero} never forgot that {lesson story}.",
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
        "strange things are often not so bad",
        "it is good to look before you are afraid",
        "everyone needs a friend",
    ),
    "ending": sentences(
        "That night, {hero} told {his hero} {family} all about {friend} and fell asleep with a smile.",
        "From that day on, {hero} and {friend} were the best of friends.",
        "Then they all went home and ate {food}. The end.",
        "{hero} went home in {his hero} {colour} {garment}, and {he hero} felt {feeling3}.",
        "And the next day, {hero} and {friend} {ed activity} together.",
        "“I am so proud of you, {hero},” said {his hero} {family}.",
        "{hero} and {friend} played {game} until it was dark.",
        "{hero} took off {his hero} {colour} {garment}, went to bed and dreamed of {topic}.",
        "{His hero} {family} told {him hero} a story about {topic}, and {hero} fell asleep.",
        "{hero} gave {friend} some of {his hero} {collection}, and they were both {feeling3}.",
    ),
}
