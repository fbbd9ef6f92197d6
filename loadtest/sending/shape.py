"""How many of Locust's users there are, and when a test ends: when its team has nothing left to do."""

import math
from typing import Any, ClassVar

from locust import LoadTestShape

from loadtest import options
from loadtest.sending.clock import RunClock
from loadtest.sending.team import Team
from loadtest.settings import LoadTestSettings
from stack.configuration.environment import load

_AT_ONCE = 100.0  # users a second, the most that Locust starts without a warning


class TeamShape(LoadTestShape):
    """Open loop: one user a process, who stands for all its requests. Closed loop: LOADTEST_STAGES, or the form's users
    and spawn rate."""

    use_common_options: ClassVar[bool] = True
    team: Team

    def tick(self) -> tuple[int, float] | None:
        self.team.look()
        if self.team.is_over:
            return None
        values: dict[str, Any] = vars(self.runner.environment.parsed_options) if self.runner else {}
        settings = load(LoadTestSettings, **options.chosen(values))
        if settings.loadtest_arrivals != "closed":
            return self.team.size, _AT_ONCE
        elapsed = RunClock(self.team.zero).now() if self.team.zero is not None else 0.0
        if settings.profile is not None:
            return max(1, round(settings.profile.value(max(0.0, elapsed)))), _AT_ONCE
        users, rate = values.get("num_users") or 1, values.get("spawn_rate") or 1
        return min(users, 1 + math.floor(rate * max(0.0, elapsed))), _AT_ONCE
