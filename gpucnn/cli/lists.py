"""Options that take several values: `0.01,0.02` and `0..9`."""

import re
from collections import Counter

import click

LONGEST = 10_000


class NumberList(click.ParamType):
    """Numbers with commas between them, each of which the type `one` takes, none of them twice."""

    name = "list"

    def __init__(self, one):
        self._one = one

    def convert(self, value, parameter, context):
        if isinstance(value, tuple):
            return value
        numbers = []
        for part in value.split(","):
            if not part.strip():
                self.fail(f"expected numbers with commas between them, got {value!r}", parameter,
                          context)
            numbers += self._numbers(part.strip(), parameter, context)
            if len(numbers) > LONGEST:
                self.fail(f"expected at most {LONGEST:,} numbers, got more in {value!r}", parameter,
                          context)
        number, times = Counter(numbers).most_common(1)[0]
        if times > 1:
            self.fail(f"expected each number once, got {number} {times} times", parameter, context)
        return tuple(numbers)

    def _numbers(self, part, parameter, context):
        return [self._one.convert(part, parameter, context)]


class WholeNumberList(NumberList):
    """The same of whole numbers, and ranges of them: `0..9` has ten."""

    def _numbers(self, part, parameter, context):
        ends = re.fullmatch(r"([^.]+)\.\.([^.]+)", part)
        if ends is None:
            return super()._numbers(part, parameter, context)
        first, last = (self._one.convert(end.strip(), parameter, context) for end in ends.groups())
        if last < first:
            self.fail(f"expected a range from the lower number to the higher, got {part!r}",
                      parameter, context)
        return range(first, min(last, first + LONGEST) + 1)
