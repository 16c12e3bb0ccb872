"""A fault: one place in one file, changed as a slip of the hand might change it."""

import re
from typing import NamedTuple


class Fault(NamedTuple):
    """In `file`, `before` becomes `after`; `tests` are the pytest targets most likely to fail.

    `before` stands exactly once in the file. `why` says what breaks, where that is hard to see.
    """

    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    why: str = ""

    def __str__(self) -> str:
        before, after = (" ⏎ ".join(map(str.strip, text.strip("\n").split("\n"))) for text in (self.before, self.after))
        return f"{self.file}: {before or '∅'}  →  {after or '∅'}" + (f"  ({self.why})" if self.why else "")

    def seeded(self, text: str) -> str:
        """The file's text with the fault.

        Raises:
            LookupError: `before` does not stand in it exactly once.
        """
        if (count := text.count(self.before)) != 1:
            raise LookupError(f"stands {count} times in its file, expected once")
        return text.replace(self.before, self.after)


def faults(file: str, tests: str, rows: list[tuple[str, ...]]) -> list[Fault]:
    """Faults in one file, as rows (before, after, names of likely tests in the file `tests`[, why]).

    The names stand in one string, also with a case, as in "test_a[some case] test_b"; a whole file or a test of another
    one is written out, as in tests/test_x.py::test_y.
    """

    def targets(names: str) -> tuple[str, ...]:
        each = re.split(" (?=tests?[_/])", names)
        return tuple(name if name.startswith("tests/") else f"{tests}::{name}" for name in each)

    return [Fault(file, before, after, targets(names), *why) for before, after, names, *why in rows]
