"""A module again, to be called and thrown away: nothing that a call leaves in it is left in the original."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree


def replica(module: torch.nn.Module, tensor: Callable[[torch.Tensor], torch.Tensor]) -> torch.nn.Module:
    """The tree of modules with the same classes, names and attributes, and `tensor(t)` in place of each tensor t.

    What torch.compile made of a module is undone. Parameters, buffers and submodules that are shared stay shared. Other
    attributes are deep copies; what cannot be copied (a lock, a process group, a scripted module) is the original's
    own, and so is whatever a hook or a forward reaches through a closure or a global.
    """
    memo: dict[int, Any] = {}  # as copy.deepcopy has it: by id, what stands for an object
    modules = list(module.modules())
    for each in modules:
        if isinstance(each, torch.jit.ScriptModule):
            memo[id(each)] = each
        elif not isinstance(each, torch._dynamo.OptimizedModule):
            memo[id(each)] = type(each).__new__(type(each))
    for each in modules:
        if isinstance(each, torch._dynamo.OptimizedModule):
            memo[id(each)] = memo[id(each._orig_mod)]
    for each in modules:
        if not isinstance(each, torch.jit.ScriptModule | torch._dynamo.OptimizedModule):
            attributes = {name: _copied(value, memo, tensor) for name, value in vars(each).items()}
            vars(memo[id(each)]).update(attributes, _compiled_call_impl=None)
    return memo[id(module)]


def _copied(value: Any, memo: dict[int, Any], tensor: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    for leaf in _pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor) and id(leaf) not in memo:
            memo[id(leaf)] = tensor(leaf)
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # whatever an object raises that cannot be copied
        return value
