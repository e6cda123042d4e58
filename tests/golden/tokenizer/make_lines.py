#!/usr/bin/env python3
"""Writes the lines that the tokenizers are compared on: 2,000 of them, seeded, in ten scripts, with digits, punctuation,
emoji, white space of all kinds, contractions and code. No model's special tokens are spelled: what those do is another test.

    make_lines.py > lines.bin        lines end in NUL, since some hold newlines
"""

import random
import sys

N_LINES = 2000
SCRIPTS = {
    "latin": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "latin_marks": "äöüßéèêëçñøåœæğışčžłőáíóúÄÖÜÉÇÑØÅİŠŽŁ",
    "cyrillic": "абвгдежзийклмнопрстуфхцчшщъыьэюяАБВГДЕЖЗИЙК",
    "greek": "αβγδεζηθικλμνξοπρστυφχψωςάέήίόύώΑΒΓΔΣΩ",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهويءآأؤإئىة",
    "hebrew": "אבגדהוזחטיכלמנסעפצקרשתםןףץך",
    "devanagari": "अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहािीुूेैोौ्ंः",
    "thai": "กขคงจฉชซญฎฏฐณดตถทธนบปผฝพฟภมยรลวศษสหอฮะาิีึืุูเแโใไ่้๊๋",
    "han": "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生",
    "kana": "あいうえおかきくけこさしすせそたちつてとなにぬねのアイウエオカキクケコサシスセソガギグ",
    "hangul": "가나다라마바사아자차카타파하각간갈감강거건걸검것게겨고공과관교구국군그",
}
DIGITS = ["0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "²³¹½¼ⅧⅣ①②"]
PUNCTUATION = "!\"#$%&'()*+,-./:;=?@[\\]^_`{}~«»„“”‘’–—…·•§¶°€£¥©®™±×÷¿¡。、「」《》！？"
EMOJI = ["😀", "🚀", "👍🏽", "👩‍👩‍👧", "🇩🇪", "❤️", "🤖", "✅", "♟", "🏳️‍🌈"]
SPACES = [" ", " ", " ", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\t\t ", "      "]
CONTRACTIONS = ["I'm", "you're", "it's", "we've", "they'll", "can't", "he'd", "IT'S", "DON'T", "y'all've", "rock'n'roll", "'s", "'Re", "'LL x"]
CODE = [
    "for (int i = 0; i < n; i++) {\n\treturn a[i] += 0x1F;\n}", "def f(x, *args):\n    return x**2  # square\n",
    "SELECT * FROM t WHERE a>=10 AND b!='x';", "https://example.org/a_b?c=%20d&e=1#f", "std::vector<std::string> v{};", "a->b::c<<=3",
    "printf(\"%5.2f\\n\", x);", "<div class=\"a\">&nbsp;</div>", "$ git commit -m 'x' && ls -la | wc -l", "{\"k\": [1, 2.5e-3, null]}",
    "C:\\Windows\\System32", "user.name+tag@example.co.uk", "v1.2.3-rc.4+build.5", "1,234,567.89", "2026-11-21T12:37:42Z", "+49 (0)30 123456",
]
ODD = ["\u200b", "\u200d", "\ufeff", "\u0301", "e\u0301", "\u202e", "\x07", "ﬁ", "Ⅷ", "ｆｕｌｌ", "ǅ", "ſ", "K", "\u0f0b", "𝔘𝔫𝔦", "𐍈", "㍿", "한\u1100\u1161"]


def word(r, letters):
    w = "".join(r.choice(letters) for _ in range(r.choice([1, 2, 3, 4, 5, 6, 7, 9, 12])))
    if r.random() < 0.03:
        w *= r.randint(2, 12)
    return w


def piece(r, letters):
    x = r.random()
    if x < 0.62:
        return word(r, letters)
    if x < 0.70:
        return "".join(r.choice(r.choice(DIGITS) if r.random() < 0.2 else DIGITS[0]) for _ in range(r.randint(1, 8)))
    if x < 0.80:
        return "".join(r.choice(PUNCTUATION) for _ in range(r.choice([1, 1, 1, 2, 3, 6])))
    if x < 0.84:
        return r.choice(EMOJI) * r.choice([1, 1, 2])
    if x < 0.90:
        return r.choice(CONTRACTIONS)
    if x < 0.95:
        return r.choice(CODE)
    if x < 0.98:
        return r.choice(ODD)
    return word(r, r.choice(list(SCRIPTS.values())))


def main():
    r = random.Random(20261121)
    scripts = list(SCRIPTS.values())
    out = sys.stdout.buffer
    for i in range(N_LINES):
        letters = scripts[i % len(scripts)]
        line = ""
        if r.random() < 0.1:
            line += r.choice(SPACES)
        for _ in range(r.randint(1, 12)):
            line += piece(r, letters)
            if r.random() < 0.85:
                line += r.choice(SPACES)
        out.write(line.encode() + b"\0")


main()
