"""Weights by hand, no training: a state of 5 x 5 follows 2048 random permutations of five things."""

import torch

from deltaproduct import delta_product, tasks, transition_matrix
from geocore.householder import permutation_to_reflectors

words, products = tasks.GroupWordProblem("S5", length=2048, n=3, seed=0)
group = tasks.group("S5")
# one transposition per factor, at most four for five things; the transposed matrix, since the state is multiplied from the left
reflectors = permutation_to_reflectors(group.permutations, dtype=torch.float64).mT.flip(1)
k = reflectors[words].reshape(3, -1, 1, 5)
beta = 2 * k.square().sum(-1).round()
start = torch.eye(5, dtype=torch.float64).expand(3, 1, 5, 5)
_, state = delta_product(
    torch.zeros(3, 2048, 1, 5).double(), k, torch.zeros_like(k), beta, num_householder=4, initial_state=start, output_final_state=True
)
expected = tasks.permutation_matrices(group.permutations[products[:, -1]], dtype=torch.float64).mT
print("largest error of the state after 2048 tokens:", float((state[:, 0] - expected).abs().max()))

A = transition_matrix(reflectors[words[0, 0]], 2 * reflectors[words[0, 0]].square().sum(-1).round())
print("the first token's transition:")
print(A.round().int())
