"""Questions in the style of MindCube (Yin et al. 2025) about drawn rooms, without end and with exact answers.

A question is a function of (settings, seed, split, number) and of what the cameras see. Scenes are split by everything
that stands in them. Kinds of questions are asked equally often, right answers carry each letter equally often, and of
two fixed answers each is right equally often, whatever its letter: a reader who does not look is left with chance.
Knows nothing about files or models.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from worlds.core import SPLITS, Split, WorldError, split_of
from worlds.spatial_grid import ARRANGEMENTS, SETTINGS, Setting
from worlds.spatial_questions import KINDS, Category, Draft, Draw, shown
from worlds.spatial_scenes import Scene, Visibility, draw_scene, look

LETTERS = "ABCD"
IMAGES = "other_all_image"  # the folder of images, as MindCube names it
PER_SCENE = 6  # questions about one scene, at most
AHEAD = 1  # questions that one kind may be ahead of another
DRAWS = 12  # tries to ask a kind of question about a scene
UNSEEN_SCENES = 500  # scenes in a row that may be no use before it is said that the cameras see nothing


@dataclass(frozen=True)
class Question:
    """A multiple-choice question with its scene and its reasons.

    Attributes:
        scene: what it is about.
        kind: of question; a key of :data:`worlds.spatial_questions.KINDS` of its setting.
        id: in MindCube's form; begins with the setting and the key of the scene.
        category: movement, relation, time and perspective, as MindCube files them.
        views: the views of the scene that are shown, in order.
        stem: the text before the options.
        options: texts, in the order of their letters.
        right: which option is right.
        steps: the reasoning, a statement each.
    """

    scene: Scene
    kind: str
    id: str
    category: Category
    views: tuple[int, ...]
    stem: str
    options: tuple[str, ...]
    right: int
    steps: tuple[str, ...]

    @property
    def setting(self) -> Setting:
        return self.scene.arrangement.setting

    @property
    def text(self) -> str:
        """The stem with the options: ``… A. Yes B. No``."""
        options = (f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=False))
        return f"{self.stem} {' '.join(options)}"

    @property
    def letter(self) -> str:
        """Of the right option."""
        return LETTERS[self.right]

    @property
    def answer(self) -> str:
        """The right option as an answer: ``A. Yes``."""
        return f"{self.letter}. {self.options[self.right]}"

    @property
    def images(self) -> tuple[str, ...]:
        """Paths of the images shown, in order."""
        return tuple(image_path(self.scene, view) for view in self.views)

    def shows(self, view: int) -> str:
        """What the image of a view shows, were it the only one, and which way what has a front faces for who looks.

        ``Image 1 shows the red chair and the blue mug. In image 1 the red chair faces away from me.``
        """
        scene = self.scene
        steps, heading = shown(scene, (view,)), scene.arrangement.views[view].heading
        for name, facing, seen in zip(scene.names, scene.facings, scene.seen[view], strict=True):
            if seen and facing is not None:
                steps = steps.seen_facing(1, name, (facing - heading) % 4)
        return " ".join(steps.lines)

    def row(self) -> dict[str, Any]:
        """As a line of MindCube's files, with the true map and the reasoning."""
        arrangement = self.scene.arrangement
        facings = [None if facing is None else str(facing) for facing in self.scene.facings]
        return {
            "id": self.id,
            "category": list(self.category),
            "type": arrangement.name,
            "meta_info": [list(self.scene.names), facings],
            "question": self.text,
            "images": list(self.images),
            "gt_answer": self.letter,
            "grounded_cogmap": augmented_map(self),
            "reasoning": " ".join(self.steps),
        }


def image_path(scene: Scene, view: int) -> str:
    """Where the image of a view is kept, as in MindCube's folders."""
    arrangement = scene.arrangement
    return f"{IMAGES}/{arrangement.setting}/{scene.key}/{arrangement.views[view].side}.png"


def augmented_map(question: Question) -> str:
    """The true map of what is shown, with the views that show it, as JSON: ``{"objects": […], "views": […]}``."""
    scene = question.scene
    seen = [any(of_views) for of_views in zip(*(scene.seen[view] for view in question.views), strict=True)]
    word = "Image" if "image" in question.text.lower() else "View"
    views = [scene.arrangement.views[view] for view in question.views]
    objects = [
        {"name": name, "position": list(cell), **({} if facing is None else {"facing": str(facing)})}
        for name, cell, facing, is_seen in zip(scene.names, scene.arrangement.cells, scene.facings, seen, strict=True)
        if is_seen
    ]
    cameras = [
        {"name": f"{word} {number}", "position": list(view.cell), "facing": str(view.heading)}
        for number, view in enumerate(views, start=1)
    ]
    return json.dumps({"objects": objects, "views": cameras})


def questions(
    setting: Setting, n: int, visibility: Visibility, seed: int = 0, split: Split = "train"
) -> Iterator[Question]:
    """``n`` questions about scenes of one setting and split, those about a scene together.

    Raises:
        WorldError: the setting or the split is unknown, or nearly all scenes are refused by what their cameras see.
    """
    if setting not in SETTINGS:
        raise WorldError(f"unknown setting {setting!r}: choose one of {', '.join(SETTINGS)}")
    if split not in SPLITS:
        raise WorldError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    asking = _Asking(setting, np.random.default_rng([seed, SETTINGS.index(setting), SPLITS.index(split)]))
    left = n
    for scene in scenes(setting, visibility, seed, split):
        for question in asking.about(scene, min(left, PER_SCENE)):
            yield question
            left -= 1
        if not left:
            return


def scenes(setting: Setting, visibility: Visibility, seed: int, split: Split) -> Iterator[Scene]:
    """Scenes of a split that show what they must, without end; arrangements take turns."""
    arrangements = ARRANGEMENTS[setting]
    number = useless = given = 0
    while useless < UNSEEN_SCENES:
        generator = np.random.default_rng([seed, SETTINGS.index(setting), number, 1])
        scene = draw_scene(arrangements[given % len(arrangements)], generator)
        number += 1
        if split_of(scene.key) != split:
            continue
        useless += 1
        if (seen := look(scene, visibility)) is not None:
            useless, given = 0, given + 1
            yield seen
    raise WorldError(
        f"none of {UNSEEN_SCENES} {setting} scenes in a row shows what its questions need: check the renderer"
    )


class _Asking:
    """Asks about one scene after the other, and evens out what has been asked."""

    def __init__(self, setting: Setting, generator: np.random.Generator):
        self._setting: Setting = setting
        self._generator = generator
        self._asked: Counter[str] = Counter(dict.fromkeys(KINDS[setting], 0))
        self._decks: defaultdict[Hashable, list[int]] = defaultdict(list)

    def about(self, scene: Scene, most: int) -> Iterator[Question]:
        """Questions about a scene, no two alike; kinds that were asked least come first, and none gets ahead."""
        codes: set[str] = set()
        refused: set[str] = set()
        while most:
            least = min(self._asked.values())
            kinds = [kind for kind, asked in self._asked.items() if kind not in refused and asked <= least + AHEAD]
            if not kinds:
                return
            kind = min(kinds, key=lambda kind: self._asked[kind])
            question = self._ask(kind, scene, codes)
            if question is None:
                refused.add(kind)
                continue
            self._asked[kind] += 1
            most -= 1
            yield question

    def _ask(self, kind: str, scene: Scene, codes: set[str]) -> Question | None:
        """A question of one kind with a new code; ``None`` where the scene has none left."""
        first = self._deck((kind,), 2)[-1] == 0
        for _ in range(DRAWS):
            draft = KINDS[self._setting][kind](scene, Draw(self._generator, first))
            if draft is not None and draft.code not in codes:
                codes.add(draft.code)
                self._decks[kind,].pop()
                return self._lettered(kind, scene, draft)
        return None

    def _lettered(self, kind: str, scene: Scene, draft: Draft) -> Question:
        """A draft with its options in an order in which the right one's letter is evened out."""
        fixed = None if draft.right in scene.names else draft.right
        right = self._deck((kind, len(draft.wrong), fixed), 1 + len(draft.wrong)).pop()
        options = [draft.wrong[number] for number in self._generator.permutation(len(draft.wrong))]
        options.insert(right, draft.right)
        return Question(
            scene=scene,
            kind=kind,
            id=f"{self._setting}_{scene.key}_{draft.code}",
            category=draft.category,
            views=draft.views,
            stem=draft.stem,
            options=tuple(options),
            right=right,
            steps=draft.steps,
        )

    def _deck(self, key: Hashable, size: int) -> list[int]:
        """What is left of a shuffled deck of the numbers below ``size``; a new one when all have been dealt."""
        if not self._decks[key]:
            self._decks[key] = self._generator.permutation(size).tolist()
        return self._decks[key]
