"""The products of the sample catalogue, one function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from services.sample_sprite import Sprite, curve

INK: Final = (52, 50, 56)
WHITE: Final = (250, 249, 246)
STEEL: Final = (188, 194, 202)
WOOD: Final = (186, 136, 88)
LEATHER: Final = (120, 78, 52)
LEAF: Final = (86, 142, 84)
LEAF_DARK: Final = (58, 112, 70)
GLOW: Final = (255, 238, 190)


def _mug(s: Sprite) -> None:
    s.stroke([(64, 40), (78, 38), (83, 50), (77, 63), (62, 66)], 6, s.dark)
    s.box(22, 28, 68, 76, radius=7)
    s.box(22, 60, 68, 76, radius=7)
    s.ellipse(22, 23, 68, 34, s.light)
    s.ellipse(25.5, 25, 64.5, 32.5, (92, 62, 44))


def _t_shirt(s: Sprite) -> None:
    body = [(36, 20), (44, 25), (56, 25), (64, 20), (86, 33), (78, 49), (70, 44), (70, 82), (30, 82), (30, 44)]
    s.polygon([*body, (22, 49), (14, 33)])
    s.stroke([(38, 20.5), (43, 27), (50, 29), (57, 27), (62, 20.5)], 2.6, s.dark)
    s.stroke([(15.6, 34.5), (22.8, 47.5)], 1.6, s.dark)
    s.stroke([(84.4, 34.5), (77.2, 47.5)], 1.6, s.dark)
    s.stroke([(30.6, 80.6), (69.4, 80.6)], 1.4, s.dark)


def _dress(s: Sprite) -> None:
    s.stroke([(41, 26), (42, 14)], 2.2, s.dark)
    s.stroke([(59, 26), (58, 14)], 2.2, s.dark)
    top = [(39, 24), (45, 27), (50, 28), (55, 27), (61, 24), (62, 38), (59, 46), (66, 62)]
    hem = curve([(77, 84), (64, 87.5), (50, 88.5), (36, 87.5), (23, 84)], closed=False)
    s.polygon([*top, *hem, (34, 62), (41, 46), (38, 38)])
    s.stroke([(41, 46), (50, 47.4), (59, 46)], 3.2, s.dark)
    for waist, fold in (((45, 52), (38, 82)), ((50, 52), (50, 84)), ((55, 52), (62, 82))):
        s.stroke([waist, fold], 0.5, s.dark)


def _hat(s: Sprite) -> None:
    s.ellipse(10, 55, 90, 77, s.dark)
    s.ellipse(10, 53, 90, 74)
    s.polygon(curve([(28, 63), (30, 40), (37, 29), (50, 32), (63, 29), (70, 40), (72, 63)], closed=False))
    s.polygon(
        [*curve([(28, 55), (50, 60), (72, 55)], closed=False), *curve([(72, 63), (50, 69), (28, 63)], closed=False)],
        INK,
    )


def _sneaker(s: Sprite) -> None:
    s.blob(
        [(10, 68), (9, 48), (14, 36), (22, 37), (29, 41), (36, 35), (46, 42), (62, 54), (84, 59), (92, 68), (50, 72)]
    )
    s.blob([(72, 57), (85, 59), (92, 67), (88, 71), (72, 70), (66, 63)], s.light)
    s.blob([(10, 66), (9, 50), (13, 40), (20, 44), (21, 56), (26, 66)], s.dark)
    s.box(8, 66, 93, 76, radius=4.5, colour=WHITE)
    s.box(8, 72.5, 93, 76, radius=1.7, colour=s.dark)
    for x, y in ((37, 37.5), (43.5, 42), (50, 46.5), (56.5, 51)):
        s.stroke([(x, y), (x - 5, y + 8)], 2, WHITE)
    s.blob([(30, 65), (42, 60), (62, 57), (56, 62), (42, 66)], WHITE)


def _handbag(s: Sprite) -> None:
    s.stroke([(34, 44), (35, 24), (50, 15), (65, 24), (66, 44)], 3.4, LEATHER)
    s.polygon(curve([(20, 42), (15, 78), (20, 84), (50, 85), (80, 84), (85, 78), (80, 42)], closed=False))
    s.polygon(
        curve([(19.6, 41), (20.5, 56), (36, 64), (50, 65.5), (64, 64), (79.5, 56), (80.4, 41)], closed=False), s.dark
    )
    s.box(45, 59, 55, 70, radius=2, colour=(222, 184, 98))
    s.ellipse(48.4, 62, 51.6, 65.4, LEATHER)


def _watch(s: Sprite) -> None:
    s.polygon([(41, 8), (59, 8), (62, 36), (38, 36)])
    s.polygon([(38, 64), (62, 64), (59, 92), (41, 92)])
    s.box(72, 46.5, 79, 53.5, radius=1.5, colour=STEEL)
    s.ellipse(25, 25, 75, 75, STEEL)
    s.ellipse(29, 29, 71, 71, s.dark)
    s.ellipse(31, 31, 69, 69, WHITE)
    for a, b in (((50, 33.5), (50, 37)), ((50, 63), (50, 66.5)), ((33.5, 50), (37, 50)), ((63, 50), (66.5, 50))):
        s.stroke([a, b], 1.5, INK)
    s.stroke([(50, 50), (42, 43)], 1.9, INK)
    s.stroke([(50, 50), (59.5, 41)], 1.3, INK)
    s.ellipse(48, 48, 52, 52, s.dark)


def _bottle(s: Sprite) -> None:
    s.box(43.5, 8, 56.5, 20, radius=2.4, colour=s.dark)
    s.box(45, 17, 55, 26, radius=1, colour=STEEL)
    s.polygon(
        curve([(45, 23), (43.5, 30), (35, 38), (33, 48), (33, 84), (37, 91), (50, 92)], closed=False)
        + curve([(50, 92), (63, 91), (67, 84), (67, 48), (65, 38), (56.5, 30), (55, 23)], closed=False)
    )
    s.box(36.5, 44, 39.5, 80, radius=1.4, colour=s.light)


def _chair(s: Sprite) -> None:
    s.stroke([(33, 58), (28, 90)], 3.2, WOOD)
    s.stroke([(67, 58), (72, 90)], 3.2, WOOD)
    s.stroke([(40, 58), (38, 82)], 2.6, LEATHER)
    s.stroke([(60, 58), (62, 82)], 2.6, LEATHER)
    s.stroke([(34, 20), (33, 58)], 3, WOOD)
    s.stroke([(66, 20), (67, 58)], 3, WOOD)
    s.box(31, 12, 69, 44, radius=7)
    s.box(27, 54, 73, 64, radius=4.6)
    s.box(27, 60, 73, 64, radius=2, colour=s.dark)


def _lamp(s: Sprite) -> None:
    s.box(47.8, 50, 52.2, 84, radius=1, colour=STEEL)
    s.ellipse(32, 80, 68, 91, s.dark)
    s.ellipse(32, 78.5, 68, 88, STEEL)
    s.ellipse(44, 47, 56, 59, GLOW)
    s.polygon([(38, 14), (62, 14), (79, 50), (21, 50)])
    s.polygon([(22.4, 47), (77.6, 47), (79, 50), (21, 50)], s.dark)
    s.polygon([(38, 14), (62, 14), (63, 16), (37, 16)], s.dark)


def _sofa(s: Sprite) -> None:
    for x in (17, 79):
        s.polygon([(x, 72), (x + 4, 72), (x + 3, 82), (x + 1, 82)], WOOD)
    s.box(15, 32, 85, 66, radius=7)
    s.stroke([(50, 35), (50, 54)], 0.7, s.dark)
    s.box(18, 52, 50, 67, radius=4, colour=s.light)
    s.box(50, 52, 82, 67, radius=4, colour=s.light)
    s.box(14, 64, 86, 75, radius=3.5)
    s.box(7, 45, 21, 75, radius=6)
    s.box(79, 45, 93, 75, radius=6)


def _book(s: Sprite) -> None:
    s.polygon([(30, 17), (78, 21), (78, 88), (30, 84)], s.dark)
    s.polygon([(31, 15), (76, 18.5), (76, 85), (31, 81.5)], WHITE)
    s.polygon([(24, 14), (72, 14), (72, 80), (24, 80)])
    s.polygon([(24, 14), (31, 14), (31, 80), (24, 80)], s.dark)
    s.box(39, 24, 65, 40, radius=1.2, colour=WHITE)
    s.box(43, 28.5, 61, 31, radius=0.8, colour=s.dark)
    s.box(46, 33.5, 58, 35.5, radius=0.8, colour=s.dark)


def _plant_pot(s: Sprite) -> None:
    for tip, side in (((20, 26), 4), ((80, 26), -4), ((33, 10), 5), ((67, 10), -5)):
        s.blob(
            [
                (50, 58),
                ((50 + tip[0]) / 2 - side, (56 + tip[1]) / 2 - 5),
                tip,
                ((50 + tip[0]) / 2 + side, (62 + tip[1]) / 2 + 4),
            ],
            LEAF_DARK,
        )
    s.blob([(50, 58), (42, 34), (50, 7), (58, 34)], LEAF)
    for tip in ((14, 42), (86, 42)):
        s.blob([(50, 58), ((50 + tip[0]) / 2, 43), tip, ((50 + tip[0]) / 2, 55)], LEAF)
    s.polygon([(30, 58), (70, 58), (64, 90), (36, 90)])
    s.box(27, 53, 73, 63, radius=2.2, colour=s.dark)


def _umbrella(s: Sprite) -> None:
    s.stroke([(50, 50), (50, 80), (53, 88), (60, 88), (62, 81)], 2.8, WOOD)
    s.stroke([(50, 12), (50, 20)], 2.2, WOOD)
    canopy = curve([(8, 56), (14, 36), (30, 21), (50, 16), (70, 21), (86, 36), (92, 56)], closed=False)
    hem = [p for x in (92, 71, 50, 29) for p in curve([(x, 56), (x - 10.5, 50.5), (x - 21, 56)], closed=False)]
    s.polygon(canopy + hem)
    for x in (29, 50, 71):
        s.stroke([(50, 16.5), ((50 + x) / 2 + (x - 50) * 0.28, 34), (x, 55.5)], 0.7, s.dark)


PRODUCTS: Final[dict[str, Callable[[Sprite], None]]] = {
    "mug": _mug,
    "t-shirt": _t_shirt,
    "sneaker": _sneaker,
    "lamp": _lamp,
    "dress": _dress,
    "chair": _chair,
    "watch": _watch,
    "plant pot": _plant_pot,
    "handbag": _handbag,
    "bottle": _bottle,
    "sofa": _sofa,
    "hat": _hat,
    "book": _book,
    "umbrella": _umbrella,
}
