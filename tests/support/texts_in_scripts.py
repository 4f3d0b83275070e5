"""Texts in 20 scripts, the same in every run: sentences, random characters, and what tokenizers get wrong."""

import random
import unicodedata
from collections.abc import Iterator

SONNET = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date;
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance or nature's changing course untrimm'd;
But thy eternal summer shall not fade,
Nor lose possession of that fair thou ow'st;
Nor shall death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st:
So long as men can breathe, or eyes can see,
So long lives this, and this gives life to thee.

HAMLET:
To be, or not to be, that is the question:
Whether 'tis nobler in the mind to suffer
The slings and arrows of outrageous fortune,
Or to take arms against a sea of troubles
And by opposing end them. To die: to sleep;
No more; and by a sleep to say we end
The heart-ache and the thousand natural shocks
That flesh is heir to, 'tis a consummation
Devoutly to be wish'd. To die, to sleep;
To sleep: perchance to dream: ay, there's the rub;
For in that sleep of death what dreams may come
When we have shuffled off this mortal coil,
Must give us pause: there's the respect
That makes calamity of so long life.
"""  # Sonnet 18 and the beginning of Hamlet's soliloquy

SENTENCES = {  # "the cat sleeps on the warm roof, and the rain of 1984 is over", more or less
    "Latin": "The cat sleeps on the warm roof; the rain of 1984 is over, isn't it?",
    "Latin, accents": "Die Katze schläft auf dem Dach, l'été où naît le café, señor, háček čaj żółw ığdır.",
    "Vietnamese": "Con mèo ngủ trên mái nhà ấm áp, cơn mưa năm 1984 đã hết rồi.",
    "Greek": "Η γάτα κοιμάται στη ζεστή στέγη και η βροχή του 1984 τελείωσε.",
    "Cyrillic": "Кошка спит на тёплой крыше, а дождь 1984 года закончился; їжак спить.",
    "Armenian": "Կատուն քնում է տաք տանիքին, անձրևը դադարել է։",
    "Georgian": "კატას თბილ სახურავზე სძინავს და წვიმა შეწყდა.",
    "Hebrew": "החתול ישן על הגג החם, והגשם של 1984 נגמר.",
    "Hebrew, points": "הֶחָתוּל יָשֵׁן עַל הַגָּג",
    "Arabic": "القطة تنام على السطح الدافئ، وانتهى مطر عام ١٩٨٤.",
    "Devanagari": "बिल्ली गर्म छत पर सोती है और १९८४ की बारिश ख़त्म हो गई।",
    "Bengali": "বিড়ালটি গরম ছাদে ঘুমায়, বৃষ্টি শেষ হয়ে গেছে।",
    "Gurmukhi": "ਬਿੱਲੀ ਨਿੱਘੀ ਛੱਤ ਉੱਤੇ ਸੌਂਦੀ ਹੈ।",
    "Tamil": "பூனை சூடான கூரையில் தூங்குகிறது.",
    "Telugu": "పిల్లి వెచ్చని పైకప్పు మీద నిద్రపోతుంది.",
    "Thai": "แมวนอนบนหลังคาอุ่น ฝนปี ๒๕๒๗ หยุดแล้ว",
    "Khmer": "ឆ្មាដេកលើដំបូលក្តៅ។",
    "Tibetan": "བྱི་ལ་ཐོག་ཁར་གཉིད་ཉལ་བ་རེད།",
    "Amharic": "ድመቷ ሞቃታማው ጣሪያ ላይ ትተኛለች።",
    "Cherokee": "ᏪᏌ ᎦᎵᎭ ᎠᏝᎾᎥᎢ.",
    "Han": "猫在温暖的屋顶上睡觉，一九八四年的雨已经停了。",
    "Japanese": "猫は暖かい屋根の上で眠り、1984年の雨はもうやんだ。ﾈｺとネコ、が",
    "Hangul": "고양이는 따뜻한 지붕에서 자고 1984년의 비는 그쳤다.",
}

ODD = [  # white space, controls, joined emoji, digits of several scripts, forms that a normalizer changes
    " ",
    "  ",
    "\n",
    "\t\t\n \n",
    " leading and trailing  ",
    "a\r\nb\r\n\r\nc\rd",
    "a  b   c    d     e\n\n\nf\t\tg",
    "x = 3\n    if x:\n\t\treturn 1e-9 # 12345678901 3.14",
    "\u00a0no-break\u2003em\u3000wide\u200bzero\ufeffbom",
    "\x00\x01\x02\x7f\x80\x85\x9f controls \x1b[0m",
    "👩‍👩‍👧‍👦 👨🏽‍🚀🏳️‍🌈 ❤️ 🇩🇪🇯🇵 😀!!😀",
    "e\u0301 cafe\u0301 A\u030a \u1e0b\u0323 \u0344 o\u0327\u0302\u0301",
    "ﬁne ﬂuﬀ ½ ² ℌ ｆｕｌｌ ㍿ Å Ω 각",
    "12 ١٢ १२ ๑๒ 一二 Ⅻ 1,234.5 0x1F 007",
    "I'm we'LL THEY'RE 'tis don't rock'n'roll ''s",
    "<s> </s> <unk> <pad> <0x41> <|endoftext|> ▁ ▁▁a Ġ ##ing [CLS]",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!!!!!!!!!!!!????...---===___",
    'https://example.org/a_b?c=%20d&e=f#g <b>x</b> {"k": [1, 2]} \\n $\\frac{a}{b}$',
    "İstanbul ẞtraße ŉ ǆ Σίσυφος ς",
    "\ufffd \ue000 \U0010ffff \u2028line\u2029para",
    "\u0301starts with a mark",
    "كتابٌ\u0640\u0640 بِسْمِ ٱللَّٰهِ",
]

RANGES = [  # of letters, for random words
    (0x21, 0x7E), (0xA1, 0x24F), (0x300, 0x36F), (0x391, 0x3C9), (0x400, 0x4FF), (0x531, 0x586), (0x5B0, 0x5EA),
    (0x620, 0x6D3), (0x904, 0x97F), (0x985, 0x9CC), (0xA05, 0xA4C), (0xB85, 0xBCD), (0xC05, 0xC4D), (0xE01, 0xE4E),
    (0xF40, 0xFBC), (0x10D0, 0x10FF), (0x1200, 0x135A), (0x13A0, 0x13F4), (0x1780, 0x17D3), (0x3041, 0x30FF),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF), (0x0, 0x1F), (0x2000, 0x206F), (0x1D400, 0x1D7FF),
]  # fmt: skip
SPACES = [" ", " ", " ", " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", ""]


def texts_in_scripts(n: int, seed: int = 1) -> list[str]:
    """Return n texts, the same for the same seed: the fixed ones first, then mixtures."""
    texts = [*SENTENCES.values(), *ODD, *(unicodedata.normalize("NFD", text) for text in SENTENCES.values())]
    mixtures = _mixtures(random.Random(seed))
    return [*texts, *(next(mixtures) for _ in range(n - len(texts)))][:n]


def _mixtures(rng: random.Random) -> Iterator[str]:
    """Yield words of sentences in any order and case, numbers, odd texts and random characters of one script."""
    words = [word for text in [*SENTENCES.values(), SONNET] for word in text.split(" ")]
    while True:
        low, high = rng.choice(RANGES)
        parts = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.6:
                parts.append(rng.choice((str, str.upper, str.title))(rng.choice(words)))
            elif kind < 0.7:
                parts.append(str(rng.randint(0, 10 ** rng.randint(1, 9))))
            elif kind < 0.75:
                parts.append(rng.choice(ODD))
            else:
                parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6))))
            parts.append(rng.choice(SPACES))
        yield "".join(parts)
