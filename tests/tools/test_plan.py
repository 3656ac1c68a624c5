import json
import subprocess
import sys
import types

import jax
import pytest
import tiny

from eseg_jax import planning, sharding, tpu
from eseg_jax.report import plan as plan_page
from eseg_jax.tools import plan

_CHIP = tpu.CHIPS["TPU v5 lite"]

# One instruction of 1.5 million cycles, a millisecond, and a gather without any.
_TEXT = """\
HloModule jit_train_step

ENTRY %main (a: f32[1024,128]) -> f32[1024,128] {
  %a = f32[1024,128]{1,0:T(8,128)} parameter(0)
  %b = f32[1024,128]{1,0:T(8,128)} exponential(%a), metadata={op_name="jit(f)/exp"}, \
backend_config={"estimated_cycles":"1500000"}
  ROOT %c = f32[1024,128]{1,0:T(8,128)} gather(%b), metadata={op_name="jit(f)/<gather>"}
}
"""


class _Compiled:
    def as_text(self):
        return _TEXT

    def memory_analysis(self):
        return types.SimpleNamespace(
            argument_size_in_bytes=2 * 2**30,
            output_size_in_bytes=3 * 2**30,
            alias_size_in_bytes=2 * 2**30,
            temp_size_in_bytes=4 * 2**30,
            generated_code_size_in_bytes=0,
        )

    def cost_analysis(self):
        return {"optimal_seconds": -1.0, "flops": 5e9}


def _record(**changes):
    record = {
        "model": "eseg_s",
        "mode": "train",
        "topology": "v5e:2x4",
        "device": "TPU v5 lite",
        "chips": 8,
        "batch_size": 16,
        "size": [512, 1024],
        "steps": 90_000,
        "capacity": _CHIP.memory,
        "compile_seconds": [1.0, 2.0],
        "advice": [],
        "fields": {},
    }
    record |= changes
    return record | planning.figures(_Compiled(), _CHIP, record, flops=197e9)


def test_figures_by_hand():
    found = _record()
    # The gather has no cycles: it reads and writes 512 KiB at 819 GB/s.
    seconds = 1e-3 + 2**20 / 819e9
    assert found["seconds"] == pytest.approx(seconds)
    assert (found["without_estimate"], found["instructions"]) == (1, 2)
    assert found["images_per_second"] == pytest.approx(16 / seconds)
    # Two images a chip, a thousandth of a second's peak each.
    assert found["mfu"] == pytest.approx(2e-3 / seconds)
    assert found["hours"] == pytest.approx(90_000 * seconds / 3600)
    # Two of the three GiB of outputs take the place of the donated state.
    assert sum(found["hbm"].values()) == 7 * 2**30 and found["fits"]


def test_text_and_page_have_the_figures():
    found = _record()
    shown = plan_page.text(found)
    assert "7.00 of 15.75 GiB" in shown and "1 of 2 instructions" in shown
    assert "-1000.0 ms" in shown
    page = plan_page.page([found], found, "plan --config=x")
    assert "7.00" in page and "jit(f)/&lt;gather&gt;" in page
    assert "http" not in page  # no other files


def test_fastest_of_those_that_fit():
    slow, fast = _record(batch_size=8), _record(batch_size=16)
    assert planning.fastest([slow, fast]) is fast
    assert planning.fastest([slow, fast | {"fits": False}]) is slow
    assert planning.fastest([{"refused": "batch"}]) is None


_MESSAGE = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory \
in memory space hbm. Used 22.50G of 15.75G hbm. Exceeded hbm capacity by 6.75G.

Total hbm usage >= 22.75G:
    reserved        258.00M

Program hbm requirement 22.50G:
    HLO temp         22.40G

  Largest program allocations in hbm:

  1. Size: 1.50G
     Operator: op_name="jit(train_step)/mul" source_file="x.py" source_line=1
     Shape: f32[2,512,1024,19]{3,2,1,0:T(8,128)}
     Unpadded size: 76.00M
     Extra memory due to padding: 1.40G (6.7x expansion)
     XLA label: fusion.1 = fusion()
     Allocation type: HLO temp
     ==========================
"""


def test_message_of_a_program_that_does_not_fit():
    found = planning.too_large(_MESSAGE)
    assert found["needed"] == 22.5 * 2**30 and not found["fits"]
    (buffer,) = found["buffers"]
    assert buffer == (
        1.5 * 2**30,
        "f32[2,512,1024,19]{3,2,1,0:T(8,128)}",
        "jit(train_step)/mul",
    )
    assert planning.too_large("INVALID_ARGUMENT: something else") == {}


def test_what_does_not_fit_is_said():
    large = _record() | planning.too_large(_MESSAGE) | {"advice": ["--config.remat=x"]}
    for key in ("hbm", "seconds"):
        del large[key]
    refused = {"topology": "v5e:2x4", "refused": "6 of 8", "fields": {"batch": "6"}}
    shown = plan_page.text(large)
    assert "DOES NOT FIT: 22.50 of 15.75 GiB" in shown and "--config.remat=x" in shown
    assert "f32[2,512,1024,19]" in shown
    page = plan_page.page([large, refused], None, "plan")
    assert "Nothing fits" in page and "v5e:2x4, batch=6" in page and "6 of 8" in page


def test_advice_has_what_the_configuration_allows(mesh):
    config = tiny.get_config()
    config.input.batch_size = 16
    advice = " ".join(planning.advice(config, "train", mesh))
    assert "--config.accumulate_steps=2" in advice
    assert "--config.remat=blocks --config" in advice
    assert "--config.mesh.spatial=2" in advice
    assert "--config.input.batch_size=8" in advice
    assert planning.advice(config, "evaluate", mesh) == ["--config.eval.batch_size=2"]


def test_sweep_combines_fields():
    found = plan.combinations(["config.input.batch_size=8,16", "dtype=float32"])
    assert found == [
        {"input.batch_size": "8", "dtype": "float32"},
        {"input.batch_size": "16", "dtype": "float32"},
    ]
    config = plan.with_fields(tiny.get_config(), found[1])
    assert (config.input.batch_size, config.dtype) == (16, "float32")
    with pytest.raises(planning.PlanError, match="--sweep=batch must be FIELD=VALUE"):
        plan.combinations(["batch"])
    with pytest.raises(planning.PlanError, match="--sweep=no.field=1"):
        plan.with_fields(tiny.get_config(), {"no.field": "1"})


def test_missing_compiler_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(planning.PlanError, match="pip install libtpu"):
        planning.slice_devices("v5e:2x4")


def test_flops_of_the_modes():
    config = tiny.get_config()
    train, once = (
        planning.image_flops(config, mode, (48, 48)) for mode in ("train", "evaluate")
    )
    # Forward and twice that backward; ESeg has no training heads.
    assert train == 3 * once > 0
    config.pseudo.update(scales=(1.0, 2.0), flip=True)
    labels = planning.image_flops(config, "pseudo_label", (48, 48))
    assert labels == 2 * (1 + 4) * once


@pytest.mark.parametrize("mode", planning.MODES)
def test_each_mode_lowers_its_own_step(mode):
    config = tiny.get_config()
    mesh = sharding.make_mesh(config.mesh)
    lowered, batch = planning.lower(config, mode, mesh, (64, 32))
    images = {
        "train": (4, 48, 48),
        "evaluate": (4, 64, 32),
        "pseudo_label": (4, 64, 32),
    }
    assert batch == 4
    # The bytes of the images are among the arguments.
    assert (*images[mode], 3) in [x.shape for x in jax.tree.leaves(lowered.in_avals)]


@pytest.mark.tpu_aot
def test_command_plans_a_small_network(tmp_path):
    """In a process of its own: the compiler and the profiler do not go together."""
    command = [
        *(sys.executable, "-m", "eseg_jax.tools.plan"),
        "--config=tests/tiny.py",
        "--topology=v5e:2x2",
        "--sweep=input.batch_size=4,6",
        f"--out={tmp_path / 'plan'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = json.loads((tmp_path / "plan.json").read_text())
    assert first["fits"] and first["chips"] == 4 and first["seconds"] > 0
    assert first["collectives"].keys() == {"all-reduce"}
    assert first["loops_once"] == 0 and first["mfu"] > 0
    assert "input.batch_size=6" in second["refused"]
    assert "Fastest that fits: eseg_lite_s train on v5e:2x2, batch 4" in done.stdout
    assert "eseg_lite_s train" in (tmp_path / "plan.html").read_text()


@pytest.mark.tpu_aot
def test_unknown_slice_is_said(monkeypatch):
    for name, value in planning._ENVIRONMENT.items():
        monkeypatch.setenv(name, value)  # taken back afterwards
    with pytest.raises(planning.PlanError, match="--topology=v5e:3x5 is no slice"):
        planning.slice_devices("v5e:3x5")
    assert jax.default_backend() == "cpu"
