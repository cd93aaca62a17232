"""Text to tokenize: what users type and paste, and seeded mixtures of every kind of character."""

from __future__ import annotations

import random

CORE = (
    "",
    "How many objects are left?",
    "Subtract all tiny shiny balls. Subtract all purple objects.",
    "I've seen it; they'RE here, we'll SEE, don'T, it'd, I'M, you'Ve",
    "it’s ‘quoted’ — and… done",
    "1 22 333 4444 55555 1234567 3.14159 1,000,000 0x1F 1e-5 ½ ² ⅷ ٣٤ १२३४",
    "def f(x):\n    return [i**2 for i in range(x) if i % 2 == 0]  # comment\n\n\n\tif True:\r\n\t\tpass\r\n",
    '{"key": [1, 2.5, null], "other": "\\u00e9\\n"}',
    "for (int i = 0; i < n; ++i) { a[i] += b[i] << 2; }",
    "    four   three  two one\t\ttabs \n newline \n\n two\r\nwindows   ",
    " leading", "trailing ", "   ", "\n\n\n", "\t", " \n", "\u00a0\u2003\u3000x\u2028y\u0085z",
    "今天天气很好，我们去公园吧。", "東京タワーに行きたいです！", "안녕하세요 세계", "Привет, мир! Ещё раз",
    "שלום עולם", "مرحبا بالعالم ١٢٣", "नमस्ते दुनिया क्षत्रिय", "สวัสดีชาวโลก", "Ελληνικά ΑΒΓ ς", "ÀÉÎÕÜ ßẞ ıİ ﬁ",
    "🙂", "👩‍👩‍👧‍👦 family", "👍🏽👍🏿", "🇩🇪🇯🇵", "a🙂b🙂", "😶‍🌫️ ❤️ ☃ ✅",
    "e\u0301 n\u0303 a\u0302\u0323 Z\u0351\u0363\u0334 zalgo", "\u0301leading mark", "x\u200by\u200dz\ufeff",
    "<SUMMARY> I will. </SUMMARY>\n\n<CAPTION> a </CAPTION><REASONING>x</REASONING>\n\n<CONCLUSION> 7 </CONCLUSION>",
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\dir\\file.txt ~/x",
    "$$\\frac{a}{b} \\leq \\sum_{i=1}^{n} x_i^2$$ ∀x∈ℝ: x²≥0 → ∞",
    "!!!!???...,,,;;;:::---___===+++***///\\\\\\|||&&&^^^%%%$$$###@@@~~~```",
    "</s><s>[INST] <<SYS>> <|im_start|> <|endoftext|> <unk>",
    "\x00\x01\x7f control \x1b[31mred\x1b[0m",
)  # fmt: skip
SPECIAL_IN_TEXT = (
    "ignore this <|eot_id|> and <|image|> too",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nhi<|eot_id|>",
    "<|image|>",
    "a<|eom_id|>b<|python_tag|>c<|finetune_right_pad_id|>",
)

_KINDS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    "     \t\n\r",
    ".,;:!?'\"()[]{}<>|/\\-_=+*&^%$#@~`",
    "àéîõüßñçøåæœłžšđ",
    "".join(map(chr, range(0x4E00, 0x4E80))),
    "".join(map(chr, range(0x3041, 0x3096))),
    "".join(map(chr, range(0xAC00, 0xAC60))),
    "".join(map(chr, range(0x0410, 0x0450))),
    "".join(map(chr, range(0x0627, 0x063B))) + "٠١٢٣٤٥٦٧٨٩",
    "".join(map(chr, range(0x0905, 0x0939))) + "०१२३\u093e\u0940\u094d",
    "\u0300\u0301\u0302\u0303\u0308\u0323\u0327\u20dd",
    "🙂😀🎉🚀🔥👩👨👧🏽\u200d\ufe0f❤☃✅🇩🇪",
    "½¼²³⅔ⅷ①㈠",
    "\u00a0\u2002\u2003\u2009\u200b\u3000\u2028",
    "∀∃∈∑√∞≤≥→←↔⇒",
)
_PIECES = (*CORE, *SPECIAL_IN_TEXT, "'s", "'LL", " the", "\n\n", "  ", "<|", "|>", "1000", "don't")


def random_texts(number: int, seed: int = 0) -> list[str]:
    """Runs of one kind of character after another, with whole phrases in between."""
    rng = random.Random(seed)
    texts = []
    for _ in range(number):
        parts = []
        for _ in range(rng.randint(1, 12)):
            if rng.random() < 0.2:
                parts.append(rng.choice(_PIECES))
            else:
                kind = rng.choice(_KINDS)
                parts.append("".join(rng.choice(kind) for _ in range(rng.randint(1, 8))))
        texts.append("".join(parts))
    return texts
