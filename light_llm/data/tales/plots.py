"""The plots of the tales; grammar.py says how they are written, phrases.py has what stands in angle brackets.

Each plot carries something from its beginning to its end: a name, a thing and its colour, a promise, a list. To tell
the end well one has to remember the beginning.
"""

from .grammar import Grammar
from .phrases import RULES
from .words import WORDS

PLOTS = {
    "lost and found": """
<open>
?60 <about>
{hero.He} had {look=look.a} {colour=colour} {thing=thing} from {hero.his} {giver=relative}.
?50 <aside>
--
<day> {hero} {went=went} {how=how} {place=place.to} and played {game=game}.
<way>
Soon the {thing} was gone. "Where is my {colour} {thing}?" {said=said} {hero}, {sad=sad} and {sad2=sad}.
--
<friend> {went2=went} over to help.
First {hero} looked {first=hide} and {second=hide}, but <not_there>.
?60 Then {hero.he} {how2=how} looked {third=hide}, but <not_there>.
At last, {friend} looked {last=hide}. There, beside {junk=junk.a}, was the {look} {colour} {thing}!
<thanks>
?30 {hero} never took the {thing} {place.to} again.
<end_friends>
""",
    "a promise": """
<open>
?60 <about>
<day> {hero.his} {giver=relative} said, "Please bring me {number=number} {treasure=treasure} and some
    {food=food} from the {job=job}, {hero}." "I promise," {said=said} {hero} and {went=went} off.
--
<way>
Near {home=home.a} {hero.he} met {look=nature.a} {animal=animal}. "Come and play {game=game} {place=place.at}," it
    {say=said}.
"I made a promise," {hero} {said2=said} {how=how}.
?60 <way>
?50 <aside>
The {look2=nature} {job} was {mood=glad} and gave {hero.him} the {food} and {number} {treasure}.
--
{hero.His} {giver} {how2=how} took the {food}. "You kept your promise, {hero}."
Then {hero} {went2=went} {place.to} and played {game} with the {look} {animal}.
<end_alone>
""",
    "afraid": """
<open>
?60 <about>
But {hero.he} was afraid of {fear=fear} and hid {hide=hide} or {hide2=hide} when {hero.he} thought of {fear}.
?50 <aside>
--
<day> <a_friend> wanted to go {place=place.to}. "I am afraid of {fear}," {said=said} {hero} {how=how}.
"Think of {colour=colour} {treasure=treasure} and count to {number=number}," {friend} {said2=said}, "and you
    will be {calm=calm}."
So they {went=went} {how2=how} {place.to}.
<way>
--
{hero} was {sad=sad} and {sad2=sad}. But {hero.he} thought of {colour} {treasure} and counted to {number}.
?60 {look=nature.A} {animal=animal} {play=play} {how3=how} past, and nothing happened.
"I am {calm}!" {said3=said} {hero}. From that {time=time} on, {hero.he} was not afraid of {fear} any more.
<end_friends>
""",
    "a shared lunch": """
<open>
?60 <about>
<day> {hero} {went=went} {place=place.to} with some {taste=taste} {food=food} and some {taste2=taste} {food2=food}.
<way>
{where=hide.W} sat {look=nature.a} {colour=colour} {creature=creature}, {sad=sad} and hungry. {hero} {how=how}
    gave it half of the {food} and all of the {food2}.
?50 They {play=play} and {play2=play} until it was dark.
?50 <aside>
--
The next {time=time}, {hero} lost {hero.his} {colour2=colour} {thing=thing} {place.at}.
{hero.He} looked {hide=hide}, but <not_there>.
Then the {colour} {creature} {went2=went} over with the {colour2} {thing}. "You gave me {food} and {food2}," it
    {said=said} {how2=how}.
<end_alone>
""",
    "learning": """
<open>
?60 <about>
More than {hobby=hobby} or {hobby2=hobby}, {hero.he} wanted to {skill=skill}. {hero.His} {teacher=relative}
    said, "Then you must try for {number=number} days."
?50 <aside>
--
<day> they {went=went} {place=place.to} with {look=look.a} {thing=thing} and some {food=food}.
?60 <way>
<again>
?60 They ate the {food} {how=how}. <again>
?40 {job=job.A} gave {hero.him} {colour=colour.a} {wear=clothing} and {said=said}, "Be {calm=calm}!"
--
After {number} days {place.at}, {hero} could {skill} {how2=how}, and {hero.his} {teacher} was {mood=glad} and
    {mood2=glad}.
?50 "Look, I can {skill}!" {said2=said} {hero}.
<end_alone>
""",
    "a birthday": """
<open>
?60 <about>
It was nearly the birthday of {hero.his} {trait2=trait} friend {friend=child}, who liked {hobby2=hobby} and
    {colour=colour} {plant=plant.s}.
?50 <aside>
{hero} {went=went} to the {room=room} and {how=how} made {look=look.a} {colour2=colour} {gift=gift}.
?50 {look2=nature.A} {creature=creature} and {look3=nature.a} {animal=animal} watched {hero.him} {how2=how}.
{hero.He} hid the {gift} {hide=hide}, next to {junk=junk.a}.
--
<day> {friend} had a party with {food=food}, {food2=food} and {look4=taste} {food3=food}. There were
    {number=number} {colour} {plant.s}.
?60 They played {game=game} and {game2=game}, and {friend} won {number2=number} {treasure=treasure}.
Then {hero} {said=said}, "Look {hide}!" There was the {look} {colour2} {gift}.
"Did you make it in the {room}, {hero}?" {friend} {said2=said} {how3=how}, {mood=glad} and {mood2=glad}.
<end_friends>
""",
    "a hurt animal": """
<open>
?60 <about>
<day> {hero} {went=went} {how=how} {place=place.to}.
<way>
{where=hide.W} sat {look=nature.a} {colour=colour} {creature=creature} with a hurt {body=body}, {sad=sad} and
    {sad2=sad}.
{hero} took the {creature} home to the {room=room} and put {cloth=colour.a} {bandage=clothing} around its
    {body}.
{hero.He} named it {pet=pet} and gave it {food=food} and {look2=taste} {food2=food}.
?50 <aside>
--
?50 At first, {pet} hid {hide=hide} and only ate the {food}.
After {number=number} days, the {body} was well again. {pet} {play=play} {how2=how} and {play2=play} {how3=how}
    in the {room}.
Then {hero} and {pet} {went2=went} {place.to}, and the {colour} {creature} was {glad=glad}.
<end_alone>
""",
    "a quarrel": """
<open>
?60 <about>
<day> {hero} and {hero.his} {trait2=trait} friend {friend=child} {went=went} {place=place.to}.
<way>
{where=hide.W} they found {look=look.a} {colour=colour} {thing=thing} and some {treasure=treasure}.
"The {thing} is mine!" {said=said} {hero} {how=how}. "No, mine!" {said2=said} {friend} {how2=how}.
{hero} {went2=went} to the {room=room}, {sad=sad} and {sad2=sad}.
?50 <aside>
--
The next {time=time}, {hero} gave {friend} some {food=food}, {look2=look.a} {gift=gift} and {colour2=colour.a}
    {wear=clothing}.
"You can have the {colour} {thing} and the {treasure}," {hero.he} {said3=said} {how3=how}.
?50 {friend} ate the {food} and looked at the {gift}.
"No, we will share the {thing}," said {friend}, {mood=glad} and {mood2=glad}.
<end_friends>
""",
    "rain": """
<open>
?60 <about>
<day> {hero} and {hero.his} {helper=relative} packed {food=food}, {look=taste} {food2=food} and {colour=colour.a}
    {thing=thing} for a picnic {place=place.at}.
But it rained, and "{sound=sound}!" went the thunder. {hero} was {sad=sad} and {sad2=sad}.
?50 <aside>
--
"Then we will play {game=game} in the {room=room}!" {hero.his} {helper} {said=said} {how=how}.
They put {look2=look.a} {colour2=colour} blanket on the floor, ate the {food} and the {food2} and made
    {look3=look.a} {gift=gift}.
?50 <friend> {went=went} over with {number=number} {treasure=treasure} and {look4=nature.a} {animal=animal}.
{hero} hid the {colour} {thing} {hide2=hide}, and they {play=play} {how2=how}.
?60 {job=job.A} looked in, {mood=glad} and {wet=colour}, and ate some {food3=food}.
--
When the rain stopped, they did not go {place.to}. They played {game} in the {room} and were {tired=glad}.
<end_alone>
""",
    "a seed": """
<open>
?60 <about>
<day> {look3=nature.a} {job=job} gave {hero} {number=number} {look=look} seeds. "They will be {colour=colour}
    {plant=plant.s}," {said=said} the {job}.
{hero} {how=how} put the {number} seeds into the ground {place=place.at}, between {colour2=colour.a} {plant2=plant} and
    {look2=look.a} {thing=thing}.
?50 <aside>
--
?60 {animal=animal.A} with {colour3=colour.a} {wear=clothing} {went=went} past. "Nothing grows {place.at}," it
    {said2=said} {how2=how}.
?60 It was {weather=weather} and {weather2=weather}. {hero} ate {food=food} and {food2=food} and was {sad=sad}.
Then, one {weather3=weather} {time=time}, {number} {colour} {plant.s} looked out. {hero} {play=play} {how3=how}
    and {play2=play}.
?60 <way>
--
The {job} was {mood=glad} and {mood2=glad} and gave {hero} {treasure=treasure} and {colour4=colour.a}
    {thing2=thing} for the {colour} {plant.s}.
<end_alone>
""",
    "shopping": """
<open>
?60 <about>
<day> {hero.his} {giver=relative} said, "Please go {place=place.to} and buy {one=food}, {two=food} and
    {three=food}."
"{one.W}, {two} and {three}," {said=said} {hero} {how=how}.
--
<way>
{look=nature.A} {animal=animal} in {colour=colour.a} {wear=clothing} {went=went} over. "Do you like {hobby=hobby},
    {hobby2=hobby} or {game=game}?" it {said2=said}.
?50 <aside>
"I must buy {one}, {two} and {three}," {hero} {said3=said} {how2=how}.
?60 <way>
--
{place.At} there were {treasure=treasure}, {look2=look} {plant=plant.s} and {number=number} {colour2=colour}
    {creature=creature.s}. But {hero} {how3=how} bought {one}, {two} and {three}.
The {animal} put it all into its {colour} {wear}.
{hero.His} {giver} was {mood=glad} and made {look3=taste} {food=food} with the {three}.
<end_alone>
""",
    "the box": """
<open>
?60 <about>
<day> {hero} found {look=look.a} {colour2=colour} box {hide=hide}, but it was locked.
<friend> {went=went} {how=how} over. "We need a key," {said=said} {friend}.
?50 <aside>
--
They asked {look2=nature.a} {animal=animal} {place=place.at}. "Give me {food=food} and {look3=taste} {food2=food},"
    it {said2=said} {how2=how}.
<way>
So they gave the {animal} {food} and {food2}. "There is {colour=colour.a} key {where=hide}," it {said3=said}.
?50 They looked {where}, but <not_there>.
--
And there was the {colour} key! {how3=how.W}, {hero} opened the {look} {colour2} box. It was full of
    {treasure=treasure} and {colour3=colour} {treasure2=treasure}.
?60 They gave the {animal} some {treasure} and {gift=gift.a}, and it was {mood=glad} and {mood2=glad}.
<end_friends>
""",
    "a noise at night": """
<open>
?60 <about>
One {weather=weather} night, "{sound=sound}!" went something in the {room=room}. {hero} was {sad=sad} and
    {sad2=sad}.
?50 <aside>
{hero.He} took {hero.his} {colour=colour} {thing=thing} and {how=how} {went=went} to the {room}.
?60 {hero.His} {helper=relative} came too, with {look2=look.a} {thing2=thing} and {colour2=colour.a}
    {wear=clothing}.
?60 "Perhaps it is {look3=nature.a} {guess=animal} or {junk=junk.a}," {said=said} {hero}.
--
"{sound}!" There, {hide=hide}, sat {look=nature.a} {creature=creature}! It {how2=how} ate the {food=food} and the
    {look4=taste} {food2=food}.
?50 It had broken {number=number} {treasure=treasure} and {thing3=thing.a}.
"Hello, {look} {creature}!" {said2=said} {hero} {how3=how} and put down the {colour} {thing}.
{hero.He} named it {pet=pet} and gave it more {food}. {pet} {play=play} {how3=how} and {play2=play} {how4=how}.
?60 "I am {calm=calm} and {calm2=calm}," {hero} {said3=said} to {hero.self}.
<end_alone>
""",
}

TALES = Grammar(WORDS, RULES, PLOTS)
