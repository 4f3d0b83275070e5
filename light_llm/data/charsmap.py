"""Check the compiled replacements of a normalizer, on whose damage the `tokenizers` library aborts."""

import numpy as np


def check_charsmap(data: bytes) -> None:
    """Raise ValueError for a compiled table of replacements in which a search would leave the table.

    The table is a double array trie (Yata's darts-clone), 4 bytes with its size in front, and after it the
    replacements, each with a zero at its end. The `tokenizers` library aborts on a damaged one.
    """
    size = int.from_bytes(data[:4], "little")
    units, replacements = np.frombuffer(data[4 : 4 + size][: size // 4 * 4], "<u4"), data[4 + size :]
    if not 0 < size <= len(data) - 4 or size % 4 or not replacements.endswith(b"\0"):
        raise ValueError(f"its table of replacements has {len(data):,} bytes, which are not all of it")
    replacements.decode("utf-8")
    labels = np.arange(1, 256, dtype=np.uint32)

    def offset(unit: int) -> int:
        return (unit >> 10) << ((unit & 1 << 9) >> 6)

    reached = {offset(int(units[0]))}
    waiting = [*reached]
    while waiting:
        node = waiting.pop()
        if node | 255 >= len(units):
            raise ValueError("its table of replacements is damaged")
        for label in labels[units[node ^ labels] & 0x800000FF == labels].tolist():
            unit = int(units[node ^ label])
            child = node ^ label ^ offset(unit)
            if unit >> 8 & 1:
                start = int(units[child]) & 0x7FFFFFFF if child < len(units) else len(replacements)
                # Not in the middle of a character.
                if start >= len(replacements) or replacements[start] & 0xC0 == 0x80:
                    raise ValueError("its table of replacements is damaged")
            if child not in reached:
                reached.add(child)
                waiting.append(child)
