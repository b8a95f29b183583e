"""What is wrong in raw files, and the one rule (`RULES_TABLE`) by which it is dropped, repaired, kept or refused.

Users come from the events, so that no user is unknown. Refused, by a ValueError that names file, row, column, what was
expected, what came and what to do: no items or interactions file, two of them, a required column missing, two columns
of one name, a file that is not what its name says, vectors whose number does not match, an unknown key in dataset.yaml,
and nothing left after cleaning.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Optional

from tfmm.sources.dataset import Finding

Findings = list[Finding]
"""What a loader collects while it reads."""


RULES_TABLE = """
| problem | rule | what that means |
|---|---|---|
| row with a wrong number of fields | dropped | CSV; the number of fields is the header's |
| delimiter that no quotes protect | repaired | in the last column of a file known for it: all the rest is its cell |
| line that is not a JSON object | dropped | JSONL |
| line that is not a user and items | dropped | sequences, a line a user |
| byte that cannot be decoded | repaired | becomes U+FFFD; counted in cells. Another encoding is named in dataset.yaml |
| cell that holds whole rows | kept | a quoted cell with a row's worth of delimiters on one line: an unclosed quote? |
| space around an id | repaired | stripped, so that "7 " and "7" are one product |
| item without an id | dropped | |
| duplicate item id | dropped | the first one is kept |
| duplicate item id with other content | dropped | the first one is kept; counted apart from identical copies |
| item without text | kept | missing is normal: the item has no text |
| image file not found | dropped | the picture, not the item; only where a column names a file |
| image that cannot be decoded | dropped | the picture, not the item: not JPEG, PNG, GIF, BMP or WebP, or cut short |
| image with too many pixels | dropped | the picture, not the item; never decoded (decompression bomb) |
| sound file not found | dropped | the sound, not the item |
| sound that is not a WAV file | dropped | the sound, not the item |
| attribute that is not a number | repaired | becomes missing, where at least 9 of 10 values of the column are numbers |
| launch date that cannot be read | repaired | becomes unknown; also a date before 1970 |
| vector that is not finite | repaired | becomes missing: the whole row of that modality |
| user without an id | dropped | in the users file |
| duplicate user id | dropped | in the users file: the first one is kept |
| event without a user id | dropped | |
| event without an item id | dropped | |
| unknown item id | dropped | an event, query or overview of an item that the items file does not have |
| time that cannot be read | dropped | neither epoch seconds or milliseconds nor an ISO date; also an empty one |
| negative time | dropped | before 1970 |
| value that is not a number | repaired | becomes 1; an empty one is 1 without being dirt |
| event without a type | repaired | takes the weakest type |
| event type that dataset.yaml leaves out | dropped | only where dataset.yaml has event_types |
| exact duplicate event | dropped | same user, item, time, type and value |
| event earlier than the one above it | repaired | of the same user; sorted by time |
| event that an earlier part has | kept | of a source that comes divided; no answer, since the shopper had the item |
| query without text | dropped | |
| query without a relevant item | dropped | those left out as unknown are none |
| spoken query without a sound | dropped | its file is not there, or not a WAV file |
| movie without a year | kept | no number, no decade |
| movie without genres | kept | "(no genres listed)" and "unknown" are no genres |
| duplicate overview | dropped | the first one is kept |
| product without a review | dropped | metadata of Amazon reviews hold far more products than the reviews |
| item without metadata | kept | missing is normal: it has reviews, and nothing else is known of it |
| title that is a script | repaired | becomes missing: what Amazon's pages of 2018 have in place of some titles |
| price that is not a number | repaired | becomes missing; of a range the lower end is taken |
"""


def _rules(table: str) -> dict[str, str]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {problem: action for problem, action, *_ in rows[2:]}


RULES = _rules(RULES_TABLE)
"""Problem -> "dropped", "repaired" or "kept": read from the table, so that the table cannot be wrong."""


def note(findings: Findings, problem: str, count: int, example: str) -> None:
    """Adds a finding unless `count` is 0; a problem that was noted before in the same file is added to."""
    if count == 0:
        return
    for position, known in enumerate(findings):
        if known.problem == problem and _file(known.example) == _file(example):
            findings[position] = Finding(problem, known.action, known.count + int(count), known.example)
            return
    findings.append(Finding(problem, RULES[problem], int(count), example))


def _file(example: str) -> str:
    return example.split(" row ")[0]


def shown(value: object) -> str:
    """Returns a value as an error message quotes it, at most 60 characters long."""
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "...")


def place(file: str, row: int, column: Optional[str], value: object) -> str:
    """Returns "items.csv row 7 column price: 'abc'"; `row` is 1-based and counts the header."""
    return f"{file} row {row}" + (f" column {column}" if column else "") + f": {shown(value)}"


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns "; the nearest is 'x'", or "" where nothing is near."""
    names = list(names)
    by_lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; the nearest is {by_lower[close[0]]!r}" if close else ""


def unknown(kind: str, name: object, names: Sequence[str], *, where: str = "") -> ValueError:
    """Returns the error for a name that is none of `names`."""
    return ValueError(
        f"{where}{': ' if where else ''}expected {kind} to be one of {', '.join(names)}; "
        f"got {name!r}{nearest(str(name), names)}."
    )


def nothing_left(kind: str, file: str, findings: Findings) -> ValueError:
    """Returns the error for a file of which cleaning left no row."""
    reasons = "; ".join(map(str, findings)) or "the file has no rows"
    return ValueError(
        f"{file}: expected at least one {kind} after cleaning, got none ({reasons}). "
        f"Repair the file, or map its columns in dataset.yaml."
    )


def likeness(one: str, other: str) -> float:
    """Returns how alike two names are, from 0 to 1."""
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()
