"""The words of the stories. In each list, the common words come first (Zipf's law)."""

# --- who ---

GIRLS = """
Lily Mia Anna Sue Zoë Emma Lucy Amy Sara Molly Ella Ruby Daisy Rosie Maya Nora Clara Ivy Chloé Tina Jane
Kate Lola Bella Penny Polly Grace Holly Luna Nina Alice Sophie Millie Poppy Hannah Abby Eva Leah Zara Tilly
Renée Olga Wendy Betty Fiona Greta Heidi Ingrid Josie Kira Laura Mabel Nelly Olive Paula Queenie Rita Sally
Tess Uma Vera Willa Yara Zelda Ada Bonnie Carla Dora Edith Flora Gina Hattie Inès Judy Kelly Lena Maria
Nadia Opal Pia Rosa Stella Thea Ursula Violet Winnie Yasmin Zuri Agnes Beth Cora Delia Elsa Freya Gloria
Helen Iris Joan Karen Lydia Margot Naomi Odette Pearl Rachel Sofía Tara Una Viola Wilma Yvonne Zita Astrid
Bianca Celia Diana Esther Frida Gwen Harriet Irene Julia Kim Linda Mona Nancy Ottilie Petra Ramona Selma
Trudy Vivian Xenia Amélie Brenda Cindy Dolly Eloise Fanny Goldie Hilda Isla Jasmine Klara Lottie Matilda
Noémie Pamela Rhoda Susan Tabitha Valerie Zainab
"""
BOYS = """
Tim Tom Ben Max Sam José Jack Leo Finn Billy Bobby Noah Oscar Henry Jake Charlie Danny Lucas Peter Toby
Felix Oliver Harry Alfie Adam Mark Freddie Theo Nico René Milo Hugo Archie Andy Bruno Carl David Eddie Frank
George Hector Ivan Joey Kevin Louis Mike Nathan Otto Paul Quentin Ricky Simon Teddy Ulysses Victor Walter
Xavier Yusuf Zack André Boris Colin Dexter Elmer Fergus Gus Harvey Igor Jonas Kofi Liam Marco Ned Omar Pablo
Raúl Stan Tariq Umar Vince Wilbur Yannick Zeke Albert Barney Cody Dylan Ethan Floyd Gavin Howard Ian Jerry
Kenny Lenny Morris Nigel Owen Percy Quinn Ralph Seth Tyler Urs Vernon Wesley Zane Arlo Basil Cecil Dennis
Erik Francis Gilbert Herman Isaac Jürgen Kurt Lorenzo Mateo Norman Orson Patrick Rupert Stefan Tobias Vikram
Warren Björn Andrés Bernard Clive Duncan Ernie Fabian Grant Hamish Jasper Kai Levi Magnus Niall Orlando
Philip Reggie Spencer Tristan Wallace Zubin
"""
ANIMALS = """
rabbit bear fox mouse cat dog duck frog squirrel owl turtle lion elephant monkey pig hedgehog penguin bunny
kitten puppy lamb goat pony deer beaver otter badger mole raccoon koala panda tiger giraffe zebra hippo
kangaroo crocodile camel donkey cow sheep hen rooster chick goose swan robin sparrow crow parrot pigeon
peacock turkey ostrich flamingo pelican seagull eagle hawk falcon stork heron crane woodpecker cuckoo
swallow wren finch magpie raven toucan puffin snail worm spider ant bee ladybug butterfly caterpillar
cricket grasshopper beetle moth dragonfly firefly toad newt lizard gecko chameleon snake tortoise alligator
iguana salamander fish goldfish dolphin whale seal walrus shark crab lobster octopus seahorse starfish
jellyfish clam oyster squid shrimp salmon trout minnow tadpole wolf coyote jackal hyena leopard cheetah
jaguar panther lynx cougar gorilla chimpanzee baboon lemur sloth anteater armadillo platypus wombat wallaby
dingo possum skunk weasel ferret mink chipmunk hamster gerbil rat porcupine bat buffalo bison moose reindeer
elk antelope gazelle llama alpaca yak ox bull calf foal horse mule piglet duckling gosling cub fawn kid
rhino meerkat mongoose chinchilla marmot shrew vole stoat hare tapir okapi dragon unicorn poodle terrier
spaniel beagle collie corgi dachshund bulldog husky mammoth dinosaur
"""
JOBS = """
baker farmer teacher doctor gardener shopkeeper painter fisherman carpenter librarian cook nurse sailor
tailor firefighter policeman mailman postman builder shoemaker blacksmith miller shepherd clown magician
musician juggler singer dancer pirate captain wizard king queen knight princess prince astronaut pilot
driver conductor engineer mechanic plumber electrician potter weaver sculptor poet writer inventor scientist
explorer astronomer detective mayor banker barber hairdresser dentist vet zookeeper beekeeper milkman
butcher grocer florist jeweler clockmaker toymaker watchmaker locksmith woodcutter lumberjack hunter ranger
lifeguard swimmer diver surfer skier skater coach runner cyclist boxer wrestler acrobat actor actress
puppeteer storyteller violinist pianist drummer trumpeter flutist organist cowboy cowgirl rancher milkmaid
maid butler gatekeeper janitor cleaner waiter waitress chef dishwasher innkeeper cashier clerk secretary
lawyer soldier guard general admiral fairy witch giant elf dwarf mermaid troll ogre hermit monk nun priest
traveler stranger neighbor peddler chimneysweep candlemaker glassblower basketmaker bricklayer roofer
photographer reporter editor printer bookseller professor student scholar tutor nanny babysitter grandfather
grandmother beggar tourist guide hiker climber camper scout ballerina
"""
RELATIVES = """
mom dad grandma grandpa mother father sister brother aunt uncle cousin mommy daddy granny godmother
stepmother godfather stepfather grandmother grandfather
"""
TRAITS = """
kind brave curious happy clever gentle cheerful friendly silly shy funny playful quiet careful helpful smart
sweet lively polite patient honest good lonely sleepy busy bold wise merry jolly calm eager proud
gentle-hearted generous thoughtful loyal cautious daring fearless adventurous energetic noisy chatty messy
tidy stubborn lazy grumpy bashful timid nervous serious sensible dreamy imaginative creative inventive
artistic musical talented graceful clumsy forgetful careless impatient restless mischievous naughty cheeky
greedy selfish fussy picky moody gloomy worried hopeful joyful bubbly giggly smiling laughing bouncy speedy
quick nimble sturdy strong modest humble gracious courteous respectful obedient dutiful hardworking studious
diligent industrious resourceful independent confident determined persistent ambitious courageous heroic
gallant noble royal charming delightful lovable adorable cuddly tender warm-hearted softhearted caring
loving affectionate sympathetic understanding forgiving trusting trustworthy reliable dependable responsible
faithful sincere truthful fair reasonable easygoing relaxed peaceful peace-loving mild soft-spoken talkative
outgoing sociable popular famous peculiar odd quirky eccentric whimsical zany goofy comical witty humorous
jovial optimistic spirited vivacious perky sprightly frisky feisty plucky spunky gutsy hardy rugged
"""

# --- what ---

FLYERS = """
kite balloon feather scarf hat ribbon flag pinwheel umbrella glider bonnet parasol cap streamer handkerchief
parachute windmill beret airplane letter napkin poster leaflet postcard banner sunhat veil dandelion bubble
newspaper butterfly_net wing tissue cloak shawl bandana
"""
ROLLERS = """
ball marble hoop wheel apple orange coin top bead peach pumpkin melon barrel scooter wagon skateboard
tricycle football basketball baseball snowball coconut bowling_ball globe cannonball gumball pearl acorn
walnut chestnut truck tractor train racecar beachball rattle spool tire pinecone
"""
TRINKETS = """
ring key button necklace whistle watch bracelet shell locket compass pebble brooch medal badge crystal pin
charm pendant amulet emerald diamond sapphire amethyst opal topaz jewel gem earring crayon pencil eraser
sticker stamp magnet die domino thimble ticket harmonica pocketknife penny nickel quarter eyeglass magnifier
figurine keychain hairpin barrette buckle token
"""
PLUSHES = """
doll teddy_bear puppet blanket pillow robot toy_dinosaur book backpack sweater mitten slipper clown_costume
dollhouse cushion quilt rag_doll lantern basket picture drum puzzle storybook notebook jacket coat boot sock
glove photograph album jar cup teapot lunchbox flashlight clock mug vase bowl bottle plate candle lamp
mirror snow_globe music_box toolbox typewriter camera calendar map diary scrapbook sketchbook kaleidoscope
"""
FLOATERS = """
boat ship raft canoe sailboat bucket rubber_duck paddle cork rowboat kayak submarine surfboard lifebuoy
steamship ferry tugboat yacht fishing_rod bobber snorkel swim_ring dinghy gondola paddleboat
"""
INSTRUMENTS = """
guitar flute violin trumpet piano banjo bell tambourine harp ukulele fiddle accordion bugle cello clarinet
oboe trombone saxophone xylophone recorder horn tuba cymbal triangle gong mandolin lute lyre bagpipe
keyboard organ maraca piccolo bassoon viola
"""
GIFTS = """
flower cookie shell stone star crown cake book feather hat scarf drawing card muffin seed plant leaf pie
rose bouquet cupcake basket sword shield cape wand lollipop candy chocolate honeycomb sunflower tulip cactus
garland wreath tiara trophy diploma certificate badge medal ribbon statue painting poem song portrait
carving rug tapestry mitten jumper stocking hammock swing rocking_horse birdhouse fishbowl aquarium
terrarium telescope microscope magnet spyglass hourglass sundial calculator radio television computer
toothbrush hairbrush comb towel bathrobe napkin tablecloth saucer kettle teacup pitcher goblet spoon fork
ladle whisk apron
"""
TOOLS = """
rope ladder hammer shovel net saw bucket broom pole stick blanket wheelbarrow lantern axe rake hook basket
crowbar wrench screwdriver drill pulley plank board cart crate spade hoe pickaxe trowel chisel lever chain
string wire log sled stretcher oar anchor mop sponge hose pump lasso fishing_net
"""
GARMENTS = """
hat shirt scarf coat cap jacket sweater ribbon cape vest bow raincoat bonnet tie belt hood cloak apron
cardigan pullover jumper poncho shawl tunic kimono robe sundress overcoat nightgown bandana headband helmet
beret crown necktie sash kilt waistcoat sweatshirt hoodie parka mask turban sombrero dress skirt blouse gown
tutu
"""
COLOURS = """
red blue green yellow pink purple orange white black brown golden silver gray turquoise violet scarlet
crimson lavender striped spotted checkered rainbow-colored beige maroon indigo teal emerald ivory peach
coral bronze copper ruby amber olive lilac magenta plaid flowery polka-dotted sky-blue navy tan cream mint
lemon rose rusty
"""
LOOKS = """
shiny tiny little big new old pretty beautiful soft special magic lovely small wooden bright funny wonderful
fancy sparkly colorful round strange smooth cute heavy perfect fluffy amazing huge glittering rare simple
precious sparkling glowing painted carved golden-edged dusty rusty broken tattered patched faded polished
glossy gleaming shimmering dazzling twinkling glimmering brilliant splendid magnificent marvelous gorgeous
elegant graceful delicate dainty charming delightful enchanted mysterious curious unusual odd peculiar weird
crooked bent curved twisted straight flat thin thick wide narrow long short tall giant enormous gigantic
massive mighty miniature teeny pocket-sized light feathery velvety silky woolly furry fuzzy bumpy rough
scratchy prickly sticky squishy squeaky bouncy stretchy rubbery floppy sturdy solid hollow hard strong tough
fragile antique ancient modern homemade handmade knitted stitched embroidered woven plain ordinary common
usual useful handy clever foolproof expensive cheap valuable priceless costly royal noble famous favorite
beloved treasured cherished secret hidden forgotten lost unique fine neat clean muddy dirty spotless fresh
crisp warm cozy cool icy frosty frozen snowy sunny cheerful jolly merry silly goofy wacky spooky scary
creepy gloomy dark pale pastel vivid rosy pearly leafy flowered dotted speckled freckled zigzag oval square
triangular star-shaped heart-shaped pointed sharp blunt wobbly shaky rickety
"""
MATERIALS = """
wood gold silver glass paper stone wool cloth clay tin straw copper brass iron leather silk velvet cotton
plastic rubber marble bamboo cardboard porcelain steel crystal ivory felt wax lace bronze ice sand bone
ribbon yarn linen denim
"""

# --- where ---

PLACES = """
park/in forest/in garden/in beach/at lake/at market/at river/by woods/in playground/at meadow/in farm/on
hill/on school/at zoo/at pond/by village/in library/at town/in field/in yard/in fair/at store/at street/in
barn/in castle/at museum/at mountain/on valley/in orchard/in bakery/at circus/at harbor/at stream/by
island/on jungle/in desert/in cave/in square/in bridge/on station/at kitchen/in attic/in cellar/in
basement/in greenhouse/in lighthouse/at windmill/at mill/at waterfall/by creek/by swamp/in marsh/in
canyon/in cliff/on coast/on shore/on seaside/at bay/by lagoon/by dock/on pier/on port/at airport/at
theater/at cinema/at stadium/at gym/at pool/at fountain/by campground/at campsite/at cabin/at cottage/at
palace/at tower/at temple/at church/at chapel/at ruins/at hospital/at bank/at restaurant/at cafe/at inn/at
hotel/at factory/at workshop/at stable/in pasture/in vineyard/in cornfield/in clearing/in thicket/in
grove/in glade/in wilderness/in countryside/in neighborhood/in alley/in courtyard/in churchyard/in
schoolyard/in backyard/in playroom/in nursery/in classroom/in gallery/at carnival/at festival/at aquarium/at
planetarium/at observatory/at racetrack/at arena/at plaza/in boardwalk/on promenade/on riverbank/on
hilltop/on mountaintop/on volcano/on glacier/on iceberg/on plateau/on prairie/on savanna/on tundra/on
dunes/on plantation/on ranch/on estate/on quarry/at mine/at dam/at reservoir/by canal/by brook/by spring/by
well/by oasis/at geyser/by crossroads/at roundabout/at subway/in tunnel/in maze/in labyrinth/in dungeon/in
treehouse/in igloo/in tent/in
"""
HOMES = """
house village town cottage farm forest city castle valley cabin treehouse hut burrow den cave lighthouse
nest palace hollow windmill bungalow mansion apartment tent shack barn igloo houseboat wigwam caravan
trailer hamlet suburb seaport tower farmhouse townhouse lodge villa chalet shed
"""
SPOTS = """
bush bed bench table rock chair tree bridge log sofa leaf basket blanket haystack rug shelf pillow fence
wagon carpet cupboard couch desk hedge fern mushroom porch gate cart doghouse slide swing seesaw tablecloth
mattress bookcase bathtub sink stove refrigerator piano wardrobe dresser stool armchair cushion doormat
curtain umbrella wheelbarrow woodpile stump root bramble shrub flowerpot watering_can birdbath beehive
scarecrow mailbox lamppost signpost statue fountain picnic_table boat canoe truck tractor bicycle barrel
crate trunk suitcase backpack newspaper puddle lily_pad cabbage lettuce rosebush snowdrift snowman
sandcastle seashell boulder ledge cradle crib highchair quilt radiator fireplace chimney ladder bucket
hammock trampoline sandbox
"""
TREES = """
oak tree maple pine willow birch chestnut elm palm cedar fir beech apple_tree poplar spruce ash cherry_tree
sycamore hawthorn hazel alder cypress redwood walnut_tree linden fig_tree juniper magnolia holly rowan larch
"""
FLOWERS = """
flowers daisies roses tulips daffodils sunflowers violets lilies dandelions bluebells poppies buttercups
lilacs pansies snowdrops irises marigolds orchids primroses apples blossoms peonies petunias geraniums
carnations crocuses hyacinths foxgloves cornflowers clovers asters zinnias begonias dahlias lavenders
hollyhocks honeysuckles jasmines magnolias camellias azaleas hydrangeas chrysanthemums forget-me-nots
wildflowers ferns berries mushrooms toadstools thistles brambles bushes grasses reeds cattails strawberries
blueberries pumpkins cherries pears plums
"""
CRITTERS = """
birds bees butterflies frogs squirrels ducks rabbits crickets ladybugs dragonflies ants robins sparrows
geese swallows fireflies chickens sheep cows horses lambs goats crows owls mice snails worms spiders beetles
grasshoppers moths caterpillars bluebirds pigeons doves larks wrens finches swans hens chicks ducklings
ponies donkeys pigs deer foxes hedgehogs beavers otters turtles lizards toads fish minnows seagulls pelicans
herons storks hummingbirds woodpeckers nightingales blackbirds kingfishers canaries parrots peacocks magpies
starlings bumblebees wasps gnats cicadas lightning_bugs chipmunks moles badgers raccoons kittens puppies
"""

BIRDS = """
crow magpie bird seagull raven owl jay parrot pigeon sparrow eagle hawk falcon gull robin starling jackdaw
woodpecker pelican vulture stork buzzard condor cuckoo blackbird bluebird swallow thrush toucan kookaburra
"""
SPIRITS = """
fairy genie wizard witch elf spirit dragon unicorn gnome ghost angel mermaid goblin sprite leprechaun pixie
imp magician sorcerer enchantress giant troll dwarf phoenix nymph wisp
"""

# --- when and how ---

NIGHTS = """
dark stormy quiet cold windy rainy still moonlit chilly snowy starry silent warm foggy misty long summer
winter autumn spring moonless starless pitch-black gloomy frosty clear calm sleepless lonely
"""

WEATHERS = """
sunny warm bright beautiful rainy windy cold hot snowy cloudy lovely nice fine foggy quiet cool clear stormy
breezy chilly frosty misty gray golden calm peaceful crisp fresh mild pleasant perfect gloomy drizzly damp
wet dry dusty steamy muggy icy freezing blustery thundery dreary dull hazy glorious balmy sweltering moonlit
starry sparkling blue wonderful special busy lazy sleepy ordinary
"""
TIMES = """
day morning afternoon summer_day evening Saturday Sunday spring_day winter_day autumn_day Monday Friday
weekend Tuesday Wednesday Thursday June_day April_day May_morning July_evening October_afternoon
December_evening March_morning August_morning September_day November_morning January_day February_day
holiday birthday sunset sunrise
"""
ADVERBS = """
quickly slowly happily quietly carefully softly gently loudly sadly excitedly bravely proudly nervously
kindly cheerfully eagerly patiently politely shyly gladly calmly gleefully merrily joyfully playfully
silently secretly suddenly swiftly hurriedly lazily sleepily wearily tiredly dreamily thoughtfully hopefully
anxiously timidly cautiously boldly fearlessly confidently firmly bashfully clumsily gracefully lightly
heavily noisily busily steadily smoothly neatly tenderly lovingly warmly sweetly brightly briskly speedily
rapidly promptly instantly immediately directly slyly sneakily mysteriously curiously doubtfully fearfully
frantically desperately impatiently restlessly breathlessly awkwardly cleverly wisely skillfully expertly
perfectly honestly truthfully sincerely faithfully generously thankfully gratefully graciously humbly
modestly meekly mildly peacefully serenely contentedly blissfully cheekily mischievously naughtily grumpily
crossly angrily fiercely stubbornly gruffly glumly gloomily miserably tearfully mournfully reluctantly
unhappily carelessly recklessly wildly madly crazily hastily energetically enthusiastically vigorously
tirelessly daintily delicately elegantly majestically grandly nobly gallantly solemnly seriously earnestly
intently attentively dutifully obediently courageously heroically
"""
MOVES = """
walk/walked/walking run/ran/running skip/skipped/skipping hurry jump hop/hopped/hopping march climb dance
tiptoe wander race rush crawl stroll creep/crept/creeping gallop trot/trotted/trotting dash stomp
jog/jogged/jogging sneak scamper stride/strode/striding hike prance waddle sprint scurry zoom roam trudge
shuffle wobble bounce glide slide/slid/sliding slip/slipped/slipping sail float fly/flew/flying
ride/rode/riding drive/drove/driving roll twirl whirl spin/spun/spinning cartwheel leap/leapt/leaping bound
limp hobble stagger stumble totter toddle plod/plodded/plodding tramp trek/trekked/trekking scramble clamber
slither wriggle squirm wade swim/swam/swimming paddle row swing/swung/swinging drift parade
strut/strutted/strutting saunter amble ramble scuttle scoot dart flit/flitted/flitting flutter soar swoop
charge speed/sped/speeding bolt hustle bustle travel journey
"""
ACTIVITIES = """
sing/sang/singing dance paint draw/drew/drawing swim/swam/swimming read/read/reading play run/ran/running
bake cook climb jump skate write/wrote/writing garden fish ride/rode/riding dig/dug/digging
build/built/building explore sew knit/knitted/knitting sail juggle whistle hop/hopped/hopping camp hike ski
paddle row race skip/skipped/skipping sketch color count tell_stories/told_stories/telling_stories daydream
sculpt carve weave/wove/weaving crochet embroider collect_stamps/collected_stamps/collecting_stamps
fly_kites/flew_kites/flying_kites surf sled/sledded/sledding cartwheel somersault twirl spin/spun/spinning
hum/hummed/humming drum/drummed/drumming yodel chant rhyme invent tinker hammer
fold_paper/folded_paper/folding_paper spell study learn experiment measure stack sort wrestle box tumble
stretch jog/jogged/jogging leap/leapt/leaping gallop bounce catch_bugs/caught_bugs/catching_bugs
throw_stones/threw_stones/throwing_stones bowl golf dive/dived/diving float splash snorkel canoe kayak act
pretend perform clown joke giggle tickle sneak hide/hid/hiding plant
water_plants/watered_plants/watering_plants rake_leaves/raked_leaves/raking_leaves
pick_berries/picked_berries/picking_berries gather_nuts/gathered_nuts/gathering_nuts
watch_clouds/watched_clouds/watching_clouds gaze_at_stars/gazed_at_stars/gazing_at_stars
feed_birds/fed_birds/feeding_birds train sweep/swept/sweeping polish decorate arrange print photograph film
type solve_riddles/solved_riddles/solving_riddles blow_bubbles/blew_bubbles/blowing_bubbles stomp march
parade snowboard skateboard cycle fence joust trampoline swing/swung/swinging slide/slid/sliding wander
travel roam
"""
FEELINGS = """
happy proud glad excited warm grateful joyful thankful cheerful safe lucky calm brave delighted pleased
peaceful loved strong thrilled relieved merry content satisfied hopeful jolly overjoyed comfortable cozy
amazed blissful ecstatic elated gleeful lighthearted carefree free bouncy playful confident courageous
refreshed rested relaxed cheery sunny tickled blessed honored inspired enchanted tranquil
"""
SORROWS = """
sad worried scared upset lonely afraid angry tired nervous unhappy lost confused sorry ashamed hurt cross
gloomy frightened miserable helpless embarrassed disappointed guilty jealous anxious heartbroken puzzled
alone cold troubled hopeless sorrowful tearful grumpy grouchy annoyed bothered frustrated discouraged
homesick fearful panicky shaky terrified horrified startled shocked stunned uneasy restless downhearted
brokenhearted glum wretched
"""
SOUNDS = """
bang crash splash thump boom pop whoosh creak squeak click clang buzz rumble thud snap crack rustle roar
hiss ding rattle clatter plop swish whirr rattling jingle tinkle chime clink clunk knock tap scratch squeal
screech growl howl hoot croak chirp cluck moo neigh quack oink purr meow bark woof whimper squawk tweet
ribbit snort snore sneeze cough hiccup gurgle burp fizz sizzle crackle patter drip slosh squelch splat whack
zap zing twang honk beep toot ring tick vroom
"""
NUMBERS = """
three two five four ten six seven eight twelve nine twenty eleven fifteen thirty fifty a_hundred thirteen
fourteen sixteen seventeen eighteen nineteen forty sixty seventy eighty ninety
"""
SMELLS = """
flowers grass bread rain cookies honey apples roses cinnamon pine smoke mint chocolate popcorn pancakes hay
lemon vanilla lavender soup coffee strawberries oranges salt seaweed moss mud leaves pepper ginger garlic
onions toast butter cheese jasmine peaches berries melons cedar campfires candles soap caramel nutmeg cocoa
clover
"""

# --- food ---

FOODS = """
cookies apples bread cake soup honey berries cheese pancakes pie nuts carrots jam ice_cream strawberries
milk bananas muffins sandwiches cherries grapes popcorn porridge cupcakes chocolate pears peaches oranges
corn pizza noodles rice waffles pudding toast biscuits blueberries plums lemonade juice tea cocoa candy
lollipops watermelon pineapples mangoes raspberries blackberries gooseberries cranberries apricots figs
dates raisins walnuts almonds peanuts hazelnuts chestnuts acorns pumpkins potatoes tomatoes peas beans
cabbage lettuce spinach broccoli cauliflower celery cucumbers onions radishes turnips beets peppers
mushrooms olives pickles eggs omelets bacon sausages ham chicken fish shrimp salad stew dumplings spaghetti
macaroni ravioli lasagna tacos burritos burgers fries chips crackers pretzels rolls buns bagels croissants
doughnuts brownies tarts custard jelly yogurt butter cream marshmallows gingerbread fudge toffee caramels
licorice gumdrops jellybeans peppermints oatmeal granola cereal syrup sherbet sorbet milkshakes smoothies
cider coconuts kiwis limes lemons melons nectarines papayas tangerines clementines pomegranates quinces
rhubarb sunflower_seeds seaweed clover hay sushi tofu hummus falafel pasta meatballs gravy mustard ketchup
vinegar cinnamon_sticks vanilla_wafers
"""
DISHES = """
cake pie pizza pudding stew cobbler tart gingerbread_house casserole lasagna omelet cheesecake fruitcake
strudel quiche pastry loaf muffin pancake waffle curry chowder brownie sponge_cake birthday_cake
chocolate_cake carrot_cake apple_pie meatloaf
"""
INGREDIENTS = """
flour sugar eggs milk butter honey apples berries nuts carrots cheese salt cinnamon cream chocolate lemons
potatoes vanilla yeast raisins cherries oats corn rice tomatoes onions mushrooms beans peas pumpkins
strawberries oil water pepper ginger cocoa almonds walnuts oranges bananas plums pears garlic basil parsley
thyme rosemary mint nutmeg cloves syrup molasses jam yogurt cornmeal barley wheat rye noodles broth herbs
spices sprinkles icing marzipan blueberries raspberries cranberries coconut
"""

# --- doing ---

CHORES = """
sweep/swept/sweeping:floor wash/washed/washing:windows feed/fed/feeding:chickens
water/watered/watering:plants carry/carried/carrying:baskets paint/painted/painting:fence
milk/milked/milking:cows pick/picked/picking:apples clean/cleaned/cleaning:stable
dust/dusted/dusting:shelves rake/raked/raking:leaves chop/chopped/chopping:wood wipe/wiped/wiping:tables
scrub/scrubbed/scrubbing:pots fold/folded/folding:laundry sort/sorted/sorting:buttons
stack/stacked/stacking:bricks weed/weeded/weeding:garden polish/polished/polishing:silver
mend/mended/mending:nets peel/peeled/peeling:potatoes brush/brushed/brushing:horses
knead/kneaded/kneading:dough gather/gathered/gathering:eggs shovel/shoveled/shoveling:snow
dry/dried/drying:dishes count/counted/counting:candles tie/tied/tying:bundles
deliver/delivered/delivering:parcels iron/ironed/ironing:curtains plant/planted/planting:seeds
mop/mopped/mopping:hallway trim/trimmed/trimming:hedges walk/walked/walking:dogs
stir/stirred/stirring:porridge grind/ground/grinding:grain shear/sheared/shearing:sheep
catch/caught/catching:fish repair/repaired/repairing:roof sew/sewed/sewing:sails shine/shined/shining:boots
load/loaded/loading:trucks unpack/unpacked/unpacking:crates arrange/arranged/arranging:bouquets
fill/filled/filling:barrels wrap/wrapped/wrapping:presents fetch/fetched/fetching:firewood
ring/rang/ringing:bells wind/wound/winding:clocks sharpen/sharpened/sharpening:knives
dig/dug/digging:ditches squeeze/squeezed/squeezing:lemons shell/shelled/shelling:walnuts
hang/hung/hanging:lanterns light/lit/lighting:lamps bottle/bottled/bottling:juice spin/spun/spinning:wool
glue/glued/gluing:posters stamp/stamped/stamping:letters rinse/rinsed/rinsing:bottles
harvest/harvested/harvesting:wheat prune/pruned/pruning:vines pluck/plucked/plucking:feathers
oil/oiled/oiling:wheels tidy/tidied/tidying:cupboards measure/measured/measuring:cloth
"""
GAMES = """
tag hide-and-seek hopscotch catch checkers chess cards dominoes leapfrog marbles soccer tennis football
basketball baseball charades bingo jacks hangman tic-tac-toe dodgeball kickball volleyball badminton
ping-pong hockey croquet bowling golf cricket rugby lacrosse darts billiards jump-rope tug-of-war
musical_chairs blindman's_buff pirates dress-up house school follow-the-leader I_spy ring_toss horseshoes
solitaire backgammon lotto twenty_questions
"""

# --- other things ---

VEHICLES = """
bus bike train boat car wagon sled tractor truck balloon ship taxi tram bicycle scooter ferry canoe airplane
helicopter rocket submarine carriage cart raft sleigh skateboard trolley motorcycle tricycle limousine van
minibus ambulance subway steamboat rowboat sailboat gondola zeppelin spaceship stagecoach rickshaw
snowmobile jeep dogsled
"""
COLLECTIONS = """
shells stones stamps buttons marbles books dolls coins feathers pencils ribbons beads postcards cards leaves
dinosaurs bottles crayons toys stickers puzzles rocks pictures hats balls trains cars robots puppets bells
keys badges acorns pinecones rings bows masks kites cups spoons candles lanterns teapots clocks watches maps
letters magazines comics newspapers photographs paintings drawings posters baskets boxes jars mugs bowls
plates vases statues figurines thimbles pebbles crystals gems fossils sticks twigs seeds chestnuts socks
mittens scarves gloves neckties bracelets necklaces brooches medals trophies flags balloons whistles drums
flutes records magnets lightbulbs wheels gears screws nails bolts springs strings ropes corks caps lids
tickets labels wrappers envelopes erasers brushes paintbrushes
"""
TOPICS = """
dragons pirates stars princesses animals ships knights castles monsters trains planets rockets fairies kings
mountains wizards giants whales elephants witches islands clouds rivers ghosts unicorns mermaids lions
tigers bears wolves monkeys penguins sharks dolphins queens princes heroes soldiers sailors cowboys
explorers inventors astronauts detectives magicians clowns acrobats dancers singers bakers farmers gardeners
fishermen shepherds hunters travelers giraffes zebras kangaroos camels crocodiles hippos pandas koalas
snakes dinosaurs mammoths volcanoes deserts jungles oceans forests caves waterfalls glaciers valleys meadows
villages cities palaces towers bridges lighthouses windmills tunnels treasures secrets riddles dreams wishes
spells potions crowns swords shields rainbows thunderstorms blizzards hurricanes tornadoes earthquakes
comets meteors galaxies aliens machines engines airplanes submarines balloons bicycles carousels circuses
parades holidays birthdays picnics adventures journeys mysteries shadows mirrors doors elves dwarfs trolls
goblins gnomes ogres vampires werewolves phoenixes griffins centaurs genies
"""
CLOUDS = """
sheep boat dragon heart whale castle rabbit pillow duck mountain horse ship face hat cake fish cow tree bird
cat bear tiger train house giant dinosaur teapot turtle snowman feather elephant crown shoe boot glove spoon
wing mushroom cauliflower pretzel dolphin swan angel anchor bell lion camel snail broom
"""
RUNNERS = """
rocket train horse deer cheetah race_car rabbit lightning_bolt wolf arrow greyhound fox tiger jet comet
cannonball leopard zebra antelope gazelle ostrich hurricane tornado meteor cyclone bullet thunderbolt
shooting_star firetruck motorcycle kangaroo squirrel whirlwind
"""
BODY_PARTS = """
knee elbow toe arm leg hand finger foot nose chin head thumb ankle shoulder wrist ear back hip heel tummy
neck forehead cheek shin eyebrow lip tongue belly bottom palm knuckle
"""
EXCLAMATIONS = """
Hooray Wow Yay Oh_my Yippee Goodness Hurrah Look Great Gosh Golly Bravo Wonderful Amazing Whee Fantastic
Perfect Incredible Finally Awesome Superb Marvelous Excellent Fabulous Unbelievable Terrific Jeepers Eureka
Hallelujah Gee Yahoo Woohoo Splendid Brilliant Cool Nice Sweet Magnificent Phew Aha Ooh
"""
