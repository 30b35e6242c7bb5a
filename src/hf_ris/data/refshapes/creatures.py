"""Drawings of the animals and the people-like figures, in a box of 100 x 100 units (see `pen.py`)."""

from .pen import CHEEK, CREAM, GOLD, INK, MAIN, SHADE, SKIN, STEEL, TINT, WHITE, Pen


GLASS_BLUE = (150, 196, 222)
JEANS = (96, 108, 136)
HAIR = (92, 64, 48)
WOOD_DARK = (112, 82, 62)
CARROT = (236, 140, 62)


# Animals


def fish(pen: Pen) -> None:
    pen.curve([(68, 50), (84, 32), (98, 26), (93, 50), (98, 74), (84, 68)], SHADE)
    pen.curve([(34, 32), (48, 14), (64, 20), (66, 36)], SHADE)
    pen.curve([(42, 68), (52, 84), (62, 78), (60, 64)], SHADE)
    pen.curve([(2, 52), (14, 34), (38, 25), (60, 33), (78, 50), (60, 67), (38, 75), (14, 68)])
    pen.arc(26, 50, 9, 17, -70, 70, 3)
    pen.eye(19, 45, 6.5)
    pen.arc(9, 56, 7, 5, 20, 110, 2.5, INK)


def bird(pen: Pen) -> None:
    pen.stroke([(46, 80), (44, 97)], 4, GOLD, True, False)
    pen.stroke([(58, 80), (60, 97)], 4, GOLD, True, False)
    pen.polygon([(74, 52), (99, 38), (97, 58), (78, 68)], SHADE)
    pen.polygon([(12, 30), (-4, 39), (12, 44)], GOLD)
    back = [(8, 34), (14, 18), (30, 12), (44, 22), (56, 38), (80, 50)]
    pen.curve([*back, (80, 68), (62, 84), (38, 82), (20, 66), (14, 48)])
    pen.curve([(40, 48), (58, 46), (76, 56), (64, 70), (48, 68)], SHADE)
    pen.eye(24, 30, 6.5)


def cat(pen: Pen) -> None:
    pen.stroke([(68, 88), (90, 88), (96, 70), (86, 58)], 9, MAIN, True)
    pen.curve([(32, 56), (50, 50), (68, 56), (76, 82), (72, 98), (28, 98), (24, 82)])
    pen.pair(pen.polygon, [(20, 28), (20, -2), (44, 16)])
    pen.pair(pen.polygon, [(25, 18), (25, 7), (35, 15)], CHEEK, False)
    pen.ellipse(50, 36, 33, 27)
    pen.pair(pen.eye, 38, 34, 6)
    pen.polygon([(46, 44), (54, 44), (50, 49)], CHEEK)
    pen.arc(45, 49, 5, 5, 10, 150, 2.4)
    pen.arc(55, 49, 5, 5, 30, 170, 2.4)
    for y, tilt in ((44, -3), (50, 3)):
        pen.stroke([(30, y), (8, y + tilt)], 1.8, INK, smooth=False)
        pen.stroke([(70, y), (92, y + tilt)], 1.8, INK, smooth=False)
    pen.pair(pen.ellipse, 40, 96, 9, 5, TINT)


def dog(pen: Pen) -> None:
    pen.stroke([(88, 52), (98, 40), (98, 26)], 7, MAIN, True)
    for x in (40, 52, 74, 86):
        pen.rectangle(x - 6, 66, x + 6, 97, SHADE if x in (52, 74) else MAIN, radius=4)
    pen.curve([(32, 48), (56, 46), (84, 46), (93, 58), (90, 76), (62, 79), (36, 76)])
    pen.curve([(4, 38), (10, 28), (20, 24), (24, 12), (40, 8), (52, 18), (52, 38), (44, 52), (28, 54), (12, 50)])
    pen.curve([(40, 12), (54, 12), (60, 30), (56, 48), (46, 46), (42, 30)], SHADE)
    pen.ellipse(7, 36, 6, 5, INK, False)
    pen.eye(30, 26, 5.5)
    pen.arc(16, 40, 9, 7, 20, 120, 2.4)
    pen.stroke([(36, 55), (50, 52)], 5, GOLD, True, False)


def rabbit(pen: Pen) -> None:
    pen.ellipse(80, 84, 10, 9, WHITE)
    pen.pair(pen.ellipse, 38, 20, 9, 23, angle=-8)
    pen.pair(pen.ellipse, 38, 22, 4, 16, CHEEK, False, angle=-8)
    pen.ellipse(50, 80, 27, 22)
    pen.ellipse(50, 86, 14, 14, CREAM, False)
    pen.ellipse(50, 50, 25, 20)
    pen.pair(pen.eye, 40, 47, 5.5)
    pen.ellipse(50, 55, 4, 3, CHEEK)
    pen.rectangle(46.5, 59, 53.5, 66, WHITE)
    pen.pair(pen.ellipse, 34, 98, 13, 6, TINT)


def snail(pen: Pen) -> None:
    pen.stroke([(18, 52), (12, 28)], 4, CREAM, True, False)
    pen.stroke([(26, 52), (30, 28)], 4, CREAM, True, False)
    pen.curve([(8, 58), (20, 48), (32, 56), (36, 72), (60, 74), (98, 84), (88, 92), (24, 92), (14, 78)], CREAM)
    pen.ellipse(60, 52, 32, 32)
    pen.stroke([(86, 66), (60, 78), (38, 60), (46, 36), (70, 34), (76, 52), (66, 62), (54, 56), (58, 48)], 4.5)
    pen.eye(12, 27, 6)
    pen.eye(31, 27, 6)
    pen.arc(18, 62, 6, 5, 30, 140, 2.5, INK)


def turtle(pen: Pen) -> None:
    pen.polygon([(88, 68), (100, 76), (86, 78)], CREAM)
    pen.rectangle(30, 68, 46, 88, CREAM, radius=6)
    pen.rectangle(68, 68, 84, 88, CREAM, radius=6)
    pen.curve([(0, 48), (6, 36), (20, 36), (28, 52), (36, 66), (30, 76), (16, 68), (6, 60)], CREAM)
    pen.curve([(22, 72), (28, 42), (56, 24), (84, 42), (92, 72), (58, 78)])
    pen.polygon([(46, 42), (66, 42), (74, 56), (56, 66), (38, 56)], SHADE)
    pen.stroke([(22, 74), (56, 79), (92, 74)], 6, TINT, True)
    pen.eye(12, 45, 5)
    pen.arc(8, 54, 6, 4, 20, 120, 2.2, INK)


def butterfly(pen: Pen) -> None:
    for side in (-1, 1):
        pen.stroke([(50 + side * 2, 24), (50 + side * 7, 10), (50 + side * 16, 5)], 2.6, INK)
        pen.curve([(50 + side * x, y) for x, y in ((3, 54), (22, 50), (40, 62), (38, 84), (24, 92), (8, 74))])
        pen.curve([(50 + side * x, y) for x, y in ((3, 54), (8, 34), (26, 12), (46, 10), (49, 34), (36, 54))])
        pen.ellipse(50 + side * 26, 74, 6, 6, TINT)
    pen.ellipse(50, 54, 5, 30, INK, False)
    pen.ellipse(50, 24, 6, 6, INK, False)


def whale(pen: Pen) -> None:
    pen.stroke([(34, 34), (32, 20), (22, 13)], 4.5, GLASS_BLUE, True)
    pen.stroke([(34, 34), (36, 20), (46, 13)], 4.5, GLASS_BLUE, True)
    pen.curve([(86, 48), (80, 34), (72, 26), (86, 24), (90, 32), (96, 22), (104, 20), (100, 36), (96, 52)])
    back = [(0, 62), (6, 42), (28, 33), (54, 38), (72, 54), (84, 44)]
    pen.curve([*back, (98, 46), (94, 70), (74, 86), (36, 90), (8, 82)])
    pen.curve([(2, 72), (24, 76), (48, 76), (64, 84), (36, 90), (10, 84)], CREAM, False)
    pen.curve([(44, 70), (58, 70), (62, 84), (52, 84)], SHADE)
    pen.eye(20, 60, 5.5)


def owl(pen: Pen) -> None:
    pen.pair(pen.polygon, [(22, 24), (20, 0), (44, 12)])
    pen.curve([(50, 8), (76, 16), (84, 44), (82, 76), (66, 94), (34, 94), (18, 76), (16, 44), (24, 16)])
    pen.pair(pen.curve, [(16, 46), (26, 52), (30, 74), (20, 84), (10, 70)], SHADE)
    pen.pair(pen.ellipse, 36, 34, 15, 15, CREAM)
    pen.pair(pen.ellipse, 37, 35, 7, 7, INK, False)
    pen.polygon([(44, 44), (56, 44), (50, 56)], GOLD)
    for x in (36, 44, 56, 64):
        pen.ellipse(x, 95, 4, 5, GOLD)


def pig(pen: Pen) -> None:
    pen.stroke([(86, 50), (96, 44), (92, 36), (99, 30)], 4, SHADE, True)
    for x in (32, 46, 68, 82):
        pen.rectangle(x - 6, 70, x + 6, 93, SHADE, radius=3)
    pen.ellipse(56, 56, 36, 27)
    pen.polygon([(14, 34), (12, 12), (32, 24)], SHADE)
    pen.polygon([(44, 24), (56, 12), (54, 36)], SHADE)
    pen.ellipse(32, 44, 24, 23)
    pen.ellipse(24, 52, 12, 9, CHEEK)
    pen.ellipse(20, 52, 2.4, 3.4, INK, False)
    pen.ellipse(28, 52, 2.4, 3.4, INK, False)
    pen.eye(22, 36, 5)
    pen.eye(42, 36, 5)


def elephant(pen: Pen) -> None:
    pen.stroke([(92, 48), (99, 66)], 4, SHADE, True)
    for x in (44, 58, 76, 88):
        pen.rectangle(x - 7, 66, x + 7, 96, SHADE if x in (58, 76) else MAIN, radius=3)
    pen.curve([(36, 40), (60, 26), (86, 34), (97, 56), (92, 78), (64, 80), (38, 76)])
    head, trunk = [(50, 22), (34, 10), (14, 20), (8, 46)], [(6, 70), (2, 84), (10, 90), (18, 82), (20, 64)]
    pen.curve([*head, *trunk, (28, 62), (46, 60), (54, 42)])
    pen.curve([(38, 22), (58, 14), (70, 30), (64, 54), (48, 60), (40, 42)], TINT)
    pen.stroke([(24, 62), (20, 72), (10, 76)], 5, WHITE, True)
    pen.eye(24, 36, 5)


def crab(pen: Pen) -> None:
    for side in (-1, 1):
        for reach, y in ((44, 66), (42, 78), (36, 88)):
            pen.stroke(
                [(50 + side * 24, y - 8), (50 + side * reach, y - 6), (50 + side * (reach + 3), y + 6)], 5, SHADE, True
            )
        pen.stroke([(50 + side * 28, 56), (50 + side * 42, 46), (50 + side * 40, 34)], 6, SHADE, True)
        claw = ((36, 36), (27, 22), (34, 8), (38, 22), (49, 10), (52, 26), (46, 37))
        pen.polygon([(50 + side * x, y) for x, y in claw])
        pen.stroke([(50 + side * 9, 46), (50 + side * 10, 32)], 4, SHADE, True, False)
    pen.ellipse(50, 64, 34, 24)
    pen.pair(pen.eye, 40, 30, 7)
    pen.arc(50, 66, 12, 9, 20, 160, 3)


def frog(pen: Pen) -> None:
    for side in (-1, 1):
        pen.ellipse(50 + side * 32, 74, 15, 20, SHADE, angle=-side * 18)
        pen.ellipse(50 + side * 36, 92, 13, 5, SHADE)
        pen.ellipse(50 + side * 20, 20, 13, 13)
    pen.curve([(50, 20), (80, 24), (88, 44), (72, 58), (76, 84), (50, 92), (24, 84), (28, 58), (12, 44), (20, 24)])
    pen.ellipse(50, 76, 17, 13, CREAM, False)
    pen.stroke([(22, 44), (36, 52), (50, 54), (64, 52), (78, 44)], 3)
    pen.pair(pen.eye, 30, 19, 8)
    pen.pair(pen.ellipse, 38, 93, 7, 4, SHADE)


# People-like figures


def person(pen: Pen) -> None:
    pen.pair(pen.stroke, [(42, 66), (40, 94)], 10, JEANS, True, False)
    pen.pair(pen.ellipse, 37, 96, 9, 4, INK)
    pen.pair(pen.stroke, [(32, 42), (17, 54), (14, 66)], 10, MAIN, True)
    pen.pair(pen.ellipse, 14, 70, 5.5, 5.5, SKIN)
    pen.curve([(38, 34), (50, 33), (62, 34), (72, 42), (70, 60), (71, 74), (50, 76), (29, 74), (30, 60), (28, 42)])
    pen.ellipse(50, 17, 17, 17, SKIN)
    pen.curve([(33, 18), (32, 4), (50, -4), (68, 4), (67, 18), (58, 9), (46, 10)], HAIR)
    pen.pair(pen.ellipse, 44, 18, 2.2, 3, INK, False)
    pen.arc(50, 22, 6, 5, 20, 160, 2, INK)


def robot(pen: Pen) -> None:
    pen.stroke([(50, 12), (50, 2)], 3, STEEL, True, False)
    pen.ellipse(50, 1, 4, 4, GOLD)
    for left in (32, 55):
        pen.rectangle(left, 80, left + 13, 98, STEEL, radius=3)
    pen.pair(pen.stroke, [(24, 54), (12, 60), (12, 74)], 7, STEEL, True)
    pen.rectangle(22, 44, 78, 84, radius=5)
    pen.rectangle(28, 12, 72, 42, radius=6)
    pen.rectangle(34, 18, 66, 36, WHITE, radius=4)
    pen.pair(pen.ellipse, 42, 26, 4, 4, INK, False)
    pen.stroke([(44, 33), (56, 33)], 2, INK, smooth=False)
    pen.rectangle(38, 54, 62, 72, STEEL, radius=2)
    pen.ellipse(45, 63, 3.5, 3.5, GOLD)
    pen.ellipse(55, 63, 3.5, 3.5, WHITE)


def snowman(pen: Pen) -> None:
    pen.pair(pen.stroke, [(24, 50), (4, 36)], 3.4, WOOD_DARK, smooth=False)
    pen.ellipse(50, 78, 30, 24)
    pen.ellipse(50, 50, 24, 20)
    pen.ellipse(50, 27, 18, 17)
    pen.polygon([(36, 13), (38, -8), (62, -8), (64, 13)], INK)
    pen.stroke([(28, 14), (72, 14)], 5, INK, smooth=False)
    pen.pair(pen.ellipse, 43, 24, 2.8, 2.8, INK, False)
    pen.polygon([(48, 28), (68, 32), (48, 35)], CARROT)
    for y in (50, 62, 76):
        pen.ellipse(50, y, 3, 3, INK, False)


def ghost(pen: Pen) -> None:
    pen.pair(pen.stroke, [(20, 56), (4, 46)], 11, MAIN, True, False)
    sheet = [(16, 94), (18, 50), (24, 22), (50, 4), (76, 22), (82, 50), (84, 94)]
    hem = [(72, 84), (61, 96), (50, 85), (39, 96), (28, 84)]
    pen.curve(sheet + hem)
    pen.pair(pen.ellipse, 38, 38, 7, 9, WHITE)
    pen.pair(pen.ellipse, 39, 40, 4, 5.5, INK, False)
    pen.ellipse(50, 58, 6, 7, INK, False)
    pen.pair(pen.ellipse, 28, 52, 4, 3, CHEEK, False)


def gnome(pen: Pen) -> None:
    pen.pair(pen.ellipse, 36, 95, 13, 6, INK)
    pen.curve([(28, 56), (50, 50), (72, 56), (80, 88), (50, 94), (20, 88)])
    pen.stroke([(20, 80), (80, 80)], 6, WOOD_DARK, True, False)
    pen.curve([(30, 44), (70, 44), (68, 64), (50, 80), (32, 64)], WHITE)
    pen.ellipse(50, 42, 19, 14, SKIN)
    pen.curve([(22, 42), (34, 26), (44, -2), (56, -6), (64, 24), (78, 42), (50, 36)])
    pen.ellipse(50, 49, 7, 6, CHEEK)
    pen.pair(pen.ellipse, 41, 43, 2.4, 3, INK, False)
    pen.curve([(48, 56), (34, 54), (30, 62), (42, 62), (50, 58), (58, 62), (70, 62), (66, 54), (52, 56)], WHITE)
