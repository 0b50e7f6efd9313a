import pytest
from hypothesis import given
from hypothesis import strategies as st

from moleflow.data.scenario import ORDERS, cut
from moleflow.errors import UserError


@pytest.mark.parametrize(
    ("scenario", "sizes"),
    [
        ("1-1", [1] * 15),
        ("3-3", [3] * 5),
        ("5-5", [5] * 3),
        ("10-5", [10, 5]),
        ("10-1", [10, 1, 1, 1, 1, 1]),
        ("14-1", [14, 1]),
        ("15-1", [15]),
        ("4-4", [4, 4, 4, 3]),
    ],
)
def test_the_documented_scenarios_on_fifteen_categories(scenario, sizes):
    assert [len(task.categories) for task in cut(ORDERS["mvtec"], scenario)] == sizes


@given(count=st.integers(1, 20), base=st.integers(1, 20), step=st.integers(1, 25))
def test_tasks_keep_order_lose_nothing_and_have_their_own_names(count, base, step):
    categories = [f"c{number}" for number in range(count)]
    if base > count:
        with pytest.raises(UserError, match=f"there are {count}"):
            cut(categories, f"{base}-{step}")
        return
    tasks = cut(categories, f"{base}-{step}")
    assert [category for task in tasks for category in task.categories] == categories
    assert [task.index for task in tasks] == list(range(len(tasks)))
    assert len({task.name for task in tasks}) == len(tasks)
    assert len(tasks[0].categories) == base
    assert {len(task.categories) for task in tasks[1:-1]} <= {step}
    assert all(1 <= len(task.categories) <= step for task in tasks[1:])


def test_names_are_joined_and_long_ones_shortened():
    assert [task.name for task in cut(["a", "b", "c"], "2-1")] == ["a+b", "c"]
    assert cut(ORDERS["mvtec"], "10-5")[0].name == "bottle+8more+screw"


@pytest.mark.parametrize("scenario", ["", "1", "1-", "-1", "0-1", "1-0", "1-1-1", "a-b", "1.5-1", " 1-1", "1_1"])
def test_malformed_scenarios_are_told(scenario):
    with pytest.raises(UserError, match=r"malformed.*10-5"):
        cut(["a", "b"], scenario)


def test_twice_the_same_category_is_told():
    with pytest.raises(UserError, match="name b more than once"):
        cut(["a", "b", "b"], "1-1")


def test_orders_are_permutations_of_their_data_set():
    everything = set(ORDERS["mvtec"])
    assert {name: len(order) for name, order in ORDERS.items() if set(order) == everything} == {
        name: 15 for name in ORDERS if name not in ("visa", "mpdd", "interaction", "pilot")
    }
    assert ORDERS["mvtec"] == tuple(sorted(everything))
    assert [len(ORDERS[name]) for name in ("visa", "mpdd", "interaction", "pilot")] == [12, 6, 5, 3]
    assert ORDERS["wood_first"][:2] == ("wood", "bottle")
    assert all(len(set(order)) == len(order) for order in ORDERS.values())
