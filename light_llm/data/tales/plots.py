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
<day> {hero.he} {went=went} {how=how} {place=place.to} and played {game=game}.
<way>
Soon the {thing} was gone. "Where is it?" {hero.he} {said=said}, {sad=sad} and {sad2=sad}.
--
<friend> {went2=went} over to help.
First they looked {first=hide}, but <not_there>.
?60 Then they {how2=how} looked {second=hide}, but <not_there>.
At last, they looked {last=hide}. There, beside {junk=junk.a}, was the {colour} {thing}!
<thanks>
<end_friends>
?70 And that was the end of a very long day.
""",
    "a promise": """
<open>
?60 <about>
<day> {hero.his} {giver=relative} said, "Please bring me some {food=food} from {look=nature.a} {job=job}." "I
    promise," {hero.he} {said=said} and {went=went} off {how=how}.
--
<way>
Near {home=home.a} {hero.he} met {look2=nature.a} {animal=animal}. "Come and play {game=game} {place=place.at}," it
    {say=said}.
"I made a promise," {hero.he} {said2=said} {how2=how}.
?60 <way>
?50 <aside>
--
{hero.His} {giver} {how3=how} took the {food}. "You kept your promise!"
Then {hero.he} {went2=went} back, and they {play=play} and {play2=play} with {number=number} {nature=nature}
    {creature=creature.s}.
<end_alone>
?70 And that was the end of a very long day.
""",
    "afraid": """
<open>
?60 <about>
But {hero.he} was afraid of {fear=fear} and often hid {hide=hide} or {hide2=hide}.
?50 <aside>
--
<day> <a_friend> wanted to go {place=place.to}. "I am afraid," {hero.he} {said=said} {how=how}.
"Think of {colour=colour} {treasure=treasure} and count to {number=number}," came the answer, "and you will be
    {calm=calm}."
So they {went=went} {how2=how} {place2=place.to}.
<way>
--
?60 {look=nature.A} {animal=animal} {play=play} {how3=how} past, and nothing happened.
Soon {hero.he} was {mood=glad} and {mood2=glad}. From that {time=time} on, {hero.he} was not afraid of {fear} any more.
<end_friends>
?70 And that was the end of a very long day.
""",
    "a shared lunch": """
<open>
?60 <about>
<day> {hero.he} {went=went} {place=place.to} with some {taste=taste} {food=food} and some {taste2=taste} {food2=food}.
<way>
{where=hide.W} sat {look=nature.a} {colour=colour} {creature=creature}, {sad=sad} and hungry. {hero.He} {how=how}
    gave it half of the {food}.
?50 They {play=play} and {play2=play} until it was dark.
?50 <aside>
--
The next {time=time}, {hero.he} lost {look2=look.a} {colour2=colour} {thing=thing}.
{hero.He} looked {hide=hide}, but <not_there>.
Then the {creature} {went2=went} over with it. "You were {trait2=trait} to me," it {said=said} {how2=how}.
<end_alone>
?70 And that was the end of a very long day.
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
?60 They ate {how=how}. <again>
?40 {job=job.A} gave {hero.him} {colour=colour.a} {wear=clothing} and {said=said}, "Be {calm=calm}!"
--
After {number} days, {hero} could {skill} {how2=how} and was {mood=glad} and {mood2=glad}.
<end_alone>
?70 And that was the end of a very long day.
""",
    "a birthday": """
<open>
?60 <about>
It was nearly the birthday of {hero.his} {trait2=trait} friend {friend=child}, who liked {hobby2=hobby} and
    {colour=colour} {plant=plant.s}.
?50 <aside>
{hero.He} {went=went} to the {room=room} and {how=how} made {look=look.a} {colour2=colour} {gift=gift}.
?50 {look2=nature.A} {creature=creature} and {look3=nature.a} {animal=animal} watched {hero.him} {how2=how}.
--
<day> there was a party with {food=food}, {food2=food} and {look4=taste} {food3=food}.
?60 They played {game=game} and {game2=game} and won {number2=number} {treasure=treasure}.
Then {hero.he} {said=said}, "Look {hide=hide}!" There was the {gift}.
"Did you make it for me?" asked {hero.his} friend, {mood=glad} and {mood2=glad}.
<end_friends>
?70 And that was the end of a very long day.
""",
    "a hurt animal": """
<open>
?60 <about>
<day> {hero.he} {went=went} {how=how} {place=place.to}.
<way>
{where=hide.W} sat {look=nature.a} {colour=colour} {creature=creature} with a hurt {body=body}, {sad=sad} and
    {sad2=sad}.
{hero.He} took it home to the {room=room} and put {cloth=colour.a} {bandage=clothing} around its {body}.
{hero.He} named it {pet=pet} and gave it {food=food} and {look2=taste} {food2=food}.
?50 <aside>
--
?50 At first, it hid {hide=hide} and ate {how4=how}.
After {number=number} days, it was well again. It {play=play} {how2=how} and {play2=play} {how3=how}.
Then {hero.he} and {pet} {went2=went} {place2=place.to}.
<end_alone>
?70 And that was the end of a very long day.
""",
    "a quarrel": """
<open>
?60 <about>
<day> {hero.he} and {hero.his} {trait2=trait} friend {friend=child} {went=went} {place=place.to}.
<way>
{where=hide.W} they found {look=look.a} {colour=colour} {thing=thing}.
"It is mine!" {hero.he} {said=said} {how=how}. "No, it is not!" {said2=said} {friend} {how2=how}.
They {went2=went} home, {sad=sad} and {sad2=sad}.
?50 <aside>
--
The next {time=time}, they met {place2=place.at}, with some {food=food}, {look2=look.a} {gift=gift} and
    {colour2=colour.a} {wear=clothing}.
"You can have the {thing}," they both {said3=said} {how3=how}.
?50 They ate {taste=taste} {food2=food} and were {mood=glad} and {mood2=glad}.
"No, we will share it," they {said4=said}.
<end_friends>
?70 And that was the end of a very long day.
""",
    "rain": """
<open>
?60 <about>
<day> {hero.he} and {hero.his} {helper=relative} packed {food=food}, {look=taste} {food2=food} and {colour=colour.a}
    {thing=thing} for a picnic {place=place.at}.
But it rained, and "{sound=sound}!" went the thunder. They were {sad=sad} and {sad2=sad}.
?50 <aside>
--
"Then we will play {game=game} in the {room=room}!" they {said=said} {how=how}.
They put {look2=look.a} {colour2=colour} blanket on the floor, ate it all and made {look3=look.a} {gift=gift}.
?50 <friend> {went=went} over with {number=number} {treasure=treasure} and {look4=nature.a} {animal=animal}.
?60 {job=job.A} looked in, {mood=glad} and {mood2=glad}, and ate some {food3=food}.
--
When the rain stopped, they did not go {place2=place.to}. They stayed there and were {tired=glad}.
<end_alone>
?70 And that was the end of a very long day.
""",
    "a seed": """
<open>
?60 <about>
<day> {look3=nature.a} {job=job} gave {hero.him} {number=number} {look=look} seeds, which would be
    {colour=colour} {plant=plant.s}.
{hero.He} {how=how} put them into the ground {place=place.at}, between {colour2=colour.a} {plant2=plant} and
    {look2=look.a} {thing=thing}.
?50 <aside>
--
?60 {animal=animal.A} with {colour3=colour.a} {wear=clothing} {went=went} past. "Nothing grows here," it
    {said2=said} {how2=how}.
?60 It was {weather=weather} and {weather2=weather}. {hero.He} ate {food=food} and {food2=food} and was {sad=sad}.
Then, one {weather3=weather} {time=time}, there were the {plant.s}. {hero.He} {play=play} {how3=how} and
    {play2=play}.
?60 <way>
--
The {job} was {mood=glad} and {mood2=glad} and gave {hero.him} {treasure=treasure} and {colour4=colour.a}
    {thing2=thing}.
<end_alone>
?70 And that was the end of a very long day.
""",
    "shopping": """
<open>
?60 <about>
<day> {hero.his} {giver=relative} said, "Please go {place=place.to} and buy {one=food} and {two=food}."
--
<way>
{look=nature.A} {animal=animal} in {colour=colour.a} {wear=clothing} {went=went} over. "Do you like {hobby=hobby},
    {hobby2=hobby} or {game=game}?" it {said2=said}.
?50 <aside>
"I must hurry," {hero.he} {said3=said} {how2=how}.
?60 <way>
--
There were {treasure=treasure}, {look2=look} {plant=plant.s} and {number=number} {colour2=colour}
    {creature=creature.s}. But {hero.he} {how3=how} bought {one} and {two}.
{hero.His} {giver} was {mood=glad} and {mood2=glad} and made {look3=taste} {food=food}.
<end_alone>
?70 And that was the end of a very long day.
""",
    "the box": """
<open>
?60 <about>
<day> {hero.he} found {look=look.a} {colour2=colour} box {hide=hide}, but it was locked.
<friend> {went=went} {how=how} over. "We need a key," they {said=said}.
?50 <aside>
--
They asked {look2=nature.a} {animal=animal} {place=place.at}. "Give me {food=food} and {look3=taste} {food2=food},"
    it {said2=said} {how2=how}.
<way>
So they gave it all that. "There is {colour=colour.a} key {where=hide}," it {said3=said}.
?50 They looked, but <not_there>.
--
Then they looked {where} again, and there was the key! {how3=how.W}, they opened the box. It was full of
    {treasure=treasure} and {colour3=colour} {treasure2=treasure}.
?60 They {how4=how} took {number=number} {things=treasure} and {gift=gift.a} and were {mood=glad} and {mood2=glad}.
<end_friends>
?70 And that was the end of a very long day.
""",
    "a noise at night": """
<open>
?60 <about>
One {weather=weather} night, "{sound=sound}!" went something in the {room=room}. {hero.He} was {sad=sad} and
    {sad2=sad}.
?50 <aside>
{hero.He} took {look5=look.a} {colour=colour} {thing=thing} and {how=how} {went=went} there.
?60 {hero.His} {helper=relative} came too, with {look2=look.a} {thing2=thing} and {colour2=colour.a}
    {wear=clothing}.
?60 "Perhaps it is {look3=nature.a} {guess=animal} or {junk=junk.a}," {hero.he} {said=said}.
--
"{sound}!" There, {hide=hide}, sat {look=nature.a} {creature=creature}! It {how2=how} ate some {food=food} and
    {look4=taste} {food2=food}.
?50 It had broken {number=number} {treasure=treasure} and {thing3=thing.a}.
"Hello!" {hero.he} {said2=said} {how3=how}.
{hero.He} named it {pet=pet}. It {play=play} {how4=how} and {play2=play} {how5=how}.
?60 "I am {calm=calm} and {calm2=calm}," {hero.he} {said3=said} to {hero.self}.
<end_alone>
?70 And that was the end of a very long day.
""",
}

TALES = Grammar(WORDS, RULES, PLOTS)
