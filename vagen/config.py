"""Configuration: YAML files plus dotted overrides, checked before anything starts.

Every key is declared here with its default and meaning; an unknown key is refused with the nearest known one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PlainSerializer,
    PlainValidator,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from vagen.files import write_text_atomically
from worlds.text import Representation

#: How an agent reasons in a turn; what each writes is said in :mod:`vagen.rollout.responses`.
Strategy = Literal["no_think", "free_think", "grounding", "worldmodeling", "grounding_worldmodeling"]

Share = Annotated[float, Field(ge=0, lt=1)]


def _several(value: Any) -> Any:
    """One word as a list of one."""
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_several)]


#: A weight, or how it changes: (share of the training, weight) points, between which it is linear.
Schedule = float | tuple[tuple[float, float], ...]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key, the file and the remedy."""


def _schedule(value: Any) -> Schedule:
    """A weight as a number, or as a list of [progress, weight] points."""
    hint = "write a positive number, or points such as [[0, 1], [0.5, 3]]: [share of the training, weight]"
    try:
        if isinstance(value, bool) or not isinstance(value, list | tuple):
            points = ((0.0, float(value)),)
        else:
            points = tuple((float(progress), float(weight)) for progress, weight in value)
    except (TypeError, ValueError):
        raise ValueError(hint) from None
    if not all(0 <= progress <= 1 and 0 <= weight < math.inf for progress, weight in points):
        raise ValueError(f"{hint}, with shares from 0 to 1 and weights that are finite and not negative")
    if not any(weight > 0 for _, weight in points):
        raise ValueError(f"a weight is never more than 0: leave it out, or {hint}")
    if [progress for progress, _ in points] != sorted(progress for progress, _ in points):
        raise ValueError("points must be in order of the share of the training")
    return points if isinstance(value, list | tuple) else points[0][1]


Weight = Annotated[Schedule, PlainValidator(_schedule), PlainSerializer(lambda value: value, return_type=Any)]


class Section(BaseModel):
    """A part of the configuration; frozen, and closed to keys it does not declare."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Collect(Section):
    """What ``vagen collect`` gathers."""

    worlds: Names = Field(
        default=("minigrid-rooms-6x6", "sokoban-6x6", "frozenlake-6x6"),
        min_length=1,
        description="which: `vagen worlds` lists them",
    )
    episodes: int = Field(default=1000, gt=0, description="trajectories per world")
    max_steps: int = Field(default=10, gt=0, description="an episode is cut here, if the world has not ended before")
    behaviour: Literal["random", "expert", "mixture"] = Field(
        default="mixture", description="who plays: actions at random, the solver, or the solver with some at random"
    )
    epsilon: float = Field(default=0.5, ge=0, le=1, description="mixture: chance of a random action at each step")
    split: Literal["train", "val", "test"] = Field(
        default="train", description="which layouts: no layout is in two splits"
    )
    shard_size: int = Field(default=500, gt=0, description="trajectories per shard")
    license: str = Field(default="apache-2.0", description="of the data, by the Hub's name; for the dataset card")


class Tiny(Section):
    """A small VLM with random weights: a real ``transformers`` architecture, sized for two CPU cores."""

    architecture: Literal["idefics3", "llava", "qwen2_5_vl", "qwen3_vl"] = Field(
        default="idefics3", description="whose code in transformers it is"
    )
    hidden_size: PositiveInt = Field(default=96, description="width of the language model")
    layers: PositiveInt = Field(default=3, description="of the language model")
    expansion: PositiveInt = Field(default=2, description="width of the language model's MLPs over hidden_size")
    head_size: PositiveInt = Field(default=16, description="small: many heads find how two images differ sooner")
    vision_hidden_size: PositiveInt = Field(default=64, description="width of the vision tower")
    vision_layers: PositiveInt = Field(default=2, description="of the vision tower")
    image_size: PositiveInt = Field(default=48, description="pixels per side: boards are never resized")
    patch_size: PositiveInt = Field(default=8, description="pixels per side of a vision patch: one tile")
    merge: PositiveInt = Field(
        default=1, description="patches per side that become one image token; 1: a token per tile, learned fastest"
    )
    vocabulary: PositiveInt = Field(default=768, description="upper bound of the tokenizer's size")
    init_std: float = Field(default=0.1, gt=0, description="at the usual 0.02 a model this small learns nothing")
    position_std: float = Field(
        default=0.5, gt=0, description="initial vision positions, as large as patches: places are learned first"
    )
    rope_theta: float = Field(default=100.0, gt=1, description="small, for small heads and short contexts")
    number_images: bool = Field(
        default=False,
        description="write 1, 2, … before the images of a message: questions that name images by number need it",
    )
    words: Names = Field(
        default=(), description="written with few tokens beside the words of the worlds, such as the tags of responses"
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        for size, unit in (
            ("hidden_size", self.head_size),
            ("vision_hidden_size", self.head_size),
            ("image_size", self.patch_size * self.merge),
        ):
            if getattr(self, size) % unit:
                raise ValueError(f"{size}={getattr(self, size)} is not a multiple of {unit}")
        if self.architecture == "llava" and self.merge > 1:
            raise ValueError(f"merge={self.merge}: LLaVA makes a token of every patch; use merge=1")
        return self


class Lora(Section):
    """Low-rank adapters in place of training all weights (Hu et al. 2022); needs the extra ``lora``."""

    rank: NonNegativeInt = Field(default=0, description="0: no adapters, all weights are trained")
    alpha: float = Field(default=32.0, gt=0, description="adapters count alpha / rank times")
    dropout: Share = Field(default=0.0, description="share of the adapters' inputs that a training step leaves out")
    targets: str = Field(
        default=r".*(language|text)_model\.layers\..*_proj",
        description="regular expression for the whole names of the linear layers that get adapters",
    )
    train_fully: Names = Field(default=(), description="modules trained in full beside the adapters, such as lm_head")


class Model(Section):
    """Which policy: a folder or Hub id, or else the tiny default made from ``tiny``; and what of it is trained."""

    path: str | None = Field(default=None, description="a model folder or an id of the Hub; default: a tiny one, new")
    tiny: Tiny = Tiny()
    attention: Literal[
        "auto",
        "sdpa",
        "eager",
        "trie_sdpa",
        "flex_attention",
        "flash_attention_2",
        "flash_attention_3",
        "flash_attention_4",
    ] = Field(default="auto", description="auto: the fastest that is installed and right for packed rows")
    lora: Lora = Lora()
    freeze: Names = Field(
        default=(),
        description="parts not trained: vision, projector, language, or regular expressions for parameter names",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="compute activations twice instead of keeping them: less memory, about a third slower",
    )
    images: dict[str, Any] = Field(
        default={},
        description="settings of the image processor in place of those in the files of path, such as "
        "{size: {longest_edge: 384}}; saved with the model",
    )
    trust_remote_code: bool = Field(default=False, description="run code that comes with the model of path")

    @model_validator(mode="after")
    def _images_fit(self) -> Self:
        if self.images and self.path is None:
            raise ValueError("images changes the image processor of path, which is not set: see tiny.image_size")
        return self


class Sampling(Section):
    """Which windows are asked about."""

    idle: float = Field(
        default=0.1, ge=0, le=1, description="share whose first transition changes nothing that can be seen"
    )
    balance: bool = Field(default=True, description="draw kinds of events equally often, however rare they are")


class Clozes(Section):
    """Which clozes, how they are written, and how much each counts."""

    weights: dict[str, Weight] = Field(
        min_length=1,
        default={"state_estimation": 1.0, "forward_dynamics": 1.0, "inverse_dynamics": 4.0},
        description="loss weight of each cloze, by name or pattern: a number, or points [share of the training, "
        "weight] with straight lines between; not asked where it is 0",
    )
    drawn: PositiveInt | None = Field(
        default=None,
        description="how many of the clozes are asked about a window, drawn anew for each; default: all. With many "
        "clozes, fewer at a time leave room for more windows",
    )
    representation: Representation = Field(default="grid", description="how states are written and read")
    history: NonNegativeInt = Field(
        default=0,
        description="images of a trajectory that may come before a cloze's own; a group then asks its clozes after "
        "each of its images. Clozes that show images out of their order are asked without",
    )
    imagined: NonNegativeInt = Field(
        default=1,
        description="about how many actions not taken dynamics are asked too (inverse dynamics: none or all of them)",
    )
    sampling: Sampling = Sampling()
    explain: bool = Field(default=True, description="put the world's rules and the notation into a system message")


class Source(Section):
    """What one source of trajectories is used for."""

    weight: Weight = Field(
        default=1.0, description="rows it gets, beside the weights of the others: a number, or points as for clozes"
    )
    clozes: Names | None = Field(default=None, description="which of the clozes are asked about it; all by default")


def _as_source(value: Any) -> Any:
    """A source given as its weight alone."""
    return value if isinstance(value, dict | Source) else {"weight": value}


class Data(Section):
    """How shards are read."""

    cache: str = Field(
        default="~/.cache/vagen/shards", description="where shards from elsewhere are kept, by their checksums"
    )
    on_corrupt: Literal["fail", "skip"] = Field(
        default="fail", description="what to do about a shard that is damaged or gone: stop, or go on without it"
    )


class Questions(Section):
    """Questions about images that are trained on beside the clozes, or alone where there are no shards."""

    files: Names = Field(
        default=(), description="JSONL with images, input_prompt and grounded_output: `vagen spatial` writes it"
    )
    images: str | None = Field(
        default=None, description="the folder that paths of images start in; default: that of the file"
    )
    weight: Weight = Field(
        default=1.0, description="rows of questions for each row of clozes: a number, or points as for clozes"
    )
    tasks: dict[str, Weight] = Field(
        default={},
        description="loss weight of the questions of each task, 1 for those not named: a number, or points as for "
        "clozes; not asked where it is 0",
    )
    per_row: int = Field(default=8, gt=0, description="questions about the same images that share a row, at most")


class Rates(Section):
    """Learning rates of the parts of a model, relative to ``optimizer.lr`` and ``optimizer.muon_lr``."""

    vision: float = Field(default=1.0, gt=0, description="the vision tower")
    projector: float = Field(default=1.0, gt=0, description="what turns its outputs into the language model's inputs")
    language: float = Field(default=1.0, gt=0, description="the language model, its embeddings and its head")


class Optimizer(Section):
    """AdamW or Muon, and how the learning rate changes: it warms up, then follows ``schedule``.

    The default stays high and decays at the end (warmup-stable-decay, Hu et al. 2024): staying high until late suits
    abilities that appear suddenly, as inverse dynamics does.
    """

    name: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: hidden matrices by Muon (Jordan et al. 2024), everything else by AdamW"
    )
    lr: float = Field(default=1.5e-3, gt=0, description="of AdamW, at the peak")
    rates: Rates = Rates()
    betas: tuple[Share, Share] = Field(
        default=(0.9, 0.95), description="of AdamW: how slowly its means of gradients and of their squares move"
    )
    muon_lr: float = Field(default=0.02, gt=0, description="of Muon, at the peak: the spectral norm of an update")
    momentum: float = Field(default=0.95, ge=0, lt=1, description="of Muon")
    weight_decay: float = Field(
        default=0.01, ge=0, description="share of a weight that an update takes away, times the learning rate"
    )
    schedule: Literal["wsd", "cosine", "linear", "constant"] = Field(
        default="wsd", description="of the rate after warming up; wsd: it stays, and decays at the end"
    )
    warmup_steps: int = Field(default=50, ge=0, description="steps in which the rate rises to its peak")
    decay: float = Field(default=0.3, ge=0, le=1, description="wsd: share of the steps, at the end, that it takes")
    final_lr: float = Field(
        default=0.02, ge=0, le=1, description="where warming up starts and the decay ends, relative to the peak"
    )
    clip: float = Field(
        default=1.0,
        gt=0,
        description="largest global gradient norm; adamw only, for Muon's updates have the same size whatever that is",
    )


class Offload(Section):
    """What waits in the CPU's memory while a GPU does not need it."""

    optimizer: bool = Field(default=False, description="optimizer states, which are then updated on the CPU; ZeRO 1-3")
    parameters: bool = Field(default=False, description="parameters; ZeRO 3")
    cpu_adam: bool = Field(
        default=False,
        description="update by DeepSpeed's CPUAdam, faster than torch's AdamW; a C++ compiler builds it on first use",
    )


class Validation(Section):
    """Asking clozes of the validation split while training, spread over all processes."""

    every: NonNegativeInt = Field(default=0, description="steps from one time to the next; 0: never")
    clozes: Names = Field(default=(), description="names or patterns; default: those that are trained")
    n: int = Field(default=64, gt=0, description="samples per world and cloze")
    batch: int = Field(default=128, gt=0, description="questions answered at a time by one process")
    seed: NonNegativeInt = Field(default=2, description="decides the questions")
    best: str = Field(
        default="eval/accuracy",
        description="the metric (higher is better) whose best checkpoint is kept: the mean over all, or "
        "eval/WORLD/CLOZE/accuracy",
    )


class Train(Section):
    """The training loop."""

    steps: int = Field(default=2000, gt=0, description="updates of the weights; under rl, batches of episodes")
    rows: int = Field(
        default=16, gt=0, description="groups of clozes per step, over all processes; each a packed row by default"
    )
    micro_rows: int = Field(default=8, gt=0, description="packed rows per forward pass of one process")
    row_tokens: NonNegativeInt = Field(
        default=0,
        description="most tokens of a packed row: rows then hold several groups, or part of one, and a step takes as "
        "many forward passes as it needs; 0: a row per group",
    )
    balance: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="weight of an answer token: its frequency among answers to the power of minus this",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=0, description="1: optimizer states, 2: and gradients, 3: and parameters spread over the processes"
    )
    offload: Offload = Offload()
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="of the forward and backward pass; bf16 is for GPUs"
    )
    workers: NonNegativeInt | None = Field(
        default=None,
        description="data loading processes per training process; default: as many as there are cores left, at most 4",
    )
    prefetch: int = Field(default=2, gt=0, description="steps each loading process prepares ahead")
    log_every: int = Field(default=20, gt=0, description="steps from one line of metrics to the next")
    checkpoint_every: int = Field(default=1000, gt=0, description="steps; the last step is kept in any case")
    keep_checkpoints: int = Field(default=2, gt=0, description="the newest; the best is kept beside them")
    validation: Validation = Validation()
    report_to: Annotated[tuple[Literal["tensorboard", "wandb", "trackio"], ...], BeforeValidator(_several)] = Field(
        default=("tensorboard",), description="beside metrics.jsonl; wandb and trackio are installed as extras"
    )
    project: str = Field(default="vagen", description="of the run at wandb and trackio")

    @model_validator(mode="after")
    def _offload_fits(self) -> Self:
        if self.offload.optimizer and self.zero_stage == 0:
            raise ValueError("offload.optimizer needs zero_stage 1, 2 or 3")
        if self.offload.parameters and self.zero_stage != 3:
            raise ValueError("offload.parameters needs zero_stage 3")
        if self.offload.cpu_adam and not self.offload.optimizer:
            raise ValueError("offload.cpu_adam needs offload.optimizer")
        return self


class EvaluateSampling(Sampling):
    """Which windows are asked about: kinds of events as often as they happen."""

    balance: bool = Field(default=False, description="draw kinds of events equally often, however rare they are")


class Evaluate(Section):
    """What ``vagen quickstart`` measures after training."""

    clozes: Names = Field(
        default=("state_estimation", "forward_dynamics", "inverse_dynamics"),
        min_length=1,
        description="what is asked, by names or patterns",
    )
    n: int = Field(default=300, gt=0, description="samples per world and cloze")
    episodes: int = Field(default=100, gt=0, description="episodes per world and agent")
    batch: int = Field(default=128, gt=0, description="questions, or episodes, answered at a time")
    seed: NonNegativeInt = Field(default=1, description="decides the questions")
    sampling: EvaluateSampling = EvaluateSampling()


class Rollouts(Section):
    """What a policy plays to learn from."""

    worlds: Names = Field(default=(), description="groups take turns among them; none where questions are answered")
    groups: PositiveInt = Field(default=8, description="groups per step, over all processes: so many initial states")
    members: PositiveInt = Field(default=8, description="episodes of a group; 1 for PPO without groups")
    strategy: Strategy = Field(default="free_think", description="what a response consists of")
    context: Literal["concat", "window", "no_concat"] = Field(
        default="concat", description="what is seen in a turn: the whole conversation, its last turns, or the present"
    )
    window: PositiveInt = Field(default=2, description="turns seen with context window, the present one included")
    turns: PositiveInt = Field(default=5, description="an episode is cut after so many responses")
    actions: PositiveInt = Field(default=1, description="a response may list so many")
    tokens: PositiveInt = Field(default=512, description="a response is cut after so many")
    length: PositiveInt = Field(
        default=8192, description="tokens of a prompt and the longest response to it; an episode is cut before more"
    )
    temperature: float = Field(default=1.0, gt=0, description="of sampling responses")
    batch: PositiveInt = Field(default=128, description="episodes played side by side by one process")


class Rewards(Section):
    """How much each part of the reward counts.

    See :class:`vagen.rl.rewards.RewardWeights`.
    """

    task: float = Field(default=1.0, gt=0, description="times what the world pays")
    answers: Literal["exact", "reciprocal"] = Field(
        default="exact",
        description="who pays for answers to clozes: the simulator; or the policy itself, by the log-probability per "
        "token of the opposite cloze (SWIRL)",
    )
    format: float = Field(default=0.0, ge=0, description="for each response of the right form")
    state_estimation: float = Field(
        default=0.0,
        ge=0,
        description="per turn, times how well <observation> describes; of an answer, times how far its map agrees",
    )
    transition: float = Field(default=0.0, ge=0, description="per turn, times how well <prediction> foretells")
    success: float = Field(default=1.0, gt=0, description="what the worlds pay for success, for the check below")
    most: float = Field(
        default=0.5, gt=0, description="share of it that everything but the task may add up to over an episode"
    )


class Filter(Section):
    """Which groups are learned from.

    See :func:`vagen.rl.filters.select_groups`.
    """

    strategy: str = Field(
        default="none", description="none, top_p, top_p_softmax, top_k, top_k_abs, min_p, dapo or vagen"
    )
    value: float = Field(default=0.9, description="the strategy's p or k")
    mode: Literal["ragen_code", "ragen_paper"] = Field(
        default="ragen_code", description="top_p adds up scores, with a slack of 0.01, or their squares, with none"
    )
    score: Literal["std", "variance"] = Field(default="std", description="of the rewards of a group's episodes")
    rewards: Literal["total", "outcome"] = Field(
        default="total", description="which rewards are scored: all of them, or the task's alone"
    )
    outcome_gate: bool = Field(default=True, description="variance that comes from the form alone does not count")
    include_zero: bool = Field(default=True, description="keep groups of score 0 in the running")
    largest: bool = Field(default=True, description="prefer large scores; false: small ones, to see what it is worth")
    scale: Literal["none", "linear", "sqrt"] = Field(default="none", description="of the loss, by the share kept")


class Advantage(Section):
    """Who deserves the reward.

    See :data:`vagen.rl.advantages.ESTIMATORS`.
    """

    estimator: str = Field(
        default="grpo",
        description="grpo, dr_grpo, reinforce++ or batch_baseline; with a critic gae, bi_level_gae, turn_gae or "
        "no_concat_gae",
    )
    gamma: float = Field(default=1.0, ge=0, le=1, description="discount from token to token")
    lam: float = Field(default=1.0, ge=0, le=1, description="of GAE, from token to token")
    gamma_turn: float = Field(default=0.95, ge=0, le=1, description="discount from turn to turn")
    lam_turn: float = Field(default=1.0, ge=0, le=1, description="of GAE, from turn to turn")
    whiten: bool = Field(default=False, description="over the tokens of the whole step")


class PolicyLoss(Section):
    """The policy's loss, and how often a batch is used."""

    epochs: PositiveInt = Field(default=1, description="how often each episode is used")
    minibatches: PositiveInt = Field(default=1, description="optimizer steps in an epoch")
    old: Literal["measured", "own"] = Field(
        default="measured",
        description="probabilities before the update: measured by a forward pass before it, or, where a step is one "
        "update without critic and reference, its own, which are the same",
    )
    clip_low: float = Field(default=0.2, ge=0, le=1, description="how far below 1 a ratio still counts")
    clip_high: float = Field(default=0.28, ge=0, description="how far above 1 a ratio still counts")
    dual_clip: float | None = Field(default=3.0, gt=1, description="the largest ratio at a negative advantage")
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"] = Field(
        default="token-mean", description="of the losses of tokens: over all, or first over those of an episode"
    )
    positive: float = Field(default=1.0, ge=0, description="weight of tokens of positive advantage")
    negative: float = Field(default=1.0, ge=0, description="weight of tokens of negative advantage")
    entropy: float = Field(default=0.0, ge=0, description="bonus for the entropy of each token")
    sampler_cap: float | None = Field(
        default=None, gt=0, description="weigh tokens by trainer's over sampler's probability, at most this"
    )
    target_kl: float | None = Field(default=None, gt=0, description="the epochs end where an update has moved so far")

    @property
    def bounds(self) -> tuple[float, float, float | None]:
        """What ratios are clipped by: below, above, and at negative advantages."""
        return self.clip_low, self.clip_high, self.dual_clip


class Divergence(Section):
    """Staying near the policy that training began with."""

    weight: float = Field(default=0.0, ge=0, description="0: there is no reference")
    kind: Literal["k1", "k2", "k3"] = Field(
        default="k3", description="how it is estimated; k1: unbiased, k2: with little variance, k3: both"
    )
    where: Literal["loss", "reward"] = Field(default="loss", description="what it is added to or taken from")


class Critic(Section):
    """Values, for the estimators that need them."""

    kind: Literal["head", "model"] = Field(
        default="head", description="on the policy's hidden states, or a copy of the model with states of its own"
    )
    lr: float = Field(default=1.0, gt=0, description="relative to optimizer.lr")
    weight: float = Field(default=0.5, gt=0, description="of its loss")
    clip: float | None = Field(default=0.5, gt=0, description="how far a value may move and still be rewarded for it")
    warmup: NonNegativeInt = Field(default=0, description="first steps in which it alone learns")
    isolated: bool = Field(default=False, description="head: its loss does not change the policy's hidden states")


class Auxiliary(Section):
    """Cloze tests about the transitions of the batch, as an additional loss; which ones is said in ``clozes``."""

    weight: Weight | None = Field(default=None, description="a number, or points as for clozes; none: no clozes")
    rows: PositiveInt = Field(default=16, description="windows asked about in each optimizer step, over all processes")
    gate: Literal["none", "sigmoid"] = Field(
        default="none", description="sigmoid: answers count by how far the policy is behind them (SDAR)"
    )
    sharpness: float = Field(default=1.0, gt=0, description="of the gate")
    unsure: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of a group's transitions that may be asked about: those whose responses the policy was "
        "least sure of (after PaW)",
    )
    adaptive: bool = Field(
        default=False, description="the weight counts by the share of the step's episodes that failed (after PaW)"
    )


class WarmUp(Section):
    """Supervised steps before reinforcement: collect, write the truth into responses, learn them and the clozes."""

    steps: NonNegativeInt = Field(default=0, description="before those that train.steps counts; 0: no warm-up")
    behaviour: Literal["random", "expert", "mixture", "self"] = Field(
        default="random", description="random teaches the form of responses and nothing about acting; self: the policy"
    )
    epsilon: float = Field(default=0.5, ge=0, le=1, description="mixture: chance of a random action")
    episodes: PositiveInt = Field(default=500, description="collected in each world")
    rows: PositiveInt = Field(default=16, description="episodes per step, over all processes")
    responses: float = Field(default=1.0, ge=0, description="weight of responses with the true state in them")
    clozes: float = Field(default=0.0, ge=0, description="weight of clozes about the same episodes")
    lr: float = Field(default=1.0, gt=0, description="relative to optimizer.lr")


class Evaluation(Section):
    """Playing the validation split while training, or answering its questions."""

    every: NonNegativeInt = Field(default=10, description="steps from one time to the next; 0: never")
    episodes: PositiveInt = Field(default=128, description="per world; questions: so many, all files together")
    files: Names = Field(default=(), description="questions: the files that are asked, of another split than trained")
    split: Literal["val", "test"] = Field(default="val", description="whose layouts are played")
    temperature: float = Field(default=0.0, ge=0, description="0: greedy")
    seed: NonNegativeInt = Field(default=2, description="decides the initial states")
    patience: PositiveInt | None = Field(
        default=None, description="training ends where success has not risen for so many times in a row"
    )


class Guard(Section):
    """What to do when a training goes wrong."""

    action: Literal["skip", "stop"] = Field(default="skip", description="about a batch that is not finite")
    most: PositiveInt = Field(default=3, description="skipped batches in a row that end the training")


class Diagnostics(Section):
    """Measurements that cost forward passes of their own."""

    every: NonNegativeInt = Field(default=10, description="steps from one time to the next; 0: never")
    turns: int = Field(default=16, gt=1, description="reasonings that mutual information is measured on")
    gradients: bool = Field(
        default=False,
        description="also how large the gradients of the task and of the regularisers are, by how much the rewards of "
        "a group vary: as much work as an update or more; train.zero_stage 0 only",
    )


class Rl(Section):
    """Multi-turn reinforcement learning; ``train.steps`` counts its steps, after those of the warm-up."""

    source: Literal["worlds", "clozes", "questions"] = Field(
        default="worlds",
        description="episodes of the worlds, clozes about them, or the questions of questions.files; answers are "
        "rewarded by exact scoring",
    )
    rollouts: Rollouts
    rewards: Rewards = Rewards()
    filter: Filter = Filter()
    advantage: Advantage = Advantage()
    policy: PolicyLoss = PolicyLoss()
    divergence: Divergence = Divergence()
    critic: Critic = Critic()
    auxiliary: Auxiliary = Auxiliary()
    warmup: WarmUp = WarmUp()
    evaluation: Evaluation = Evaluation()
    guard: Guard = Guard()
    diagnostics: Diagnostics = Diagnostics()
    row_tokens: PositiveInt = Field(
        default=1024, description="episodes of a group share a packed row while it has at most so many tokens"
    )

    @model_validator(mode="after")
    def _something_is_played(self) -> Self:
        if self.source != "questions" and not self.rollouts.worlds:
            raise ValueError(f"source={self.source} needs rollouts.worlds: name some; `vagen worlds` lists them")
        if self.source == "questions" and self.rollouts.worlds:
            raise ValueError("source=questions plays no worlds: leave rollouts.worlds out")
        if self.rewards.answers == "reciprocal" and self.source != "clozes":
            raise ValueError(
                f"rewards.answers=reciprocal pays for clozes, and source={self.source}: set source=clozes"
            )
        return self


class Config(Section):
    """A whole run."""

    seed: NonNegativeInt = Field(default=0, description="decides episodes, weights and the order of the data")
    output: str = Field(default="outputs/run", description="the folder of the run")
    shards: Names = Field(
        default=(),
        description="folders made by vagen collect: paths, globs, {a,b}, http(s)://, hf://, s3://, pipe:",
    )
    mixture: dict[str, Annotated[Source, BeforeValidator(_as_source)]] = Field(
        default={}, description="how much of the training a world gets, or one entry of shards; 1 for those not named"
    )
    data: Data = Data()
    questions: Questions = Questions()
    collect: Collect = Collect()
    model: Model = Model()
    clozes: Clozes = Clozes()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    rl: Rl | None = Field(default=None, description="reinforcement learning instead of clozes from shards")


def load(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file, wherever it is :func:`located`, and apply overrides such as ``train.steps=100``.

    Raises:
        ConfigError: the file is missing or no YAML mapping, a key is unknown, or a value does not fit.
    """
    values: dict[str, Any] = {}
    origin = "defaults"
    if path is not None:
        origin = str(path)
        values = _read(located(Path(path)))
    for override in overrides:
        _apply(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, origin)) from None


def save(config: Section, path: Path) -> None:
    """Write the resolved configuration as YAML."""
    write_text_atomically(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def shipped(name: str) -> Path:
    """A configuration that comes with the package, in a wheel as in a checkout.

    Raises:
        ConfigError: there is none of this name.
    """
    found = _shipped(name)
    if found is None:
        raise ConfigError(
            f"no shipped configuration {name!r}: the installation lacks its configs folder; reinstall it"
        )
    return found


def _shipped(name: str) -> Path | None:
    package = Path(__file__).parent
    places = (folder / "configs" / name for folder in (package, package.parent))
    return next((place for place in places if place.is_file()), None)


def located(path: Path) -> Path:
    """A file ``configs/NAME`` that is not there is the shipped one, wherever the package is installed."""
    return path if path.exists() or path.parent != Path("configs") else _shipped(path.name) or path


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read configuration {path}: {getattr(error, 'strerror', None) or error}") from None
    except (yaml.YAMLError, ValueError) as error:  # PyYAML lets the ValueError of an impossible date through
        raise ConfigError(f"configuration {path} is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"configuration {path} must be a mapping of keys to values")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.removeprefix("--").partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: write --section.key=value")
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"override {override!r}: {text!r} is not a YAML value") from None


def _explain(error: ValidationError, origin: str) -> str:
    """One line for the first thing wrong."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = get_close_matches(key, [known.name for known in described()], n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}?" if near else "`vagen config` lists the keys"
        return f"unknown configuration key {key!r} (in {origin} or an override): {hint}"
    return f"configuration key {key!r} (in {origin} or an override): {first['msg']}, got {first['input']!r}"


_PLAIN: TypeAdapter[Any] = TypeAdapter(Any)


@dataclass(frozen=True)
class Key:
    """A configuration key, or a section of them.

    Attributes:
        name: dotted, as on a command line.
        default: as YAML; empty for a section, and for what has to be given.
        meaning: the words it can be, and what it does; empty where its name says it all.
    """

    name: str
    default: str
    meaning: str


def described(section: type[Section] = Config, prefix: str = "") -> Iterator[Key]:
    """Every key a configuration can have, sections before what is in them."""
    for name, info in section.model_fields.items():
        kinds = (info.annotation, *get_args(info.annotation))
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
        if inner is not None:
            summary, _, _ = (inner.__doc__ or "").partition("\n\n")
            yield Key(prefix + name, "", " ".join(summary.split()))
            yield from described(inner, f"{prefix}{name}.")
            continue
        words = " or ".join(map(str, get_args(info.annotation))) if get_origin(info.annotation) is Literal else ""
        meaning = "; ".join(text for text in (words, info.description) if text)
        default = "" if info.is_required() else json.dumps(_PLAIN.dump_python(info.default, mode="json"))
        yield Key(prefix + name, default, meaning)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a child process that trains on CPU beside others: threads that wait do not spin."""
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **(extra or {})}
