"""Plans every published recipe on v5e:2x4 and writes the table of tpu_plan.md.

  python benchmarks/tpu_plan.py [NAMES…]

Runs `python -m eseg_jax.tools.plan` for one configuration after the other, the most
wanted first; each takes minutes of a core and some GB. Results are kept in tpu_plan/ as
JSON, those that are there are not made again, and the table is written after each.
"""

import argparse
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "tpu_plan", HERE / "tpu_plan.md"
TOPOLOGY, BATCH = "v5e:2x4", 16
NAMES = (
    *("eseg_s", "sfnet_resnet18", "eseg_lite_s", "frfnet", "dfanet_a", "eseg_l"),
    *("sfnet_df1", "eseg_m", "frfnet_slim", "eseg_lite_m", "eseg_lite_l", "dfanet_b"),
    *("sfnet_df2", "dfanet_a_prime", "sfnet_shufflenet", "sfnet_resnet50"),
    *("sfnet_resnet101", "eseg_effnet_lite0", "sfnet_resnet18_official"),
    *("sfnet_df1_official", "sfnet_df2_official", "sfnet_resnet50_official"),
    "sfnet_resnet101_official",
)
# What is tried in turn until the recipe fits.
MENDING = ((), ("--config.remat=convolutions",), ("--config.remat=blocks",))
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"


def make(name: str) -> None:
    """Plans a configuration; a failure is shown and leaves its row open."""
    out = RESULTS / name
    for mending in MENDING:
        command = [
            *(sys.executable, "-m", "eseg_jax.tools.plan"),
            f"--config=configs/{name}.py",
            f"--topology={TOPOLOGY}",
            f"--config.input.batch_size={BATCH}",
            f"--out={out}",
            *mending,
        ]
        print(" ".join(command), flush=True)
        done = subprocess.run(command, cwd=HERE.parent)
        out.with_suffix(".html").unlink(missing_ok=True)
        if done.returncode != 1:  # 1: it does not fit
            break


def row(name: str) -> str:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return f"| {name} | not compiled | | | | | | | |"
    (record,) = json.loads(path.read_text())
    size = "{}x{}".format(*record["size"])
    if record["remat"] != "none":
        size += f", remat={record['remat']}"
    if "seconds" not in record:
        needed = f"needs {record['needed'] / 2**30:.1f}"
        return f"| {name} | {size} | {needed} | | | | | | |"
    return (
        f"| {name} | {size} | {sum(record['hbm'].values()) / 2**30:.2f} | "
        f"{1e3 * record['seconds']:.0f} | {record['images_per_second_chip']:.1f} | "
        f"{100 * record['mfu']:.1f} | {record['hours']:.1f} | "
        f"{sum(count for count, _ in record['collectives'].values())} | "
        f"{sum(record['compile_seconds']):.0f} |"
    )


def write_table() -> None:
    head = (
        "| configuration | crop | HBM GiB of 15.75 | ms a step | images/s/chip | MFU %"
        " | hours | collectives | compiled in s, busy |\n" + 9 * "|---" + "|\n"
    )
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    table = head + "".join(f"{row(name)}\n" for name in NAMES)
    PAGE.write_text(before + BEGIN + table + END + after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="configurations; all without any")
    parser.add_argument("--table", action="store_true", help="only write the table")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for name in () if args.table else args.names or NAMES:
        if not (RESULTS / f"{name}.json").exists():
            make(name)
            write_table()
    write_table()


if __name__ == "__main__":
    main()
