"""What is remembered of hosts, and for whom."""

from worker.images.slow_hosts import SlowHosts


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def failed(hosts: SlowHosts, tenant: str, host: str, times: int) -> None:
    for _ in range(times):
        hosts.failed(tenant, host)


def test_a_mark_ends_with_time() -> None:
    clock = Clock()
    hosts = SlowHosts(30, clock)
    failed(hosts, "a", "h", 4)
    assert not hosts.is_slow("a", "h")
    failed(hosts, "a", "h", 1)
    assert hosts.is_slow("a", "h")
    clock.now = 30.0
    assert not hosts.is_slow("a", "h")


def test_a_mark_lasts_while_the_host_is_asked_in_vain() -> None:
    clock = Clock()
    hosts = SlowHosts(30, clock)
    failed(hosts, "a", "h", 4)
    hosts.gave_no_answer("a", "h")
    assert not hosts.is_slow("a", "h")
    failed(hosts, "a", "h", 1)
    clock.now = 29.0
    hosts.gave_no_answer("a", "h")
    clock.now = 58.0
    assert hosts.is_slow("a", "h")
    clock.now = 59.0
    hosts.gave_no_answer("a", "h")
    assert not hosts.is_slow("a", "h")  # it had ended


def test_a_mark_ends_with_a_success() -> None:
    hosts = SlowHosts(30, Clock())
    failed(hosts, "a", "h", 5)
    hosts.succeeded("a", "h")
    assert not hosts.is_slow("a", "h")
    assert len(hosts) == 0


def test_one_tenants_failures_mark_no_host_for_another() -> None:
    hosts = SlowHosts(30, Clock())
    failed(hosts, "a", "h", 5)
    hosts.failed("a", "h", 20)
    assert (hosts.is_slow("a", "h"), hosts.is_slow("b", "h")) == (True, False)
    assert (hosts.is_left_alone("a", "h"), hosts.is_left_alone("b", "h")) == (True, False)
    hosts.succeeded("b", "h")
    assert hosts.is_slow("a", "h")


def test_one_tenants_hosts_do_not_make_the_others_forgotten() -> None:
    hosts = SlowHosts(30, Clock())
    failed(hosts, "b", "h", 5)
    for number in range(5000):
        hosts.failed("a", str(number))
    assert len(hosts) == 1024
    assert hosts.is_slow("b", "h")


def test_a_host_is_left_alone_for_as_long_as_it_asked_up_to_a_deferral() -> None:
    clock = Clock()
    hosts = SlowHosts(30, clock)
    hosts.failed("a", "short", 7)
    hosts.failed("a", "long", 3600)
    hosts.failed("a", "short")
    hosts.succeeded("a", "short")  # an answer to what was asked before
    clock.now = 6.9
    assert hosts.is_left_alone("a", "short")
    clock.now = 7.0
    assert not hosts.is_left_alone("a", "short")
    clock.now = 29.9
    assert hosts.is_left_alone("a", "long")
    clock.now = 30.0
    assert not hosts.is_left_alone("a", "long")
