"""The table of costs, through the command's own main function and as a command."""

import json
import subprocess
import sys

import pytest

from eseg_jax.tools import summary


def test_table(capsys):
    summary.main(["eseg_lite_s", "eseg_s_p2_p5"])
    _, _, lite, levels, *_ = capsys.readouterr().out.splitlines()
    # The paper prints no parameters for Lite-S, and two digits of its FLOPs.
    # fmt: off
    assert lite.split() == [
        "eseg_lite_s", "1024x2048", "3,590,615", "3,590,615", "9,456", "14.40",
        "17.142", "17.165", "-", "-", "17", "+0.97%",
    ]
    assert levels.split() == [
        "eseg_s_p2_p5", "1024x2048", "6,408,111", "6,408,111", "65,056", "25.89",
        "33.681", "34.308", "6.4M", "+0.13%", "34.3", "+0.02%",
    ]
    # fmt: on


def test_megabytes_heads_and_notes_beside_the_paper(capsys):
    summary.main(["dfanet_b_x[1]", "sfnet_df1"])
    _, _, dfanet, sfnet, *rest = capsys.readouterr().out.splitlines()
    # fmt: off
    assert dfanet.split() == [
        "dfanet_b_x1", "1024x1024", "339,643", "339,643", "6,368", "1.38",
        "0.855", "0.855", "1.4MB", "-1.14%", "0.83", "+3.03%",
    ]
    # fmt: on
    # With and without deep supervision; the paper's 9.03 M fit neither width.
    sfnet = sfnet.split()
    assert sfnet[2:4] == ["9,543,001", "9,242,419"]
    assert round(float(sfnet[7]), 2) == 18.57
    assert sfnet[8:11] == ["9.03M", "+2.35%", "18.7"]
    notes = " ".join(" ".join(rest).split())
    assert "Params as printed: M is millions of weights, MB is megabytes" in notes
    assert "dfanet_b_x1: The paper prints the size under 'Params" in notes
    assert "sfnet_df1: Parameters are without deep supervision" in notes


def test_training_heads_are_counted_when_asked_for(capsys):
    arguments = ["--json", "frfnet", "--size=360x480", "--classes=11"]
    found = []
    for more in ([], ["--training"]):
        summary.main([*arguments, *more])
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["parameters"], row["deployed"]) == (4_029_741, 3_880_599)
        found.append(round(row["macs"] / 1e9, 3))
    assert found == [5.337, 5.589]


def test_json(capsys):
    summary.main(["--json", "eseg_lite_s"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == "eseg_lite_s"
    assert row["size"] == [1024, 2048]
    assert row["parameters"] == 3_590_615
    assert row["batch_stats"] == 9_456
    assert round(row["macs"] / 1e9, 3) == 17.142
    assert row["logits_stride"] == 8
    assert sum(part["macs"] for part in row["parts"].values()) == row["macs"]
    assert row["paper"]["flops_g"] == 17
    assert row["paper"]["flops_error"] == pytest.approx(17.165 / 17 - 1, abs=1e-4)
    assert row["paper"]["parameters_m"] is None


def test_size_and_classes_leave_out_figures_of_another_network(capsys):
    rows = []
    for classes in ("19", "2"):
        arguments = ["--json", "--size=64x96", f"--classes={classes}", "eseg_s_p2_p5"]
        summary.main(arguments)
        rows += json.loads(capsys.readouterr().out)
    same, fewer = rows
    assert same["size"] == [64, 96]
    assert same["paper"]["parameters_m"] == 6.4
    assert same["paper"]["flops_g"] is None
    assert same["parameters"] - fewer["parameters"] == 17 * 97
    assert fewer["paper"]["parameters_m"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eseg_lite_s", "eseg_xs"], "There is no model 'eseg_xs'; did you mean eseg_"),
        (["--size=1024"], "'1024' is not HEIGHTxWIDTH in pixels, such as 1024x2048"),
        (["--size=0x5"], "'0x5' is not HEIGHTxWIDTH"),
        (["--classes=0"], "--classes=0 must be 1 or more"),
    ],
)
def test_mistakes_end_with_one_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        summary.main(arguments)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.out == ""


def test_command():
    command = [sys.executable, "-m", "eseg_jax.tools.summary"]
    result = subprocess.run(
        [*command, "eseg_lite_s", "--size=64x64"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert result.stdout.splitlines()[2].split()[:3] == (
        ["eseg_lite_s", "64x64", "3,590,615"]
    )
