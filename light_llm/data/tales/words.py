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
            """Lily, Mia, Anna, Sara, Emma, Rosie, Lucy, Ella, Nora, Ruby, Clara, Ivy, Molly, Hannah, Zoe, Alice, Maya,
            Leah, Tess, Grace, Holly, Jane, Kate, Nina, Amy, Eva, Julia, Flora, Wendy, Olga, Priya, Freya, Vera, Yara,
            Bella, Dora, Greta""",
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
            thoughtful, bold, merry, polite, stubborn, dreamy, busy, tidy, sleepy, helpful, playful, nimble, eager,
            daring, joyful, modest, peaceful, restless, sensible, serious, tender, wise, witty, graceful, hopeful,
            humble, lucky"""
        ),
    ),
    "glad": (
        Words("""happy, glad, proud, pleased, excited, joyful, thankful, delighted, relieved, content, cheery, grateful,
            overjoyed, amused, hopeful, satisfied, thrilled, jolly, calm, merry"""),
    ),
    "sad": (
        Words("""sad, upset, worried, unhappy, lonely, gloomy, miserable, disappointed, tearful, heartbroken, cross,
            nervous, sorry, grumpy, angry, puzzled, confused, ashamed, weary"""),
    ),
    "calm": (Words("brave, calm, strong, safe, free, tall, light, fearless, steady"),),
    "colour": (
        Words(
            """red, blue, green, yellow, white, black, brown, pink, purple, orange, golden, silver, grey, violet,
            turquoise, scarlet, cream, pale blue, dark green, crimson, copper, ivory, lilac, navy, lemon"""
        ),
    ),
    "look": (
        Words(
            """big, little, new, old, small, pretty, shiny, round, lovely, strange, smooth, heavy, fancy, magic,
            painted, special, striped, wonderful, ordinary, enormous, tiny, dusty, clean, crooked, wooden, simple,
            broken, cosy, narrow, pointed, sparkling, dotted, famous, gigantic, mysterious, cheap, perfect, secret,
            sturdy, plain, square, faded, expensive, tattered, polished, precious, modern, twisted, solid, rusty"""
        ),
    ),
    "thing": (
        Words(
            """ball, kite, doll, boat, drum, bell, whistle, train, balloon, blanket, bucket, basket, lamp, key, ring,
            puppet, flute, bracelet, necklace, marble, puzzle, paintbrush, ribbon, feather, shell, stone, lantern,
            mirror, notebook, pencil, pillow, purse, robot, rocket, sailboat, shovel, skateboard, sled, spoon, teapot,
            telescope, umbrella, wagon, watch, windmill, trumpet, scooter, compass, clock, globe, hoop, jar, crayon,
            cup, envelope, ladder, hammer, broom, chair, suitcase, bottle, candle, pot, violin, guitar, camera,
            bicycle, barrel, plate, pebble, coin, medal, magnet, parcel, postcard, ruler, saddle, spade, stool,
            tambourine, tractor, truck, vase, wheel, bead, anchor, accordion, book, box, brush"""
        ),
    ),
    "clothing": (
        Words(
            """hat, scarf, coat, sweater, shirt, cap, jacket, cape, apron, vest, bonnet, belt, shawl, raincoat, robe,
            cloak, dress, skirt, jumper, waistcoat, tie, ribbon bow, nightgown, blouse, poncho, tunic, kilt, sash,
            turban, beret"""
        ),
    ),
    "animal": (
        Words(
            """fox/foxes, bear, dog, cat, goat, pony/ponies, owl, duck, donkey, goose/geese, hen, badger, beaver, crow,
            deer/deer, toad, swan, lizard, monkey, pig, cow, penguin, elephant, lion, parrot, raccoon, seal, tiger,
            wolf/wolves, camel, horse, sheep/sheep, rooster, turkey, zebra, giraffe, panda, koala, ostrich/ostriches,
            pelican, flamingo, stork, eagle, hawk, moose/moose, otter, walrus/walruses, hippo, rhino, llama, leopard,
            crocodile, kangaroo, peacock, magpie""",
            _PLURAL,
            part="{0}s",
        ),
    ),
    "creature": (
        Words(
            """bird, kitten, puppy/puppies, rabbit, mouse/mice, squirrel, hedgehog, duckling, frog, turtle, lamb,
            chick, sparrow, robin, mole, pigeon, hamster, otter, snail, butterfly/butterflies, bee, beetle, ladybird,
            dragonfly/dragonflies, cricket, grasshopper, spider, ant, caterpillar, lobster, crab, goldfish/goldfish,
            newt, bat, gosling, piglet, foal, chipmunk, tadpole""",
            _PLURAL,
            part="{0}s",
        ),
    ),
    "place": (
        Words(
            """park, garden, forest, beach/at, river/by, lake/by, hill/on, meadow, market/at, farm/on, field,
            playground, pond/by, village, orchard, library, harbour/at, bakery, mill/at, zoo/at, castle, bridge/on,
            station/at, museum, valley, cave, lighthouse/at, fairground/at, square, stream/by, mountain/on, stable,
            theatre, bus stop/at, bookshop/at, post office/at, windmill/at, courtyard, churchyard, swamp, desert,
            island/on, pier/on, crossroads/at, waterfall/at, quarry, vineyard, jungle, palace, railway/at, canal/by,
            cliff/on, greenhouse, town hall/at""",
            {"at": "{1} the {0}", "to": "to the {0}", "the": "the {0}"},
            part="in",
        ),
    ),
    "hide": (
        Words(
            """under the bed, behind the sofa, in the cupboard, in the tall grass, under a bush, behind a tree, under
            the table, on the shelf, behind the curtain, under the stairs, in the toy box, behind the shed, in a hollow
            log, under the bench, in the wheelbarrow, on the roof, inside a boot, beside the well, behind the clock, in
            a flower pot, under the rug, in the laundry basket, between two rocks, near the gate, beside the stove, in
            the mailbox, on the windowsill, under a pile of leaves, behind the piano, at the bottom of the ditch, in
            the bathtub, on the balcony, behind the barrel, in a bucket, under the bridge, behind the door, on a
            branch, in a basket, inside a hat, behind the fence, in the fireplace, under the hammock, in the hedge,
            behind the oven, beside the pump, under a stone, in the oven, on the stairs, in a drawer,
            behind the mirror"""
        ),
    ),
    "junk": (
        Words(
            """old shoe, spider, broken cup, sleeping cat, heap of dust, dry leaf, beetle, muddy glove, rusty nail,
            piece of string, lost sock, cracked plate, ant, worm, apple core, bent fork, cork, moth, empty bottle,
            crumpled letter, dead twig, cobweb, candle, comb, old newspaper, torn ticket, burnt match, wet sponge, dead
            fly, squashed tomato, snail, dusty book, old boot, broken umbrella, chewed bone, tin can, blunt knife,
            faded photograph, loose button, scrap of paper, heap of sand, rotten egg, stale biscuit, frayed rope"""
        ),
    ),
    "food": (
        Words(
            """bread, cake, soup, honey, cheese, apples, berries, pie, milk, jam, cookies, plums, pears, nuts,
            porridge, grapes, pancakes, cherries, carrots, rice, peaches, butter, strawberries, pudding, lemonade, tea,
            biscuits, muffins, popcorn, noodles, corn, figs, chocolate, raisins, toast, buns, waffles, tomatoes, peas,
            melon, chestnuts, lentils, onions, mushrooms, crackers, custard, jelly, marmalade, sausages, spinach,
            oranges, lemons, apricots, beans, salad, stew, fish, rolls, syrup, almonds, walnuts, coconut, olives,
            pickles, radishes, turnips, gingerbread"""
        ),
    ),
    "play": (
        Words(
            """ran, jumped, danced, skipped, hopped, climbed, played, laughed, sang, rolled, raced, spun, slid,
            splashed, hid, galloped, tumbled, twirled, marched, giggled, shouted, wrestled, whistled, wriggled, swam,
            crawled, bounced, somersaulted, leaped, stumbled, floated, hummed, clapped, waved, bowed, tiptoed, stamped,
            wobbled, dived, trotted, crept"""
        ),
    ),
    "went": (
        Words(
            """went, walked, ran, hurried, skipped, strolled, marched, raced, wandered, hiked, hopped, trotted, rushed,
            travelled, tiptoed, jogged"""
        ),
    ),
    "said": (
        Words(
            """said, cried, called, whispered, shouted, exclaimed, murmured, announced, declared, mumbled, muttered,
            sang, yelled, gasped"""
        ),
    ),
    "how": (
        Words(
            """slowly, quickly, softly, gently, quietly, carefully, happily, bravely, eagerly, calmly, politely,
            suddenly, kindly, patiently, proudly, shyly, cheerfully, boldly, loudly, gladly, lightly, nervously, sadly,
            wildly, warmly, swiftly, sleepily, silently, neatly, lazily, joyfully, hopefully, gracefully, clumsily,
            busily, thoughtfully, merrily, anxiously, awkwardly, tenderly"""
        ),
    ),
    "hobby": (
        Words(
            """painting, singing, dancing, drawing, reading, swimming, running, cooking, baking, gardening, fishing,
            sewing, climbing trees, telling jokes, collecting shells, building towers, making music, watching clouds,
            feeding ducks, counting stars, solving riddles, writing letters, picking flowers, inventing games,
            knitting, skating, juggling, whistling, camping, sailing, dreaming, hiking, digging, weaving, cycling,
            marching, building boats, chasing butterflies, watching birds, making kites, playing chess, playing
            football, reading maps, skipping rope, telling stories, planting trees, catching fish, throwing stones,
            making masks, making soup"""
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
            """sunflower, tulip, rose, bean, pumpkin, daisy/daisies, poppy/poppies, cherry tree, pea,
            strawberry/strawberries, pear tree, oak, radish/radishes, cabbage, onion, cucumber, foxglove, marigold,
            iris/irises, potato/potatoes, carrot, lemon tree, plum tree, turnip, leek, lavender bush/lavender bushes,
            lupin, snowdrop, crocus/crocuses, bluebell, thistle, cactus/cactuses, melon, fir tree, willow, buttercup,
            violet, gooseberry/gooseberries""",
            _PLURAL,
            part="{0}s",
        ),
    ),
    "job": (
        Words(
            """baker, farmer, teacher, doctor, gardener, tailor, miller, shepherd, painter, sailor, carpenter,
            librarian, cook, shoemaker, weaver, blacksmith, clockmaker, beekeeper, firefighter, musician, nurse,
            potter, captain, grocer, juggler, ranger, engineer, astronomer, postman, fisherman, butcher, plumber,
            pilot, soldier, singer, dancer, magician, detective, inventor, jeweller, knight, king, queen, prince,
            princess, lawyer, judge, hunter, goatherd, clown, poet, writer, barber, builder, driver"""
        ),
    ),
    "weather": (
        Words(
            """sunny, rainy, windy, cloudy, cold, warm, snowy, foggy, stormy, bright, frosty, hot, misty, cool, chilly,
            mild, dry, wet, icy, hazy, breezy, gloomy, golden, damp, quiet"""
        ),
    ),
    "time": (
        Words("""morning, day, afternoon, evening, Sunday, Saturday, Monday, Friday, Wednesday, Tuesday, Thursday"""),
    ),
    "near": (
        Words(
            """near the sea, beside a river, at the edge of a forest, on a hill, in a small town, by a lake, in a
            valley, behind a mill, near a railway, on an island, at the end of a long road, under a great oak, near a
            bakery, behind a church, beside a waterfall, in a quiet street, on a cliff, in the desert, near a castle,
            by a canal, in the mountains, beside a school, far from town, under the stars, behind a wall, near a
            bridge, in a big city, between two hills"""
        ),
    ),
    "body": (Words("leg, foot, ear, nose, tail, eye, neck, toe, back, chin"),),
    "room": (
        Words("kitchen, attic, bedroom, living room, hallway, playroom, workshop, shed, tree house, cellar, barn"),
    ),
    "game": (
        Words(
            """hide and seek, tag, pirates, explorers, knights and dragons, school, leapfrog, marbles, dominoes,
            charades, treasure hunters, circus, shops, astronauts, football, robbers, doctors, sailors, statues,
            hopscotch, skittles, chess, bowls, ninepins, rounders, detectives, kings and queens, farmers, blind man's
            buff, dragons"""
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
            crystals, stamps, toy soldiers, beads, feathers, shells, marbles, pencils, ribbons, rubies, acorns,
            pebbles, bells, books, keys, crayons, cups, spoons, rings, watches, whistles, dolls, puzzles"""
        ),
    ),
    "home": (
        Words(
            """house, cottage, cabin, hut, farmhouse, tower, caravan, windmill, houseboat, inn, tent, palace, barn,
            treehouse, bungalow, chalet, shed, mansion, igloo, manor, log cabin, tavern, workshop, fortress, stable"""
        ),
    ),
    "nature": (
        Words(
            """little, big, old, young, small, tiny, fat, thin, tall, sleepy, hungry, noisy, silly, fluffy, lazy, wild,
            tame, gentle, fine, dirty, wet, handsome, sly, grumpy, cute, tired, nosy, muddy, strong, lonely, giddy,
            weak, slow, quick, plump, shaggy, timid, greedy, fierce, clumsy, elegant, sneaky, drowsy, chubby"""
        ),
    ),
    "taste": (
        Words(
            """sweet, fresh, warm, hot, cold, sour, salty, spicy, crunchy, sticky, delicious, juicy, creamy, tasty,
            crispy, bitter, fried, frozen, chewy, smoky, homemade, steaming, thick, burnt, roasted, yummy"""
        ),
    ),
}
