"""What a warm child keeps open, by plan: what an exec would leave of it."""

import os
from typing import Any

import pytest

import elfolio
from elfolio.spawn.options import Options
from elfolio.spawn.plan import NULL_DEVICE, compile_plan
from elfolio.spawn.warmplan import _kept, warm_side


@pytest.mark.parametrize(
    ("keywords", "kept"),
    [
        ({}, set()),
        ({"pass_fds": [44]}, {44}),
        ({"actions": [elfolio.Dup2(1, 9)]}, {9}),
        ({"actions": [elfolio.Dup2(1, 9, cloexec=True)]}, set()),
        ({"actions": [elfolio.Dup2(1, 9)], "close_targets": True}, set()),
        ({"pass_fds": [44], "actions": [elfolio.Dup2(40, 44)], "close_targets": True}, {44}),
        ({"pass_fds": [44], "actions": [elfolio.Dup2(40, 44, cloexec=True)], "close_targets": True}, set()),
        ({"pass_fds": [44], "actions": [elfolio.Close(44)]}, set()),
        ({"pass_fds": [44], "actions": [elfolio.CloseRange(40, 50, cloexec=True)]}, set()),
        ({"actions": [elfolio.Open(9, "/dev/null", os.O_RDONLY | os.O_CLOEXEC)]}, set()),
    ],
)
def test_what_stays_open(keywords: dict[str, Any], kept: set[int]) -> None:
    """Beside its streams a warm child keeps what was passed or made, unless an action marked it close-on-exec."""
    assert _kept(Options(**keywords)) == {0, 1, 2} | kept


def test_nothing_may_stay_open() -> None:
    """A child that is to close all three streams and has nothing else can be asked for."""
    options = Options(actions=[elfolio.Close(0), elfolio.Close(1), elfolio.Close(2)])
    streams = (NULL_DEVICE, NULL_DEVICE, NULL_DEVICE)
    assert _kept(options) == set()
    assert warm_side(compile_plan(options, streams), options, streams).native is not None
