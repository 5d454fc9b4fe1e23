"""Which pictures of Debian's openclipart-png are in the evaluation set, what they show, and which are one drawing.

The pictures have no labels but folders and file names (in English, Italian and French), so the classes are written by
hand, as patterns over the paths. Only the folders of `FOLDERS` are used: the others are training data of the pocket
encoders' alignment, and a picture whose bytes or file name occur there too is left out.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import posixpath
import re
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

BASE = "./usr/share/openclipart/png/"
FOLDERS = ("animals", "food", "tools", "transportation")
SIZE = 224  # px
MARGIN = 8  # px
LARGEST = 20_000_000  # pixels: a dozen drawings were rendered at up to 600 million
SMALLEST = 16  # px: the drawn part of a picture that is worth a look
ALIKE = 6.0  # mean difference of two 16 x 16 grey thumbnails (0..255) below which they are one drawing

# Class -> patterns over paths below `BASE`, without suffix; "!" before a pattern takes pictures out. A picture is of
# the first class that fits.
CLASSES = {
    "insect": "animals/bugs/* animals/mosquito* !*/lumaca* !*/ragn* !*/mostri* !*/virus* !*/zanzara_cretina*",
    "bird": "animals/birds/* animals/pinguino* animals/tux_head* !*/duck_yellow_ii* !*/manager* !*/wing_* !*_bat"
    " !*/cigno_di_notte*",
    "sea animal": "animals/fish/* animals/seal* !*/kallisti* !*/amibe* !*/dolphin_01",
    "dinosaur": "animals/dinosaurs/* animals/lindworm*",
    "lizard, frog or turtle": "animals/*lizard* animals/lucert* animals/ramarro* animals/rana* animals/red-eye*"
    " animals/turtle*",
    "dog": "animals/mammals/dog_* animals/mammals/dogs/*",
    "cat": "animals/mammals/housecats/* animals/mammals/big_cats/* animals/mammals/cartoon_cat*",
    "farm animal": "animals/mammals/horses/* animals/mammals/*pig* animals/mammals/porcinet* animals/mammals/squeek*"
    " animals/mammals/bull_* animals/mammals/vacca* animals/mammals/mhooo* animals/mammals/pecora*"
    " animals/mammals/shaezy* animals/mammals/*sheep* animals/mammals/goat* animals/mammals/emule*",
    "wild animal": "animals/mammals/bears/* animals/mammals/*elephant* animals/mammals/elefante* animals/bison*"
    " animals/mammals/*monkey* animals/*monkey* animals/mammals/contour_* animals/mammals/camel*"
    " animals/mammals/canguro* animals/mammals/rhinoceros* animals/mammals/raccoon* animals/mammals/*wolf*"
    " animals/armadillo* animals/mammals/antilope* animals/mammals/echidna* animals/mammals/stambecco*"
    " animals/mammals/bat_*",
    "cup of coffee or tea": "food/beverages/coff* food/beverages/cuppa* food/beverages/kubek* food/beverages/mug*"
    " food/beverages/tazza* food/beverages/*tea* food/beverages/teiera* food/beverages/zielony*",
    "cold drink": "food/beverages/* food/beverages/alcohol/* food/fruit/*juice* !*/flower* !*/icecube* !*/macchina*"
    " !*/wine_corks* !*/baby_bottle* !*/noi_due*",
    "bread or muffin": "food/breads_and_carbs/* food/desserts/muffin* food/bread_* !*/potato* !*/hash* !*/pasta*",
    "cake or pie": "food/desserts/*cake* food/desserts/torta* food/desserts/pie_* food/desserts/flan* food/cake*"
    " food/desserts/pudim*",
    "ice cream": "food/desserts/glace* food/desserts/gelato* food/desserts/ice_cream*",
    "apple or pear": "food/fruit/*apple* food/fruit/applf food/fruit/*pear* food/fruit/pera_* !*/pineapple",
    "citrus fruit": "food/fruit/lemon* food/fruit/lime* food/fruit/orange* food/fruit/rondelle*"
    " food/fruit/tile_orange*",
    "summer fruit": "food/fruit/cherr* food/fruit/grape* food/fruit/la_prugna* food/fruit/prune food/fruit/peach*"
    " food/fruit/pesca* food/fruit/strawberry* food/fruit/*melon* food/fruit/pasteque*",
    "vegetable": "food/vegetables/* food/pomodori* food/pumpkin* food/zucca* food/breads_and_carbs/potato_nicu*",
    "sandwich or burger": "food/meats_and_eggs/*burger* food/meats_and_eggs/hot_dog* food/meats_and_eggs/egg_muffin"
    " food/meats_and_eggs/farmer* food/*sandwich*",
    "cooked meal": "food/menu* food/spaghetti* food/lasagna* food/perogies* food/pizza* food/soup* food/*fries*"
    " food/meats_and_eggs/fried* food/breads_and_carbs/hash*",
    "hand tool": "tools/axe* tools/*hammer* tools/drill* tools/nail_puller* tools/saw_* tools/screwdriver*"
    " tools/spaclu* tools/tools_* tools/utens* tools/wrench* tools/bypass* tools/cultivator* tools/hedge*"
    " tools/leafrake* tools/*shovel* tools/trowel* tools/*roller* tools/paint_brush*",
    "household item": "tools/*vacuum* tools/vavuum* tools/broom* tools/bucket* tools/secchio* tools/scrub* tools/ferro*"
    " tools/ironing* tools/toothbrush* tools/insecticide* tools/pan_* tools/umbrella tools/hurricane* tools/lampada*"
    " tools/scolapasta* tools/meatgrinder* tools/*burner* tools/forchettoni* tools/key* tools/chiave* tools/lock*",
    "weapon": "tools/weapons/* !*/bullet_hole* !*/arrow-heart* !*tank*",
    "car": "transportation/car_* transportation/dodge* transportation/formula*"
    " transportation/toyota* transportation/bmw* transportation/*redcar* transportation/vehicles/*chevrolet*"
    " transportation/vehicles/autos* transportation/vehicles/blazer* transportation/vehicles/car"
    " transportation/vehicles/*hummer* transportation/vehicles/old_car* transportation/vehicles/road_runner*"
    " transportation/vehicles/*cobra* transportation/vehicles/skoda*",
    "truck or bus": "transportation/*truck_* transportation/vehicles/bus* transportation/fire_engine*"
    " transportation/tram* transportation/vehicles/ambulans* transportation/vehicles/trattore*"
    " !transportation/roadsigns/*",
    "warning road sign": "transportation/*/bambi transportation/*/cattle transportation/*/chauss*"
    " transportation/*/cross* transportation/*/curv* transportation/*/drawbridge transportation/*/end_daul"
    " transportation/*/falling* transportation/*/grounded transportation/*/horse transportation/*/humpback"
    " transportation/*/junc_curve transportation/*/man_w* transportation/*/narrows* transportation/*/old_folks"
    " transportation/*/queues transportation/*/rail_fence transportation/*/roundabout transportation/*/slippery"
    " transportation/*/splash transportation/*/staggered transportation/*/train transportation/*/tram"
    " transportation/*/tunnel transportation/*/two_way* transportation/*/warning* transportation/*/watch_for*"
    " transportation/*/zigzag transportation/*/cycle_route transportation/*/quay* transportation/*/EX",
    "traffic sign": "transportation/roadsigns/* transportation/vehicles/cycle_lane"
    " !*/nws_* !*/bus_symbol* !*/ampel* !*/splash*",
}

# Words that tell variants of one drawing apart: black and white, colours, and the lemon that was coloured as a lime.
VARIANTS = {
    "bw",
    "b",
    "w",
    "amp",
    "md",
    "ii",
    "black",
    "white",
    "grey",
    "gray",
    "red",
    "green",
    "blue",
    "yellow",
    "pink",
}
VARIANTS |= {"orange", "color", "contour", "lemon", "lime", "grigia", "labels"}
CUT = 12  # file names were cut at 24 characters: a stem of so many that another one begins with is the same


@dataclass(frozen=True)
class Drawing:
    """A picture of the set: its path below `BASE` without suffix, its class, and the picture, SIZE x SIZE, RGB."""

    path: str
    name: str
    image: Image.Image


def class_of(path: str) -> str | None:
    """The class of a picture by its path below `BASE`, without suffix."""
    for name, patterns in CLASSES.items():
        wanted = [p for p in patterns.split() if not p.startswith("!")]
        unwanted = [p[1:] for p in patterns.split() if p.startswith("!")]
        if any(fnmatchcase(path, p) for p in wanted) and not any(fnmatchcase(path, p) for p in unwanted):
            return name
    return None


def stem(path: str) -> str:
    """The file name without numbers at its end and without words that name a variant: "muffin3_bw" -> "muffin"."""
    words = re.split(r"[_\W]+", Path(path).name.lower())
    words = [word for word in words if word and word not in VARIANTS]
    return re.sub(r"[ \d]+$", "", " ".join(words))


def groups(items: list[tuple[str, np.ndarray]]) -> list[list[int]]:
    """Indices of pictures (path, thumbnail (16, 16)) that are variants of one drawing, in order of first appearance.

    Two are, if their stems are equal, or one stem is the beginning of the other and long, or they look alike.
    """
    stems = [stem(path) for path, _ in items]
    owner = list(range(len(items)))

    def root(i: int) -> int:
        while owner[i] != i:
            i = owner[i]
        return i

    for j, (_, thumbnail) in enumerate(items):
        for i in range(j):
            short, long = sorted((stems[i], stems[j]), key=len)
            same = short == long or (len(short) >= CUT and long.startswith(short))
            if same or np.abs(items[i][1] - thumbnail).mean() < ALIKE:
                owner[root(j)] = root(i)
    joined: dict[int, list[int]] = {}
    for i in range(len(items)):
        joined.setdefault(root(i), []).append(i)
    return list(joined.values())


def thumbnail(image: Image.Image) -> np.ndarray:
    """Grey values (16, 16), float32, 0..255."""
    return np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), dtype=np.float32)


def drawn_part(data: bytes) -> Image.Image | None:
    """The drawing on white, cut to what is drawn and fitted into SIZE x SIZE; None if broken, empty, tiny or huge."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = Image.open(io.BytesIO(data))
            if file.width * file.height > LARGEST:
                return None
            picture = file.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    on_white = Image.new("RGBA", picture.size, "white")
    on_white.alpha_composite(picture)
    opaque = on_white.convert("RGB")
    box = ImageOps.invert(opaque.convert("L")).point(lambda value: 255 if value > 8 else 0).getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) < SMALLEST:
        return None
    inner = (SIZE - 2 * MARGIN, SIZE - 2 * MARGIN)
    return ImageOps.expand(
        ImageOps.pad(opaque.crop(box), inner, Image.Resampling.LANCZOS, color="white"), MARGIN, fill="white"
    )


def read_drawings(package: Path) -> list[Drawing]:
    """All labelled pictures of the package, by class and path."""
    inside: dict[str, bytes] = {}
    links: dict[str, str] = {}
    names_elsewhere, bytes_elsewhere = set(), set()
    with tarfile.open(fileobj=io.BytesIO(_data_of(package)), mode="r:") as archive:
        for member in archive:
            if not member.name.startswith(BASE) or not member.name.endswith(".png"):
                continue
            path = _below_base(member.name)
            ours = path.split("/")[0] in FOLDERS
            if not ours:
                names_elsewhere.add(Path(path).name)  # of links, too
            elif member.issym():
                links[path] = _below_base(posixpath.join(posixpath.dirname(member.name), member.linkname))
            if stream := archive.extractfile(member) if member.isfile() else None:
                data = stream.read()
                if ours:
                    inside[path] = data
                else:
                    bytes_elsewhere.add(hashlib.sha256(data).digest())
    # A picture in two folders is a link in one of them, and either folder may be the one that says what it shows.
    inside |= {path: inside[target] for path, target in links.items() if target in inside}
    return list(_label(inside, names_elsewhere, bytes_elsewhere))


def _below_base(name: str) -> str:
    return posixpath.normpath(name).removeprefix(posixpath.normpath(BASE) + "/").removesuffix(".png")


def _label(inside: dict[str, bytes], names_elsewhere: set[str], bytes_elsewhere: set[bytes]) -> Iterator[Drawing]:
    seen = set(bytes_elsewhere)
    for path in _by_depth(inside):
        digest = hashlib.sha256(inside[path]).digest()
        name = class_of(path)
        if name is None or digest in seen or Path(path).name in names_elsewhere:
            continue
        image = drawn_part(inside[path])
        if image is not None:
            seen.add(digest)
            yield Drawing(path, name, image)


def _by_depth(paths: Iterable[str]) -> list[str]:
    """The deepest folder says most about a picture that lies in several."""
    return sorted(paths, key=lambda path: (-path.count("/"), path))


def _data_of(package: Path) -> bytes:
    """The file tree (a tar) of a Debian package, which is an ar archive that holds data.tar.xz."""
    content = package.read_bytes()
    at = 8  # behind "!<arch>\n"
    while at < len(content):
        header = content[at : at + 60]
        name, size = header[:16].decode().rstrip(" /"), int(header[48:58])
        if name == "data.tar.xz":
            return lzma.decompress(content[at + 60 : at + 60 + size])
        at += 60 + size + size % 2
    raise ValueError(f"{package}: no data.tar.xz in it")
