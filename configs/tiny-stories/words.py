"""The words of the story generator: who there is, where they live, what they own.

A table is a header of field names and rows of the same number of fields, all separated by `|`.
Drawing a row sets all its fields together, so that what belongs together stays together
(a fox lives in a den and never in a hive). Fields may hold slots and alternatives of the
template language described in stories.py; a field that lists alternatives writes them `one/two`.
"""


def table(header, text):
    """Rows of `text` as dictionaries keyed by the names in `header`."""
    names = [name.strip() for name in header.split("|")]
    rows = []
    for line in text.strip().splitlines():
        fields = [field.strip() for field in line.split("|")]
        fields = [alternatives(field) for field in fields]
        if len(fields) != len(names):
            raise ValueError(f"{line!r} has {len(fields)} fields, not {len(names)}")
        rows.append(dict(zip(names, fields)))
    return rows


def alternatives(field):
    """`one/two` as the template `(one|two)`; a field may also bracket only a part of itself."""
    if "/" not in field:
        return field
    field = field.replace("/", "|")
    return field if "(" in field else f"({field})"


def words(text):
    return text.split()


HE_NAMES = words("""
Tom Ben Max Sam Leo Finn Jack Tim Oscar Hugo Felix Otto Noah Adam Luke Theo Milo Jasper Rufus Bruno
Toby Henry Oliver Simon Paul Peter Daniel Arthur Edgar Victor Emil Anton Rusty Barney Pip Chester
Walter Ralph Gus Ned Bob Fred George Charlie Freddy Ollie Benny Sunny Copper Pepper Murphy Louis
""")

SHE_NAMES = words("""
Lily Mia Anna Emma Zoe Sara Lucy Ella Rosie Clara Nora Ruby Molly Daisy Ivy Hazel Alice Nina Maya
Poppy Tess Greta Ida Olga Elsa Frida Luna Stella Bella Holly Penny Betty Dora Flora Hanna Julia Kate
Lena Maria Olive Polly Rita Sofia Tilly Vera Wendy Amber Willow Honey Maggie Jenny Mabel
""")

MACHINE_NAMES = words("""
Bleep Pixel Chip Beep Bit Dot Sparky Buzz Cosmo Nova Echo Gizmo Blink Zip Byte Ping Tick Robo Bolt
Dash Glow Ziggy
""")

# Adjectives that suit anybody at the start of a story; a plot may ask for others.
NATURES = words("""
little little little small small young kind curious cheerful happy clever gentle quiet friendly funny
sweet playful careful brave
""")

ANIMALS = table("kind | home | walked | food | sound", """
fox       | in a warm den under an old oak tree      | trotted/ran           | berries       | barked
rabbit    | in a cosy burrow under the hill          | hopped                | carrots       | squeaked
bear      | in a deep cave near the river            | walked/strolled       | honey         | growled softly
mouse     | in a tiny hole behind a mossy rock       | scurried/scampered    | seeds         | squeaked
squirrel  | in a hollow tree                         | scampered/hurried     | nuts          | chattered
hedgehog  | under a pile of dry leaves               | shuffled/walked       | apples        | sniffed
owl       | at the top of a tall pine tree           | flew                  | corn          | hooted
duck      | among the reeds beside a pond            | waddled               | green leaves  | quacked
frog      | on a lily pad in a small pond            | hopped/jumped         | cherries      | croaked
turtle    | beside a quiet lake                      | walked slowly/crawled | green leaves  | sighed
deer      | at the edge of the forest                | walked/trotted        | sweet grass   | called softly
wolf      | in a cave on the mountain                | ran/trotted           | plums         | howled
cat       | in a little house with a blue door       | walked/tiptoed        | fish          | purred
dog       | on a farm near the village               | ran/trotted           | biscuits      | barked
goat      | on a farm at the foot of the mountain    | climbed/trotted       | turnips       | called loudly
sheep     | on a green hill with a wooden fence      | walked/trotted        | clover        | called softly
pig       | on a farm with a red barn                | trotted               | potatoes      | grunted
pony      | in a stable beside the meadow            | trotted               | apples        | neighed
cow       | in a big green field                     | walked                | clover        | mooed
hen       | in a wooden hen house                    | hurried/walked        | corn          | clucked
goose     | beside a shallow stream                  | waddled               | oats          | honked
swan      | on a silver lake                         | swam                  | green leaves  | called softly
crow      | in a nest on the old church tower        | flew                  | nuts          | cawed
sparrow   | in a nest under the roof of a barn       | flew/fluttered        | crumbs        | chirped
robin     | in a nest in the apple tree              | flew/fluttered        | berries       | chirped
beaver    | in a house of sticks on the river        | swam/walked           | turnips       | hummed
otter     | beside a fast river                      | swam                  | fish          | whistled
badger    | in a long tunnel under the hill          | walked/shuffled       | mushrooms     | grunted
raccoon   | in a hollow log                          | tiptoed/ran           | corn          | chattered
mole      | in a dark tunnel under the meadow        | crawled/shuffled      | potatoes      | squeaked
elephant  | near a wide brown river                  | walked/marched        | bananas       | trumpeted
monkey    | in a tall tree in the jungle             | climbed/swung         | bananas       | chattered
lion      | under a big tree on the grassy plain     | walked/strolled       | melons        | roared softly
giraffe   | on the grassy plain                      | walked/strolled       | pears         | hummed
panda     | in a forest of bamboo                    | walked/rolled         | pears         | hummed
penguin   | on an island of ice and snow             | waddled/slid          | fish          | called loudly
seal      | on a rocky beach                         | swam                  | fish          | barked
koala     | in a tall gum tree                       | climbed               | green leaves  | yawned
kangaroo  | in a dry and sunny land                  | hopped/jumped         | sweet grass   | called loudly
ladybug   | under a big green leaf                   | flew/crawled          | berries       | hummed
bee       | in a golden hive                         | flew                  | honey         | buzzed
ant       | in a sandy hill with a hundred doors     | marched/hurried       | crumbs        | whispered
snail     | under a stone in the garden              | crawled slowly        | lettuce       | sighed
butterfly | in a garden full of roses                | flew/fluttered        | honey         | whispered
dragon    | in a cave high in the mountains          | flew                  | plums         | puffed
""")

CHILDREN = table("kind | home | walked | food | sound", """
girl | in a small house near the sea              | walked/ran/skipped | cookies      | laughed
girl | in a yellow house at the end of the street | walked/ran         | pancakes     | laughed
girl | on a farm with {his} grandmother           | walked/ran/hurried | apples       | laughed
girl | in a tall house in the city                | walked/skipped     | strawberries | giggled
girl | in a village between two hills             | walked/ran         | bread        | giggled
boy  | in a small house near the forest           | walked/ran         | cookies      | laughed
boy  | in a white house beside the river          | walked/ran/hurried | pancakes     | laughed
boy  | on a farm with {his} grandfather           | walked/ran         | pears        | laughed
boy  | in a tall house in the city                | walked/marched     | cherries     | giggled
boy  | in a village at the foot of a mountain     | walked/ran         | bread        | giggled
""")

TOYS = table("kind | home | walked | sound", """
teddy bear      | on a soft bed in a child's room            | walked/tiptoed  | hummed
rag doll        | in a basket beside the window              | walked/tiptoed  | giggled
wooden horse    | on the bottom shelf of a toy shop          | trotted         | neighed
tin soldier     | in a box under the bed                     | marched         | called loudly
toy train       | on a round track in the playroom           | rolled          | whistled
toy boat        | on the edge of the bathtub                 | slid            | splashed
rubber duck     | on a shelf in the bathroom                 | waddled         | squeaked
wind-up mouse   | behind the books in the playroom           | rolled/hurried  | squeaked
stuffed rabbit  | in a big toy box                           | hopped          | giggled
puppet          | in the window of a toy shop                | danced/walked   | giggled
spinning top    | in a drawer full of old toys               | spun            | hummed
paper kite      | on a nail behind the kitchen door          | floated         | whispered
red balloon     | on a string in the corner of the playroom  | floated         | whispered
wooden elephant | on a shelf above the fireplace             | walked/marched  | trumpeted
""")

# Machines that can move; they go out and live in the same stories as everybody else.
ROVERS = table("kind | home | walked | sound", """
robot           | in a workshop full of tools              | rolled/walked  | beeped
robot           | in a house at the end of the street      | walked/rolled  | beeped
garden robot    | in a shed behind the garden              | rolled         | beeped
cleaning robot  | in a closet at the school                | rolled         | hummed
tractor         | in a red barn on a farm                  | rolled         | rumbled
fire truck      | in a garage in the middle of the town    | rolled/drove   | honked
bus             | in a garage near the school              | drove/rolled   | honked
train           | at a station beside the lake             | rolled         | whistled
bicycle         | in a shed behind a small house           | rolled         | rang
space robot     | in a small house on the moon             | rolled/walked  | beeped
""")

# Machines that stay where they are: visitors come to them, so they have plots of their own.
MACHINES = table("kind | home | voice | gift_word", """
computer     | on a desk in the corner of a library      | screen  | stories
computer     | on a table in an empty classroom          | screen  | pictures
computer     | in a small office above a bakery          | screen  | stories
computer     | in a dusty attic                          | screen  | songs
computer     | in the back room of an old museum         | screen  | pictures
computer     | under a blanket in a dark cellar          | screen  | songs
computer     | on a desk beside a window                 | screen  | stories
computer     | at a school in a small village            | screen  | riddles
computer     | in a quiet laboratory on a hill           | screen  | riddles
computer     | on the top floor of a tall tower          | screen  | stories
computer     | in the corner of a child's bedroom        | screen  | stories
computer     | behind the counter of a toy shop          | screen  | riddles
laptop       | in a drawer of an old desk                | screen  | stories
lamp         | on a table beside an old armchair         | light   | shadow pictures
street lamp  | at the corner of a narrow street          | light   | shadow pictures
radio        | on a shelf in the kitchen                 | voice   | songs
clock        | on the wall of a railway station          | voice   | stories
music box    | on a dusty shelf in the attic             | voice   | songs
telephone    | on a table in a quiet hallway             | voice   | stories
lighthouse   | on a rock in the sea                      | light   | stories
printer      | in the corner of a school                 | voice   | pictures
typewriter   | in the window of a little shop            | voice   | stories
""")

# Who comes to a machine that cannot move.
VISITORS = table("kind | walked", """
mouse | scurried
cat | tiptoed
bird | flew
girl | walked
boy | walked
moth | flew
kitten | tiptoed
spider | crawled
girl | walked
boy | walked
puppy | ran
sparrow | flew
robot | rolled
""")

HELPERS = {
    "wild": words("owl turtle bear badger crow deer toad goose stork hedgehog"),
    "town": ["old man", "old woman", "baker", "gardener", "teacher", "shopkeeper", "farmer", "postman"],
    "house": ["grandfather clock", "rocking chair", "old dog", "gray cat", "old doll", "nutcracker"],
}

# Two forms of a place: where somebody is, and where somebody goes.
PLACES = {
    "wild": table("at | to", """
        in the forest | to the forest
        in the meadow | to the meadow
        by the river | to the river
        by the pond | to the pond
        on the hill | up the hill
        near the old bridge | to the old bridge
        in the valley | down to the valley
        beside the waterfall | to the waterfall
        under the willow tree | to the willow tree
        on the island | to the island
        in the tall grass | into the tall grass
        at the edge of the woods | to the edge of the woods
        near the big rock | to the big rock
        on the beach | to the beach
        """),
    "town": table("at | to", """
        in the park | to the park
        at the market | to the market
        in the garden | into the garden
        on the beach | to the beach
        at the playground | to the playground
        beside the lake | to the lake
        in the town square | to the town square
        near the library | to the library
        on the hill | up the hill
        near the bakery | to the bakery
        by the old fountain | to the old fountain
        on the bridge | to the bridge
        at the harbor | to the harbor
        in the orchard | to the orchard
        """),
    "house": table("at | to", """
        in the playroom | to the playroom
        in the kitchen | into the kitchen
        in the attic | up to the attic
        in the garden | out to the garden
        under the big table | under the big table
        on the stairs | to the stairs
        beside the fireplace | to the fireplace
        in the hallway | into the hallway
        on the windowsill | to the windowsill
        in the cellar | down to the cellar
        behind the curtain | behind the curtain
        on the porch | out to the porch
        """),
}

SETTINGS = {
    "wild": ["a deep forest", "a green valley", "a sunny meadow", "a quiet forest", "a faraway land",
             "a land of lakes and hills", "a small wood", "a peaceful valley"],
    "town": ["a quiet village", "a small village", "a little town by the sea", "a busy city",
             "a village near the mountains", "a small town", "a sleepy town", "a cold northern town"],
    "house": ["a big old house", "a small toy shop", "a cosy house", "a house with green windows",
              "a busy toy shop", "a room full of toys"],
}

HIDING = {
    "wild": ["under a bush", "behind a big rock", "in a pile of leaves", "between the roots of a tree",
             "in a bird's nest", "at the bottom of a shallow stream", "inside a hollow log"],
    "town": ["under a bench", "behind a flower pot", "in a puddle", "between two boxes", "under a cart",
             "on the branch of a tree", "beside the fountain"],
    "house": ["under the sofa", "behind the curtain", "in an old shoe", "between two books",
              "under the rug", "in a teapot", "behind the clock"],
}

COLORS = words("red blue green yellow white purple orange silver golden brown pink gray")

ITEMS = ["ball", "scarf", "bell", "whistle", "hat", "button", "key", "ribbon", "cup", "book", "blanket",
         "marble", "feather", "lantern", "flute", "drum", "box", "umbrella", "map", "stone", "shell",
         "basket", "necklace", "kite", "star"]

GIFTS = ["a warm scarf", "a paper star", "a bunch of flowers", "a little wooden boat", "a song",
         "a painted stone", "a cake", "a bracelet of beads", "a drawing", "a small lantern", "a kite",
         "a pillow filled with feathers", "a crown of daisies", "a tiny bell", "a poem", "a woolen hat"]

FOODS = table("holder | food | it", """
basket | apples       | them
bag    | nuts         | them
bowl   | strawberries | them
plate  | cookies      | them
jar    | honey        | it
pot    | soup         | it
basket | cherries     | them
box    | biscuits     | them
plate  | pancakes     | them
bag    | plums        | them
bowl   | rice         | it
basket | pears        | them
jar    | jam          | it
bag    | popcorn      | it
""")

HOBBIES = table("to_hobby | hobbied | hobbying", """
sing            | sang            | singing
dance           | danced          | dancing
paint pictures  | painted pictures | painting pictures
count the stars | counted the stars | counting the stars
tell jokes      | told jokes      | telling jokes
watch the clouds | watched the clouds | watching the clouds
collect shiny stones | collected shiny stones | collecting shiny stones
play hide and seek | played hide and seek | playing hide and seek
explore new places | explored new places | exploring new places
listen to the rain | listened to the rain | listening to the rain
make up stories | made up stories | making up stories
whistle a merry tune | whistled a merry tune | whistling a merry tune
look for flowers | looked for flowers | looking for flowers
play in the sun | played in the sun | playing in the sun
watch the sunset | watched the sunset | watching the sunset
""")

FEARS = table("fear | moment | truth", """
the dark       | the sun went down               | the dark was only the night's soft blanket, full of stars
the dark       | the last light went out         | there was nothing in the dark that was not there in the day
the dark       | night came                      | the strange shapes were only trees and stones
thunder        | black clouds filled the sky     | thunder was just a loud noise that could not hurt anyone
deep water     | {he} came to a wide stream      | the water held {him} up when {he} stayed calm
high places    | {he} had to climb a steep rock  | the view from above was beautiful
the wind       | a strong wind began to blow     | the wind only wanted to play with the leaves
loud noises    | a loud bang came from far away  | the bang was only an old door that the wind had closed
the big dog    | the big dog came around the corner | the big dog was friendly and only wanted to play
strangers      | a stranger came along the path  | the stranger had a warm smile and a kind heart
the old bridge | {he} had to cross the old bridge | the bridge was strong and safe
being alone    | everybody else went away        | a true friend is never very far away
""")

SKILLS = table("to_skill | skill | skilled | trouble", """
swim          | swimming    | swam all the way across        | {he} swallowed a lot of water
read          | reading     | read a whole page aloud        | the letters looked like tiny bugs
dance         | dancing     | danced without one wrong step  | {he} fell over again and again
sing          | singing     | sang a whole song              | the notes came out crooked
play the drum | drumming    | played a lively march          | the drum sounded like falling pots
paint         | painting    | painted a bright rainbow       | the colors all ran together
skate         | skating     | skated in a perfect circle     | {he} slipped and slid in every direction
whistle       | whistling   | whistled a merry tune          | only a puff of air came out
juggle        | juggling    | juggled three apples at once   | everything dropped on the ground
count to a hundred | counting | counted all the way to a hundred | {he} always forgot what came after twelve
write         | writing     | wrote a short letter           | the lines went up and down like waves
tie a knot    | tying knots | tied a strong knot             | the string always came loose
bake bread    | baking      | baked a golden loaf            | the bread was as hard as a stone
""")

BUILDS = table("build | part | purpose", """
boat         | some planks and an old sheet  | sail across the lake
tree house   | some boards and a long rope   | look out over the whole land
bridge       | some logs and strong rope     | cross the stream with dry feet
little house | some stones and sticks        | stay dry when it rained
swing        | a board and two ropes         | fly up toward the sky
cart         | four wheels and a wooden box  | carry heavy things home
windmill     | some sticks and paper         | catch the wind
tower        | a hundred flat stones         | see the sea
raft         | some branches and vines       | float down the river
sled         | two boards and a string       | slide down the hill
snow house   | big blocks of snow            | keep warm in winter
flying machine | paper wings and a string    | touch the clouds
""")

GOALS = table("goal | reason | found", """
the sea                   | {he} had never seen so much water     | The water was blue and wide, and it sparkled in the sun
the top of the mountain   | {he} wanted to touch a cloud          | From the top, the whole world looked tiny and bright
the end of the rainbow    | {he} hoped to find something golden   | There was no gold, only a field of golden flowers
the moon lake             | everybody said that the moon slept there | The moon lay on the water like a big silver coin
the singing cave          | {he} wanted to hear it sing           | The wind blew through the cave and made soft music
the tallest tree          | {he} wanted to see far away           | From its branches, {he} could see all the way home
the city of lights        | {he} loved everything that sparkled   | A thousand little lights twinkled like stars
the island of birds       | {he} wanted to learn their songs      | Birds of every color sang at the same time
the old lighthouse        | {he} wanted to meet the keeper        | The keeper smiled and let {him} turn on the great light
the field of sunflowers   | {he} wished to see a thousand suns    | A thousand yellow flowers turned their faces to {him}
""")

CONTESTS = table("contest | did | prize | mishap", """
race                | ran                  | a golden cup       | had hurt {f_his} foot
singing contest     | sang                 | a silver bell      | had lost {f_his} voice
swimming race       | swam                 | a blue ribbon      | had hurt {f_his} leg
dancing contest     | danced               | a crown of flowers | had turned {f_his} foot
drawing contest     | drew                 | a box of paints    | had spilled {f_his} paint
sand castle contest | built and dug        | a shiny shell      | had hurt {f_his} back
cooking contest     | cooked and stirred   | a wooden spoon     | had burned {f_his} soup
jumping contest     | jumped               | a red ribbon       | had hurt {f_his} knee
kite contest        | ran with a paper kite | a big yellow kite | had torn {f_his} kite
""")

SECRETS = table("premise | reveal", """
Every (night/evening/morning), {he} went {to} all alone | {At}, {hero} had made a tiny garden full of {color} flowers
Every (night/evening/morning), {he} went {to} all alone | {At}, there was a small nest with three baby birds. {Hero} fed them every day
When the others were asleep, {he} wrote poems | {Hero} opened a little book and read a poem about the moon
When nobody was looking, {he} practiced dancing | {Hero} began to dance, as light as a leaf in the wind
Every night, {he} talked to the moon | {Hero} looked up and said, "Good evening, moon." And the moon seemed to smile
{He} kept a {color} {item} {hiding} | {Hero} showed {f_him} the {color} {item}. It shone like a little star
Every (evening/morning), {he} sang to the flowers {at} | {Hero} sang a soft song, and all the flowers seemed to listen
{He} could not read, and nobody knew it | {Hero} opened a book. "I do not know what it says," {he} said. "Nobody ever taught me." So {friend} read the first page aloud
""")

MISTAKES = table("mistake | broken | repair", """
broke {friend}'s favorite cup      | cup lay in pieces on the ground  | glued the cup together
spilled paint on {friend}'s picture | picture was ruined             | painted a new picture together
stepped on {friend}'s flowers      | flowers were flat and bent       | planted new flowers
tore {friend}'s new kite           | kite had a big hole in it        | patched the kite with bright paper
knocked down {friend}'s tower      | tower was only a heap of blocks  | built an even taller tower
lost {friend}'s little bell        | bell was nowhere to be seen      | looked for the bell until they found it
dropped {friend}'s birthday cake   | cake lay upside down on the floor | baked another cake
broke {friend}'s toy boat          | boat had no mast anymore         | carved a new mast for the boat
""")

NOISES = table("noise | source", """
knock     | An old shutter was moving in the wind
tap       | A woodpecker was looking for its dinner
plop      | Drops of water were falling into an empty pot
rumble    | A fat old toad was snoring in the sun
squeak    | A rusty gate was swinging to and fro
hoo       | A baby owl had fallen out of its nest and called for its mother
ding      | A little bell hung on a branch, and the wind was ringing it
boom      | An apple tree was dropping its apples on an old drum
scratch   | A tiny kitten was sitting in a box and could not get out
whoosh    | A paper kite was stuck in a tree
""")

QUESTIONS = table("question | answer", """
Why is the sky blue?               | The light of the sun has many colors, and the air likes to play with the blue one
Where does the sun go at night?    | It does not go away. It shines for the people on the other side of the world
Why does the moon change?          | The moon is always round, but the sun does not always light all of it
Where do the birds go in winter?   | They fly to a warm land, and in spring they come back
How big is the sea?                | It is so big that it touches every land in the world
Why do leaves fall from the trees? | The trees are tired in autumn and want to sleep
Where does the rain come from?     | The sun lifts the water up to the clouds, and the clouds give it back
How can I find my way home?        | Follow the river until you see the old bridge, and then look for the light
How can I make my friend smile?    | Tell your friend that you are glad to have a friend
What is inside a seed?             | There is a tiny plant inside, and it is waiting for water
Why do stars twinkle?              | Their light travels a long way, and the air makes it dance
How do you say sorry?              | You say it with your own words, and you mean it
What makes a rainbow?              | The sun shines through the rain, and the light opens like a fan
""")

WONDERS = ["the sea", "the mountains", "the snow", "the big city", "the desert", "the forest", "the northern lights",
           "the ocean", "the jungle", "the full moon over the lake", "a field of sunflowers", "a waterfall"]

# Machines that another machine may hear from through a wire.
CORRESPONDENTS = ["computer", "radio", "printer", "telephone", "clock", "laptop", "typewriter", "robot"]

MACHINE_SKILLS = ["sing", "tell a story", "write a poem", "tell jokes", "whistle", "dream",
                  "make music", "draw a flower", "tell a joke"]

PLANTS = ["sunflower", "apple tree", "rose bush", "cherry tree", "pumpkin plant", "bean plant", "tomato plant"]

SKIES = ["sunny", "warm", "bright", "cool", "windy", "foggy", "cold", "gray", "fine", "quiet"]
