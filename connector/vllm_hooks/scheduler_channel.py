"""What a scheduler does with the messages of its control channel; most go to the workers, which have their own."""

import logging

from connector.control.channel import Channel
from connector.control.messages import FirstToken, Message
from connector.first_token.expected import FirstTokens
from connector.scheduling.consumer_scheduler import ConsumerScheduler

log = logging.getLogger(__name__)


def serve_a_producer(channel: Channel) -> None:
    channel.serve(_ignore, _nothing, _left_to_workers, _own_rank_back)


def serve_a_consumer(channel: Channel, scheduler: ConsumerScheduler, first_tokens: FirstTokens) -> None:
    def on_message(message: Message) -> None:
        if isinstance(message, FirstToken):
            first_tokens.on_message(message)
        else:
            _ignore(message)

    channel.serve(on_message, _nothing, _left_to_workers, scheduler.peer_back)


def _ignore(message: Message) -> None:
    log.warning("scheduler: ignored a %s; answers go to the workers", type(message).__name__)


def _nothing() -> None:
    pass


def _own_rank_back(address: str) -> None:
    """What it has missed comes with the next step."""


def _left_to_workers(address: str, gone: bool) -> None:
    pass
