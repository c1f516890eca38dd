"""`learnforge describe space`: sizes by hand, choices, samples, and tables of layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from learnforge import Plugins, RecipeError
from learnforge.cli.group import cli
from learnforge_kit import SpaceView
from learnforge_plugins.stages.search.describe import count_words, make_info, parse_space
from learnforge_testing.landscapes import Letters, Mixed


def words_of(space: object) -> str:
    view = SpaceView(space)  # type: ignore[arg-type]
    return count_words(space, [view.random(np.random.default_rng(i)) for i in range(400)])  # type: ignore[arg-type]


def test_small_spaces_are_counted(plugins: Plugins) -> None:
    """Every way to choose is gone through; equal designs count once."""
    assert words_of(Letters((3, 4))) == "12 designs, out of 12 ways to choose"
    space = parse_space('{ use = "residual", stages = 1, blocks = 2, max_width = 8 }', plugins)
    # a block is residual (2 kernels), inverted (2 kernels, 2 expansions) or nothing: 7 ways; of 49 pairs
    # those with one block come twice
    assert words_of(space) == "43 designs, out of 49 ways to choose"


def test_large_spaces_are_estimated(plugins: Plugins) -> None:
    """Knuth's estimate comes near 7^6 * 8^3 = 6.0e7 ways for the residual space."""
    text = words_of(parse_space("residual", plugins))
    assert text.startswith("about ")
    assert 4e7 < float(text.split()[1]) < 9e7


def test_continuous_spaces_are_without_number() -> None:
    """A number from a range makes a space continuous."""
    assert words_of(Mixed()).startswith("designs without number")


def test_the_command_prints_size_choices_and_samples() -> None:
    """All three parts are shown, with costs for the images that are asked for."""
    arguments = ["describe", "space", "nasbench201", "--samples", "1", "--shape", "1x16x16", "--classes", "3"]
    shown = CliRunner().invoke(cli, arguments, catch_exceptions=False).output
    assert "nasbench201: 5,260 designs, out of 15,625 ways to choose" in shown
    assert "nor_conv_3x3" in shown
    assert "parameters" in shown


def test_layers_are_timed_into_a_table(tmp_path: Path, plugins: Plugins) -> None:
    """The file serves `cost.lookup`; a second call adds what is new."""
    file = tmp_path / "layers.json"
    space = '{ use = "mlp", layers = 1, max_width = 9 }'
    arguments = ["describe", "space", space, "--shape", "1x4x4", "--layers", str(file), "--samples", "40"]
    CliRunner().invoke(cli, arguments, catch_exceptions=False)
    layers = json.loads(file.read_text())["layers"]
    assert {"Linear 16 > 8", "Linear 16 > 9", "Flatten 1x4x4 > 16"} <= set(layers)
    again = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "0 layers timed" in again.output
    info = make_info("1x4x4", 10)
    network = parse_space(space, plugins).build(
        {"widths": [8], "activation": "relu", "normalise": False, "dropout": 0.0}, info
    )
    cost = plugins.load("cost", "lookup")(file).measure(network, info)
    assert cost == pytest.approx(
        sum(
            layers[name]
            for name in (
                "Flatten 1x4x4 > 16",
                "Linear 16 > 8",
                "ReLU 8 > 8",
                "Dropout 8 > 8",
                "Linear 8 > 10",
            )
        )
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["residul"], "did you mean 'residual'"),
        (["{ use = "], "must be a table as TOML writes it"),
        (["residual", "--shape", "3x32"], "must look like 3x32x32, got '3x32'"),
    ],
)
def test_what_cannot_be_described_is_said(arguments: list[str], words: str) -> None:
    """Unknown spaces, text that is no TOML and wrong shapes are errors."""
    found = CliRunner().invoke(cli, ["describe", "space", *arguments])
    assert isinstance(found.exception, RecipeError)
    assert words in str(found.exception)
