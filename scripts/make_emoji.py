"""Make demo/emoji: 20 classes of emoji in three art styles, from three pinned npm packages.

    python scripts/make_emoji.py                     fetch the packages with `npm pack`, write demo/emoji
    python scripts/make_emoji.py --tarballs DIR      the same from packages already fetched (checked just as strictly)
    python scripts/make_emoji.py --sheet sheet.png   also draw one contact sheet per style, to look at

An emoji is one identity in all three styles. Identities, not images, are divided into train, val and test, so that no
test emoji was seen in training in any style. The division depends on the emoji's name only (order of SHA-256), so it is
the same on every machine. Needs npm (for the fetch) and Pillow; the image bytes also depend on Pillow's WebP encoder.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent / "demo" / "emoji"
ART = 64  # px: the native size of the two emoji-datasource packages, so only Fluent (256 px) is resampled
SIZE = 72  # px: the art on white with a margin of 4 px
TRAIN, VAL = 8, 4  # identities a class; the rest are test


@dataclass(frozen=True)
class Style:
    """One art style: the npm package that carries it, its pinned SHA-512, and where an image lies in the tarball."""

    name: str
    package: str
    version: str
    integrity: str
    image: str


STYLES = (
    Style(
        "noto",
        "emoji-datasource-google",
        "16.0.0",
        "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
        "package/img/google/64/{code}.png",
    ),
    Style(
        "fluent",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        "package/assets/{code}.webp",
    ),
    Style(
        "twemoji",
        "emoji-datasource-twitter",
        "16.0.0",
        "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
        "package/img/twitter/64/{code}.png",
    ),
)

# Class name -> short names in emoji-datasource. Written by hand: what a picture shows, one picture per thing (no
# recoloured twins such as the 24 clock faces or the raised hand in six skin tones).
CLASSES = {
    "bird": "rooster chicken hatching_chick hatched_chick black_bird bird penguin dove_of_peace turkey eagle duck owl"
    " peacock parrot swan dodo flamingo goose baby_chick",
    "building": "derelict_house_building classical_building stadium house office post_office european_post_office"
    " hospital bank hotel convenience_store school department_store factory japanese_castle european_castle"
    " hut mosque synagogue church",
    "clothing": "tophat necktie shirt jeans dress kimono bikini womans_clothes mans_shoe athletic_shoe high_heel boot"
    " womans_hat sari lab_coat safety_vest billed_cap scarf socks shorts",
    "dessert": "icecream shaved_ice ice_cream doughnut cookie chocolate_bar candy lollipop custard honey_pot cake"
    " birthday pie cupcake dango moon_cake fortune_cookie pancakes waffle croissant",
    "drink": "tea sake wine_glass cocktail tropical_drink beer beers baby_bottle champagne clinking_glasses"
    " tumbler_glass glass_of_milk cup_with_straw beverage_box mate_drink bubble_tea teapot pouring_liquid coffee",
    "face": "grinning joy wink sunglasses heart_eyes kissing_heart stuck_out_tongue thinking_face neutral_face sleeping"
    " cry angry fearful nerd_face zipper_mouth_face mask nauseated_face exploding_head partying_face"
    " smiling_face_with_tear",
    "fruit": "tomato grapes melon watermelon tangerine lemon banana pineapple apple green_apple pear peach cherries"
    " strawberry kiwifruit coconut mango blueberries olive",
    "hand": "wave raised_back_of_hand hand spock-hand ok_hand pinched_fingers v crossed_fingers the_horns call_me_hand"
    " point_left point_up_2 point_down +1 -1 fist facepunch clap open_hands handshake",
    "heart": "heart broken_heart two_hearts sparkling_heart heartpulse cupid gift_heart revolving_hearts"
    " heart_decoration heavy_heart_exclamation_mark_ornament heart_on_fire mending_heart blue_heart green_heart"
    " yellow_heart purple_heart black_heart white_heart orange_heart love_letter",
    "landscape": "volcano snow_capped_mountain camping beach_with_umbrella desert desert_island national_park"
    " mount_fuji mountain foggy night_with_stars sunrise_over_mountains sunrise city_sunset city_sunrise"
    " bridge_at_night cityscape milky_way motorway ocean",
    "mammal": "ox tiger2 leopard rabbit2 cat2 racehorse ram monkey dog2 pig2 elephant koala dromedary_camel bear"
    " giraffe_face zebra_face hedgehog kangaroo bat gorilla",
    "meal": "hotdog taco burrito hamburger pizza fries stew fried_egg green_salad shallow_pan_of_food stuffed_flatbread"
    " sandwich falafel rice curry ramen spaghetti sushi bento dumpling",
    "music": "saxophone guitar musical_keyboard trumpet violin drum_with_drumsticks maracas flute banjo accordion"
    " long_drum postal_horn microphone studio_microphone headphones radio musical_note musical_score notes",
    "plant": "seedling evergreen_tree deciduous_tree palm_tree cactus ear_of_rice herb four_leaf_clover maple_leaf"
    " potted_plant tulip cherry_blossom rose hibiscus sunflower bouquet lotus hyacinth blossom bamboo",
    "sea animal": "whale2 octopus shell fish tropical_fish blowfish dolphin whale crab shark shrimp squid lobster"
    " oyster seal coral jellyfish turtle",
    "sports equipment": "bowling tennis ski basketball football cricket_bat_and_ball volleyball"
    " field_hockey_stick_and_ball ice_hockey_stick_and_puck table_tennis_paddle_and_ball"
    " badminton_racquet_and_shuttlecock sled goal_net boxing_glove curling_stone lacrosse soccer baseball golf"
    " ice_skate",
    "tool": "wrench hammer nut_and_bolt compression axe carpentry_saw screwdriver ladder hook pick toolbox magnet"
    " chains scissors hocho plunger bucket broom gear paperclip",
    "vegetable": "chestnut hot_pepper corn eggplant avocado cucumber potato carrot peanuts broccoli leafy_green garlic"
    " onion bell_pepper beans ginger_root pea_pod mushroom",
    "vehicle": "racing_motorcycle racing_car bus trolleybus minibus ambulance fire_engine police_car taxi car blue_car"
    " truck articulated_lorry tractor motor_scooter auto_rickshaw pickup_truck oncoming_bus oncoming_taxi"
    " oncoming_automobile",
    "weather": "rainbow cyclone mostly_sunny barely_sunny partly_sunny partly_sunny_rain rain_cloud snow_cloud"
    " lightning tornado fog wind_blowing_face sunny cloud umbrella_with_rain_drops snowman zap thunder_cloud_and_rain"
    " snowflake thermometer",
}


def fetch(style: Style, folder: Path) -> Path:
    """Download the style's package into `folder` with npm and return the tarball."""
    command = ["npm", "pack", "--silent", f"{style.package}@{style.version}", "--pack-destination", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return tarball(style, folder)


def tarball(style: Style, folder: Path) -> Path:
    """The package's tarball in `folder`, under the name that `npm pack` gives it, if its SHA-512 is the pinned one."""
    path = folder / f"{style.package.removeprefix('@').replace('/', '-')}-{style.version}.tgz"
    found = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != style.integrity:
        sys.exit(f"{path}: SHA-512 differs from the pinned one: expected {style.integrity}, found {found}")
    return path


def identities() -> Iterator[tuple[str, int, str, str]]:
    """Yield (class name, label, emoji name, split), the same for every style."""
    for label, (name, members) in enumerate(sorted(CLASSES.items())):
        emoji = members.split()
        by_hash = sorted(emoji, key=lambda e: hashlib.sha256(f"{name}/{e}".encode()).digest())
        for i, e in enumerate(by_hash):
            yield name, label, e, "train" if i < TRAIN else "val" if i < TRAIN + VAL else "test"


def render(data: bytes) -> Image.Image:
    """An emoji on white, SIZE x SIZE, RGB."""
    art = Image.open(io.BytesIO(data)).convert("RGBA")
    if art.size != (ART, ART):
        # "RGBa" has premultiplied alpha: without it the invisible colour of transparent pixels bleeds into the edges.
        art = art.convert("RGBa").resize((ART, ART), Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (SIZE, SIZE), "white")
    margin = (SIZE - ART) // 2
    canvas.alpha_composite(art, (margin, margin))
    return canvas.convert("RGB")


def write_style(style: Style, archive: Path, codes: dict[str, list[str]], root: Path) -> list[Path]:
    """Write the style's images and its split file (CoOp format); return the images' paths, class after class."""
    shutil.rmtree(root / style.name, ignore_errors=True)
    split: dict[str, list[list[str | int]]] = {"train": [], "val": [], "test": []}
    written = []
    with tarfile.open(archive) as package:
        inside = set(package.getnames())
        for name, label, emoji, part in identities():
            member = next((m for c in codes[emoji] if (m := style.image.format(code=c)) in inside), None)
            if member is None:
                sys.exit(f"{archive.name}: no image of {emoji} ({name}); looked for codes {codes[emoji]}")
            stream = package.extractfile(member)
            assert stream is not None
            relative = Path(style.name, name.replace(" ", "_"), f"{file_name(emoji)}.webp")
            (root / relative).parent.mkdir(parents=True, exist_ok=True)
            render(stream.read()).save(root / relative, quality=95, method=6)
            split[part].append([relative.as_posix(), label, name])
            written.append(root / relative)
    lines = [
        f'"{part}": [\n' + ",\n".join(json.dumps(e) for e in sorted(entries)) + "\n]" for part, entries in split.items()
    ]
    (root / f"{style.name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8", newline="\n")
    return written


def file_name(emoji: str) -> str:
    """A name that every file system takes: the short names +1 and -1 are the two thumbs."""
    return {"+1": "thumbs_up", "-1": "thumbs_down"}.get(emoji, emoji)


def draw_sheet(images: list[Path], path: Path) -> None:
    """A row per class, an emoji a cell."""
    rows: dict[str, list[Path]] = {}
    for image in images:
        rows.setdefault(image.parent.name, []).append(image)
    sheet = Image.new("RGB", (SIZE * max(map(len, rows.values())), SIZE * len(rows)), "white")
    for y, row in enumerate(rows.values()):
        for x, image in enumerate(row):
            sheet.paste(Image.open(image), (x * SIZE, y * SIZE))
    sheet.save(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT, help="folder to write (default: demo/emoji)")
    parser.add_argument("--tarballs", type=Path, help="folder with the three packages, as `npm pack` names them")
    parser.add_argument("--sheet", type=Path, help="PNG file: contact sheets <name>-<style>.png are written beside it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        archives = {s: tarball(s, args.tarballs) if args.tarballs else fetch(s, Path(temp)) for s in STYLES}
        with tarfile.open(archives[STYLES[0]]) as package:
            stream = package.extractfile("package/emoji.json")
            assert stream is not None
            table = json.load(stream)
        # File names carry the code points with or without the variation selector FE0F, depending on the package.
        codes = {e["short_name"]: [c.lower() for c in (e["unified"], e["non_qualified"]) if c] for e in table}
        for style, archive in archives.items():
            images = write_style(style, archive, codes, args.out)
            total = sum(p.stat().st_size for p in images)
            print(f"{style.name}: {len(images)} images, {total / 1e6:.2f} MB")
            if args.sheet:
                draw_sheet(images, args.sheet.with_name(f"{args.sheet.stem}-{style.name}.png"))


if __name__ == "__main__":
    main()
