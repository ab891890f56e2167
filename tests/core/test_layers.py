"""Layers that lie one over the other: what is left is what a filesystem of them would show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.layers import Hides, Layer, merged, whiteout
from agent.core.paths import check_tree

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
HIDDEN = st.lists(st.tuples(st.just("") | PATHS, st.sampled_from(Hides)), max_size=3)


def stands(paths):
    """Tell whether the paths may be files of one folder."""
    return not any(other.startswith(f"{path}/") for path in paths for other in paths)


FILES = st.dictionaries(PATHS, st.integers(), max_size=4).filter(stands)
LAYERS = st.lists(st.builds(Layer, FILES, HIDDEN), max_size=4)


def is_below(path, folder):
    return folder == "" or path.startswith(f"{folder}/")


def plainly(layers):
    """Do the same by looking at every path again and again."""
    found = {}
    for layer in layers:
        for gone, how in layer.hidden:
            names = {gone} if how is Hides.FILE else {path for path in found if is_below(path, gone)}
            if how is Hides.ALL or (how is Hides.BELOW and gone in found):
                names.add(gone)
            found = {path: content for path, content in found.items() if path not in names}
        for new, content in layer.files.items():
            kept = {p: c for p, c in found.items() if not is_below(p, new) and not is_below(new, p)}
            found = kept | {new: content}
    return found


@given(LAYERS)
def test_what_is_left_is_what_was_neither_replaced_nor_hidden_later(layers):
    assert merged(layers) == plainly(layers)
    check_tree(merged(layers))


@given(FILES, FILES)
def test_a_layer_hides_nothing_of_itself(lower, upper):
    layers = [Layer(lower), Layer(upper, [("", Hides.ALL)])]
    assert merged(layers) == upper


@pytest.mark.parametrize(
    ("path", "hides"),
    [
        ("models/.wh.old.bin", ("models/old.bin", Hides.ALL)),
        (".wh.models", ("models", Hides.ALL)),
        ("models/sub/.wh..wh..opq", ("models/sub", Hides.BELOW)),
        (".wh..wh..opq", ("", Hides.BELOW)),
        ("models/model.bin", None),
        ("models/.wh.", None),
        ("models/a.wh.b", None),
        (".wh.x/model.bin", None),
    ],
)
def test_a_whiteout_is_told_by_its_name(path, hides):
    assert whiteout(path) == hides
