"""Turns of phrase that the plots of the tales share; grammar.py says how they are written.

Names of slots that begin with x hold words that no later sentence speaks of.
"""

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
4: {hero.He} loved {xhobby=hobby}, {xhobby=hobby} and {xhobby=hobby}.
3: {hero.He} lived in {xlook=look.a} {xhome=home} {xnear=near}.
3: {hero.He} and {hero.his} {xfamily=relative} lived in {xhome=home.a} {xnear=near} with {xlook=look.a} {xpet=creature}.
2: {hero.He} always wore {xcolour=colour.a} {xwear=clothing} and {xcolour=colour.a} {xwear=clothing}.
2: Everyone knew that {hero.he} liked {xhobby=hobby}, {xfood=food} and {xcolour=colour} {xwear=clothing}.
""",
    "day": """
6: One {xweather=weather} {xtime=time},
2: One {xtime=time},
2: Early one {xweather=weather} {xtime=time},
2: On {xweather=weather.a} and {xweather=weather} {xtime=time},
""",
    # What there is to see for someone who is out.
    "way": """
4: {hero.He} saw {xlook=look.a} {xanimal=animal}, {xnumber=number} {xlook=look} {xcreature=creature.s}
 and {xcolour=colour.a} {xthing=thing}.
4: {xlook=look.A} {xanimal=animal} with {xcolour=colour.a} {xwear=clothing} {xplay=play} {xhow=how}
 {xplace=place.at}.
3: {hero.He} passed {xlook=look.a} {xhome=home}, {xnumber=number} {xplant=plant.s} and {xjob=job.a} with
 {xlook=look.a} {xthing=thing}.
3: The {xjob=job} was busy with {xhobby=hobby}, and {xnumber=number} {xcreature=creature.s} {xplay=play} {xhow=how}
 near {xcolour=colour.a} {xhome=home}.
2: {xnumber=number.W} {xcolour=colour} {xcreature=creature.s} {xplay=play} {xhow=how} and {xplay=play} {xhow=how}.
2: There were {xlook=look} {xplant=plant.s}, {xcolour=colour} {xplant=plant.s} and {xlook=look.a} {xanimal=animal}.
2: {hero.He} {xplay=play} {xhow=how}, {xplay=play} {xhow=how} and {xplay=play} {xhow=how}.
""",
    # Something beside the plot that fits anywhere.
    "aside": """
4: "When I am big, I want to be {xlook=look.a} {xjob=job} and live in {xcolour=colour.a} {xhome=home} {xnear=near},"
 {xsaid=said} {hero}.
3: {hero} {xhow=how} sang a song about {xcolour=colour.a} {xanimal=animal}, {xnumber=number} {xcreature=creature.s} and
 {xlook=look.a} {xjob=job}.
3: In {hero.his} pocket, {hero.he} had {xnumber=number} {xtreasure=treasure}, {xlook=look.a} {xthing=thing} and some
 {xfood=food}.
3: {hero} dreamed of {xlook=look.a} {xhome=home} full of {xcolour=colour} {xtreasure=treasure}, {xfood=food} and
 {xfood=food}.
2: {hero.He} {xhow=how} ate some {xfood=food} and some {xlook=look} {xfood=food} with {xfood=food}.
2: "I like {xhobby=hobby}, {xlook=look} {xanimal=animal.s} and {xcolour=colour} {xplant=plant.s}," {hero} {xsaid=said}
 {xhow=how}.
2: {hero.He} drew {xlook=look.a} {xanimal=animal} with {xcolour=colour.a} {xwear=clothing} and {xlook=look.a}
 {xthing=thing}.
""",
    # Binds friend, who does something next.
    "friend": """
5: {hero.His} friend {friend=child}
3: {hero.His} best friend {friend=child}
2: {trait2=trait.A} {friend=child.kind} named {friend}
1: {friend=child}, who lived next door,
""",
    "very": """
4: very
2: so
1: quite
""",
    "not_there": """
5: there was only {xlook=look.a} {xjunk=junk}
3: all {hero.he} found was {xjunk=junk.a} and {xjunk=junk.a}
3: {hero.he} saw nothing but {xnumber=number} {xcreature=creature.s}
1: it was not there
""",
    "thanks": """
4: "Thank you, {friend}!" {xsaid=said} {hero} {xhow=how}.
2: "Oh, thank you!" {xsaid=said} {hero} and hugged {friend}.
2: {hero} hugged {friend} and was {xglad=glad} again.
1: "You are {xtrait=trait.a} and {xtrait=trait} friend, {friend}," said {hero}.
""",
    "again": """
3: It did not work, and {hero} felt {xsad=sad}.
3: {hero} {xplay=play} and {xplay=play}, but {hero.he} was too {xsad=sad}.
3: "This is too hard!" {xsaid=said} {hero} {xhow=how}.
2: {xlook=look.A} {xcreature=creature} and {xlook=look.a} {xcreature=creature} watched and laughed.
""",
    "end_alone": """
4: That night, {hero} dreamed of {xlook=look.a} {xanimal=animal} and {xnumber=number} {xcreature=creature.s}.
3: {hero} was {xglad=glad}, {xplay=play} {xhow=how} and ate some {xfood=food}.
2: {hero} told {hero.his} {xfamily=relative} all about it and fell asleep {xglad=glad} and {xglad=glad}.
2: "You are always so {trait}, {hero}," {xsaid=said} {hero.his} {xfamily=relative}.
""",
    "end_friends": """
4: {hero} and {friend} {xplay=play}, {xplay=play} and {xplay=play} until it was dark.
3: Then {hero} and {friend} ate some {xfood=food} with {xlook=look} {xfood=food} and went home {xglad=glad}.
2: "You are really {trait}, {hero}," {xsaid=said} {friend} {xhow=how}.
2: The next {xtime=time}, {hero} and {friend} played {xgame=game} {xplace=place.at}.
1: {hero} and {friend} were friends for ever.
""",
}
