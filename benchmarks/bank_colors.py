"""What a bank of pictures holds of the objects of data sets of colours: a bound on what its images can teach.

    python benchmarks/bank_colors.py DATA/pictures --colors color-concrete-objects.csv coda

For each data set: objects with pictures that are called so (`Labels`), those whose pictures are mostly of one colour by
their pixels, and in how many of these it is the object's. No model is asked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from common import result_file
from crossgraft.tasks.colors import read_colors
from crossgraft.training.knowledge import image_files
from crossgraft.training.labelled import Labels

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from picture_colors import picture_color

COUNT = 4  # pictures of an object, as many as experts are shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", type=Path)
    parser.add_argument("--colors", type=Path, nargs="+", required=True)
    arguments = parser.parse_args()
    files = image_files([arguments.bank])
    labels = Labels((path, row) for row, path in enumerate(files))
    rows = []
    for data in arguments.colors:
        objects = read_colors(data).objects
        shown = {one.phrase: labels.rows(one.name, COUNT) for one in objects}
        seen = {phrase: color_of_most([files[row] for row in dict.fromkeys(rows)]) for phrase, rows in shown.items()}
        known = [one for one in objects if seen[one.phrase]]
        rows.append(
            {
                "data": data.stem,
                "objects": len(objects),
                "with pictures": sum(map(bool, shown.values())),
                "of one colour": len(known),
                "the object's": sum(seen[one.phrase] == one.color for one in known),
            }
        )
    result_file("bank_colors", "pictures").write_text(
        json.dumps({"pictures": len(files), "rows": rows}, indent=1) + "\n"
    )
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


def color_of_most(pictures: list[Path]) -> str | None:
    found = Counter(color for picture in pictures if (color := picture_color(Image.open(picture))))
    return found.most_common(1)[0][0] if found else None


if __name__ == "__main__":
    main()
