"""The port of the page on this machine."""

from __future__ import annotations

from contextlib import closing

import pytest

from services.dashboard.address import LOOPBACK, PortTaken, free_port, listen, listen_near, port_of


def test_two_runs_have_two_ports_from_the_moment_on_at_which_they_are_printed() -> None:
    wanted = free_port(0)

    with closing(listen_near(wanted)) as first, closing(listen_near(wanted)) as second:
        assert port_of(first) == wanted
        assert port_of(second) != wanted
        assert free_port(wanted) not in (port_of(first), port_of(second))


def test_a_port_that_the_user_names_is_that_one_or_refused() -> None:
    with closing(listen(LOOPBACK, 0)) as taken, pytest.raises(PortTaken, match=str(port_of(taken))):
        listen(LOOPBACK, port_of(taken))
