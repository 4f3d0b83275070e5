"""The plots of the tales and the turns of phrase they share; grammar.py says how they are written.

Each plot carries something from its beginning to its end: a name, a thing and its colour, a promise, a list. To tell
the end well one has to remember the beginning.
"""

from .grammar import Grammar
from .words import WORDS

RULES = {
    # Binds hero and trait.
    "open": """
        6: Once upon a time, there was {trait=trait.a} {hero=child.kind} named {hero}.
        4: Once there was a little {hero=child.kind} called {hero}, who was very {trait=trait}.
        4: {hero=child} was {trait=trait.a} little {hero.kind}.
        2: There once was {trait=trait.a} {beast=animal} named {hero=child}.
        1: This is the story of {hero=child}, {trait=trait.a} {hero.kind}.
    """,
    "about": """
        4: {hero.He} loved {hobby=hobby}[3:|1: more than anything else].
        3: {hero.He} lived in {home=home.a} {near=near}.
        2: {hero} and {hero.his} {family=relative} lived in {home=home.a} {near=near}.
        2: Everyone knew that {hero.he} liked {hobby=hobby} and {pastime=hobby}.
    """,
    "day": """
        6: One {weather=weather} {time=time},
        3: One {time=time},
        2: Early one {weather=weather} {time=time},
        1: On a {weather=weather} {time=time},
    """,
    # Binds friend, who does something next.
    "friend": """
        5: {hero.His} friend {friend=child}
        3: {hero.His} best friend {friend=child}
        2: A {friend=child.kind} named {friend}
        1: {friend=child}, who lived next door,
    """,
    "very": """
        4: very
        2: so
        1: quite
    """,
    "not_there": """
        4: there was only {junk=junk.a}
        3: it was not there
        2: all they found was {junk=junk.a}
        1: nobody had seen it there
    """,
    "thanks": """
        4: "Thank you, {friend}!" {said=said} {hero}.
        2: "Oh, thank you!" {said=said} {hero} and hugged {friend}.
        2: {hero} hugged {friend} and was {glad=glad} again.
        1: "You are a true friend, {friend}," said {hero}.
    """,
    "again": """
        3: It did not work, and {hero} felt {sad=sad}.
        3: {hero} fell down, but {hero.he} got up again.
        2: "This is too hard!" {said=said} {hero}.
        2: It went {how=how}, but it was not right yet.
        1: Everything went wrong, and the {creature=creature} next door laughed.
    """,
    "end_alone": """
        4: That night, {hero} fell asleep with a smile.
        3: {hero} was {end=glad} all day long.
        2: "You are always so {trait}, {hero}," said {hero.his} {listener=relative}.
        2: {hero} told {hero.his} {listener=relative} all about it.
        1: {hero} was the most {trait} of all.
    """,
    "end_friends": """
        4: {hero} and {friend} were friends for ever.
        3: {hero} and {friend} {play=play} and {play2=play} until it was dark.
        2: That evening, {hero} and {friend} went home {end=glad}.
        2: "You are really {trait}, {hero}," said {friend}.
        2: They shared some {treat=food} and laughed.
        1: The next day, {hero} and {friend} played {fun=game} again.
    """,
}

PLOTS = {
    "lost and found": """
<open>
?50 <about>
{hero.He} had {colour=colour.a} {thing=thing} that {hero.his} {giver=relative} had [4:made|2:bought|1:found] for {hero.him}.
?35 {hero} took the {thing} everywhere.
--
<day> {hero} {went=went} {place=place.to} and played {game=game}[4:|1: all day long].
But [3:when {hero.he} came home|2:on the way back|1:when it was time to go], the {thing} was [3:gone|1:missing].
"[3:Oh no|2:Oh dear|1:Help]! Where is my {colour} {thing}?" {said=said} {hero}.
?60 {hero.He} was <very> {sad=sad}.
--
<friend> came to help. "[3:Do not cry|2:Cheer up|1:Wait], {hero}. We will find your {thing}," {friend.he} said.
First they looked {first=hide}, but <not_there>.
?60 Then they looked {second=hide}, but <not_there>.
?25 They even looked {third=hide}, but <not_there>.
At last, {friend} looked {last=hide}. There was the {colour} {thing}!
<thanks>
?40 From that day on, {hero} never took the {thing} {place.to} again.
<end_friends>
""",
    "a promise": """
<open>
?50 <about>
<day> {hero.his} {giver=relative} said, "Please bring me some {food=food} from the {job=job}, {hero}. Do not be late!"
"I promise," [4:said|1:answered] {hero} and {went=went} off.
--
[3:On the way|2:Behind {home=home.a}|1:Soon], {hero.he} met {animal=animal.a}.
"Come and play {game=game} with me {place=place.at}," said the {animal}.
"[3:I am sorry|2:I would love to|1:Not now], but I made a promise," said {hero}[3:.|1: {how=how}.]
?50 {hero.He} also met {other=animal.a} with {colour=colour.a} {thing=thing}. "Look at my {thing}!" said the {other}. But {hero} went on.
?50 The {job} was <very> {mood=glad} to see {hero.him}.
--
When {hero} came home with the {food}, {hero.his} {giver} smiled. "You kept your promise," {giver.he} said.
Then {hero} went {place.to} and played {game} with the {animal}.
<end_alone>
""",
    "afraid": """
<open>
?50 <about>
[3:{hero} was afraid of {fear=fear}|2:There was one thing {hero} did not like at all: {fear=fear}|1:But {hero.he} was frightened of {fear=fear}].
?50 {hero.He} always hid {hide=hide} when {hero.he} thought of {fear}.
--
<day> <friend> wanted to go {place=place.to}. "[3:Come with me|2:Let us go|1:Hurry up], {hero}!" {said=said} {friend}.
"I cannot," said {hero}. "I am afraid of {fear}."
[3:{friend} thought for a while|2:{friend} took {hero.his} hand|1:{friend} did not laugh]. "When I am afraid, I count to {number=number}," {friend.he} said. "Then I feel {feeling=calm}."
?60 {hero} was <very> {sad=sad}, but {hero.he} wanted to try.
So they {went=went} {place.to} together. {hero} closed {hero.his} eyes and {how=how} counted to {number}.
--
[3:Nothing bad happened|2:It was not so bad|1:Suddenly {hero} had to laugh]. "I feel {feeling}!" {cry=said} {hero}.
From that day on, {hero} was not afraid of {fear} any more.
<end_friends>
""",
    "a shared lunch": """
<open>
?50 <about>
<day> {hero} {went=went} {place=place.to} with some {food=food}[3:| and some {second=food}] for lunch.
There {hero.he} saw {look=look.a} {creature=creature}. It was <very> hungry.
?60 "[2:Who are you|1:Are you all right]?" {said=said} {hero}. "I am so {sad=sad}," said the {creature}. "I have nothing to eat."
{hero} [3:{how=how} gave|2:gave] the {creature} half of the {food}.
?50 They ate and {play=play} until evening.
--
[3:The next day|2:A week later|1:In the winter], {hero} lost {hero.his} {colour=colour} {thing=thing} {place.at}.
?60 {hero.He} looked {hide=hide} and {hide2=hide}, but it was not there.
Then the {look} {creature} came back. "[2:Is this your {thing}|1:Are you looking for this]?" it said. It had found the {colour} {thing} {last=hide}!
"[3:You shared your {food} with me|1:You were good to me], so I wanted to help you," said the {creature}.
<end_alone>
""",
    "learning": """
<open>
?50 <about>
[3:{hero} wanted to learn to {skill=skill}|2:More than anything, {hero} wished to {skill=skill}|1:All {hero.his} friends could {skill=skill}, but {hero} could not].
--
<day> {hero.he} asked {hero.his} {teacher=relative}, "Can you teach me to {skill}?"
"[3:Of course|2:Yes, {hero}|1:With pleasure]," said {hero.his} {teacher}. "But you must [2:practise|1:try] for {number=number} days."
They {went=went} {place=place.to} to [2:begin|1:practise]. <again>
?60 On the second day, they tried {place.at} again. <again>
?40 {hero.His} {teacher} gave {hero.him} some {food=food} and said, "You can do it, {hero}."
--
After {number} days, {hero} [2:took a deep breath|1:closed {hero.his} eyes] and tried once more. {hero.He} could {skill}!
"Look, I can {skill}!" {said=said} {hero}. {hero.His} {teacher} was <very> {mood=glad}.
?50 "You are very {trait}, {hero}, and now you can {skill}," {teacher.he} said.
<end_alone>
""",
    "a birthday": """
<open>
?50 <about>
It was nearly the birthday of {hero.his} friend {friend=child}. [3:"What can I give {friend.him}?" thought {hero}|1:{hero} wanted to give {friend.him} something nice].
{hero.He} asked {hero.his} {helper=relative}. "{friend} likes {hobby2=hobby}," said {hero.his} {helper}. "Make {friend.him} {colour=colour.a} {gift=gift}!"
--
So {hero} {went=went} to the {room=room} and worked for {number=number} days.
?50 The {pet=creature} watched {hero.him} {how=how}.
When the {gift} was ready, {hero} hid it {hide=hide}.
?40 Nobody was allowed to look {hide}.
--
On the day of the birthday, {friend} was <very> {mood=glad}. There was {cake=food} and {cake2=food}, and they played {game=game}.
Then {hero} said, "Look {hide}!" There {friend} found the {colour} {gift}.
"[3:What a {look=look} {gift}|1:It is {look=look}]! Did you make it in the {room}?" {said=said} {friend}.
?50 "Yes," said {hero}. "It took me {number} days."
<end_friends>
""",
    "a hurt animal": """
<open>
?50 <about>
<day> {hero} {went=went} {place=place.to}. There {hero.he} heard a [3:small|2:sad|1:strange] sound.
[3:{where=hide.W}|1:Far away {where=hide}] sat {look=look.a} {creature=creature}. It had hurt its {body=body}.
?60 "[3:Poor|1:Dear] {creature}," {said=said} {hero} {how=how}. "I will help you."
{hero.He} took the {creature} home and made a bed for it in the {room=room}.
?50 {hero.His} {helper=relative} put {cloth=colour.a} {bandage=clothing} around its {body}.
{hero} named it {pet=pet} and gave it some {food=food} every day.
--
?60 At first, {pet} was <very> {sad=sad} and stayed in the {room}.
After {number=number} days, the {body} of the {creature} was well again. {pet} {play=play} and {play2=play}.
?60 "It is time to go home, {pet}," said {hero}. They {went2=went} {place.to} together.
[3:{pet} looked back once and was gone|2:{pet} did not want to go and stayed with {hero}|1:Every year, {pet} came back {place.to} to see {hero}].
<end_alone>
""",
    "a quarrel": """
<open>
?50 <about>
<day> {hero} and {hero.his} friend {friend=child} {went=went} {place=place.to}. [3:{where=hide.W}|1:There, {where=hide}], they found {look=look.a} {colour=colour} {thing=thing}.
"I saw it first!" {said=said} {hero}. "No, the {thing} is mine!" {said2=said} {friend}.
?60 They pulled and pulled. "{sound=sound}!" The {thing} fell to the ground.
{hero} went home and sat in the {room=room}. {hero.He} was <very> {sad=sad}.
?60 "What is wrong, {hero}?" asked {hero.his} {helper=relative}. "I quarrelled with {friend}," {hero.he} said. "Then say that you are sorry," said {hero.his} {helper}.
--
[3:The next morning|2:After lunch|1:An hour later], {hero} took [3:some {food=food}|1:{gift=gift.a}] to {friend}.
"I am sorry," {hero.he} said {how=how}. "You can have the {thing}."
"I am sorry too," said {friend}. "We can share the {colour} {thing}. You have it today, and I have it tomorrow."
?50 They played {game=game} {place.at} with the {look} {thing}.
<end_friends>
""",
    "rain": """
<open>
?50 <about>
{hero} and {hero.his} {helper=relative} wanted to have a picnic {place=place.at}. They packed some {food=food}, some {food2=food} and {colour=colour.a} {thing=thing}.
But then it began to rain[3:.|1: cats and dogs.] "{sound=sound}!" went the thunder.
{hero} was <very> {sad=sad}. "Now we cannot go {place.to}," {hero.he} {said=said}.
--
?60 {hero.His} {helper} looked out of the window and thought for a while.
"[3:I have an idea|1:Do not worry]," said {hero.his} {helper}. "We will have our picnic in the {room=room}!"
They put a {cloth=colour} blanket on the floor. They ate the {food} and the {food2} and played {game=game}.
?50 <friend> came too and brought some {food3=food}. "This is better than the {place}!" {said2=said} {friend}.
?50 {hero} put the {thing} {hide=hide}, and they all had to find it.
--
[3:Then the rain stopped|1:The rain did not stop], but {hero} did not want to leave the {room}.
?40 "Tomorrow we will go {place.to}," said {hero.his} {helper}, "and take the {colour} {thing}."
<end_alone>
""",
    "a seed": """
<open>
?50 <about>
<day> the {job=job} gave {hero} a {look=look} seed. "[2:It will be {plant=plant.a}|1:One day it will be {plant=plant.a}]," said the {job}, "if you are patient."
{hero} planted the {look} seed {hide=hide} and watered it every {often=time}.
?60 "Nothing will grow {hide}," said {hero.his} {family2=relative}. But {hero} waited {how=how}.
--
?60 After {number=number} days, {animal=animal.a} came by. "What are you waiting for?" it asked. "For my {plant}," {said=said} {hero}.
?40 It was {weather2=weather}, and {hero} put {colour2=colour.a} {cover=clothing} over the seed.
[3:Then, one {time2=time}|1:Many weeks later], there was something {colour=colour} {hide}. It was a {size=look} {plant}!
?50 {hero} {play=play} for joy. "Come and see my {colour} {plant}!" {said2=said} {hero.he}.
--
The {job} was <very> {mood=glad}. "You were patient, {hero}," said the {job}.
?40 {hero} gave some of the {plant} to {hero.his} {family3=relative}.
<end_alone>
""",
    "shopping": """
<open>
?50 <about>
<day> {hero.his} {giver=relative} said, "Please go {place=place.to} and buy some {one=food}, some {two=food} and some {three=food}."
"{one.W}, {two} and {three}," said {hero} and {went=went} off.
--
On the way, {hero.he} met {animal=animal.a} with {colour=colour.a} {wear=clothing}. "[3:Where are you going|1:Good morning], {hero}?" asked the {animal}.
"{place.To}," {said=said} {hero}. "I have to buy {one}, {two} and {three}."
?60 "Then I will come with you," said the {animal}, and they {went2=went} on together.
?40 They saw {job=job.a} with {look=look.a} {thing=thing}, but they did not stop.
--
At last they were {place.at}. "What did you want?" asked the {animal}. {hero} thought <very> hard. "{one.W}, {two} and {three}!" {hero.he} said.
?50 The {animal} carried it all {how=how} in its {colour} {wear}.
{hero.His} {giver} was <very> {mood=glad}. "You did not forget anything, {hero}," {giver.he} said.
?50 That {time2=time}, they all ate {one} with {two}.
<end_alone>
""",
    "the box": """
<open>
?50 <about>
<day> {hero} found {look=look.a} box {hide=hide}. It was locked. {hero.He} wanted to know what was in the {look} box.
<friend> {went=went} over to help. "We need a key," {friend.he} {said=said}.
--
They asked the {job=job}. "[3:I have no key|1:I am too busy], but ask the {animal=animal}," said the {job}.
?50 They asked the {animal} {place=place.at}. "Give me some {food=food}," it said, "and I will tell you." So {hero} gave it the {food}.
"[3:There is|1:I have seen] {colour=colour.a} key {where=hide}," said the {animal}.
?60 {hero} and {friend} looked {where}. First they saw only {junk=junk.a}.
--
And there was the {colour} key! {how=how.W}, {hero} opened the {look} box. "{sound=sound}!" went the lid.
The box was full of {treasure=treasure}. "{treasure.W}!" {said2=said} {friend}.
?50 They gave the {animal} and the {job} some of the {treasure}, too.
?40 {hero} was <very> {mood=glad} and put the box back {hide}.
<end_friends>
""",
    "a noise at night": """
<open>
?50 <about>
One night, {hero} woke up. "{sound=sound}!" There was a noise in the {room=room}.
?60 "What was that?" {said=said} {hero}. {hero.He} was <very> {sad=sad}.
{hero.He} took {hero.his} {colour=colour} {thing=thing} and {how=how} {went=went} to the {room}.
?50 {hero.His} {helper=relative} came too. "Stay behind me, {hero}," {helper.he} said.
"{sound}!" There it was again. It came from somewhere {hide=hide}.
?40 "Perhaps it is {guess=animal.a}," said {hero}. "Or only {junk=junk.a}."
--
{hero} looked {hide}. There sat {look=look.a} {creature=creature}! It wanted to eat the {food=food} and had dropped {dropped=thing.a}.
"[3:You are not a monster|1:Hello], little {creature}!" {said2=said} {hero}[2:.| and laughed.]
?60 {hero.He} gave the {creature} some {food} and put down the {colour} {thing}.
?40 From then on, the {look} {creature} lived in the {room}.
Whenever {hero} heard a "{sound}!" at night, {hero.he} only smiled.
[3:Someone as {trait} as {hero} is not afraid of a {creature}|2:{hero} named the {creature} {pet=pet}|1:Then {hero} went back to bed and slept until morning].
""",
}

TALES = Grammar(WORDS, RULES, PLOTS)
