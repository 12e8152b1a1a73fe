"""The models of the paper: n-body dynamics, normals of point clouds, graphs."""

from frameavg.models._gnn import FAGNN
from frameavg.models._graphs import FAGIN, FAGraphMLP
from frameavg.models._pointnet import FAPointNet, normal_loss

__all__ = ["FAGIN", "FAGNN", "FAGraphMLP", "FAPointNet", "normal_loss"]
