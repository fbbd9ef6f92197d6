"""What would be answered wrong is refused at the start, with the reason."""

from pathlib import Path

from tests.integration.caches.drafts import OWN_GROUP
from tests.real_stack import START_LIMIT_S, wait_until
from tests.tiny_servers.instances import Fleet, Serving


def test_a_draft_model_in_a_group_of_its_own(fleet: Fleet, models_folder: Path) -> None:
    """With it the answers of a plain server of vLLM 0.32 are not those of one without a draft."""
    served, arguments = OWN_GROUP.target, OWN_GROUP.arguments(models_folder)
    server = fleet.start("decode", Serving(models_folder / served.name, served.block_size, arguments=arguments))
    wait_until(lambda: server.has_ended, START_LIMIT_S, "the server ends")
    fleet.stop_all()
    assert "a draft model in a group of its own changes vLLM's answers" in server.log
