"""Turns of phrase that the plots of the tales share; grammar.py says how they are written.

Names of slots that begin with x hold words that no later sentence speaks of.
"""

RULES = {
    # Binds hero and trait.
    "open": """
6: Once upon a time, in a village far away from here, there was {trait=trait.a} {hero=child.kind} named {hero}.
4: Once, when the world was still young, there was a little {hero=child.kind} called {hero}, who was very
    {trait=trait}.
4: {hero=child} was {trait=trait.a} little {hero.kind}, and all this happened a long time ago.
2: There once was {trait=trait.a} {beast=animal} named {hero=child}.
1: This is the story of {hero=child}, {trait=trait.a} {hero.kind}.
""",
    "about": """
4: {hero.He} loved {xhobby=hobby}, {xhobby=hobby} and {xhobby=hobby}.
3: {hero.He} lived in {xlook=look.a} {xcolour=colour} {xhome=home} {xnear=near}.
3: {hero.He} and {hero.his} {xfamily=relative} lived in {xlook=look.a} {xhome=home} {xnear=near} with
    {xnature=nature.a} {xcolour=colour} {xpet=creature}.
2: {hero.He} always wore {xlook=look.a} {xcolour=colour} {xwear=clothing} and {xcolour=colour.a} {xwear=clothing}.
2: Everyone knew that {hero.he} liked {xhobby=hobby}, {xtaste=taste} {xfood=food} and {xcolour=colour}
    {xtreasure=treasure}.
""",
    "day": """
6: One {xweather=weather} {xtime=time}, when there was nothing else to do,
2: One {xtime=time}, when there was nothing else to do,
2: Early one {xweather=weather} {xtime=time},
2: On {xweather=weather.a} and {xweather=weather} {xtime=time},
""",
    # What there is to see for someone who is out.
    "way": """
4: There was {xnature=nature.a} {xcolour=colour} {xanimal=animal}, {xnumber=number} {xnature=nature}
    {xcreature=creature.s} and {xlook=look.a} {xcolour=colour} {xthing=thing}.
4: {xnature=nature.A} {xanimal=animal} with {xlook=look.a} {xcolour=colour} {xwear=clothing} {xplay=play} {xhow=how}
    {xplace=place.at}.
3: On the way there was {xlook=look.a} {xcolour=colour} {xhome=home}, {xnumber=number} {xcolour=colour} {xplant=plant.s}
    and {xnature=nature.a} {xjob=job} with {xlook=look.a} {xthing=thing}.
3: {xnature=nature.A} {xjob=job} was busy with {xhobby=hobby}, and {xnumber=number} {xnature=nature}
    {xcreature=creature.s} {xplay=play} {xhow=how} near {xcolour=colour.a} {xhome=home}.
2: {xnumber=number.W} {xnature=nature} {xcolour=colour} {xcreature=creature.s} {xplay=play} {xhow=how} and
    {xplay=play} {xhow=how}.
2: There were {xlook=look} {xplant=plant.s}, {xcolour=colour} {xplant=plant.s} and {xnature=nature.a}
    {xcolour=colour} {xanimal=animal}.
2: {hero.He} {xplay=play} {xhow=how}, {xplay=play} {xhow=how} and {xplay=play} {xhow=how}.
""",
    # Something beside the plot that fits anywhere.
    "aside": """
4: "When I am big, I want to be {xnature=nature.a} {xjob=job} and live in {xlook=look.a} {xcolour=colour} {xhome=home}
    {xnear=near}," {hero.he} {xsaid=said}.
3: {hero.He} {xhow=how} sang about {xnature=nature.a} {xcolour=colour} {xanimal=animal}, {xnumber=number}
    {xnature=nature} {xcreature=creature.s} and {xjob=job.a}.
3: In a pocket there were {xnumber=number} {xcolour=colour} {xtreasure=treasure}, {xlook=look.a}
    {xcolour=colour} {xthing=thing} and some {xtaste=taste} {xfood=food}.
3: {hero.He} dreamed of {xlook=look.a} {xhome=home} full of {xcolour=colour} {xtreasure=treasure}, {xtaste=taste}
    {xfood=food} and {xtaste=taste} {xfood=food}.
2: {hero.He} {xhow=how} ate some {xtaste=taste} {xfood=food} and some {xtaste=taste} {xfood=food} with {xfood=food}.
2: "I like {xhobby=hobby}, {xnature=nature} {xanimal=animal.s} and {xcolour=colour} {xplant=plant.s}," {hero.he}
    {xsaid=said} {xhow=how}.
2: {hero.He} drew {xnature=nature.a} {xanimal=animal} with {xcolour=colour.a} {xwear=clothing} and {xlook=look.a}
    {xcolour=colour} {xthing=thing}.
""",
    # Binds friend, who does something next; the second one is for the middle of a sentence.
    "friend": """
5: {hero.His} friend {friend=child}
3: {hero.His} best friend {friend=child}
2: {xtrait=trait.A} {friend=child.kind} named {friend}
1: {friend=child}, who lived next door,
""",
    "a_friend": """
5: {hero.his} friend {friend=child}
3: {hero.his} best friend {friend=child}
2: {xtrait=trait.a} {friend=child.kind} named {friend}
""",
    "very": """
4: very
2: so
1: quite
""",
    "not_there": """
5: there was only {xlook=look.a} {xcolour=colour} {xthing=thing}
3: all {hero.he} found was {xjunk=junk.a} and {xjunk=junk.a}
3: {hero.he} saw only {xnumber=number} {xnature=nature} {xcreature=creature.s}
1: it was not there
""",
    "thanks": """
4: "Thank you!" {hero.he} {xsaid=said} {xhow=how}.
1: "Oh, thank you, {friend}!" {hero.he} {xsaid=said} {xhow=how}.
2: They hugged and were {xglad=glad} again.
1: "You are {xtrait=trait.a} and {xtrait=trait} friend," {hero.he} {xsaid=said}.
""",
    "again": """
3: It did not work, and {hero.he} felt {xsad=sad} and {xsad=sad}.
3: They {xplay=play} and {xplay=play}, but it was too hard.
3: "This is too hard!" {hero.he} {xsaid=said} {xhow=how}.
2: {xnature=nature.A} {xcreature=creature} and {xnature=nature.a} {xcolour=colour} {xanimal=animal} watched and
    laughed.
""",
    "end_alone": """
4: That night, {hero.he} dreamed of {xnature=nature.a} {xcolour=colour} {xanimal=animal} and {xnumber=number}
    {xnature=nature} {xcreature=creature.s}.
3: {hero.He} was {xglad=glad}, {xplay=play} {xhow=how} and ate some {xtaste=taste} {xfood=food}.
2: {hero} told {hero.his} {xfamily=relative} all about it and fell asleep {xglad=glad} and {xglad=glad}.
1: "You are always so {trait}," {xsaid=said} {hero.his} {xfamily=relative}.
""",
    "end_friends": """
4: They {xplay=play}, {xplay=play} and {xplay=play} until it was dark.
3: Then they ate some {xtaste=taste} {xfood=food} with {xtaste=taste} {xfood=food} and went home
    {xglad=glad}.
1: "You are really {trait}," {xsaid=said} {friend} {xhow=how}.
2: The next {xtime=time}, they played {xgame=game} {xplace=place.at}.
1: {hero} and {friend} were friends for ever.
""",
}
