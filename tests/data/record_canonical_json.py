"""Records what CPython's json module makes of JSON texts: tests/data/canonical-json.jsonl.

Each line is {"input": JSON text, "canonical": json.dumps(json.loads(input), sort_keys, compact, ASCII)}.
The seed is fixed, so a second run writes the same bytes. Run it from anywhere: python3 record_canonical_json.py
"""

import decimal
import json
import pathlib
import random
import struct

RNG = random.Random(20250117)
OUT = pathlib.Path(__file__).with_name("canonical-json.jsonl")

EDGE_NUMBERS = """
0 -0 1 -1 9007199254740993 18446744073709551615 18446744073709551616 -9223372036854775808 -9223372036854775809
0.0 -0.0 0e0 -0e0 0E+5 0.10 1.0 1.50 1e0 1E5 1e+5 1e-0 1e15 1e16 1e17 9999999999999998.0 9999999999999999.0
99999999999999999.0 1234567890123456.7 12345678901234567.8 123456789012345680.0 0.1 0.01 0.001 0.0001 0.00001
0.00012345 0.000099999 1e-4 1e-5 9.999e-5 1.5e-7 1e-10 1e22 1e23 5e-324 2e-324 3e-324 4.9e-324 1e-323
2.2250738585072014e-308 2.2250738585072011e-308 1.7976931348623157e308 -1.7976931348623157E+308 1e-400 -1e-400
0.30000000000000004 2.675 1.005 4.35 100.0 1e2 123e-2 123.456e+3 5e-5 1e100 1e-100 1.0000000000000002 179769313486231570000.0
""".split()

CHARACTERS = (
    [chr(c) for c in range(0x21)]
    + list("\"\\/'<>&\x7f\x80\x85\xa0\xad\xff")
    + list("aZ09éßÅ中文\u0600\u200b\u2028\u2029\ud7ff\ue000\ufeff\ufffd\uffff")
    + list("\U00010000\U0001f600\U0001f9d1\U000e0001\U0010ffff")
)


def integer_text():
    digits = RNG.choice([1, 2, 5, 10, 17, 19, 20, 21, 40, 100, 300])
    first = str(RNG.randint(1, 9))
    return RNG.choice(["", "-"]) + first + "".join(RNG.choice("0123456789") for _ in range(digits - 1))


def float_text():
    """Any bits that make a finite float; a subnormal; one halfway between two shortest texts; or too many digits."""
    shape = RNG.randrange(5)
    if shape == 0:
        while True:
            value = struct.unpack("<d", RNG.randbytes(8))[0]
            if value == value and abs(value) != float("inf"):
                return repr(value)
    if shape == 1:
        value = struct.unpack("<d", struct.pack("<Q", RNG.getrandbits(RNG.randint(1, 52))))[0]
        return repr(value)
    if shape == 4:
        eighths = decimal.Decimal(RNG.randrange(2**49, 2**53)) / 8
        return RNG.choice(["", "-"]) + str(eighths * 2 ** RNG.randint(0, 8))
    exponent = RNG.randint(-330, 300) if shape == 2 else RNG.randint(-8, 20)
    fraction = "".join(RNG.choice("0123456789") for _ in range(RNG.randint(1, 25)))
    mark = RNG.choice(["e", "E"]) + ("" if exponent < 0 else RNG.choice(["", "+"]))
    return f"{RNG.choice(['', '-'])}{RNG.randint(0, 9)}.{fraction}{mark}{exponent}"


def string():
    return "".join(RNG.choice(CHARACTERS) for _ in range(RNG.randint(0, 12)))


def string_text():
    """Escaped in Python's way, left as it is, or with every character as an escape."""
    text = string()
    style = RNG.randrange(3)
    if style < 2:
        return json.dumps(text, ensure_ascii=style == 0)
    units = text.encode("utf-16-be")
    escapes = (f"\\u{units[i] << 8 | units[i + 1]:04{RNG.choice('xX')}}" for i in range(0, len(units), 2))
    return '"' + "".join(escapes) + '"'


def space():
    return RNG.choice(["", "", "", " ", "\n", "\t", " \r\n "])


def value_text(depth):
    kind = RNG.randrange(8 if depth else 5)
    if kind == 0:
        return RNG.choice(["null", "true", "false"])
    if kind == 1:
        return RNG.choice([integer_text, float_text])()
    if kind == 2:
        return RNG.choice(EDGE_NUMBERS)
    if kind <= 4:
        return string_text()
    items = [space() + value_text(depth - 1) + space() for _ in range(RNG.randint(0, 5))]
    if kind == 5:
        return "[" + ",".join(items) + "]"
    # Equal keys may occur; of these the last counts, in Python as here.
    return "{" + ",".join(f"{space()}{string_text()}{space()}:{item}" for item in items) + "}"


def inputs():
    yield from EDGE_NUMBERS
    yield from (json.dumps(character) for character in CHARACTERS)
    yield from (json.dumps(character, ensure_ascii=False) for character in CHARACTERS)
    yield json.dumps({character: None for character in RNG.sample(CHARACTERS, len(CHARACTERS))})
    yield "[" * 100 + "]" * 100
    yield '{"a":' * 100 + "0" + "}" * 100
    yield from (integer_text() for _ in range(200))
    yield from (float_text() for _ in range(700))
    yield from (string_text() for _ in range(200))
    yield from (value_text(4) for _ in range(700))


def main():
    with OUT.open("w", encoding="ascii", newline="\n") as out:
        for text in inputs():
            canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
            out.write(json.dumps({"input": text, "canonical": canonical}) + "\n")


if __name__ == "__main__":
    main()
