"""How a batch is synced: by the way that has taken less time for the number of its files."""

from __future__ import annotations

import pytest

from fastsmtp.delivery.maildir.syncing import RETRY, SyncChoice, reports_errors


def choice(all_: float, each: float) -> SyncChoice:
    """A choice that has seen, at the time 0, how long one `syncfs` and one fsync take."""
    choice = SyncChoice()
    choice._is_possible = True
    for _ in range(5):
        choice.note(True, 10, all_, 0.0)
        choice.note(False, 10, 10 * each, 0.0)
    return choice


@pytest.mark.parametrize("count, takes_all", [(1, False), (2, True), (200, True)])
def test_where_both_take_the_same_one_syncfs_is_for_two_files_and_more(
    count: int, takes_all: bool
) -> None:
    assert choice(0.001, 0.001).takes_all(count, 0.001) is takes_all


@pytest.mark.parametrize("count, takes_all", [(2, False), (100, False), (102, True)])
def test_a_syncfs_that_writes_for_others_too_needs_more_files_to_pay(
    count: int, takes_all: bool
) -> None:
    assert choice(0.1, 0.001).takes_all(count, 0.001) is takes_all


def test_the_other_way_is_tried_again_after_a_multiple_of_what_it_took() -> None:
    slow = choice(2.0, 0.001)
    assert not slow.takes_all(10, RETRY * 2.0 - 1)
    slow.note(False, 10, 0.01, RETRY * 2.0 - 1)
    assert slow.takes_all(10, RETRY * 2.0)


def test_one_slow_syncfs_does_not_decide() -> None:
    quick = choice(0.001, 0.001)
    quick.note(True, 10, 5.0, 0.0)
    assert quick.takes_all(10, 0.001)


@pytest.mark.parametrize(
    "release, is_safe",
    [("5.7.19", False), ("5.8.0", True), ("6.18.44-x", True), ("4.19", False), ("odd", False)],
)
def test_syncfs_of_a_kernel_that_does_not_report_errors_is_not_used(
    release: str, is_safe: bool
) -> None:
    assert reports_errors(release) is is_safe


def test_where_it_is_not_possible_every_file_is_synced() -> None:
    without = choice(0.001, 0.001)
    without._is_possible = False
    assert not without.takes_all(200, 0.001)
