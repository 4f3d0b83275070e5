"""The words of the tales, in classes; the commonest of each class first.

A listing is words between commas. What stands after a slash is a part of its own that a form of the word may use
("beach/at": at the beach). Forms are patterns: {0} is the word, {1} the part after the slash.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Words:
    """Words that are used alike. `forms` names what a template may ask for besides w (the word) and a (a or an + it).

    >>> beach = Words("beach/at, hill/on", {"at": "{1} the {0}"}).entries()[0]
    >>> beach.forms["w"], beach.forms["a"], beach.forms["A"], beach.forms["at"]
    ('beach', 'a beach', 'A beach', 'at the beach')
    """

    listing: str
    forms: Mapping[str, str] = field(default_factory=dict)
    part: str = ""  # what stands after the slash where nothing does

    def entries(self) -> "list[Word]":
        """The words with their weights: 1000 // (rank + 3), near Zipf's law and never too rare to be learned."""
        found = []
        for rank, entry in enumerate(" ".join(self.listing.split()).split(", ")):
            word, _, part = entry.partition("/")
            article = "an" if word[0].lower() in "aeiou" else "a"
            patterns = {"w": "{0}", "a": article + " {0}", **self.forms}
            forms = {name: pattern.format(word, part or self.part) for name, pattern in patterns.items()}
            capital = {name.capitalize(): form[0].upper() + form[1:] for name, form in forms.items()}
            found.append(Word(1000 // (rank + 3), forms | capital))
        return found


@dataclass(frozen=True)
class Word:
    """A word of a class: its weight, and its forms by name; a name with a capital gives the form with one."""

    weight: int
    forms: Mapping[str, str]


_SHE = {"he": "she", "his": "her", "him": "her", "self": "herself"}
_HE = {"he": "he", "his": "his", "him": "him", "self": "himself"}

# A class is one group of words or several, whose forms differ.
WORDS: Mapping[str, tuple[Words, ...]] = {
    "child": (
        Words(
            """Lily, Mia, Anna, Sara, Emma, Rosie, Lucy, Ella, Nora, Ruby, Clara, Ivy, Molly, Hannah, Zoe, Alice, Maya,
            Leah, Tess, Grace, Holly, Jane, Kate, Nina, Amy, Eva, Julia, Flora, Wendy, Olga, Priya, Freya, Vera,
            Yara, Bella, Dora, Greta""",
            _SHE | {"kind": "girl"},
        ),
        Words(
            """Tom, Ben, Max, Sam, Leo, Jack, Tim, Noah, Finn, Oscar, Harry, Adam, Henry, Peter, Hugo, Luke, Felix,
            Oliver, Theo, Dan, Jacob, Omar, Paul, Ravi, Simon, Toby, Walter, Karl, Arthur, Edgar, Bruno, Ned, George,
            Ivan, Kofi, Lars, Otto""",
            _HE | {"kind": "boy"},
        ),
    ),
    "relative": (
        Words("mother, grandmother, aunt, big sister, godmother, cousin Martha, old nanny", _SHE),
        Words("father, grandfather, uncle, big brother, godfather, cousin Ralph, great-uncle", _HE),
    ),
    "pet": (
        Words(
            """Spot, Fluffy, Biscuit, Pip, Coco, Snowy, Patch, Ginger, Pepper, Button, Whiskers, Bubbles, Lucky, Nut,
            Socks, Teddy, Mittens, Shadow, Domino, Pebble"""
        ),
    ),
    "trait": (
        Words(
            """kind, brave, clever, curious, shy, cheerful, gentle, quiet, funny, lively, friendly, careful, patient,
            thoughtful, bold, merry, polite, stubborn, dreamy, busy, tidy, sleepy, helpful, playful, nimble, eager"""
        ),
    ),
    "glad": (Words("happy, glad, proud, pleased, excited, joyful, thankful, delighted, relieved, content"),),
    "sad": (Words("sad, upset, worried, unhappy, lonely, gloomy, miserable, disappointed, tearful, heartbroken"),),
    "calm": (Words("brave, calm, strong, safe, free, tall, light, fearless, steady"),),
    "colour": (
        Words(
            """red, blue, green, yellow, white, black, brown, pink, purple, orange, golden, silver, grey, violet,
            turquoise, scarlet"""
        ),
    ),
    "look": (
        Words(
            """little, big, old, small, new, pretty, shiny, soft, round, lovely, tiny, strange, smooth, heavy, fancy,
            funny, magic, painted, special, striped, spotted, wonderful, bright, ordinary, enormous"""
        ),
    ),
    "thing": (
        Words(
            """ball, kite, doll, boat, drum, bell, whistle, train, balloon, blanket, bucket, basket, lamp, key, ring,
            puppet, flute, bracelet, necklace, marble, puzzle, paintbrush, ribbon, feather, shell, stone, lantern,
            mirror, notebook, pencil, pillow, purse, robot, rocket, sailboat, shovel, skateboard, sled, spoon, teapot,
            telescope, umbrella, wagon, watch, windmill, trumpet, scooter, compass, clock, globe, hoop, jar, crayon,
            cup, envelope"""
        ),
    ),
    "clothing": (
        Words(
            """hat, scarf, coat, sweater, shirt, cap, jacket, cape, apron, vest, bonnet, belt, shawl, raincoat, robe,
            cloak"""
        ),
    ),
    "animal": (
        Words(
            """fox, bear, dog, cat, goat, pony, owl, duck, donkey, goose, hen, badger, beaver, crow, deer, toad, swan,
            lizard, monkey, pig, cow, penguin, elephant, lion, parrot, raccoon, seal, tiger, wolf, camel"""
        ),
    ),
    "creature": (
        Words(
            """bird, kitten, puppy, rabbit, mouse, squirrel, hedgehog, duckling, frog, turtle, lamb, chick, sparrow,
            robin, mole, pigeon, hamster, otter, snail, butterfly"""
        ),
    ),
    "place": (
        Words(
            """park, garden, forest, beach/at, river/by, lake/by, hill/on, meadow, market/at, farm/on, field,
            playground, pond/by, village, orchard, library, harbour/at, bakery, mill/at, zoo/at, castle, bridge/on,
            station/at, museum, valley, cave, lighthouse/at, fairground, square, stream/by, mountain/on, stable,
            theatre, bus stop/at""",
            {"at": "{1} the {0}", "to": "to the {0}", "the": "the {0}"},
            part="in",
        ),
    ),
    "hide": (
        Words(
            """under the bed, behind the sofa, in the cupboard, in the tall grass, under a bush, behind a tree, under
            the table, on the shelf, behind the curtain, under the stairs, in the toy box, behind the shed, in a hollow
            log, under the bench, in the wheelbarrow, on the roof, inside a boot, beside the well, behind the clock,
            in a flower pot, under the rug, in the laundry basket, between two rocks, near the gate, beside the stove,
            in the mailbox, on the windowsill, under a pile of leaves, behind the piano, at the bottom of the ditch"""
        ),
    ),
    "junk": (
        Words(
            """old shoe, spider, broken cup, sleeping cat, heap of dust, dry leaf, beetle, muddy glove, rusty nail,
            piece of string, lost sock, cracked plate, ant, worm, apple core, bent fork, grey pebble, cork, moth,
            empty bottle, crumpled letter, dead twig, cobweb, candle, comb"""
        ),
    ),
    "food": (
        Words(
            """bread, cake, soup, honey, cheese, apples, berries, pie, milk, jam, cookies, plums, pears, nuts, porridge,
            grapes, pancakes, cherries, carrots, rice, peaches, butter, strawberries, pudding, lemonade, tea, biscuits,
            muffins, popcorn, noodles, corn, figs, chocolate, raisins, toast, buns, waffles, tomatoes, peas, melon"""
        ),
    ),
    "play": (
        Words(
            """ran, jumped, danced, skipped, hopped, climbed, played, laughed, sang, rolled, raced, spun, slid,
            splashed, hid, galloped, tumbled, twirled, marched, giggled, shouted, wrestled"""
        ),
    ),
    "went": (Words("went, walked, ran, hurried, skipped, strolled, marched, raced, wandered, hiked"),),
    "said": (Words("said, cried, whispered, called, shouted, sighed, exclaimed, murmured"),),
    "how": (
        Words(
            """slowly, quickly, softly, gently, quietly, carefully, happily, bravely, eagerly, calmly, politely,
            suddenly, kindly, patiently, proudly, shyly, cheerfully, boldly"""
        ),
    ),
    "hobby": (
        Words(
            """painting, singing, dancing, drawing, reading, swimming, running, cooking, baking, gardening, fishing,
            sewing, climbing trees, telling jokes, collecting shells, building towers, making music, watching clouds,
            feeding ducks, counting stars, solving riddles, writing letters, picking flowers, inventing games"""
        ),
    ),
    "skill": (
        Words(
            """swim, whistle, ride a bicycle, dance, paint, skate, juggle, read, sing, cook, climb a rope, tie a knot,
            write a letter, row a boat, play the piano, bake a cake, sew, fly a kite, catch a fish, do a cartwheel,
            throw a ball, walk on stilts"""
        ),
    ),
    "fear": (
        Words(
            """the dark, thunder, deep water, spiders, high places, big dogs, loud noises, ghosts, snakes, shadows,
            storms, bees, the dentist, the cellar, wolves, ladders, lightning, crowds, monsters, bats"""
        ),
    ),
    "plant": (
        Words(
            """sunflower, tulip, rose, bean, pumpkin, daisy, poppy, cherry tree, pea, strawberry, pear tree, oak,
            radish, cabbage, onion, cucumber, foxglove, marigold, iris, potato"""
        ),
    ),
    "job": (
        Words(
            """baker, farmer, teacher, doctor, gardener, tailor, miller, shepherd, painter, sailor, carpenter,
            librarian, cook, shoemaker, weaver, blacksmith, clockmaker, beekeeper, firefighter, musician, nurse, potter,
            captain, grocer, juggler, ranger, engineer, astronomer"""
        ),
    ),
    "weather": (
        Words(
            """sunny, rainy, windy, cloudy, cold, warm, snowy, foggy, stormy, bright, frosty, hot, misty, cool, chilly"""
        ),
    ),
    "time": (Words("morning, day, afternoon, evening, spring day, summer day, autumn day, winter day, Sunday"),),
    "home": (Words("house, cottage, cabin, hut, farmhouse, tower, caravan, windmill, houseboat, inn, tent"),),
    "near": (
        Words(
            """near the sea, beside a river, at the edge of a forest, on a hill, in a small town, by a lake, in a
            valley, behind a mill, near a railway, on an island, at the end of a long road, under a great oak"""
        ),
    ),
    "body": (Words("leg, foot, ear, nose, tail, eye, neck, toe, back, chin"),),
    "room": (
        Words("kitchen, attic, bedroom, living room, hallway, playroom, workshop, shed, tree house, cellar, barn"),
    ),
    "game": (
        Words(
            """hide and seek, tag, pirates, explorers, knights and dragons, school, leapfrog, marbles, dominoes,
            charades, treasure hunters, circus, shops, astronauts"""
        ),
    ),
    "sound": (Words("Crash, Bang, Splash, Boom, Thump, Crack, Rumble, Whoosh, Clang, Pop"),),
    "number": (Words("two, three, four, five, six, seven, eight, nine, ten"),),
    "gift": (
        Words(
            """card, picture, poem, song, crown, garland, bookmark, mask, paper star, clay pot, wooden horse, patchwork
            quilt, lampshade, birdhouse"""
        ),
    ),
    "treasure": (
        Words(
            """coins, pearls, diamonds, buttons, candles, seeds, photographs, sweets, maps, old letters, medals,
            crystals, stamps, toy soldiers"""
        ),
    ),
}
