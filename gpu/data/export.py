"""Writes digits.bin from scikit-learn's copy of the digits: for each image 64 pixels (0 to 16) and its label, a byte each.

    python3 export.py path/to/digits.csv.gz

The argument is `sklearn/datasets/data/digits.csv.gz`, out of a wheel of scikit-learn. Needs nothing but Python.
"""

import gzip
import hashlib
import pathlib
import sys

rows = [[int(float(value)) for value in line.split(",")] for line in gzip.open(sys.argv[1], "rt")]
assert len(rows) == 1797 and all(len(row) == 65 and max(row[:64]) <= 16 and row[64] <= 9 for row in rows)
packed = b"".join(bytes(row) for row in rows)
pathlib.Path(__file__).with_name("digits.bin").write_bytes(packed)
print(f"{len(packed)} bytes, SHA-256 {hashlib.sha256(packed).hexdigest()}")
