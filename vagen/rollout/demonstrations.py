"""Episodes that others played, written as a policy would have: with the true states in its responses.

Self-play collection whose descriptions are replaced by what the simulator knows (SPA, Chen et al. 2025). All tokens of
a response are there to be predicted, those of states included. Knows nothing about losses.
"""

from __future__ import annotations

from vagen.cloze.sample import simulator
from vagen.data.frames import frames_of
from vagen.mdp import Trajectory
from vagen.policy.chat import Chat, Encoded, Picture
from vagen.rollout.prompts import Observation, describe_circumstances
from vagen.rollout.responses import Response, write_response
from vagen.rollout.rollouts import Settings, begin_conversation
from worlds import Frame
from worlds.text import Representation, write_actions, write_facts


def demonstrate(chat: Chat, trajectory: Trajectory, settings: Settings) -> list[Encoded]:
    """The turns of an episode, at most ``max_turns``, one action in each; the response is what is predicted."""
    world = simulator(trajectory.world)
    conversation = begin_conversation(chat, world, settings)
    frames: list[Frame] = list(frames_of(trajectory))
    turns = []
    for time in range(min(len(trajectory), settings.max_turns)):
        circumstances = describe_circumstances(world, trajectory.snapshots[time], usable=True)
        prompt, pictures = conversation.observe(Observation(Picture.of(frames[time]), circumstances))
        text = write_response(
            true_response(trajectory, time, settings.representation), settings.strategy, settings.tags
        )
        response = chat.answer_tokens(text)
        turns.append(Encoded(prompt, response, pictures))
        conversation.respond(response, ended=True)
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
