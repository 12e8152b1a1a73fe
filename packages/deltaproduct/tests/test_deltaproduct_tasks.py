import itertools
import pickle
import time

import pytest
import torch

from deltaproduct import tasks

NAMES = ["S3", "S4", "A4", "A5", "S5", "Z2", "Z7", "D4", "D5", "S3_x_Z2", "Z3_x_S4", "Z2_x_Z2_x_Z2"]


@pytest.mark.parametrize("name", NAMES)
def test_groups(name):
    group = tasks.group(name)
    table, n = group.table, group.order
    every = torch.arange(n)
    assert torch.equal(table[0], every)
    assert torch.equal(table[:, 0], every)
    assert all(torch.equal(table[table[a]], table[a][table]) for a in range(n))
    assert torch.equal(table[every, group.inverse()], torch.zeros(n, dtype=torch.int64))
    P = tasks.permutation_matrices(group.permutations, dtype=torch.float64)
    assert torch.equal(P[:, None] @ P[None], P[table])
    assert len({tuple(p) for p in group.permutations.tolist()}) == n


def test_orders_and_commuting():
    orders = {"S3": 6, "S4": 24, "A5": 60, "S5": 120, "Z7": 7, "D4": 8, "S3_x_Z2": 12}
    assert {name: tasks.group(name).order for name in orders} == orders
    assert torch.equal(tasks.group("Z7").table, tasks.group("Z7").table.T)
    assert not torch.equal(tasks.group("S3").table, tasks.group("S3").table.T)
    assert tasks.group("S5").transpositions.numel() == 10


def test_products_against_sympy():
    combinatorics = pytest.importorskip("sympy.combinatorics")
    problem = tasks.GroupWordProblem("S5", 30, 5, seed=2)
    rows = problem.group.permutations.tolist()
    for word, target in zip(problem.tokens.tolist(), problem.targets.tolist(), strict=True):
        acc = combinatorics.Permutation(list(range(5)))
        for x, y in zip(word, target, strict=True):
            acc = combinatorics.Permutation(rows[x]) * acc  # sympy applies the left factor first
            assert acc.array_form == rows[y]


def test_lexicographic_order_of_permutations():
    assert tasks.group("S4").permutations.tolist() == [list(p) for p in itertools.permutations(range(4))]


def test_words_are_seeded_and_follow_the_table():
    first, again, other = (tasks.GroupWordProblem("A5", 20, 7, seed=s) for s in (3, 3, 4))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    tokens, targets = first
    acc = torch.zeros(7, dtype=torch.int64)
    for t in range(20):
        acc = first.group.table[acc, tokens[:, t]]
        assert torch.equal(acc, targets[:, t])
    assert (first.vocab_size, first.num_classes, len(first.dataset())) == (60, 60, 7)


def test_generators():
    swaps = tasks.GroupWordProblem("S4", 50, 10, generators="transpositions")
    moved = swaps.group.permutations[swaps.tokens] != torch.arange(4)
    assert (moved.sum(-1) == 2).all()
    assert tasks.GroupWordProblem("S4", 50, 10, generators=3).tokens.unique().numel() == 3
    assert tasks.GroupWordProblem("S4", 50, 10, generators=torch.tensor([0, 5])).tokens.unique().tolist() == [0, 5]


def test_beginning_and_thinking_tokens():
    plain = tasks.GroupWordProblem("S3", 5, 4, seed=1)
    problem = tasks.GroupWordProblem("S3", 5, 4, seed=1, bos=True, extra_tokens=2)
    assert problem.tokens.shape == problem.targets.shape == (4, 16)
    assert (problem.tokens[:, 0] == 6).all()
    assert torch.equal(problem.tokens[:, 1::3], plain.tokens)
    assert torch.equal(problem.targets[:, 3::3], plain.targets)
    assert (problem.targets != tasks.IGNORE).sum() == 20
    assert problem.vocab_size == 8
    assert (problem.tokens[:, 2::3] == 7).all()


def test_cayley_tables():
    klein = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]])
    problem = tasks.GroupWordProblem(klein, 9, 3)
    assert torch.equal(problem.targets[:, 1], problem.tokens[:, 0] ^ problem.tokens[:, 1])


def test_parity():
    tokens, targets = tasks.parity(length=33, n=5, seed=7)
    assert torch.equal(targets, tokens.cumsum(1) % 2)
    assert torch.equal(tokens, tasks.parity(33, 5, 7).tokens)
    assert 0.3 < tokens.double().mean() < 0.7


@pytest.mark.parametrize(("mod", "brackets", "length"), [(5, False, 2), (5, False, 12), (7, True, 15), (3, True, 40), (2, True, 64)])
def test_arithmetic_against_python(mod, brackets, length):
    task = tasks.modular_arithmetic(mod, brackets, length=length, n=60, seed=length)
    texts = ["".join(task.names[i] for i in row) for row in task.tokens.tolist()]
    for text, answer in zip(texts, task.targets[:, -1].tolist(), strict=True):
        assert text.endswith("=")
        assert eval(text.rstrip("=")) % mod == answer, text
    assert (task.targets[:, :-1] == tasks.IGNORE).all()
    assert any("(" in text for text in texts) == brackets
    assert torch.equal(task.tokens, tasks.modular_arithmetic(mod, brackets, length=length, n=60, seed=length).tokens)


def test_depth_is_limited():
    task = tasks.modular_arithmetic(5, True, length=60, n=200, max_depth=2)
    depth = ((task.tokens == 8).long() - (task.tokens == 9).long()).cumsum(1)
    assert int(depth.max()) == 2


def test_tasks_pickle():
    for task in (tasks.GroupWordProblem("S3", 3, 2), tasks.parity(3, 2)):
        copy = pickle.loads(pickle.dumps(task))
        assert torch.equal(copy.tokens, task.tokens)
        assert copy.vocab_size == task.vocab_size


@pytest.mark.slow
def test_generators_are_fast():
    # the specification allows 10 s for 100 000 sequences of length 512; a tenth of them for the slower generator
    start = time.process_time()
    tasks.GroupWordProblem("S5", 512, 100_000)
    middle = time.process_time()
    tasks.modular_arithmetic(5, True, 512, 10_000)
    assert middle - start < 10
    assert time.process_time() - middle < 1.5


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Q8", 3, 2), "group must be a name"),
        (("S9", 3, 2), "at most S6"),
        (("S5_x_S5", 3, 2), "at most 4096"),
        (("D2", 3, 2), "Z2_x_Z2"),
        (("Z7", 3, 2, "transpositions"), "transpositions"),
        (("S3", 3, 2, 7), "generators must be"),
        (("S3", 3, 2, torch.tensor([6])), "elements from 0 to 5"),
        (("S3", 0, 2), "length must be at least 1"),
        ((torch.tensor([[0, 1], [1, 1]]), 3, 2), "each element once"),
        ((torch.tensor([[1, 0], [0, 1]]), 3, 2), "element 0 as its identity"),
        ((torch.zeros(2, 3, dtype=torch.int64), 3, 2), "square integer"),
        ((torch.tensor([[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]]), 3, 2), "associative"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.GroupWordProblem(*arguments)


@pytest.mark.bad_input
def test_more_errors():
    with pytest.raises(TypeError, match="group must be"):
        tasks.group(3)
    with pytest.raises(ValueError, match="length must be at least 2"):
        tasks.modular_arithmetic(5, length=1)
    with pytest.raises(ValueError, match="mod must be at least 2"):
        tasks.modular_arithmetic(1)
