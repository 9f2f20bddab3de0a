from collections import Counter

import pytest

from delivery.account import next_scan, settle_accounts
from delivery.outcome import JournalAccount, LaneAccount, Outcome


def journal(**changes: int) -> JournalAccount:
    """100 readings of line1: 10 wait, 5 are filtered, 80 went to cloud, 50 of them to local too, 5 are dead."""
    counts = {"journalled": 100, "waiting": 10, "filtered": 5, "routed": 80, "dead": 5} | changes
    outcome = Outcome(
        routed=Counter(line1=counts["routed"]),
        dead=Counter(line1=counts["dead"]),
        filtered={"no rule": Counter(line1=counts["filtered"]), "never": Counter()},
        targets={"cloud": Counter(line1=80), "local": Counter(line1=50)},
    )
    return JournalAccount(Counter(line1=counts["journalled"]), Counter(line1=counts["waiting"]), outcome)


def spool(**changes: int) -> LaneAccount:
    counts = {"routed": 80, "delivered": 60, "dead": 2, "discarded": 8, "stored": 10} | changes
    return LaneAccount(
        Counter(line1=counts["routed"]),
        Counter(line1=counts["delivered"]),
        Counter(line1=counts["dead"]),
        {"full": Counter(line1=counts["discarded"])},
        Counter(line1=counts["stored"]),
    )


LOCAL = LaneAccount(Counter(line1=55), Counter(line1=55))


def test_an_account_that_adds_up() -> None:
    account = settle_accounts(journal(), {"cloud": spool(), "local": LOCAL})
    assert account.unaccounted == 0
    assert account.sources["line1"].filtered == {"no rule": 5}
    assert account.targets["cloud"]["line1"].discarded == {"full": 8}
    assert account.to_dict()["unaccounted"] == 0


def test_every_count_that_is_off_shows() -> None:
    for name in ("journalled", "waiting", "filtered", "routed", "dead"):
        wrong = {"journalled": 100, "waiting": 10, "filtered": 5, "routed": 80, "dead": 5}[name] + 1
        account = settle_accounts(journal(**{name: wrong}), {"cloud": spool(), "local": LOCAL})
        assert account.unaccounted == 1, name
        assert abs(account.sources["line1"].unaccounted) == 1
    for name in ("delivered", "dead", "discarded", "stored"):
        wrong = {"delivered": 60, "dead": 2, "discarded": 8, "stored": 10}[name] - 1
        account = settle_accounts(journal(), {"cloud": spool(**{name: wrong}), "local": LOCAL})
        assert account.unaccounted == 1, name
        assert account.to_dict()["targets"]["cloud"]["line1"]["unaccounted"] == 1


def test_readings_that_the_journal_let_go_but_a_spool_never_had_show() -> None:
    short = LaneAccount(Counter(line1=49), Counter(line1=49))
    account = settle_accounts(journal(), {"cloud": spool(), "local": short})
    assert account.unaccounted == 1
    missing = settle_accounts(journal(), {"cloud": LaneAccount(), "local": LOCAL})
    assert missing.targets["cloud"]["line1"].unaccounted == 80


def test_losses_and_surpluses_do_not_cancel_out() -> None:
    account = settle_accounts(journal(journalled=101), {"cloud": spool(stored=11), "local": LOCAL})
    assert account.unaccounted == 2


def test_readings_that_a_flow_still_holds_are_no_loss() -> None:
    """A spool may have had what the journal does not know to be done."""
    ahead = LaneAccount(Counter(line1=70), Counter(line1=70))
    assert settle_accounts(journal(), {"cloud": spool(), "local": ahead}).unaccounted == 0


@pytest.mark.parametrize(("took", "pause"), [(0.001, 1.0), (1.0, 49.0), (10.0, 490.0)])
def test_scans_for_the_metrics_take_little_of_the_time(took: float, pause: float) -> None:
    assert next_scan(100.0, 100.0 + took) == pytest.approx(100.0 + took + pause)
