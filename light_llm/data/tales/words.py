"""The words of the tales, in classes; the commonest of each class first.

A listing is words between commas. What stands after a slash is a part of its own that a form of the word may use
("beach/at": at the beach; "mouse/mice").
"""

from collections.abc import Mapping

from .grammar import Words

_SHE = {"he": "she", "his": "her", "him": "her", "self": "herself"}
_PLURAL = {"s": "{1}"}
_HE = {"he": "he", "his": "his", "him": "him", "self": "himself"}

# A class is one group of words or several, whose forms differ.
WORDS: Mapping[str, tuple[Words, ...]] = {
    "child": (
        Words(
            "Lily, Mia, Anna, Sara, Emma, Rosie, Lucy, Ella",
            _SHE | {"kind": "girl"},
        ),
        Words(
            "Tom, Ben, Max, Sam, Leo, Jack, Tim, Noah",
            _HE | {"kind": "boy"},
        ),
    ),
    "relative": (
        Words("mother, grandmother, aunt, big sister, godmother", _SHE),
        Words("father, grandfather, uncle, big brother, godfather", _HE),
    ),
    "pet": (Words("""Spot, Fluffy, Biscuit, Pip, Coco, Snowy, Patch, Ginger, Pepper, Button, Whiskers, Bubbles"""),),
    "trait": (
        Words(
            """kind, brave, clever, curious, shy, cheerful, gentle, quiet, funny, lively, friendly, careful,
            patient, thoughtful, bold, merry, polite, stubborn, dreamy, busy"""
        ),
    ),
    "glad": (
        Words(
            """happy, glad, proud, pleased, excited, joyful, thankful, delighted, relieved, content, cheery,
            grateful, overjoyed, amused, hopeful, satisfied"""
        ),
    ),
    "sad": (
        Words(
            """sad, upset, worried, unhappy, lonely, gloomy, miserable, disappointed, tearful, heartbroken, cross,
            nervous, sorry, grumpy"""
        ),
    ),
    "calm": (Words("brave, calm, strong, safe, free, tall"),),
    "colour": (
        Words(
            """red, blue, green, yellow, white, black, brown, pink, purple, orange, golden, silver, grey, violet,
            turquoise, scarlet, cream, pale blue, dark green, crimson, copper, ivory, lilac, navy, lemon"""
        ),
    ),
    "look": (
        Words(
            """big, little, new, old, small, pretty, shiny, round, lovely, strange, smooth, heavy, fancy, magic,
            painted, special, striped, wonderful, ordinary, enormous, tiny, dusty, clean, crooked, wooden,
            simple, broken, cosy"""
        ),
    ),
    "thing": (
        Words(
            """ball, kite, doll, boat, drum, bell, whistle, train, balloon, blanket, bucket, basket, lamp, key,
            ring, puppet, flute, bracelet, necklace, marble, puzzle, paintbrush, ribbon, feather, shell, stone,
            lantern, mirror, notebook, pencil, pillow, purse"""
        ),
    ),
    "clothing": (
        Words("""hat, scarf, coat, sweater, shirt, cap, jacket, cape, apron, vest, bonnet, belt, shawl, raincoat"""),
    ),
    "animal": (
        Words(
            """fox/foxes, bear, dog, cat, goat, pony/ponies, owl, duck, donkey, goose/geese, hen, badger, beaver,
            crow, deer/deer, toad, swan, lizard, monkey, pig""",
            _PLURAL,
            part="{0}s",
        ),
    ),
    "creature": (
        Words(
            """bird, kitten, puppy/puppies, rabbit, mouse/mice, squirrel, hedgehog, duckling, frog, turtle, lamb,
            chick, sparrow, robin, mole, pigeon, hamster, otter, snail, butterfly/butterflies""",
            _PLURAL,
            part="{0}s",
        ),
    ),
    "place": (
        Words(
            """park, garden, forest, beach/at, river/by, lake/by, hill/on, meadow, market/at, farm/on, field,
            playground, pond/by, village, orchard, library""",
            {"at": "{1} the {0}", "to": "to the {0}", "the": "the {0}"},
            part="in",
        ),
    ),
    "hide": (
        Words(
            """under the bed, behind the sofa, in the cupboard, in the tall grass, under a bush, behind a tree,
            under the table, on the shelf, behind the curtain, under the stairs, in the toy box, behind the
            shed, in a hollow log, under the bench"""
        ),
    ),
    "junk": (
        Words(
            """old shoe, spider, broken cup, sleeping cat, heap of dust, dry leaf, beetle, muddy glove, rusty nail,
            piece of string, lost sock, cracked plate"""
        ),
    ),
    "food": (
        Words(
            """bread, cake, soup, honey, cheese, apples, berries, pie, milk, jam, cookies, plums, pears, nuts,
            porridge, grapes, pancakes, cherries, carrots, rice, peaches, butter, strawberries, pudding"""
        ),
    ),
    "play": (
        Words(
            """ran, jumped, danced, skipped, hopped, climbed, played, laughed, sang, rolled, raced, spun, slid,
            splashed, hid, galloped, tumbled, twirled, marched, giggled, shouted, wrestled, whistled, wriggled"""
        ),
    ),
    "went": (
        Words("""went, walked, ran, hurried, skipped, strolled, marched, raced, wandered, hiked, hopped, trotted"""),
    ),
    "said": (
        Words(
            """said, cried, called, whispered, shouted, exclaimed, murmured, announced, declared, mumbled,
            muttered, sang"""
        ),
    ),
    "how": (
        Words(
            """slowly, quickly, softly, gently, quietly, carefully, happily, bravely, eagerly, calmly, politely,
            suddenly, kindly, patiently, proudly, shyly, cheerfully, boldly, loudly, gladly, lightly, nervously,
            sadly, wildly"""
        ),
    ),
    "hobby": (
        Words(
            """painting, singing, dancing, drawing, reading, swimming, running, cooking, baking, gardening,
            fishing, sewing, climbing trees, telling jokes, collecting shells, building towers, making music,
            watching clouds"""
        ),
    ),
    "skill": (Words("swim, whistle, ride a bicycle, dance, paint, skate, juggle, read, sing, cook"),),
    "fear": (
        Words(
            """the dark, thunder, deep water, spiders, high places, big dogs, loud noises, ghosts, snakes, shadows"""
        ),
    ),
    "plant": (
        Words(
            """sunflower, tulip, rose, bean, pumpkin, daisy/daisies, poppy/poppies, cherry tree, pea,
            strawberry/strawberries, pear tree, oak, radish/radishes, cabbage""",
            _PLURAL,
            part="{0}s",
        ),
    ),
    "job": (
        Words(
            """baker, farmer, teacher, doctor, gardener, tailor, miller, shepherd, painter, sailor, carpenter,
            librarian, cook, shoemaker, weaver, blacksmith"""
        ),
    ),
    "weather": (
        Words("""sunny, rainy, windy, cloudy, cold, warm, snowy, foggy, stormy, bright, frosty, hot, misty, cool"""),
    ),
    "time": (Words("morning, day, afternoon, evening, Sunday, Saturday, Monday"),),
    "near": (
        Words(
            """near the sea, beside a river, at the edge of a forest, on a hill, in a small town, by a lake, in a
            valley, behind a mill, near a railway, on an island, at the end of a long road, under a great oak"""
        ),
    ),
    "body": (Words("leg, foot, ear, nose, tail, eye"),),
    "room": (Words("kitchen, attic, bedroom, living room, hallway, playroom, workshop, shed"),),
    "game": (
        Words(
            """hide and seek, tag, pirates, explorers, knights and dragons, school, leapfrog, marbles, dominoes,
            charades, treasure hunters, circus"""
        ),
    ),
    "sound": (Words("Crash, Bang, Splash, Boom, Thump, Crack"),),
    "number": (Words("two, three, four, five, six, seven, eight, nine, ten"),),
    "gift": (Words("card, picture, poem, song, crown, garland, bookmark, mask, paper star, clay pot"),),
    "treasure": (
        Words(
            """coins, pearls, diamonds, buttons, candles, seeds, photographs, sweets, maps, old letters, medals,
            crystals, stamps, toy soldiers, beads, feathers, shells, marbles"""
        ),
    ),
    "home": (
        Words(
            """house, cottage, cabin, hut, farmhouse, tower, caravan, windmill, houseboat, inn, tent, palace, barn,
            treehouse"""
        ),
    ),
    "nature": (
        Words(
            """little, big, old, young, small, tiny, fat, thin, tall, sleepy, hungry, noisy, silly, fluffy, lazy,
            wild, tame, gentle, fine, dirty, wet, handsome, sly, grumpy"""
        ),
    ),
    "taste": (
        Words(
            """sweet, fresh, warm, hot, cold, sour, salty, spicy, crunchy, sticky, delicious, juicy, creamy, tasty,
            crispy, bitter"""
        ),
    ),
}
