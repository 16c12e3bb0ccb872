"""README's table of operators is the generated one."""

import pytest

from tests import table
from tritonconv import nn


def test_readmes_table_has_these_layers():
    """Its cells are filled by running each layer, which the slow test does again."""
    shown = [line.split(" | ")[:2] for line in table.in_readme().splitlines()[2:]]
    wanted = [line.split(" | ")[:2] for line in list(table.table({}))[2:]]
    assert shown == [[start, layers.removesuffix(" | ").removesuffix(" |")] for start, layers in wanted]
    functions = {name for start, _ in shown for name in start.removeprefix("| ").replace("`", "").split(", ")}
    assert functions <= set(nn.functional.__all__)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_readmes_table_is_what_the_layers_do():
    assert table.in_readme() == "".join(f"{line}\n" for line in table.table())
