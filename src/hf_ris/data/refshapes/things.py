"""Drawings of the things, in a box of 100 x 100 units (see `pen.py`)."""

from math import cos, pi, sin

from .pen import CREAM, GLASS, GOLD, INK, LEAF, LINE, MAIN, SHADE, STEEL, TINT, WHITE, WOOD, Pen, symmetric


POT = (196, 150, 118)
CHERRY = (206, 72, 82)


def mug(pen: Pen) -> None:
    pen.arc(74, 54, 20, 20, -90, 90, 8, MAIN, True)
    pen.curve([(14, 24), (76, 24), (74, 84), (66, 93), (24, 93), (16, 84)], SHADE, False)
    pen.polygon([(12, 22), (78, 22), (74, 86), (67, 94), (23, 94), (16, 86)])
    pen.ellipse(45, 22, 33, 9, TINT)
    pen.ellipse(45, 24, 25, 5.5, INK, False)


def tree(pen: Pen) -> None:
    pen.polygon([(42, 60), (58, 60), (62, 99), (38, 99)], WOOD)
    pen.curve(symmetric([(50, 2), (70, 8), (80, 24), (92, 38), (88, 60), (68, 70), (50, 68)]))
    pen.arc(38, 30, 12, 10, 170, 290, 2.6)
    pen.arc(66, 48, 12, 10, 10, 110, 2.6)


def house(pen: Pen) -> None:
    pen.rectangle(66, 6, 78, 34, STEEL)
    pen.rectangle(14, 42, 86, 96)
    pen.polygon([(2, 46), (50, 4), (98, 46)], SHADE)
    pen.rectangle(42, 66, 60, 96, WOOD)
    pen.rectangle(20, 54, 36, 70, GLASS)
    pen.rectangle(66, 54, 82, 70, GLASS)
    pen.ellipse(50, 30, 7, 7, GLASS)
    pen.ellipse(56, 82, 1.8, 1.8, GOLD, False)


def star(pen: Pen) -> None:
    points = []
    for step in range(10):
        radius = 52 if step % 2 == 0 else 24
        points.append((50 + radius * sin(step * pi / 5), 52 - radius * cos(step * pi / 5)))
    pen.polygon(points)
    pen.pair(pen.ellipse, 42, 48, 3.2, 5, INK, False)
    pen.arc(50, 57, 8, 6, 20, 160, 3, INK)


def car(pen: Pen) -> None:
    pen.polygon([(24, 44), (36, 20), (70, 20), (84, 44)], TINT)
    pen.polygon([(32, 43), (40, 26), (51, 26), (51, 43)], GLASS)
    pen.polygon([(56, 43), (56, 26), (67, 26), (76, 43)], GLASS)
    pen.curve([(2, 58), (10, 44), (30, 42), (80, 42), (96, 48), (99, 62), (96, 74), (50, 76), (4, 74)])
    pen.stroke([(54, 46), (54, 68)], 2, smooth=False)
    pen.ellipse(6, 58, 4, 5, CREAM)
    for x in (25, 76):
        pen.ellipse(x, 74, 14, 14, INK)
        pen.ellipse(x, 74, 6, 6, STEEL, False)


def boat(pen: Pen) -> None:
    pen.stroke([(50, 6), (50, 70)], 4, WOOD, True, False)
    pen.polygon([(55, 10), (55, 60), (92, 60)])
    pen.polygon([(45, 18), (45, 60), (16, 60)], CREAM)
    pen.polygon([(2, 66), (98, 66), (82, 94), (20, 94)])
    pen.stroke([(8, 74), (92, 74)], 3, smooth=False)


def book(pen: Pen) -> None:
    pen.polygon([(22, 92), (30, 84), (92, 84), (92, 96), (26, 96)], WHITE)
    pen.rectangle(14, 4, 86, 88, radius=4)
    pen.rectangle(14, 4, 26, 88, SHADE, radius=3)
    pen.rectangle(38, 18, 76, 40, CREAM, radius=2)
    pen.stroke([(44, 26), (70, 26)], 3, INK, smooth=False)
    pen.stroke([(44, 33), (62, 33)], 3, INK, smooth=False)
    pen.stroke([(20, 94), (90, 94)], 5, MAIN, True, False)


def umbrella(pen: Pen) -> None:
    pen.stroke([(50, 10), (50, 82), (56, 94), (68, 92), (70, 82)], 5, WOOD, True)
    pen.stroke([(50, 10), (50, 1)], 4, WOOD, True, False)
    canopy = [(50 - 48 * cos(pi * step / 12), 54 - 46 * sin(pi * step / 12)) for step in range(13)]
    for left in (74, 50, 26):
        canopy += [(left + 16, 49), (left + 8, 47), (left, 49), (left - 8, 54)]
    pen.polygon(canopy[:-2])
    pen.pair(pen.stroke, [(50, 8), (36, 28), (32, 50)], 2.4)


def flower(pen: Pen) -> None:
    pen.stroke([(50, 50), (52, 76), (50, 99)], 5, LEAF, True)
    pen.curve([(51, 88), (62, 72), (82, 72), (70, 86)], LEAF)
    pen.curve([(51, 92), (40, 78), (22, 78), (32, 91)], LEAF)
    for step in range(6):
        angle = step * pi / 3
        pen.ellipse(50 + 22 * sin(angle), 34 - 22 * cos(angle), 14, 14)
    pen.ellipse(50, 34, 11, 11, GOLD)


def mushroom(pen: Pen) -> None:
    pen.curve([(38, 50), (62, 50), (64, 76), (72, 94), (50, 98), (28, 94), (36, 76)], CREAM)
    pen.curve([(2, 50), (12, 22), (50, 4), (88, 22), (98, 50), (74, 58), (50, 56), (26, 58)])
    pen.pair(pen.ellipse, 44, 74, 2.6, 3.6, INK, False)
    pen.arc(50, 79, 5, 4, 20, 160, 2.2, INK)


def balloon(pen: Pen) -> None:
    pen.stroke([(50, 76), (44, 84), (54, 91), (49, 100)], 2.4, INK)
    pen.polygon([(50, 70), (42, 80), (58, 80)], SHADE)
    pen.curve([(50, 0), (76, 9), (85, 34), (72, 60), (50, 74), (28, 60), (15, 34), (24, 9)])
    pen.ellipse(34, 22, 5, 10, WHITE, False, 30)


def lamp(pen: Pen) -> None:
    pen.stroke([(50, 48), (50, 90)], 7, STEEL, True, False)
    pen.curve([(26, 96), (30, 88), (50, 84), (70, 88), (74, 96), (50, 99)], STEEL)
    pen.ellipse(50, 52, 8, 8, GOLD)
    pen.polygon([(34, 2), (66, 2), (90, 50), (10, 50)])
    pen.stroke([(13, 47), (87, 47)], 2.4, smooth=False)


def key(pen: Pen) -> None:
    pen.polygon([(40, 40), (98, 40), (98, 74), (86, 74), (86, 60), (78, 60), (78, 70), (66, 70), (66, 60), (40, 60)])
    pen.ellipse(28, 50, 27, 27)
    pen.ellipse(22, 50, 9, 9, INK, False)


def chair(pen: Pen) -> None:
    for x in (26, 74):
        pen.stroke([(x, 62), (x + (x - 50) * 0.2, 97)], 7, WOOD, True, False)
    pen.rectangle(24, 2, 76, 52, radius=8)
    pen.pair(pen.stroke, [(40, 12), (40, 44)], 3, smooth=False)
    pen.polygon([(22, 52), (78, 52), (86, 68), (14, 68)], TINT)
    pen.rectangle(14, 67, 86, 75, SHADE, radius=3)


def hat(pen: Pen) -> None:
    pen.ellipse(50, 74, 48, 15)
    pen.curve([(24, 74), (27, 34), (34, 18), (50, 22), (66, 18), (73, 34), (76, 74), (50, 80)])
    pen.curve([(24, 62), (50, 70), (76, 62), (77, 75), (50, 82), (23, 75)], INK)


def apple(pen: Pen) -> None:
    pen.curve(symmetric([(50, 26), (66, 18), (90, 28), (94, 56), (78, 90), (62, 97), (50, 93)]))
    pen.stroke([(50, 28), (50, 14), (56, 3)], 4.5, WOOD, True)
    pen.curve([(54, 14), (66, 2), (84, 4), (74, 16)], LEAF)
    pen.ellipse(24, 42, 4.5, 9, WHITE, False, 20)


def pear(pen: Pen) -> None:
    pen.curve(symmetric([(50, 12), (62, 20), (66, 40), (82, 60), (82, 86), (62, 98)]))
    pen.stroke([(50, 16), (50, 6), (46, 0)], 4.5, WOOD, True)
    pen.curve([(52, 8), (64, -2), (80, 2), (68, 12)], LEAF)
    pen.ellipse(30, 70, 4, 9, WHITE, False, 15)


def bell(pen: Pen) -> None:
    pen.ellipse(50, 88, 10, 9, STEEL)
    pen.ellipse(50, 9, 8, 8, STEEL)
    pen.curve([(50, 10), (68, 18), (76, 42), (80, 66), (94, 82), (50, 88), (6, 82), (20, 66), (24, 42), (32, 18)])
    pen.stroke([(15, 72), (50, 77), (85, 72)], 3)


def kite(pen: Pen) -> None:
    pen.stroke([(50, 74), (40, 82), (54, 90), (46, 100)], 2.4, INK)
    pen.polygon([(50, 0), (88, 32), (50, 78), (12, 32)])
    pen.stroke([(50, 2), (50, 76)], 2.6, smooth=False)
    pen.stroke([(14, 32), (86, 32)], 2.6, smooth=False)
    pen.polygon([(46, 84), (34, 78), (36, 90)], SHADE)
    pen.polygon([(50, 92), (62, 87), (61, 98)], SHADE)


def teapot(pen: Pen) -> None:
    pen.arc(20, 56, 18, 18, 90, 270, 7, MAIN, True)
    pen.curve([(70, 72), (82, 58), (86, 38), (100, 34), (96, 52), (88, 72), (74, 84)])
    pen.ellipse(50, 22, 6, 6, SHADE)
    pen.curve([(50, 28), (68, 33), (82, 56), (76, 82), (60, 92), (40, 92), (24, 82), (18, 56), (32, 33)])
    pen.ellipse(50, 34, 19, 6, TINT)


def rocket(pen: Pen) -> None:
    pen.curve([(40, 82), (60, 82), (56, 92), (50, 104), (44, 92)], GOLD)
    pen.pair(pen.polygon, [(32, 52), (10, 76), (14, 92), (34, 78)], SHADE)
    pen.curve([(50, -4), (66, 18), (72, 48), (64, 82), (50, 84), (36, 82), (28, 48), (34, 18)])
    pen.ellipse(50, 36, 11, 11, GLASS)
    pen.ellipse(50, 36, 6, 6, STEEL, False)


def guitar(pen: Pen) -> None:
    pen.polygon([(46, 8), (54, 8), (55, 50), (45, 50)], WOOD)
    pen.rectangle(42, -4, 58, 12, WOOD, radius=3)
    pen.curve(symmetric([(50, 40), (66, 42), (70, 54), (66, 62), (80, 74), (76, 92), (50, 99)]))
    pen.ellipse(50, 66, 9, 9, INK, False)
    pen.rectangle(38, 82, 62, 87, WOOD)
    pen.pair(pen.stroke, [(48, 2), (48, 84)], 1.4, WHITE, smooth=False)


def cactus(pen: Pen) -> None:
    pen.stroke([(40, 56), (22, 52), (20, 32)], 14, MAIN, True)
    pen.stroke([(60, 48), (78, 44), (80, 22)], 14, MAIN, True)
    pen.rectangle(36, 2, 64, 80, radius=13)
    pen.pair(pen.stroke, [(45, 14), (45, 70)], 2, smooth=False)
    pen.polygon([(26, 74), (74, 74), (66, 99), (34, 99)], POT)
    pen.rectangle(22, 68, 78, 78, POT, radius=2)


def shirt(pen: Pen) -> None:
    pen.polygon([(34, 8), (66, 8), (98, 28), (86, 48), (74, 42), (74, 94), (26, 94), (26, 42), (14, 48), (2, 28)])
    pen.curve([(36, 7), (64, 7), (58, 20), (42, 20)], TINT)
    for y in (40, 58, 76):
        pen.ellipse(50, y, 2.5, 2.5, LINE, False)


def sock(pen: Pen) -> None:
    heel, toe = [(72, 70), (66, 88)], [(40, 96), (14, 98), (4, 84), (14, 70)]
    pen.curve([(34, 4), (68, 4), (68, 46), *heel, *toe, (32, 62), (36, 40)])
    pen.curve([(4, 84), (12, 71), (24, 76), (26, 97), (12, 98)], SHADE)
    pen.curve([(70, 60), (72, 76), (62, 90), (52, 76), (58, 64)], SHADE)
    pen.rectangle(29, 2, 73, 20, TINT, radius=4)


def cupcake(pen: Pen) -> None:
    pen.polygon([(20, 56), (80, 56), (70, 97), (30, 97)], CREAM)
    for x in (36, 50, 64):
        pen.stroke([(x, 60), (50 + (x - 50) * 0.75, 94)], 2.4, WOOD, smooth=False)
    icing = [(10, 54), (14, 40), (26, 36), (30, 22), (44, 16), (58, 16), (70, 22), (74, 36), (86, 40), (90, 54)]
    pen.curve([*icing, (70, 62), (50, 60), (30, 62)])
    pen.arc(46, 30, 22, 12, 30, 120, 2.6)
    pen.ellipse(50, 10, 9, 9, CHERRY)
    pen.ellipse(47, 7, 2.4, 2.4, WHITE, False)


def gift(pen: Pen) -> None:
    pen.pair(pen.ellipse, 36, 16, 15, 9, CREAM, angle=25)
    pen.rectangle(12, 44, 88, 97, radius=3)
    pen.rectangle(6, 26, 94, 46, SHADE, radius=3)
    pen.rectangle(43, 26, 57, 97, CREAM)
    pen.ellipse(50, 24, 7, 6, CREAM)


def crown(pen: Pen) -> None:
    pen.polygon([(10, 90), (2, 26), (28, 52), (50, 10), (72, 52), (98, 26), (90, 90)])
    pen.rectangle(9, 78, 91, 93, SHADE, radius=3)
    for x, y in ((3, 22), (50, 8), (97, 22)):
        pen.ellipse(x, y, 7, 7, GOLD)
    for x in (26, 50, 74):
        pen.ellipse(x, 85.5, 4, 4, GLASS)


def plane(pen: Pen) -> None:
    pen.polygon([(76, 46), (86, 16), (98, 16), (94, 48)], SHADE)
    pen.polygon([(44, 44), (56, 14), (68, 14), (62, 46)], SHADE)
    pen.curve([(0, 56), (10, 44), (34, 40), (70, 40), (98, 44), (96, 58), (66, 68), (24, 70), (6, 66)])
    pen.polygon([(36, 58), (62, 58), (78, 90), (64, 92)], TINT)
    for x in (28, 42, 56, 70):
        pen.ellipse(x, 50, 4, 4, GLASS)
    pen.polygon([(5, 54), (11, 46), (19, 45), (18, 54)], GLASS)


def heart(pen: Pen) -> None:
    pen.curve(symmetric([(50, 28), (64, 10), (86, 10), (98, 30), (90, 56), (70, 78), (50, 96)]))
    pen.ellipse(24, 32, 5, 10, WHITE, False, 30)


def bus(pen: Pen) -> None:
    pen.rectangle(2, 16, 98, 80, radius=8)
    for x in (10, 32, 54):
        pen.rectangle(x, 26, x + 17, 46, GLASS, radius=2)
    pen.rectangle(76, 26, 93, 74, GLASS, radius=2)
    pen.stroke([(84.5, 28), (84.5, 72)], 2, INK, smooth=False)
    pen.stroke([(6, 58), (72, 58)], 3, smooth=False)
    for x in (26, 72):
        pen.ellipse(x, 80, 12, 12, INK)
        pen.ellipse(x, 80, 5, 5, STEEL, False)


def clock(pen: Pen) -> None:
    for side in (-1, 1):
        pen.stroke([(50 + side * 26, 86), (50 + side * 36, 98)], 7, SHADE, True, False)
        pen.ellipse(50 + side * 28, 14, 16, 11, SHADE, angle=side * 35)
    pen.ellipse(50, 54, 42, 42)
    pen.ellipse(50, 54, 27, 27, CREAM)
    pen.stroke([(50, 54), (50, 36)], 4, INK, smooth=False)
    pen.stroke([(50, 54), (64, 60)], 4, INK, smooth=False)
    pen.ellipse(50, 54, 3.5, 3.5, INK, False)


def leaf(pen: Pen) -> None:
    pen.stroke([(28, 74), (8, 98)], 5, WOOD, True, False)
    pen.curve([(22, 80), (14, 50), (30, 22), (60, 8), (96, 2), (94, 38), (80, 70), (52, 88)])
    pen.stroke([(24, 78), (50, 50), (84, 14)], 3)
    for x, y, to in ((38, 63, (32, 42)), (52, 48, (50, 26)), (44, 57, (66, 66)), (60, 40, (82, 46))):
        pen.stroke([(x, y), to], 2.4, smooth=False)
