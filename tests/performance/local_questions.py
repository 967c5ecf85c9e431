"""Questions whose answers are known by construction, for `local_answers.py`.

Three sets of ten: `csv` (one table of 10,000 rows, with quoted and missing values), `needle` (each
its own text of 200 kB in which a fact stands once), `compute` (no file). Two splits with different
data and different questions: prompts are improved on `dev`, reported on `test`. Answers are
computed here with the standard library, not with what the model uses.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import math
import random
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import mean, median
from typing import Literal

__all__ = ["SEEDS", "SETS", "Question", "is_right", "questions"]

Split = Literal["dev", "test"]
SETS = ("csv", "needle", "compute")
SEEDS = {"dev": 20_261, "test": 90_417}


@dataclass(frozen=True)
class Question:
    name: str
    prompt: str
    gold: str
    """What is right; alternatives are parted by `|`."""
    files: tuple[Path, ...] = ()


def questions(split: Split, kind: str, folder: Path) -> list[Question]:
    """The ten of a set; their files are written to `folder`."""
    rng = random.Random(f"{SEEDS[split]} {kind}")
    if kind == "csv":
        asked, files = _csv(split, rng, folder)
        return [_question(kind, n, *pair, files) for n, pair in enumerate(asked, 1)]
    if kind == "needle":
        return [
            _question(kind, n, question, gold, (_text(rng, folder / f"{name}.txt", fact, n),))
            for n, (name, fact, question, gold) in enumerate(NEEDLES[split], 1)
        ]
    asked = _compute_dev() if split == "dev" else _compute_test()
    return [_question(kind, n, *pair, ()) for n, pair in enumerate(asked, 1)]


def _question(
    kind: str, n: int, prompt: str, gold: object, files: tuple[Path, ...] = ()
) -> Question:
    return Question(f"{kind}-{n}", prompt, str(gold), files)


# -- what is right -----------------------------------------------------------------------------


def is_right(answer: str | None, question: Question) -> bool:
    """Equal as numbers (to half of the gold's last digit), or as texts.

    Case, outer quotes, a leading article and a full stop at the end do not count, nor a number's
    thousands separators, its currency sign and a unit that the question names. A sentence around
    the answer does count: what is asked for is one value. `gold` may hold alternatives: `a|b`.
    """
    if answer is None:
        return False
    given = _bare(answer)
    if found := re.fullmatch(r"([-\d.,]+) ([a-z]+)", given):
        given = found[1] if found[2] in question.prompt.casefold() else given
    return any(_same(given, _bare(wanted)) for wanted in question.gold.split("|"))


def _same(given: str, wanted: str) -> bool:
    if (expected := _number(wanted)) is not None and (number := _number(given)) is not None:
        places = len(wanted.partition(".")[2])
        if not places:
            return number == expected
        return abs(number - expected) <= Decimal(5).scaleb(-places - 1)
    return given == wanted


def _bare(text: str) -> str:
    text = " ".join(text.split()).casefold().strip(" .`'\"*")
    return re.sub(r"\s*,\s*", ",", re.sub(r"^(a|an|the) ", "", text))


def _number(text: str) -> Decimal | None:
    text = text.strip("$€% ")
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    return Decimal(text) if re.fullmatch(r"-?\d+(\.\d*)?", text) else None


# -- csv ---------------------------------------------------------------------------------------

CITIES = {
    "dev": ["Lisbon", "Oslo", "Porto", "Washington, D.C.", "Ghent", "Turin", "Lyon", "Riga"],
    "test": ["Kyoto", "Bergen", "St. John's, Newfoundland", "Quito", "Cork", "Basel", "Perth"],
}
PRODUCTS = {
    "dev": ["lamp", 'monitor 27"', "desk", "chair", "shelf", "clock", "rug, wool", "kettle", "fan"],
    "test": ["teapot", "spade", "hose, 20 m", "bucket", 'saw 18"', "rake", "gloves", "ladder"],
}
HEADERS = {
    "dev": ["id", "date", "city", "product", "price", "quantity", "comment"],
    "test": ["order_id", "ordered_on", "town", "item", "unit_price", "units", "remark"],
}
REMARKS = ['said "thanks", twice', "late, but fine", "gift", "call first; ask for Ann", "paid cash"]


@dataclass(frozen=True)
class Row:
    id: int
    date: dt.date
    city: str
    product: str
    price: float | None
    quantity: int | None
    comment: str


def _csv(
    split: Split, rng: random.Random, folder: Path
) -> tuple[list[tuple[str, object]], tuple[Path, ...]]:
    base = {product: rng.uniform(8, 250) for product in PRODUCTS[split]}
    first = dt.date(2022 if split == "test" else 2023, 1, 1)
    weights = [rng.uniform(1, 3) for _ in CITIES[split]]
    rows = []
    for n in range(10_000):
        product = rng.choice(PRODUCTS[split])
        price = round(base[product] * rng.uniform(0.7, 1.3), 2)
        rows.append(
            Row(
                id=1000 + n,
                date=first + dt.timedelta(days=rng.randrange(730)),
                city="" if rng.random() < 0.02 else rng.choices(CITIES[split], weights)[0],
                product=product,
                price=None if rng.random() < 0.03 else price,
                quantity=None if rng.random() < 0.01 else rng.randint(1, 20),
                comment=rng.choice(REMARKS) if rng.random() < 0.1 else "",
            )
        )
    path = folder / ("sales.csv" if split == "dev" else "orders.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADERS[split])
        for row in rows:
            price = "" if row.price is None else f"{row.price:.2f}"
            quantity = "" if row.quantity is None else row.quantity
            date, comment = row.date.isoformat(), row.comment
            writer.writerow([row.id, date, row.city, row.product, price, quantity, comment])
    return (_csv_dev(rows) if split == "dev" else _csv_test(rows)), (path,)


def _csv_dev(rows: list[Row]) -> list[tuple[str, object]]:
    lamps = [r.price for r in rows if r.product == "lamp" and r.price is not None]
    sold: Counter[str] = Counter()
    for row in rows:
        sold[row.product] += row.quantity or 0
    oslo = sum((r.price or 0) * (r.quantity or 0) for r in rows if r.city == "Oslo")
    return [
        ("How many rows of sales.csv have the city Lisbon?", sum(r.city == "Lisbon" for r in rows)),
        ("What is the sum of the column quantity?", sum(r.quantity or 0 for r in rows)),
        ("What is the highest price in the file?", max(r.price or 0 for r in rows)),
        (
            "Which city has the most rows? Give its name only.",
            _top(Counter(r.city for r in rows if r.city)),
        ),
        (
            "What is the mean price of the product lamp? Ignore rows without a price. "
            "Round to 2 decimals.",
            f"{mean(lamps):.2f}",
        ),
        ("How many different products are there?", len({r.product for r in rows})),
        (
            "How many sales were made in March 2024?",
            sum((r.date.year, r.date.month) == (2024, 3) for r in rows),
        ),
        ("In how many rows is the price missing?", sum(r.price is None for r in rows)),
        (
            "What is the revenue (price times quantity, summed) of the city Oslo? Skip rows "
            "where one of the two is missing. Round to 2 decimals.",
            f"{oslo:.2f}",
        ),
        ("Of which product were the most pieces sold? Take quantity as pieces.", _top(sold)),
    ]


def _csv_test(rows: list[Row]) -> list[tuple[str, object]]:
    prices: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.price is not None:
            prices[row.product].append(row.price)
    every = [price for known in prices.values() for price in known]
    days = Counter(r.date for r in rows)
    newfoundland = [r.quantity or 0 for r in rows if r.city.startswith("St. John's")]
    return [
        (
            "How many orders were placed from 2023-06-15 to 2023-07-14, both days included?",
            sum(dt.date(2023, 6, 15) <= r.date <= dt.date(2023, 7, 14) for r in rows),
        ),
        ("What did the cheapest unit_price amount to?", min(every)),
        (
            "Which item has the highest average unit_price? Answer with the item.",
            max(prices, key=lambda item: mean(prices[item])),
        ),
        ("Count the orders of more than 15 units.", sum((r.quantity or 0) > 15 for r in rows)),
        (
            "How often was the item teapot ordered from the town Kyoto?",
            sum((r.city, r.product) == ("Kyoto", "teapot") for r in rows),
        ),
        ("Give the median of unit_price to 2 decimals.", f"{median(every):.2f}"),
        (
            "On how many different days was at least one order of more than 19 units placed?",
            len({r.date for r in rows if (r.quantity or 0) > 19}),
        ),
        (
            "How many units were ordered from St. John's, Newfoundland, all orders together?",
            sum(newfoundland),
        ),
        (
            "On which day were the most orders placed? Write it as YYYY-MM-DD. "
            "If several share the first place, give the earliest.",
            min(day for day in days if days[day] == max(days.values())),
        ),
        (
            "What percentage of the orders has a remark? One decimal, without the percent sign.",
            f"{100 * sum(bool(r.comment) for r in rows) / len(rows):.1f}",
        ),
    ]


def _top(counts: Counter[str]) -> str:
    (first, most), (_, second) = counts.most_common(2)
    assert most > second, "the question has no single answer"
    return first


# -- needle ------------------------------------------------------------------------------------

TEXT_CHARS = 200_000
NOUNS = """river garden window market lantern forest letter bridge winter village orchard table
morning shadow harbour teacher kitchen violin mountain story carpet engine summer captain doctor
island station museum farmer mirror basket meadow cellar chapel sailor"""
VERBS = """crossed followed remembered watched described repaired opened forgot reached painted
carried measured admired questioned visited counted left found"""
ADJECTIVES = """quiet narrow old bright heavy distant patient careful broken golden early lonely
familiar strange gentle plain cold"""
PLACES = [
    "near the mill",
    "behind the church",
    "along the coast",
    "in the valley",
    "after the long rain",
    "before noon",
    "at the edge of town",
    "without a word",
    "for the third time",
    "as the bells rang",
]

Needle = tuple[str, str, str, str]
NEEDLES: dict[str, list[Needle]] = {  # file, sentence, question, answer
    "dev": [
        (
            "chronicle",
            "The lighthouse at Vardholm was kept by Osmund Thackeray for thirty years.",
            "Who kept the lighthouse at Vardholm?",
            "Osmund Thackeray",
        ),
        (
            "report",
            "The password of the archive was changed to kingfisher-4471 in spring.",
            "To what was the password of the archive changed?",
            "kingfisher-4471",
        ),
        (
            "letters",
            "Aunt Philippa was born on 9 November 1873 in a railway carriage.",
            "When was Aunt Philippa born? Answer as it is written in the text.",
            "9 November 1873",
        ),
        (
            "minutes",
            "The committee agreed to pay 18,450 crowns for the new organ.",
            "How many crowns did the committee agree to pay for the organ?",
            "18450",
        ),
        (
            "diary",
            "Our expedition lost its only compass at Lake Tarnobel.",
            "At which lake did the expedition lose its compass? Give the lake's name.",
            "Lake Tarnobel|Tarnobel",
        ),
        (
            "novel",
            "The parrot of Madame Corvisart answered to the name of Balthazar.",
            "What is the name of Madame Corvisart's parrot?",
            "Balthazar",
        ),
        (
            "manual",
            "Valve seven of the Brunner pump must be closed at 64 degrees.",
            "At how many degrees must valve seven of the Brunner pump be closed?",
            "64",
        ),
        (
            "history",
            "In 1704 the treaty of Elmsworth was signed by two brothers.",
            "In which year was the treaty of Elmsworth signed?",
            "1704",
        ),
        (
            "notes",
            "The rarest orchid of the collection, Dactylora nivea, bloomed only once.",
            "What is the rarest orchid of the collection called?",
            "Dactylora nivea",
        ),
        (
            "log",
            "Inspector Halloran parked his Wolseley in Candlemaker Row that night.",
            "Where did Inspector Halloran park his car? Give the street.",
            "Candlemaker Row",
        ),
    ],
    "test": [
        (
            "memoir",
            "My grandfather sold the ship Evangeline to a merchant called Pereira.",
            "Find out the name of the merchant who bought the ship Evangeline.",
            "Pereira",
        ),
        (
            "survey",
            "Borehole K19 struck water at a depth of 137 metres.",
            "How deep, in metres, was the water in borehole K19?",
            "137",
        ),
        (
            "travels",
            "The inn at Skarvik charged us eleven florins for a single candle.",
            "What was bought for eleven florins at the inn at Skarvik?",
            "a single candle|a candle",
        ),
        (
            "court",
            "The clerk noted that exhibit 23 was a silver thimble.",
            "What was exhibit 23?",
            "a silver thimble",
        ),
        (
            "catalogue",
            "The telescope with the serial number ZX-80912 was given to the school in Umbria.",
            "What is the serial number of the telescope that was given to a school?",
            "ZX-80912",
        ),
        (
            "speech",
            "It was Dr. Ingrid Solheim who first proposed the tunnel under the fjord.",
            "Who proposed the tunnel under the fjord first? Give the full name.",
            "Ingrid Solheim|Dr. Ingrid Solheim",
        ),
        (
            "almanac",
            "The comet Auberon will return on 2 February 2088.",
            "On what date will the comet Auberon return? Write it as the text does.",
            "2 February 2088",
        ),
        (
            "cookbook",
            "Bake the Mirandola cake for 55 minutes and let it rest.",
            "For how many minutes is the Mirandola cake baked?",
            "55",
        ),
        (
            "gazette",
            "The mayor of Littlebrook resigned because of a missing goose.",
            "Because of what did the mayor of Littlebrook resign?",
            "a missing goose",
        ),
        (
            "protocol",
            "Sample 8B of the glacier contained traces of beryllium.",
            "Of which element did sample 8B contain traces?",
            "beryllium",
        ),
    ],
}


def _text(rng: random.Random, path: Path, fact: str, n: int) -> Path:
    """Prose with `fact` in it once, between 20 and 95 % of the way; every other file is wrapped."""
    paragraphs: list[str] = []
    size = 0
    while size < TEXT_CHARS:
        paragraphs.append(" ".join(_sentence(rng) for _ in range(rng.randint(3, 8))))
        size += len(paragraphs[-1]) + 2
    place = int(len(paragraphs) * rng.uniform(0.2, 0.95))
    sentences = paragraphs[place].split(". ")
    sentences.insert(1, fact.removesuffix("."))
    paragraphs[place] = ". ".join(sentences)
    if n % 2 == 0:
        paragraphs = [textwrap.fill(paragraph, 78) for paragraph in paragraphs]
    path.write_text("\n\n".join(paragraphs) + "\n")
    assert " ".join(path.read_text().split()).count(fact.removesuffix(".")) == 1
    return path


def _sentence(rng: random.Random) -> str:
    def thing() -> str:
        return f"the {rng.choice(ADJECTIVES.split())} {rng.choice(NOUNS.split())}"

    said = f"{thing()} {rng.choice(VERBS.split())} {thing()}"
    if rng.random() < 0.6:
        said += f" {rng.choice(PLACES)}"
    if rng.random() < 0.3:
        said += f", and {thing()} {rng.choice(VERBS.split())} {rng.randint(2, 90)} times"
    return f"{said[0].upper()}{said[1:]}."


# -- compute -----------------------------------------------------------------------------------


def _compute_dev() -> list[tuple[str, object]]:
    sentence = "Every evening the engineer eagerly examined seventeen green beetles"
    fridays = sum(
        dt.date(year, month, 13).weekday() == 4
        for year in range(2015, 2025)
        for month in range(1, 13)
    )
    fibonacci = [0, 1]
    while len(fibonacci) <= 90:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    return [
        ("What is the sum of all prime numbers below 100000?", sum(_primes(100_000))),
        (
            "On which day of the week does 14 March 2031 fall? Give its English name.",
            dt.date(2031, 3, 14).strftime("%A"),
        ),
        (
            "How many days are there from 1999-02-17 to 2026-08-05?",
            (dt.date(2026, 8, 5) - dt.date(1999, 2, 17)).days,
        ),
        (
            f'How many times does the letter e (upper or lower case) occur in "{sentence}"?',
            sentence.casefold().count("e"),
        ),
        ("What are the last five digits of 7**2023?", f"{7**2023 % 100_000:05d}"),
        (
            'Write the string "trajectory-Notebook_42" backwards.',
            "trajectory-Notebook_42"[::-1],
        ),
        ("What is the 90th Fibonacci number? The first two are 1 and 1.", fibonacci[90]),
        (
            "What is the greatest common divisor of 1234567890 and 9876543210?",
            math.gcd(1234567890, 9876543210),
        ),
        (
            'What are the first 8 hexadecimal digits of the SHA-256 of the text "lis kernel"?',
            hashlib.sha256(b"lis kernel").hexdigest()[:8],
        ),
        ("How many Fridays the 13th were there in the years 2015 to 2024?", fridays),
    ]


def _compute_test() -> list[tuple[str, object]]:
    words = "quince medlar apricot damson mulberry fig cherry bilberry"
    phrase = "An unusual aquarium occupied the audience outside"
    divisors = next(n for n in range(1, 10_000) if sum(n % d == 0 for d in range(1, n + 1)) == 24)
    word = "TENNESSEE"
    arrangements = math.factorial(len(word))
    for count in Counter(word).values():
        arrangements //= math.factorial(count)
    return [
        (
            "How many primes lie between 50000 and 60000?",
            sum(prime > 50_000 for prime in _primes(60_000)),
        ),
        ("Compute 1234**5 modulo 99991.", pow(1234, 5, 99991)),
        (
            "Which date is 1000 days after 2024-02-29? Write it as YYYY-MM-DD.",
            dt.date(2024, 2, 29) + dt.timedelta(days=1000),
        ),
        (
            f"Sort these words alphabetically and join them with commas: {words}",
            ",".join(sorted(words.split())),
        ),
        ("What is the sum of the decimal digits of 3**500?", sum(map(int, str(3**500)))),
        (
            f'Count the vowels (a, e, i, o, u; upper or lower case) in "{phrase}".',
            sum(letter in "aeiou" for letter in phrase.casefold()),
        ),
        ("Write 987654321 in hexadecimal, without 0x.", f"{987654321:x}"),
        (
            'Give the MD5 of the text "notebook" in hexadecimal.',
            hashlib.md5(b"notebook").hexdigest(),
        ),
        ("In how many different orders can the letters of TENNESSEE be written?", arrangements),
        ("What is the smallest positive integer with exactly 24 divisors?", divisors),
    ]


def _primes(below: int) -> Iterable[int]:
    sieve = bytearray([1]) * below
    sieve[:2] = b"\0\0"
    for n in range(2, math.isqrt(below) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, below, n)))
    return [n for n in range(below) if sieve[n]]
