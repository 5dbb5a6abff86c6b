"""Episodes that others played, written as a policy would have: with the true states in its responses.

Self-play collection whose descriptions are replaced by what the simulator knows (SPA, Chen et al. 2025). All tokens of
a response are there to be predicted, those of states included. Knows nothing about losses.
"""

from __future__ import annotations

import numpy as np

from vagen.cloze.sample import simulator
from vagen.config import Rollouts
from vagen.data.frames import frames_of
from vagen.mdp import Trajectory
from vagen.policy.chat import Chat, Encoded
from vagen.rollout.responses import Response, write_response
from vagen.rollout.sampler import Talk
from worlds import Frame
from worlds.text import Representation, write_actions, write_facts


def demonstrate(chat: Chat, trajectory: Trajectory, settings: Rollouts) -> list[Encoded]:
    """The turns of an episode, at most ``settings.turns``, one action in each; the response is what is predicted."""
    talk = Talk(chat, simulator(trajectory.world), settings)
    frames: list[Frame] = list(frames_of(trajectory))
    turns = []
    for time in range(min(len(trajectory), settings.turns)):
        prompt, pictures = talk.prompt(frames[time], trajectory.snapshots[time])
        text = write_response(true_response(trajectory, time, chat.policy.format.representation), settings.strategy)
        response = np.asarray(chat.answer_tokens(text))
        turns.append(Encoded(prompt, response, tuple(pictures)))
        talk.respond(response)
    return turns


def true_response(trajectory: Trajectory, time: int, representation: Representation) -> Response:
    """What an agent that sees and foresees everything would have written before action ``time``; without reasons."""
    world = simulator(trajectory.world)
    before, after = (
        write_facts(world.facts(snapshot), world.schema, representation)
        for snapshot in trajectory.snapshots[time : time + 2]
    )
    action = write_actions([trajectory.actions[time]], world.actions)
    return Response(action, thought="", observation=before, reasoning="", prediction=after)
